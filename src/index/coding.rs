//! The small coins of the TSDB's files: variable-length integers, strings, checksums.
//!
//! Writers append to a `Vec`; the reader is a [`Cursor`] that answers `None` instead of reaching
//! over the end, as the bytes may come from anywhere.

use crc_fast::{CrcAlgorithm, Digest};

/// Appends an unsigned integer, seven bits per byte, low bits first.
#[inline]
pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer, zigzag and then as [`put_uvarint`].
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, (value << 1 ^ value >> 63) as u64);
}

/// Bytes of a uvarint.
pub(crate) fn uvarint_len(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

/// Appends a string: its length as uvarint, and its bytes.
pub(crate) fn put_ustr(out: &mut Vec<u8>, text: &[u8]) {
    put_uvarint(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// CRC-32C, Castagnoli, of `bytes`.
#[inline]
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C of bytes that come in pieces.
#[derive(Debug)]
pub(crate) struct Crc(Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// A place in bytes. Each read takes from the front, or nothing when there is not enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(crate) fn be32(&mut self) -> Option<u32> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*front))
    }

    pub(crate) fn be64(&mut self) -> Option<u64> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*front))
    }

    /// Also `None` for more than 64 bits.
    #[inline]
    pub(crate) fn uvarint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn varint(&mut self) -> Option<i64> {
        let zigzag = self.uvarint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(crate) fn ustr(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.uvarint()?).ok()?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        let mut pieces = Crc::new();
        pieces.update(b"1234");
        pieces.update(b"");
        pieces.update(b"56789");
        assert_eq!(pieces.finish(), 0xe306_9283);
    }

    #[test]
    fn integers_have_their_known_bytes() {
        let check = |value, want: &[u8]| {
            let mut out = Vec::new();
            put_uvarint(&mut out, value);
            assert_eq!(out, want);
            assert_eq!(uvarint_len(value), want.len() as u64);
        };
        check(0, &[0]);
        check(127, &[127]);
        check(128, &[0x80, 1]);
        check(300, &[0xac, 2]);
        check(u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        let mut out = Vec::new();
        put_varint(&mut out, -1);
        put_varint(&mut out, 1000);
        assert_eq!(out, [1, 0xd0, 0x0f]);
    }

    proptest! {
        #[test]
        fn what_was_put_is_taken(n in any::<u64>(), shift in 0u32..64, text in any::<Vec<u8>>()) {
            let n = n >> shift;
            let mut out = Vec::new();
            put_uvarint(&mut out, n);
            prop_assert_eq!(uvarint_len(n), out.len() as u64);
            put_varint(&mut out, n as i64);
            put_ustr(&mut out, &text);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.uvarint(), Some(n));
            prop_assert_eq!(cursor.varint(), Some(n as i64));
            prop_assert_eq!(cursor.ustr(), Some(&text[..]));
            prop_assert!(cursor.rest().is_empty());
            prop_assert_eq!(cursor.byte(), None);
        }

        #[test]
        fn rubbish_is_none_or_a_value(bytes in any::<Vec<u8>>()) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.ustr().is_some() && cursor.varint().is_some() {}
            prop_assert!(cursor.rest().len() <= bytes.len());
        }
    }
}

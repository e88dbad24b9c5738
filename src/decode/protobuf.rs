//! Protobuf's wire form, read field by field.
//!
//! ```text
//! message  field*
//! field    key content          key = uvarint(field number << 3 | wire type)
//! content  0 varint: 1 to 10 bytes, low 7 bits first, top bit = more follows
//!          1 fixed64: 8 bytes, little-endian
//!          2 record: uvarint length, then so many bytes
//!          5 fixed32: 4 bytes, little-endian
//!          3, 4 begin and end of a group: refused
//! ```
//! (protobuf.dev, "Encoding".) A [`Cursor`] holds a message as the *whole* buffer up to the
//! message's end and a position in it, so that positions mean the same at every depth and a length
//! is always checked against the innermost message. It gives back positions, not slices: the scan
//! keeps those.
//!
//! As in prost, a field of a known number and a wrong wire type is an error, and so is a varint of
//! more than 64 bits. Unlike prost, a group is never skipped: nobody sends one but an attacker, and
//! without groups nothing here recurses.

use std::ops::Range;

use crate::decode::Error;
use crate::model::Sample;

/// Wire types.
pub(crate) const VARINT: u32 = 0;
pub(crate) const FIXED64: u32 = 1;
pub(crate) const RECORD: u32 = 2;
const GROUP_BEGIN: u32 = 3;
const GROUP_END: u32 = 4;
const FIXED32: u32 = 5;

/// The key of a field. Constant keys make a message's definition a `match`.
pub(crate) const fn key(field: u32, wire_type: u32) -> u32 {
    field << 3 | wire_type
}

/// Where a reader stands in a message.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    /// The buffer up to the end of the message.
    bytes: &'a [u8],
    /// What comes next; never beyond the end.
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A cursor over the message in `range`, which [`Cursor::record`] gave.
    #[inline]
    pub(crate) fn within(&self, range: Range<usize>) -> Cursor<'a> {
        debug_assert!(range.start <= range.end && range.end <= self.bytes.len());
        Cursor { bytes: self.bytes.get(..range.end).unwrap_or_default(), at: range.start }
    }

    /// Position of the next byte.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Whether the message ends here.
    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// What is left of the message.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Steps over bytes of [`Cursor::rest`] that were read there.
    #[inline]
    pub(crate) fn step(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.left());
        self.at += bytes;
    }

    /// How many bytes are left of the message.
    #[inline]
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Reads a key: its number is at least 1, its wire type may still be none.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<u32, Error> {
        let at = self.at;
        let key = self.varint()?;
        match u32::try_from(key) {
            Ok(key) if key >= 8 => Ok(key),
            _ => Err(Error::BadFieldNumber { at, key }),
        }
    }

    /// Reads a varint.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Error> {
        match self.bytes.get(self.at..) {
            Some(&[a, ..]) if a < 0x80 => {
                self.at += 1;
                Ok(u64::from(a))
            }
            Some(&[a, b, ..]) if b < 0x80 => {
                self.at += 2;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => {
                let (value, after) = long_varint(self.bytes, self.at)?;
                self.at = after;
                Ok(value)
            }
        }
    }

    /// Reads eight bytes.
    #[inline]
    pub(crate) fn fixed64(&mut self) -> Result<u64, Error> {
        let Some(bytes) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) else {
            return Err(self.truncated(8));
        };
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Reads a length, steps over so many bytes and says where they are.
    #[inline]
    pub(crate) fn record(&mut self) -> Result<Range<usize>, Error> {
        let length = self.varint()?;
        self.step_over(length)
    }

    /// Steps over bytes if the message has as many.
    #[inline]
    fn step_over(&mut self, length: u64) -> Result<Range<usize>, Error> {
        if length > self.left() as u64 {
            return Err(self.truncated(length));
        }
        let start = self.at;
        self.at += length as usize;
        Ok(start..self.at)
    }

    fn truncated(&self, length: u64) -> Error {
        Error::Truncated { at: self.at, length, left: self.left() }
    }

    /// Steps over the content of an unknown field whose key was just read. `known` are the numbers
    /// of the message's definition: those came with a wrong wire type.
    #[inline]
    pub(crate) fn skip(&mut self, key: u32, known: &[u32]) -> Result<(), Error> {
        self.at = after_unknown(self.clone(), key, known)?;
        Ok(())
    }

    /// Steps over the records of key `key` that begin here and are shorter than 128 bytes. It may
    /// stop before the last one; it never looks inside and never fails.
    ///
    /// This is most of the work of a scan: one load, one compare and one add for a label.
    #[inline]
    pub(crate) fn hop_short_records(&mut self, key: u8) {
        let mut at = self.at;
        while let Some(&[k, length, ..]) = self.bytes.get(at..) {
            let next = at + 2 + usize::from(length);
            if k != key || length >= 0x80 || next > self.bytes.len() {
                break;
            }
            at = next;
        }
        self.at = at;
    }

    /// Reads a sample's record, key included, if it has the form every sender writes today:
    /// ```text
    /// 12 10  09 <value: 8 bytes>  10 <time: 6 bytes>
    /// ```
    /// Six bytes of varint are the times from 2^35 to 2^42 ms, the years 1971 to 2109. Any other
    /// form is `None`, and nothing is read.
    #[inline]
    pub(crate) fn usual_sample(&mut self) -> Option<Sample> {
        let record: &[u8; 18] = self.bytes.get(self.at..)?.first_chunk()?;
        let &[0x12, 0x10, 0x09, value @ .., 0x10, t0, t1, t2, t3, t4, t5] = record else {
            return None;
        };
        let value: &[u8; 8] = value.first_chunk()?;
        let time = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, 0, 0]);
        if time & 0x8080_8080_8080 != 0x0080_8080_8080 {
            return None;
        }
        self.at += record.len();
        Some(Sample { t: six_sevens(time) as i64, bits: u64::from_le_bytes(*value) })
    }
}

/// Reads a varint of any length, plainly: its value, and where the next byte is.
///
/// This and [`after_unknown`] are apart and take what they need by value, so that the cursor of a
/// scan stays in registers.
#[inline(never)]
fn long_varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Error> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().skip(at).take(10).enumerate() {
        // The tenth byte has the number's last bit, and no more.
        if i == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok((value, at + i + 1));
        }
    }
    Err(Error::BadVarint { at })
}

/// Where an unknown field ends.
#[cold]
fn after_unknown(mut content: Cursor<'_>, key: u32, known: &[u32]) -> Result<usize, Error> {
    let (field, wire_type) = (key >> 3, key & 7);
    let at = content.at;
    if known.contains(&field) {
        return Err(Error::BadWireType { at, field, wire_type: wire_type as u8 });
    }
    match wire_type {
        VARINT => {
            content.varint()?;
        }
        FIXED64 => {
            content.step_over(8)?;
        }
        RECORD => {
            content.record()?;
        }
        FIXED32 => {
            content.step_over(4)?;
        }
        GROUP_BEGIN | GROUP_END => return Err(Error::Group { at, field }),
        _ => return Err(Error::BadWireType { at, field, wire_type: wire_type as u8 }),
    }
    Ok(content.at)
}

/// Joins the low seven bits of six bytes: pairs of sevens, then three fourteens.
#[inline]
fn six_sevens(word: u64) -> u64 {
    let sevens = word & 0x7f7f_7f7f_7f7f;
    let pairs = (sevens & 0x007f_007f_007f) | (sevens & 0x7f00_7f00_7f00) >> 1;
    (pairs & 0x3fff) | (pairs & 0x3fff_0000) >> 2 | (pairs & 0x3fff_0000_0000) >> 4
}

/// Appends a varint in its shortest form.
pub(crate) fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length in bytes of the shortest form of a varint.
pub(crate) fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

    #[test]
    fn varints_end_in_time() {
        let check = |bytes: &[u8], want: Result<u64, Error>| {
            let mut cursor = Cursor::new(bytes);
            assert_eq!(cursor.varint(), want, "{bytes:x?}");
            assert_eq!(cursor.at(), if want.is_ok() { bytes.len() } else { 0 }, "{bytes:x?}");
        };
        let bad = Err(Error::BadVarint { at: 0 });
        check(&[0], Ok(0));
        check(&[0x7f], Ok(127));
        check(&[0x80, 0x01], Ok(128));
        check(&[0x80, 0x00], Ok(0));
        check(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], Ok(0));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Ok(u64::MAX));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], bad.clone());
        check(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], bad.clone());
        check(&[], bad.clone());
        check(&[0x80], bad.clone());
        check(&[0xff, 0xff, 0xff], bad);
    }

    #[test]
    fn keys_have_a_field_number() {
        let check = |bytes: &[u8], want: Result<u32, Error>| {
            assert_eq!(Cursor::new(bytes).key(), want, "{bytes:x?}");
        };
        check(&[0x0a], Ok(key(1, RECORD)));
        check(&[0x8a, 0x00], Ok(key(1, RECORD)));
        check(&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX));
        check(&[0x00], Err(Error::BadFieldNumber { at: 0, key: 0 }));
        check(&[0x07], Err(Error::BadFieldNumber { at: 0, key: 7 }));
        let beyond = u64::from(u32::MAX) + 1;
        check(&[0x80, 0x80, 0x80, 0x80, 0x10], Err(Error::BadFieldNumber { at: 0, key: beyond }));
    }

    #[test]
    fn unknown_fields_are_stepped_over_by_wire_type() {
        let check = |bytes: &[u8], want: Result<usize, Error>| {
            let mut cursor = Cursor::new(bytes);
            let key = cursor.key().expect("a key");
            assert_eq!(cursor.skip(key, &[1, 2]).map(|()| cursor.at()), want, "{bytes:x?}");
        };
        let bad = |field, wire_type| Err(Error::BadWireType { at: 1, field, wire_type });
        check(&[0x18, 0xff, 0x01, 9], Ok(3));
        check(&[0x19, 1, 2, 3, 4, 5, 6, 7, 8, 9], Ok(9));
        check(&[0x1a, 2, 1, 2, 9], Ok(4));
        check(&[0x1d, 1, 2, 3, 4, 9], Ok(5));
        check(&[0x19, 1, 2], Err(Error::Truncated { at: 1, length: 8, left: 2 }));
        check(&[0x1a, 3, 1, 2], Err(Error::Truncated { at: 2, length: 3, left: 2 }));
        check(&[0x1d], Err(Error::Truncated { at: 1, length: 4, left: 0 }));
        check(&[0x1b, 0x1c], Err(Error::Group { at: 1, field: 3 }));
        check(&[0x1c], Err(Error::Group { at: 1, field: 3 }));
        check(&[0x1e], bad(3, 6));
        check(&[0x1f], bad(3, 7));
        check(&[0x0d, 1, 2, 3, 4], bad(1, 5));
        check(&[0x13], bad(2, 3));
    }

    #[test]
    fn a_length_beyond_all_memory_is_checked() {
        let bytes = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1, 2];
        let mut cursor = Cursor::new(&bytes);
        cursor.key().expect("a key");
        let want = Error::Truncated { at: 11, length: u64::MAX, left: 2 };
        assert_eq!(cursor.record(), Err(want));
    }

    #[test]
    fn hops_stop_where_the_plain_way_must_look() {
        let check = |bytes: &[u8], want: usize| {
            let mut cursor = Cursor::new(bytes);
            cursor.hop_short_records(0x0a);
            assert_eq!(cursor.at(), want, "{bytes:x?}");
        };
        check(&[], 0);
        check(&[0x0a], 0);
        check(&[0x0a, 0], 2);
        check(&[0x0a, 1, 7, 0x0a, 0, 0x12, 0], 5);
        check(&[0x0a, 1, 7, 0x0a, 1], 3);
        check(&[0x0a, 0x80, 0x01], 0);
    }

    proptest! {
        #[test]
        fn varints_are_those_of_prost(shift in 0u32..64, bits: u64, tail: [u8; 3]) {
            let value = bits >> shift;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            push_varint(value, &mut ours);
            encode_varint(value, &mut theirs);
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(varint_len(value), encoded_len_varint(value));
            ours.extend_from_slice(&tail);
            let mut cursor = Cursor::new(&ours);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert_eq!(cursor.at(), theirs.len());
        }

        #[test]
        fn any_bytes_are_the_varint_that_prost_reads(bytes: Vec<u8>) {
            let mut cursor = Cursor::new(&bytes);
            let mut rest = &bytes[..];
            if let Ok(want) = decode_varint(&mut rest) {
                prop_assert_eq!(cursor.varint(), Ok(want));
                prop_assert_eq!(cursor.at(), bytes.len() - rest.len());
            } else {
                prop_assert_eq!(cursor.varint(), Err(Error::BadVarint { at: 0 }));
            }
        }

        #[test]
        fn the_usual_sample_is_what_the_plain_way_reads(
            t in prop_oneof![
                0i64..1 << 44,
                (1i64 << 35) - 4..(1 << 35) + 4,
                (1i64 << 42) - 4..(1 << 42) + 4,
            ],
            bits: u64,
            tail: [u8; 2],
        ) {
            let mut bytes = vec![0x12, 0, 0x09];
            bytes.extend_from_slice(&bits.to_le_bytes());
            bytes.push(0x10);
            push_varint(t as u64, &mut bytes);
            bytes[1] = bytes.len() as u8 - 2;
            let end = bytes.len();
            bytes.extend_from_slice(&tail);
            let mut cursor = Cursor::new(&bytes);
            let got = cursor.usual_sample();
            let usual = (1i64 << 35..1 << 42).contains(&t);
            prop_assert_eq!(got, usual.then_some(Sample { t, bits }));
            prop_assert_eq!(cursor.at(), if usual { end } else { 0 });
        }
    }
}

//! Variable-length integers: LEB128, low seven bits first, and zigzag for signed ones, as protobuf
//! and Go's `encoding/binary` have them.

/// Most bytes one takes.
pub const BYTES_MAX: usize = 10;

/// Appends an unsigned integer.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a signed integer in zigzag form to the front of `out`, which has room for
/// [`BYTES_MAX`] bytes; returns how many it took.
#[inline]
pub fn write_i64(out: &mut [u8], value: i64) -> usize {
    write_u64(out, zigzag(value))
}

/// Writes an unsigned integer to the front of `out`, which has room for [`BYTES_MAX`] bytes;
/// returns how many it took.
#[inline]
pub fn write_u64(out: &mut [u8], mut value: u64) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Appends a signed integer in zigzag form.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, zigzag(value));
}

/// Maps small negative and positive numbers to small unsigned ones.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Takes an unsigned integer off the front. `None` when it is cut short or does not fit.
pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        if i == BYTES_MAX - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = bytes.get(i + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Takes a signed integer off the front.
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take_u64(bytes).map(unzigzag)
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes a length and that many bytes off the front.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(take_u64(&mut &[0xff; 9][..]), None);
        assert_eq!(take_u64(&mut &[0xff; 11][..]), None);
        let mut most = vec![0xff; 9];
        most.push(1);
        assert_eq!(take_u64(&mut &most[..]), Some(u64::MAX));
        most[9] = 2;
        assert_eq!(take_u64(&mut &most[..]), None);
        assert_eq!(take_bytes(&mut &[5, 1, 2][..]), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back(u in any::<u64>(), i in any::<i64>(), b in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            put_u64(&mut out, u);
            put_i64(&mut out, i);
            put_bytes(&mut out, &b);
            let mut room = [0; BYTES_MAX];
            let written = write_i64(&mut room, i);
            let mut put = Vec::new();
            put_i64(&mut put, i);
            prop_assert_eq!(&room[..written], &put[..]);
            let mut rest = &out[..];
            prop_assert_eq!(take_u64(&mut rest), Some(u));
            prop_assert_eq!(take_i64(&mut rest), Some(i));
            prop_assert_eq!(take_bytes(&mut rest), Some(&b[..]));
            prop_assert!(rest.is_empty());
        }
    }
}

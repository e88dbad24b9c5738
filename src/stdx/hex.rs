//! Bytes as hexadecimal digits, two for each, in lower case.

/// The digits of some bytes.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The `N` bytes that digits of either case stand for; `None` for any other text.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_nothing_else() {
        assert_eq!(encode(&[0x01, 0xfe]), "01fe");
        assert_eq!(decode::<2>("01Fe"), Some([1, 0xfe]));
        for text in ["", "01f", "+1f0", "01fe0", "é1f"] {
            assert_eq!(decode::<2>(text), None, "{text}");
        }
    }
}

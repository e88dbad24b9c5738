//! What a string literal stands for.

use crate::promql::error::Fault;

/// The bytes of a string literal that the lexer has let pass: quotes taken off, escapes replaced.
/// `\xff` and `\377` make single bytes, so the result need not be UTF-8.
pub fn unquote(literal: &str) -> Vec<u8> {
    let quote = literal.chars().next().unwrap_or_default();
    let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
    if quote == '`' {
        return inner.as_bytes().to_vec();
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let Some(c) = escaped.chars().next() else { return bytes };
        let (digits, len, base) = match c {
            'x' => (1, 3, 16),
            'u' => (1, 5, 16),
            'U' => (1, 9, 16),
            '0'..='7' => (0, 3, 8),
            _ => (0, c.len_utf8(), 0),
        };
        let (code, after) = escaped.split_at_checked(len).unwrap_or((escaped, ""));
        let number = || u32::from_str_radix(&code[digits..], base).unwrap_or_default();
        match c {
            'x' | '0'..='7' => bytes.push(number() as u8),
            'u' | 'U' => push(&mut bytes, char::from_u32(number()).unwrap_or_default()),
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            _ => push(&mut bytes, c),
        }
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// The text of a string literal, where only UTF-8 will do.
pub(super) fn unquote_utf8(literal: &str) -> Result<String, Fault> {
    let refused = |_| Fault::NotUtf8 { literal: literal.to_string() };
    String::from_utf8(unquote(literal)).map_err(refused)
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_go() {
        for (literal, want) in [
            (r#""""#, &b""[..]),
            (r#""a\"b'c""#, b"a\"b'c"),
            (r"'a\'b'", b"a'b"),
            (r"`a\n'\x`", br"a\n'\x"),
            (r#""\a\b\f\n\r\t\v\\""#, b"\x07\x08\x0c\n\r\t\x0b\\"),
            (r#""\x41\xff\101\377\0001""#, b"A\xffA\xff\x001"),
            (r#""\u00e9\U0001f980x""#, "é🦀x".as_bytes()),
            ("'é\\u4e16'", "é世".as_bytes()),
        ] {
            assert_eq!(unquote(literal), want, "{literal}");
        }
        assert_eq!(unquote_utf8(r#""\xc3\xa9""#), Ok("é".into()));
        let literal = r#""\xff""#.to_string();
        assert_eq!(unquote_utf8(&literal), Err(Fault::NotUtf8 { literal }));
    }
}

//! Text in quotes, as Go's `%q` writes it: `"` and `\` escaped, what cannot be seen as a code.
//!
//! Error texts and matchers are read by people and by programs that know them from Prometheus, so
//! they must come out the same byte for byte.

use std::fmt::{self, Display, Write};

/// A string in double quotes.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

/// A character in single quotes.
#[derive(Debug, Clone, Copy)]
pub struct QuotedChar(pub char);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.0.chars().try_for_each(|c| escape(c, '"', f))?;
        f.write_char('"')
    }
}

impl Display for QuotedChar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('\'')?;
        escape(self.0, '\'', f)?;
        f.write_char('\'')
    }
}

/// Whether a character can be seen: a letter, mark, number, sign, or the plain blank.
pub fn is_printable(c: char) -> bool {
    // The standard library keeps the same table (everything but separators, controls and code
    // points without a character) and lets it be asked this way only. A mark is escaped at the
    // start of a string, hence the letter before.
    let text: String = ['a', c].into_iter().collect();
    matches!(c, '"' | '\'' | '\\') || text.escape_debug().count() == 2
}

fn escape(c: char, quote: char, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match c {
        '\\' => f.write_str("\\\\"),
        _ if c == quote => write!(f, "\\{c}"),
        ' '..='~' => f.write_char(c),
        '\u{7}' => f.write_str("\\a"),
        '\u{8}' => f.write_str("\\b"),
        '\u{c}' => f.write_str("\\f"),
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        '\u{b}' => f.write_str("\\v"),
        '\0'..'\u{80}' => write!(f, "\\x{:02x}", u32::from(c)),
        _ if is_printable(c) => f.write_char(c),
        '\u{80}'..'\u{10000}' => write!(f, "\\u{:04x}", u32::from(c)),
        _ => write!(f, "\\U{:08x}", u32::from(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        // Each right side is what Go's strconv.Quote gave.
        for (text, quoted) in [
            ("", r#""""#),
            ("a\"b'c\\d", r#""a\"b'c\\d""#),
            ("\u{7}\u{8}\u{c}\n\r\t\u{b}", r#""\a\b\f\n\r\t\v""#),
            ("\0\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
            ("é世🦀\u{301}", "\"é世🦀\u{301}\""),
            ("\u{80}\u{a0}\u{200b}\u{2028}\u{feff}", r#""\u0080\u00a0\u200b\u2028\ufeff""#),
            ("\u{e000}\u{10ffff}\u{fffd}", "\"\\ue000\\U0010ffff\u{fffd}\""),
        ] {
            assert_eq!(Quoted(text).to_string(), quoted);
        }
        for (c, quoted) in [('\'', r"'\''"), ('"', "'\"'"), ('\n', r"'\n'"), ('~', "'~'")] {
            assert_eq!(QuotedChar(c).to_string(), quoted);
        }
    }
}

//! Why a text is not PromQL, and where.
//!
//! Texts and positions are those of Prometheus 3.14: people look them up, and programs that sit
//! between a user and the server cut them apart. An error shows as `1:5: parse error: ...`, line
//! and column counted from one, the column in bytes.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::model::{MatcherError, Quoted, QuotedChar, is_printable};

/// An error and its place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: parse error: {fault}")]
pub struct Error {
    /// The bytes of the text that are wrong.
    pub range: Range<usize>,
    /// Where that begins, for people.
    pub place: Place,
    /// What is wrong.
    pub fault: Fault,
}

impl Error {
    pub(super) fn new(text: &str, range: Range<usize>, fault: Fault) -> Self {
        let before = text.get(..range.start).unwrap_or(text);
        let place = if text.is_empty() {
            Place::Unknown
        } else {
            let line = before.matches('\n').count() + 1;
            let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
            Place::At { line, column }
        };
        Self { range, place, fault }
    }
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The text is empty.
    Unknown,
    /// Both from one.
    At {
        /// Line.
        line: usize,
        /// Byte in the line.
        column: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown position"),
            Self::At { line, column } => write!(f, "{line}:{column}"),
        }
    }
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The text is longer than we read.
    #[error("query has {got} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length.
        got: usize,
        /// Greatest length.
        max: usize,
    },
    /// A character that begins nothing.
    #[error("unexpected character: {}", QuotedChar(*.0))]
    Character(char),
    /// A character that begins nothing between `{` and `}`.
    #[error("unexpected character inside braces: {}", QuotedChar(*.0))]
    InBraces(char),
    /// A character that begins nothing after `[`.
    #[error("unexpected character in duration expression: {}", QuotedChar(*.0))]
    InDuration(char),
    /// A letter after the range of a subquery.
    #[error("unexpected character: {}, expected ':'", QuotedChar(*.0))]
    NotColon(char),
    /// `=~` outside braces, or `!` without what makes it an operator.
    #[error("unexpected character after '{after}': {}", QuotedChar(*.got))]
    After {
        /// The character before.
        after: char,
        /// The character.
        got: char,
    },
    /// `!` in braces without what makes it an operator.
    #[error("unexpected character after '!' inside braces: {}", QuotedChar(*.0))]
    AfterBangInBraces(char),
    /// A `{` between `{` and `}`.
    #[error("unexpected left brace '{{'")]
    LeftBrace,
    /// A `)` too many.
    #[error("unexpected right parenthesis ')'")]
    RightParen,
    /// A `[` between `[` and `]`.
    #[error("unexpected left bracket '['")]
    LeftBracket,
    /// A `]` too many.
    #[error("unexpected right bracket ']'")]
    RightBracket,
    /// A second `:` in a subquery.
    #[error("unexpected colon ':'")]
    Colon,
    /// A `:` in a subquery without a range before it.
    #[error("unexpected colon before duration in duration expression")]
    ColonFirst,
    /// A second `:` in a subquery.
    #[error("unexpected repeated colon in duration expression")]
    ColonTwice,
    /// The text ends between `(` and `)`.
    #[error("unclosed left parenthesis")]
    OpenParen,
    /// The text ends between `[` and `]`.
    #[error("unclosed left bracket")]
    OpenBracket,
    /// The text ends between `{` and `}`.
    #[error("unexpected end of input inside braces")]
    OpenBrace,
    /// The text ends after `[`.
    #[error("unexpected end of input in duration expression")]
    OpenDuration,
    /// A string without end.
    #[error("unterminated quoted string")]
    OpenString,
    /// A string in backquotes without end.
    #[error("unterminated raw string")]
    OpenRawString,
    /// The text ends in an escape.
    #[error("escape sequence not terminated")]
    OpenEscape,
    /// A backslash before something it does not go with.
    #[error("unknown escape sequence {}", CodePoint(*.0))]
    UnknownEscape(char),
    /// Not a digit where an escape needs one.
    #[error("illegal character {} in escape sequence", CodePoint(*.0))]
    InEscape(char),
    /// An escape of no character.
    #[error("escape sequence is an invalid Unicode code point")]
    NoCodePoint,
    /// A string that holds the character that stands for broken UTF-8.
    #[error("invalid UTF-8 rune")]
    BrokenUtf8,
    /// A string whose escapes make something that is not UTF-8, where a label needs UTF-8.
    #[error("string {} is not UTF-8, as the names and values of labels are", Quoted(.literal))]
    NotUtf8 {
        /// The string as written.
        literal: String,
    },
    /// Something that begins like a number and is none.
    #[error("bad number or duration syntax: {}", Quoted(.0))]
    Number(String),
    /// A token that does not go here.
    #[error("unexpected {token}{expected}")]
    Unexpected {
        /// The token as messages name it.
        token: String,
        /// What would go here.
        expected: Expected,
    },
    /// A regular expression that cannot be used.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    /// A selector that selects everything.
    #[error("vector selector must contain at least one non-empty matcher")]
    NoMatcher,
    /// A metric name before the braces and one inside.
    #[error("metric name must not be set twice: {} or {}", Quoted(.first), Quoted(.second))]
    NameTwice {
        /// The name before.
        first: String,
        /// The name inside.
        second: String,
    },
}

/// The place in the grammar where a token does not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing to say about it.
    Unsaid,
    /// A matcher or the end of the braces.
    Matcher,
    /// The operator of a matcher.
    MatchOp,
    /// The value of a matcher.
    MatchValue,
    /// What follows a matcher.
    MatchEnd,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsaid => "",
            Self::Matcher => r#" in label matching, expected identifier or "}""#,
            Self::MatchOp => " in label matching, expected label matching operator",
            Self::MatchValue => " in label matching, expected string",
            Self::MatchEnd => r#" in label matching, expected "," or "}""#,
        })
    }
}

/// `U+0041 'A'`.
struct CodePoint(char);

impl fmt::Display for CodePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "U+{:04X}", u32::from(self.0))?;
        if is_printable(self.0) { write!(f, " '{}'", self.0) } else { Ok(()) }
    }
}

//! The words of PromQL and what messages call them.

use std::fmt;

use crate::model::Quoted;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the table below shows what each is written as")]
pub enum Kind {
    // What has no fixed spelling.
    Eof,
    Identifier,
    /// An identifier with a colon in it, as recording rules are named.
    MetricIdentifier,
    /// In quotes of any kind; the text is as written, quotes included.
    String,
    Number,
    Duration,
    // Punctuation.
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    /// `=`, which is no operator: it only stands between a label and its value.
    Assign,
    // Operators.
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Equal,
    NotEqual,
    LessEqual,
    Less,
    GreaterEqual,
    Greater,
    TrimUpper,
    TrimLower,
    MatchRegex,
    MatchNotRegex,
    At,
    And,
    Or,
    Unless,
    Atan2,
    // Aggregators.
    Avg,
    Bottomk,
    Count,
    CountValues,
    Group,
    LimitRatio,
    Limitk,
    Max,
    Min,
    Quantile,
    Stddev,
    Stdvar,
    Sum,
    Topk,
    // Keywords.
    Anchored,
    Bool,
    By,
    Fill,
    FillLeft,
    FillRight,
    GroupLeft,
    GroupRight,
    Ignoring,
    Offset,
    On,
    Smoothed,
    Without,
    // Words with meaning in durations and after `@`.
    End,
    MaxOf,
    MinOf,
    Range,
    Start,
    Step,
}

/// How messages show a token: an operator as `<op:+>` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Operator,
    Aggregator,
    Keyword,
}

/// Every word with a meaning. Case does not matter.
const WORDS: &[(&str, Kind)] = &[
    ("anchored", Kind::Anchored),
    ("and", Kind::And),
    ("atan2", Kind::Atan2),
    ("avg", Kind::Avg),
    ("bool", Kind::Bool),
    ("bottomk", Kind::Bottomk),
    ("by", Kind::By),
    ("count", Kind::Count),
    ("count_values", Kind::CountValues),
    ("end", Kind::End),
    ("fill", Kind::Fill),
    ("fill_left", Kind::FillLeft),
    ("fill_right", Kind::FillRight),
    ("group", Kind::Group),
    ("group_left", Kind::GroupLeft),
    ("group_right", Kind::GroupRight),
    ("ignoring", Kind::Ignoring),
    ("inf", Kind::Number),
    ("limit_ratio", Kind::LimitRatio),
    ("limitk", Kind::Limitk),
    ("max", Kind::Max),
    ("max_of", Kind::MaxOf),
    ("min", Kind::Min),
    ("min_of", Kind::MinOf),
    ("nan", Kind::Number),
    ("offset", Kind::Offset),
    ("on", Kind::On),
    ("or", Kind::Or),
    ("quantile", Kind::Quantile),
    ("range", Kind::Range),
    ("smoothed", Kind::Smoothed),
    ("start", Kind::Start),
    ("stddev", Kind::Stddev),
    ("stdvar", Kind::Stdvar),
    ("step", Kind::Step),
    ("sum", Kind::Sum),
    ("topk", Kind::Topk),
    ("unless", Kind::Unless),
    ("without", Kind::Without),
];

/// Longest of [`WORDS`].
const WORD_BYTES_MAX: usize = 12;

impl Kind {
    /// The meaning of a word outside braces, if it has one.
    pub fn of_word(word: &str) -> Option<Self> {
        if word.len() > WORD_BYTES_MAX {
            return None;
        }
        let lower = word.to_ascii_lowercase();
        let at = WORDS.binary_search_by(|(known, _)| (*known).cmp(lower.as_str())).ok()?;
        WORDS.get(at).map(|(_, kind)| *kind)
    }

    /// Whether it may stand where a metric's name is expected.
    pub fn is_metric_name(self) -> bool {
        let word = matches!(
            self,
            Self::Identifier
                | Self::MetricIdentifier
                | Self::And
                | Self::Or
                | Self::Unless
                | Self::By
                | Self::Without
                | Self::Offset
                | Self::Anchored
                | Self::Smoothed
                | Self::Fill
                | Self::FillLeft
                | Self::FillRight
                | Self::Start
                | Self::End
                | Self::Step
                | Self::Range
                | Self::MaxOf
                | Self::MinOf
        );
        word || self.class() == Class::Aggregator
    }

    fn class(self) -> Class {
        match self {
            Self::Add
            | Self::Sub
            | Self::Mul
            | Self::Div
            | Self::Mod
            | Self::Pow
            | Self::Equal
            | Self::NotEqual
            | Self::LessEqual
            | Self::Less
            | Self::GreaterEqual
            | Self::Greater
            | Self::TrimUpper
            | Self::TrimLower
            | Self::MatchRegex
            | Self::MatchNotRegex
            | Self::At
            | Self::And
            | Self::Or
            | Self::Unless
            | Self::Atan2 => Class::Operator,
            Self::Avg
            | Self::Bottomk
            | Self::Count
            | Self::CountValues
            | Self::Group
            | Self::LimitRatio
            | Self::Limitk
            | Self::Max
            | Self::Min
            | Self::Quantile
            | Self::Stddev
            | Self::Stdvar
            | Self::Sum
            | Self::Topk => Class::Aggregator,
            Self::Anchored
            | Self::Bool
            | Self::By
            | Self::Fill
            | Self::FillLeft
            | Self::FillRight
            | Self::GroupLeft
            | Self::GroupRight
            | Self::Ignoring
            | Self::Offset
            | Self::On
            | Self::Smoothed
            | Self::Without => Class::Keyword,
            _ => Class::Plain,
        }
    }
}

/// A piece of an expression and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'t> {
    /// What it is.
    pub kind: Kind,
    /// Offset of its first byte in the expression.
    pub start: usize,
    /// As written.
    pub text: &'t str,
}

impl Token<'_> {
    /// Offset after its last byte.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

impl fmt::Display for Token<'_> {
    /// As the messages of Prometheus name it: `identifier "foo"`, `<op:+>`, `end of input`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Eof => return f.write_str("end of input"),
            Kind::Identifier => return write!(f, "identifier {}", Quoted(self.text)),
            Kind::MetricIdentifier => {
                return write!(f, "metric identifier {}", Quoted(self.text));
            }
            Kind::String => f.write_str("string ")?,
            Kind::Number => f.write_str("number ")?,
            Kind::Duration => f.write_str("duration ")?,
            _ => {}
        }
        match self.kind.class() {
            Class::Operator => write!(f, "<op:{}>", self.text),
            Class::Aggregator => write!(f, "<aggr:{}>", self.text),
            Class::Keyword => write!(f, "<{}>", self.text),
            Class::Plain if self.text.len() > 10 => {
                let head: String = self.text.chars().take(10).collect();
                write!(f, "{}...", Quoted(&head))
            }
            Class::Plain => Quoted(self.text).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_and_short() {
        assert!(WORDS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(WORDS.iter().all(|(word, _)| word.len() <= WORD_BYTES_MAX));
        assert_eq!(Kind::of_word("Group_Left"), Some(Kind::GroupLeft));
        assert_eq!(Kind::of_word("NaN"), Some(Kind::Number));
        assert_eq!(Kind::of_word("rate"), None);
    }
}

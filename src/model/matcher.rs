//! A condition on one label: `job="api"`, `code!~"5.."`.
//!
//! A label that is missing and a label with an empty value are the same thing (Prometheus data
//! model): both are tested as `""`.
//!
//! A regular expression is RE2 as in Go ([`crate::model::re2`]) and must match the whole value.

use std::fmt;
use std::sync::Arc;

use crate::model::pattern::{MatcherError, Pattern, REQUEST_COMPILED_BYTES_MAX};
use crate::model::quoted::Quoted;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`: the value is this text.
    Equal,
    /// `!=`: the value is another text.
    NotEqual,
    /// `=~`: the whole value matches.
    Regex,
    /// `!~`: it does not.
    NotRegex,
}

/// A condition on one label. Cheap to clone. A clone tests with its own scratch memory: a core
/// that tests many values makes its own clone first.
#[derive(Debug, Clone)]
pub struct Matcher {
    op: MatchOp,
    name: Arc<str>,
    value: Arc<str>,
    /// For the two operators that need one.
    pattern: Option<Pattern>,
}

/// Makes the matchers of one request: their patterns have a bound together.
#[derive(Debug, Default)]
pub struct Matchers {
    compiled_bytes: usize,
}

impl Matchers {
    /// Makes the next matcher. Fails only for a regular expression that RE2 or our limits refuse.
    pub fn make(
        &mut self,
        op: MatchOp,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Matcher, MatcherError> {
        let matcher = Matcher::new(op, name, value)?;
        self.compiled_bytes += matcher.pattern.as_ref().map_or(0, Pattern::compiled_bytes);
        if self.compiled_bytes > REQUEST_COMPILED_BYTES_MAX {
            return Err(MatcherError::TooBigTogether { pattern: matcher.value.to_string() });
        }
        Ok(matcher)
    }
}

impl Matcher {
    /// Makes a matcher. Fails only for a regular expression that RE2 or our limits refuse.
    pub fn new(
        op: MatchOp,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, MatcherError> {
        let (name, value) = (name.into(), value.into());
        let pattern = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(Pattern::new(&value)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Self { op, name: name.into(), value: value.into(), pattern })
    }

    /// `name="value"`, which is always a matcher.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into().into(), value.into().into());
        Self { op: MatchOp::Equal, name, value, pattern: None }
    }

    /// How it compares.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// Name of the label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text or the pattern, as written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label with this value fulfils the condition; `""` stands for no label.
    pub fn matches(&self, value: &str) -> bool {
        let same = match &self.pattern {
            Some(pattern) => pattern.matches(value),
            None => *self.value == *value,
        };
        same == matches!(self.op, MatchOp::Equal | MatchOp::Regex)
    }

    /// Whether a series without the label fulfils the condition.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The values a regular expression stands for, if it is just a choice of few texts: sorted,
    /// each once. For `!~` these are the values it excludes. `None` for `=` and `!=`.
    pub fn set_matches(&self) -> Option<&[String]> {
        match &self.pattern {
            Some(Pattern::Set(texts)) => Some(texts),
            _ => None,
        }
    }
}

impl PartialEq for Matcher {
    /// The same condition as written.
    fn eq(&self, other: &Self) -> bool {
        (self.op, &self.name, &self.value) == (other.op, &other.name, &other.value)
    }
}

impl Eq for Matcher {}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        })
    }
}

impl fmt::Display for Matcher {
    /// As PromQL writes it. A name that is not a plain identifier is quoted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &*self.name;
        let plain = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        if plain {
            f.write_str(name)?;
        } else {
            Quoted(name).fmt(f)?;
        }
        write!(f, "{}{}", self.op, Quoted(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(op: MatchOp, value: &str) -> Matcher {
        Matcher::new(op, "job", value).expect("a matcher")
    }

    #[test]
    fn the_patterns_of_a_request_have_a_bound_together() {
        let mut matchers = Matchers::default();
        let large = |n: usize| format!("a{n}(\\pL{{1,60}}){{1,2}}b");
        let made = (0..1000).take_while(|n| match matchers.make(MatchOp::Regex, "a", large(*n)) {
            Ok(_) => true,
            Err(error) => {
                assert!(matches!(error, MatcherError::TooBigTogether { .. }), "{error}");
                false
            }
        });
        let made = made.count();
        assert!((7..1000).contains(&made), "{made} of less than 10 MiB each");
    }

    #[test]
    fn a_missing_label_is_an_empty_value() {
        use MatchOp::{Equal, NotEqual, NotRegex, Regex};
        for (op, value, a, b, empty) in [
            (Equal, "a", true, false, false),
            (Equal, "", false, false, true),
            (NotEqual, "a", false, true, true),
            (NotEqual, "", true, true, false),
            (Regex, "a|c", true, false, false),
            (Regex, "a?", true, false, true),
            (Regex, ".*", true, true, true),
            (Regex, "[^b]+", true, false, false),
            (NotRegex, "a|c", false, true, true),
            (NotRegex, ".+", false, false, true),
            (NotRegex, "", true, true, false),
        ] {
            let matcher = matcher(op, value);
            assert_eq!(matcher.matches("a"), a, "{matcher} on a");
            assert_eq!(matcher.matches("b"), b, "{matcher} on b");
            assert_eq!(matcher.matches_empty(), empty, "{matcher} on nothing");
        }
    }

    #[test]
    fn only_a_choice_of_texts_is_a_set() {
        let set = |op, value| matcher(op, value).set_matches().map(<[String]>::to_vec);
        assert_eq!(set(MatchOp::Regex, "b|a"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(set(MatchOp::NotRegex, "b"), Some(vec!["b".into()]));
        assert_eq!(set(MatchOp::Regex, "a.*"), None);
        assert_eq!(set(MatchOp::Equal, "a"), None);
    }

    #[test]
    fn shows_as_promql() {
        for (name, op, value, want) in [
            ("job", MatchOp::Equal, "a\"\n", r#"job="a\"\n""#),
            ("_x1", MatchOp::NotEqual, "é", r#"_x1!="é""#),
            ("my.label", MatchOp::Regex, r"a\.b", r#""my.label"=~"a\\.b""#),
            ("1a", MatchOp::NotRegex, "", r#""1a"!~"""#),
            ("a:b", MatchOp::Equal, "", r#""a:b"="""#),
            ("", MatchOp::Equal, "", r#"""="""#),
        ] {
            let matcher = Matcher::new(op, name, value).expect("a matcher");
            assert_eq!(matcher.to_string(), want);
        }
        let refused = Matcher::new(MatchOp::Regex, "a", "(b").expect_err("no pattern");
        assert_eq!(refused.to_string(), "error parsing regexp: missing closing ): `(b`");
    }
}

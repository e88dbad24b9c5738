//! Matchers on labels. (Stand-in until the branch with the real one is merged.)

use std::sync::Arc;

use thiserror::Error;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// A matcher.
#[derive(Debug, Clone)]
pub struct Matcher {
    op: MatchOp,
    name: Arc<str>,
    value: Arc<str>,
    regex: Option<Arc<regex::Regex>>,
}

/// Why a matcher cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct MatcherError(String);

impl Matcher {
    /// Makes a matcher.
    pub fn new(
        op: MatchOp,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, MatcherError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(Arc::new(
                regex::Regex::new(&format!("^(?s:{value})$"))
                    .map_err(|e| MatcherError(e.to_string()))?,
            )),
            _ => None,
        };
        Ok(Self { op, name: name.into().into(), value: value.into(), regex })
    }
    /// The operator.
    pub fn op(&self) -> MatchOp {
        self.op
    }
    /// The label's name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The value or pattern.
    pub fn value(&self) -> &str {
        &self.value
    }
    /// Whether a value matches.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => *self.value == *value,
            (MatchOp::NotEqual, _) => *self.value != *value,
            (MatchOp::Regex, Some(r)) => r.is_match(value),
            (MatchOp::NotRegex, Some(r)) => !r.is_match(value),
            _ => false,
        }
    }
    /// Whether a missing label matches.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }
}

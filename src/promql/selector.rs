//! Selectors: `up`, `up{job="api"}`, `{"my.metric", job=~"a|b"}`.
//!
//! The grammar, with the tokens of the lexer:
//!
//! ```text
//! selector = name [ braces ] | braces
//! braces   = "{" [ matcher { "," matcher } [ "," ] ] "}"
//! matcher  = identifier op string | string op string | string
//! op       = "=" | "!=" | "=~" | "!~"
//! ```
//!
//! A string alone is the metric's name; a string before an operator is a label's. The name before
//! the braces may be any identifier and most keywords. There is no `or` inside braces.

use std::ops::Range;

use crate::model::{METRIC_NAME, MatchOp, Matcher, Matchers};
use crate::promql::QUERY_BYTES_MAX;
use crate::promql::error::{Error, Expected, Fault};
use crate::promql::lex::Lexer;
use crate::promql::literal::unquote_utf8;
use crate::promql::token::{Kind, Token};

/// A vector selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric's name, if it stands before the braces.
    pub name: Option<String>,
    /// All conditions in the order written; the one of `name`, if any, comes last.
    pub matchers: Vec<Matcher>,
    /// Where it stands in the text.
    pub range: Range<usize>,
}

impl Selector {
    /// Reads a text that is one selector.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::parse_with(text, &mut Matchers::default())
    }

    /// The same for one of several selectors of a request.
    pub(super) fn parse_with(text: &str, matchers: &mut Matchers) -> Result<Self, Error> {
        let mut parser = Parser::new(text, matchers)?;
        let selector = parser.selector()?;
        match parser.token.kind {
            Kind::Eof => Ok(selector),
            _ => Err(parser.unexpected(Expected::Unsaid)),
        }
    }

    /// What an expression demands of a selector beyond its grammar: that it does not select
    /// everything, and that its name is not said twice. `text` is the text it was read from.
    pub fn check(&self, text: &str) -> Result<(), Error> {
        let fault = match &self.name {
            Some(name) => self
                .matchers
                .split_last()
                .and_then(|(_, inside)| inside.iter().find(|m| m.name() == METRIC_NAME))
                .map(|second| Fault::NameTwice {
                    first: name.clone(),
                    second: second.value().to_string(),
                }),
            None => self.selects_all().then_some(Fault::NoMatcher),
        };
        fault.map_or(Ok(()), |fault| Err(Error::new(text, self.range.clone(), fault)))
    }

    /// Whether every series with any labels may be selected: no matcher needs its label.
    fn selects_all(&self) -> bool {
        self.matchers.iter().all(Matcher::matches_empty)
    }
}

struct Parser<'t, 'm> {
    text: &'t str,
    made: &'m mut Matchers,
    lexer: Lexer<'t>,
    /// The token to be looked at next.
    token: Token<'t>,
}

impl<'t, 'm> Parser<'t, 'm> {
    fn new(text: &'t str, made: &'m mut Matchers) -> Result<Self, Error> {
        if text.len() > QUERY_BYTES_MAX {
            let fault = Fault::TooLong { got: text.len(), max: QUERY_BYTES_MAX };
            return Err(Error::new(text, 0..text.len(), fault));
        }
        let mut lexer = Lexer::new(text);
        let token = lexer.token()?;
        Ok(Self { text, made, lexer, token })
    }

    fn selector(&mut self) -> Result<Selector, Error> {
        let first = self.token;
        let mut selector =
            Selector { name: None, matchers: Vec::new(), range: first.start..first.end() };
        if first.kind.is_metric_name() {
            selector.name = Some(first.text.to_string());
            self.advance()?;
        } else if first.kind != Kind::LeftBrace {
            return Err(self.unexpected(Expected::Unsaid));
        }
        if self.token.kind == Kind::LeftBrace {
            self.advance()?;
            selector.matchers = self.matchers()?;
            selector.range.end = self.token.end();
            self.advance()?;
        }
        if let Some(name) = &selector.name {
            selector.matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        Ok(selector)
    }

    /// Reads up to the closing brace.
    fn matchers(&mut self) -> Result<Vec<Matcher>, Error> {
        let mut matchers = Vec::new();
        while self.token.kind != Kind::RightBrace {
            matchers.push(self.matcher()?);
            match self.token.kind {
                Kind::RightBrace => {}
                Kind::Comma => self.advance()?,
                _ => return Err(self.unexpected(Expected::MatchEnd)),
            }
        }
        Ok(matchers)
    }

    fn matcher(&mut self) -> Result<Matcher, Error> {
        let label = self.token;
        let name = match label.kind {
            Kind::Identifier => label.text.to_string(),
            Kind::String => self.string()?,
            _ => return Err(self.unexpected(Expected::Matcher)),
        };
        self.advance()?;
        let op = match self.token.kind {
            Kind::Assign => MatchOp::Equal,
            Kind::NotEqual => MatchOp::NotEqual,
            Kind::MatchRegex => MatchOp::Regex,
            Kind::MatchNotRegex => MatchOp::NotRegex,
            _ if label.kind == Kind::String => return Ok(Matcher::equal(METRIC_NAME, name)),
            _ => return Err(self.unexpected(Expected::MatchOp)),
        };
        self.advance()?;
        if self.token.kind != Kind::String {
            return Err(self.unexpected(Expected::MatchValue));
        }
        let value = self.string()?;
        let range = label.start..self.token.end();
        let made = self.made.make(op, name, value);
        let matcher = made.map_err(|error| Error::new(self.text, range, error.into()))?;
        self.advance()?;
        Ok(matcher)
    }

    /// What the current token, a string, stands for.
    fn string(&self) -> Result<String, Error> {
        unquote_utf8(self.token.text).map_err(|fault| self.error(fault))
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.token = self.lexer.token()?;
        Ok(())
    }

    fn unexpected(&self, expected: Expected) -> Error {
        self.error(Fault::Unexpected { token: self.token.to_string(), expected })
    }

    fn error(&self, fault: Fault) -> Error {
        Error::new(self.text, self.token.start..self.token.end(), fault)
    }
}

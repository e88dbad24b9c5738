//! PromQL: from text to what is asked.
//!
//! The language is that of Prometheus 3.14, and so are its messages. It is read by our own lexer
//! and parser, since no crate reads all of it or knows where in the text an error is.
//!
//! ```text
//! text --lex--> tokens --selector--> matchers
//! ```
//!
//! - [`Lexer`] cuts a text into [`Token`]s. It knows the whole language: numbers, durations,
//!   strings, names, every operator and keyword, and where which of them may stand.
//! - [`Selector`] reads the one part of the language that stands alone in the HTTP API: `match[]`
//!   of `/series`, `/labels`, `/federate`, and the matchers of Thanos.
//! - [`struct@Error`] says what is wrong and where, in the words of Prometheus.
//!
//! ## Promises
//! - No text makes it panic. Work and memory grow with the length of the text, which is at most
//!   [`QUERY_BYTES_MAX`]; nothing here recurses by depth of the text.
//! - Only the first error of a text is told, as Prometheus does.
//!
//! ## Not the same as Prometheus
//! - Text is UTF-8. What comes as other bytes is made UTF-8 by its reader
//!   (`String::from_utf8_lossy`), and the character that puts there is refused in strings with the
//!   message that Prometheus has for broken UTF-8.
//! - A name or value in a matcher must be UTF-8 after its escapes too: `{a="\xff"}` is refused,
//!   since no label here has such a value.
//! - Patterns have the limits of [`crate::model::re2`].

mod error;
mod lex;
mod literal;
mod selector;
mod token;

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::model::{Matcher, Matchers};

pub use error::{Error, Expected, Fault, Place};
pub use lex::Lexer;
pub use literal::unquote;
pub use selector::Selector;
pub use token::{Kind, Token};

/// Longest text that is read, in bytes.
pub const QUERY_BYTES_MAX: usize = 64 * 1024;

/// Why the selectors of a request cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MatchError {
    /// One of them is not a selector.
    #[error(transparent)]
    Parse(#[from] Error),
    /// One of them selects everything.
    #[error("match[] must contain at least one non-empty matcher")]
    EmptyMatch,
}

/// Reads one selector and gives its matchers: those in braces as written, then the name's. Only
/// the grammar is checked, as where Prometheus and Thanos read a selector alone; `{}` is one.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, Error> {
    Ok(Selector::parse(text)?.matchers)
}

/// Reads the `match[]` parameters of a request: one set of matchers for each, a series is asked
/// for if it fulfils all of any set. Each must have a matcher that `""` does not fulfil.
pub fn parse_selectors<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
) -> Result<Vec<Vec<Matcher>>, MatchError> {
    let mut made = Matchers::default();
    let mut set = |text: &str| Ok(Selector::parse_with(text, &mut made)?.matchers);
    let sets = texts.into_iter().map(|text| set(text.as_ref()));
    let sets = sets.collect::<Result<Vec<Vec<Matcher>>, Error>>()?;
    if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
        return Err(MatchError::EmptyMatch);
    }
    Ok(sets)
}

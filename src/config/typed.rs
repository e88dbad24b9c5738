//! What was said on the command line, flag by flag, before anyone asks what it means.
//!
//! Every value is checked for its form here, also of flags that do nothing: a typing error is one
//! wherever it stands. No `Debug`: `--objstore.config` holds secrets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::table::{self, Does, Flag, Kind};
use crate::config::{Error, address, duration, label, size};

/// Values by flag, in the order in which they came.
#[derive(Default)]
pub(crate) struct Typed {
    said: BTreeMap<&'static str, Vec<String>>,
}

impl Typed {
    pub(crate) fn say(&mut self, flag: &Flag, value: String) {
        self.said.entry(flag.name).or_default().push(value);
    }

    /// All values of a flag; none if it was not given.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        debug_assert!(table::find(name).is_some(), "{name} is in the table");
        self.said.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a flag, or its default. An empty value says nothing, as in Thanos.
    pub(crate) fn text(&self, name: &str) -> &str {
        let said = self.all(name).last().map_or("", String::as_str);
        let default = || table::find(name).map_or("", |flag| flag.default);
        if said.is_empty() { default() } else { said }
    }

    pub(crate) fn duration(&self, name: &'static str) -> Result<Duration, Error> {
        let text = self.text(name);
        duration::parse(text).map_err(|e| bad(name, text, &e))
    }

    pub(crate) fn bytes(&self, name: &'static str) -> Result<u64, Error> {
        let text = self.text(name);
        size::parse(text).map_err(|e| bad(name, text, &e))
    }

    pub(crate) fn count(&self, name: &'static str) -> Result<u64, Error> {
        let text = self.text(name);
        count(text).map_err(|e| bad(name, text, &e))
    }

    pub(crate) fn address(&self, name: &'static str) -> Result<Vec<SocketAddr>, Error> {
        let text = self.text(name);
        address::parse(text).map_err(|e| bad(name, text, &e))
    }

    /// Checks the form of all values, refuses what is refused, and gives the notes for flags that
    /// do nothing.
    pub(crate) fn check(&self) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        for flag in table::flags().filter(|flag| !self.all(flag.name).is_empty()) {
            for value in self.all(flag.name) {
                check_form(flag, value)?;
            }
            match flag.does {
                Does::Acts => {}
                Does::Nothing(why) => {
                    notes.push(format!("--{} does nothing here: {why}", flag.name));
                }
                Does::Refused(reason) => {
                    if !self.all(flag.name).iter().all(|value| is_default(flag, value)) {
                        return Err(Error::Refused { flag: flag.name, reason });
                    }
                }
            }
        }
        Ok(notes)
    }
}

/// A value that is not what its flag wants.
pub(crate) fn bad(flag: &'static str, value: &str, problem: &impl ToString) -> Error {
    Error::BadValue { flag, value: value.into(), problem: problem.to_string() }
}

fn count(text: &str) -> Result<u64, &'static str> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or("is not a whole number from 0 to 18446744073709551615")
}

fn check_form(flag: &'static Flag, value: &str) -> Result<(), Error> {
    if value.is_empty() {
        return Ok(());
    }
    let wrong = |problem: &dyn ToString| Err(bad(flag.name, value, &problem.to_string()));
    match flag.kind {
        Kind::Bool | Kind::Text => Ok(()),
        Kind::Count => count(value).map(drop).or_else(|e| wrong(&e)),
        Kind::Duration => duration::parse(value).map(drop).or_else(|e| wrong(&e)),
        Kind::Bytes => size::parse(value).map(drop).or_else(|e| wrong(&e)),
        Kind::Address => address::parse(value).map(drop).or_else(|e| wrong(&e)),
        Kind::Label => label::parse(value).map(drop).or_else(|e| wrong(&e)),
        Kind::OneOf(words) if words.contains(&value) => Ok(()),
        Kind::OneOf(words) => {
            let words: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
            wrong(&format!("is not one of: {}", words.join(", ")))
        }
    }
}

/// Whether a value of good form says what the default says.
fn is_default(flag: &Flag, value: &str) -> bool {
    match flag.kind {
        _ if value.is_empty() => true,
        Kind::Duration => duration::parse(value) == duration::parse(flag.default),
        Kind::Bytes => size::parse(value) == size::parse(flag.default),
        Kind::Count => count(value) == count(flag.default),
        _ => value == flag.default,
    }
}

//! From YAML to values by key, led by the table: what is not in it is refused with its place.
//!
//! Scalars are kept as they were written. So a key made of digits stays a text, and a bad number
//! is reported in our words. Duplicate keys are refused by the reader itself. It is told to quote
//! nothing of the source in its errors: that could be a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use serde_saphyr::Spanned;

use crate::config::duration;
use crate::config::objstore::ObjstoreError;
use crate::config::objstore::keys::{Form, KEYS, Key, Provider};

/// Values by the path of their key. What was not said has its default.
#[derive(Default)]
pub(super) struct Values {
    texts: BTreeMap<&'static str, String>,
    maps: BTreeMap<&'static str, Vec<(String, String)>>,
}

impl Values {
    pub(super) fn is_said(&self, path: &str) -> bool {
        self.texts.contains_key(path) || self.maps.contains_key(path)
    }

    pub(super) fn is_default(&self, key: &Key) -> bool {
        let text = self.text(key.path);
        let same = match key.form {
            Form::Bool => parse_bool(text) == parse_bool(key.default),
            _ => text == key.default,
        };
        same && self.map(key.path).is_empty()
    }

    /// The text of a key; an empty one is its default.
    pub(super) fn text(&self, path: &str) -> &str {
        let said = self.texts.get(path).map_or("", String::as_str);
        let default = || KEYS.iter().find(|key| key.path == path).map_or("", |key| key.default);
        if said.is_empty() { default() } else { said }
    }

    pub(super) fn map(&self, path: &str) -> &[(String, String)] {
        self.maps.get(path).map_or(&[], Vec::as_slice)
    }

    pub(super) fn bool(&self, key: &'static str) -> Result<bool, ObjstoreError> {
        let value = parse_bool(self.text(key));
        value.ok_or_else(|| bad(key, self.text(key), "is not true or false"))
    }

    pub(super) fn count(&self, key: &'static str) -> Result<u64, ObjstoreError> {
        let text = self.text(key);
        text.parse().map_err(|_| bad(key, text, "is not a whole number from 0"))
    }

    pub(super) fn duration(&self, key: &'static str) -> Result<Duration, ObjstoreError> {
        let text = self.text(key);
        duration::parse(text).map_err(|e| bad(key, text, &e.to_string()))
    }

    /// Checks the form of a value, also where it does nothing.
    pub(super) fn check(&self, key: &'static Key) -> Result<(), ObjstoreError> {
        match key.form {
            Form::Bool => self.bool(key.path).map(drop),
            Form::Count => self.count(key.path).map(drop),
            Form::Duration => self.duration(key.path).map(drop),
            Form::OneOf(words) if !words.contains(&self.text(key.path)) => {
                let words: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
                let problem = format!("is not one of: {}", words.join(", "));
                Err(bad(key.path, self.text(key.path), &problem))
            }
            _ => Ok(()),
        }
    }
}

fn bad(key: &'static str, value: &str, problem: &str) -> ObjstoreError {
    ObjstoreError::Bad { key, problem: format!("{:?} {problem}", shown(value)) }
}

/// Booleans of YAML 1.1, as go-yaml reads them.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// The `type`, whatever else there is.
pub(super) fn kind(text: &str) -> Result<Option<String>, ObjstoreError> {
    #[derive(Deserialize)]
    struct Head {
        r#type: Option<String>,
    }
    let head: Option<Head> =
        serde_saphyr::from_str_with_options(text, options()).map_err(|e| yaml(&e))?;
    head.map(|head| head.r#type).ok_or(ObjstoreError::Empty)
}

/// All values of a bucket of this type.
pub(super) fn values(text: &str, provider: Provider) -> Result<Values, ObjstoreError> {
    let mut values = Values::default();
    let mut unknown: Option<Unknown> = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        let path = String::new();
        Section { path, provider, values: &mut values, unknown: &mut unknown }.deserialize(yaml)
    });
    match (read, unknown) {
        (_, Some(Unknown { key, line, column })) => {
            Err(ObjstoreError::UnknownKey { key, line, column })
        }
        (Err(e), None) => Err(yaml(&e)),
        (Ok(()), None) => Ok(values),
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false }
}

fn yaml(error: &serde_saphyr::Error) -> ObjstoreError {
    ObjstoreError::Yaml { text: error.to_string() }
}

/// A key that is not in the table.
struct Unknown {
    key: String,
    line: u64,
    column: u64,
}

/// A key or value that is no good, as far as it is a word. What follows could be a secret: in
/// `secret_key:x` a blank is missing, and a line that is set too far in belongs to the value above.
pub(super) fn shown(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match text.find(|c| !word(c)) {
        Some(end) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads the keys below `path`.
struct Section<'v> {
    /// Ends with a dot, if it is not empty.
    path: String,
    provider: Provider,
    values: &'v mut Values,
    /// Set before an error is returned, for the error's text is the reader's.
    unknown: &'v mut Option<Unknown>,
}

impl<'de> DeserializeSeed<'de> for Section<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Section<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys below {}", self.path.trim_end_matches('.'))
    }

    /// A section without keys.
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            let path = format!("{}{}", self.path, name.value);
            let ours = |key: &&Key| key.of.is_none_or(|of| of == self.provider);
            let Some(key) = KEYS.iter().filter(ours).find(|key| key.path == path) else {
                let (line, column) = (name.defined.line(), name.defined.column());
                let key = format!("{}{}", self.path, shown(&name.value));
                *self.unknown = Some(Unknown { key, line, column });
                return Err(serde::de::Error::custom("unknown key"));
            };
            match key.form {
                Form::Section => map.next_value_seed(Section {
                    path: format!("{path}."),
                    provider: self.provider,
                    values: &mut *self.values,
                    unknown: &mut *self.unknown,
                })?,
                Form::Map => {
                    let said = map.next_value::<Option<BTreeMap<String, String>>>()?;
                    let pairs = said.unwrap_or_default().into_iter().collect();
                    self.values.maps.insert(key.path, pairs);
                }
                _ => {
                    let said = map.next_value::<Option<String>>()?;
                    self.values.texts.insert(key.path, said.unwrap_or_default());
                }
            }
        }
        Ok(())
    }
}

//! External labels on the command line: `name="value"`, the value quoted as in Go.

use thiserror::Error;

/// Why a text is not a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LabelError {
    /// There is no `=`.
    #[error("has no '='; write name=\"value\"")]
    NoEquals,
    /// Not a name.
    #[error("has a bad label name {name:?}; a name is [a-zA-Z_][a-zA-Z0-9_]*")]
    BadName {
        /// What stands there.
        name: String,
    },
    /// A name that Prometheus keeps for itself.
    #[error("has the reserved label name {name:?}; names must not begin with __")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// The value is not in double quotes.
    #[error(
        "has a value that is not in double quotes; write {name}=\"value\", the shell eats one pair"
    )]
    NotQuoted {
        /// The name.
        name: String,
    },
    /// A quote or backslash stands where it may not.
    #[error("has a bad quote or escape in its value; allowed are \\\" \\\\ \\n \\t")]
    BadEscape,
    /// A label without a value does not exist.
    #[error("has an empty value; a label with an empty value does not exist")]
    EmptyValue,
}

/// Checks the name of an external label.
pub(crate) fn check_name(name: &str) -> Result<(), LabelError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = name.bytes().next().is_some_and(|b| word(b) && !b.is_ascii_digit());
    if !starts_well || !name.bytes().all(word) {
        return Err(LabelError::BadName { name: name.into() });
    }
    if name.starts_with("__") {
        return Err(LabelError::ReservedName { name: name.into() });
    }
    Ok(())
}

/// Reads `name="value"`.
pub(crate) fn parse(text: &str) -> Result<(String, String), LabelError> {
    let (name, quoted) = text.split_once('=').ok_or(LabelError::NoEquals)?;
    check_name(name)?;
    let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
    let inner = inner.ok_or_else(|| LabelError::NotQuoted { name: name.into() })?;
    let mut value = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        value.push(match c {
            '"' | '\n' => return Err(LabelError::BadEscape),
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('"' | '\\')) => c,
                _ => return Err(LabelError::BadEscape),
            },
            c => c,
        });
    }
    if value.is_empty() {
        return Err(LabelError::EmptyValue);
    }
    Ok((name.into(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_strictly() {
        let bad_name = |name: &str| Err(LabelError::BadName { name: name.into() });
        let not_quoted = || Err(LabelError::NotQuoted { name: "a".into() });
        for (input, want) in [
            (r#"a="b""#, Ok("b")),
            (r#"a="b=c é""#, Ok("b=c é")),
            (r#"a="\"\\\n\t""#, Ok("\"\\\n\t")),
            ("a", Err(LabelError::NoEquals)),
            ("", Err(LabelError::NoEquals)),
            (r#"="b""#, bad_name("")),
            (r#"1a="b""#, bad_name("1a")),
            (r#"a-b="b""#, bad_name("a-b")),
            (r#"a ="b""#, bad_name("a ")),
            (r#"__name__="b""#, Err(LabelError::ReservedName { name: "__name__".into() })),
            ("a=b", not_quoted()),
            ("a='b'", not_quoted()),
            (r#"a=""#, not_quoted()),
            (r#"a="b" "#, not_quoted()),
            (r#"a="b"c""#, Err(LabelError::BadEscape)),
            (r#"a="\x41""#, Err(LabelError::BadEscape)),
            (r#"a="b\""#, Err(LabelError::BadEscape)),
            (r#"a="""#, Err(LabelError::EmptyValue)),
        ] {
            let want = want.map(|value| ("a".to_owned(), value.to_owned()));
            assert_eq!(parse(input), want, "{input:?}");
        }
    }
}

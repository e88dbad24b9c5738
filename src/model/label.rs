//! Label sets, their order, and the key that sorts like them.
//!
//! A set is sorted bytewise by name, names are unique, and a label with an empty value does not
//! exist (Prometheus data model). Sets compare pair by pair, name before value, and a prefix comes
//! first. [`sort_key`] turns that order into plain byte order, so that sets from several shards
//! and blocks merge by comparing bytes.

use thiserror::Error;

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";

/// An owned label set: sorted, unique names, no empty names or values. For cold paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(Vec<(String, String)>);

/// Why pairs do not make a label set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LabelError {
    /// A label has no name.
    #[error("label with an empty name (value {value:?})")]
    EmptyName {
        /// Its value.
        value: String,
    },
    /// Two labels share a name.
    #[error("label name {name:?} occurs more than once")]
    DuplicateName {
        /// The name.
        name: String,
    },
}

impl Labels {
    /// Makes a set: sorts, drops labels with empty values, refuses empty and duplicate names.
    pub fn new<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, LabelError>
    where
        N: Into<String>,
        V: Into<String>,
    {
        let mut set: Vec<(String, String)> =
            pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        if let Some((_, value)) = set.iter().find(|(n, _)| n.is_empty()) {
            return Err(LabelError::EmptyName { value: value.clone() });
        }
        set.sort();
        if let Some(pair) = set.windows(2).find(|p| p[0].0 == p[1].0) {
            return Err(LabelError::DuplicateName { name: pair[0].0.clone() });
        }
        set.retain(|(_, v)| !v.is_empty());
        Ok(Self(set))
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|(_, v)| v.as_str())
    }

    /// This set with the labels of `over` added; where names meet, those of `over` win.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut pairs: Vec<(String, String)> =
            self.0.iter().filter(|(n, _)| over.get(n).is_none()).cloned().collect();
        pairs.extend(over.0.iter().cloned());
        pairs.sort();
        Self(pairs)
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Labels {
    /// As PromQL writes it: `{a="1", b="2"}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for (i, (n, v)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{n}={v:?}")?;
        }
        f.write_str("}")
    }
}

/// What a set's [`sort_key`] ends with.
pub const SORT_KEY_END: [u8; 2] = [0, 0];

/// Appends to `out` bytes that compare as the label set does. `pairs` must be sorted by name.
///
/// Each string is followed by `00 01`, a zero byte inside it is written `00 ff`, and the set ends
/// with [`SORT_KEY_END`]: so a shorter string sorts before its continuation, and so does a shorter
/// set.
pub fn sort_key<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
    for (name, value) in pairs {
        for text in [name, value] {
            let mut rest = text.as_bytes();
            while let Some(at) = rest.iter().position(|&b| b == 0) {
                out.extend_from_slice(&rest[..=at]);
                out.push(0xff);
                rest = &rest[at + 1..];
            }
            out.extend_from_slice(rest);
            out.extend_from_slice(&[0, 1]);
        }
    }
    out.extend_from_slice(&SORT_KEY_END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).expect("a label set")
    }

    #[test]
    fn a_set_is_sorted_and_has_no_empty_values() {
        let labels = set(&[("b", "2"), ("a", ""), ("__name__", "up"), ("A", "1")]);
        let names: Vec<&str> = labels.iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["A", "__name__", "b"]);
        assert_eq!(labels.get("b"), Some("2"));
        assert_eq!(labels.get("a"), None);
        let twice = Labels::new([("a", "1"), ("a", "2")]);
        assert_eq!(twice, Err(LabelError::DuplicateName { name: "a".into() }));
        let nameless = Labels::new([("", "1")]);
        assert_eq!(nameless, Err(LabelError::EmptyName { value: "1".into() }));
    }

    #[test]
    fn external_labels_win() {
        let own = set(&[("job", "a"), ("replica", "x")]);
        let over = set(&[("replica", "0"), ("cluster", "c")]);
        assert_eq!(own.overlaid(&over), set(&[("cluster", "c"), ("job", "a"), ("replica", "0")]));
    }

    proptest! {
        #[test]
        fn keys_sort_like_sets(
            a in proptest::collection::btree_map("[a-c\u{0}]{1,3}", "[ab\u{0}\u{1}é]{1,3}", 0..4),
            b in proptest::collection::btree_map("[a-c\u{0}]{1,3}", "[ab\u{0}\u{1}é]{1,3}", 0..4),
        ) {
            let (a, b) = (Labels::new(a).expect("a set"), Labels::new(b).expect("a set"));
            let (mut ka, mut kb) = (Vec::new(), Vec::new());
            sort_key(a.iter(), &mut ka);
            sort_key(b.iter(), &mut kb);
            prop_assert_eq!(a.cmp(&b), ka.cmp(&kb));
        }
    }
}

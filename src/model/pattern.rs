//! A regular expression as a matcher uses it: does the whole of a value match?
//!
//! A select asks this of every value of a label, which may be a million, so the pattern is looked
//! at once and most patterns people write never reach the regex engine:
//!
//! | pattern | becomes | a value costs |
//! |---|---|---|
//! | `a`, `a|b`, `web-[12]`, `^(a|b)$` | a sorted set of texts | a search in it |
//! | `.*`, `.+`, `web-.*`, `.*err.*`, `a.+b.*` | texts with gaps | comparing those texts |
//! | anything else | the engine, behind its fixed prefix and suffix | a walk over the value |
//!
//! ## Limits
//! Only the last kind takes memory and time beyond the pattern's length. It may be at most
//! [`REGEX_BYTES_MAX`] long and may compile to [`REGEX_COMPILED_BYTES_MAX`].
//!
//! ## Why
//! The engine is that of the `regex` crate, asked by its lower door, `regex-automata`, since only
//! that takes a tree. `regex` takes text, and the text `regex-syntax` prints for a tree is not
//! always the same pattern: `(?:a+)?` comes out as `a+?`.

use std::cmp::Ordering;
use std::sync::Arc;

use regex_automata::meta::{Config, Regex};
use regex_syntax::hir::{Class, ClassUnicodeRange, Hir, HirKind, Look};
use thiserror::Error;

use crate::model::re2;

/// Longest pattern that is compiled, in bytes. A list of plain texts is not compiled and may be
/// as long as [`re2::PATTERN_BYTES_MAX`]; room here is for a list of some hundred addresses whose
/// dots nobody escaped.
pub const REGEX_BYTES_MAX: usize = 16 * 1024;

/// Most memory a compiled pattern may take, in bytes.
pub const REGEX_COMPILED_BYTES_MAX: usize = 10 << 20;

/// Most memory the compiled patterns of one request may take together, in bytes.
pub const REQUEST_COMPILED_BYTES_MAX: usize = 64 << 20;

/// Memory for finding out the texts a pattern stands for, in bytes; and how many texts a pattern
/// may stand for that does not spell them out itself, like `[a-z]`.
const SET_BYTES_MAX: usize = 256 * 1024;
const SET_MADE_MAX: usize = 256;

/// A compiled pattern. A clone has its own scratch memory, so a core that tests many values works
/// on its own clone and waits for nobody.
#[derive(Debug, Clone)]
pub(crate) enum Pattern {
    /// One of these texts, sorted.
    Set(Arc<[String]>),
    /// Texts with anything between them.
    Gaps(Arc<Gaps>),
    /// What needs the engine; and the texts that a match starts and ends with.
    Regex { prefix: Arc<str>, suffix: Arc<str>, regex: Regex },
}

/// Why there is no such matcher: its pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MatcherError {
    /// It is not RE2.
    #[error(transparent)]
    Syntax(#[from] re2::Error),
    /// It is too long to compile.
    #[error(
        "regular expression of {got} bytes; at most {REGEX_BYTES_MAX} are allowed unless it is \
         a plain list of values (a|b|c)"
    )]
    TooLong {
        /// Its length.
        got: usize,
    },
    /// It would take too much memory, or the engine refuses it.
    #[error(
        "regular expression needs more than {REGEX_COMPILED_BYTES_MAX} bytes when compiled; \
         use smaller repeat counts or classes: `{pattern}`"
    )]
    TooBig {
        /// The pattern.
        pattern: String,
    },
    /// The patterns of a request would take too much memory together.
    #[error(
        "the regular expressions up to `{pattern}` need more than {REQUEST_COMPILED_BYTES_MAX} \
         bytes together when compiled; ask with fewer or smaller ones"
    )]
    TooBigTogether {
        /// The pattern that was too much.
        pattern: String,
    },
}

/// `pieces[0]`, then for each gap some characters and the piece after it.
#[derive(Debug)]
pub(crate) struct Gaps {
    first: String,
    /// Least number of characters, and the piece that follows. Never empty.
    rest: Vec<(u32, String)>,
}

impl Pattern {
    /// Compiles a pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, MatcherError> {
        let hir = without_anchors(re2::parse(pattern)?);
        if let Some(mut texts) = texts(&hir) {
            texts.sort_unstable();
            texts.dedup();
            return Ok(Self::Set(texts.into()));
        }
        if let Some(gaps) = Gaps::new(&hir) {
            return Ok(Self::Gaps(Arc::new(gaps)));
        }
        if pattern.len() > REGEX_BYTES_MAX {
            return Err(MatcherError::TooLong { got: pattern.len() });
        }
        let parts = parts(&hir);
        let literal = |part: Option<&Hir>| part.and_then(literal).unwrap_or_default().into();
        let (prefix, suffix) = (literal(parts.first()), literal(parts.last()));
        let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
        let regex = Regex::builder()
            .configure(Config::new().nfa_size_limit(Some(REGEX_COMPILED_BYTES_MAX)))
            .build_from_hir(&whole)
            .map_err(|_| MatcherError::TooBig { pattern: pattern.to_string() })?;
        Ok(Self::Regex { prefix, suffix, regex })
    }

    /// Bytes it takes beyond those of its text.
    pub(crate) fn compiled_bytes(&self) -> usize {
        match self {
            Self::Regex { regex, .. } => regex.memory_usage(),
            Self::Set(_) | Self::Gaps(_) => 0,
        }
    }

    /// Whether the whole of `value` matches.
    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Set(texts) if value.is_empty() => texts.first().is_some_and(String::is_empty),
            Self::Set(texts) => {
                let order = |text: &String| {
                    if text.is_empty() { Ordering::Less } else { text.as_str().cmp(value) }
                };
                texts.binary_search_by(order).is_ok()
            }
            Self::Gaps(gaps) => gaps.matches(value),
            Self::Regex { prefix, suffix, regex } => {
                starts(value, prefix) && ends(value, suffix) && regex.is_match(value)
            }
        }
    }
}

impl Gaps {
    fn new(hir: &Hir) -> Option<Self> {
        let mut gaps = Self { first: String::new(), rest: Vec::new() };
        for part in parts(hir) {
            if let Some(text) = literal(part) {
                gaps.rest.last_mut().map_or(&mut gaps.first, |(_, piece)| piece).push_str(text);
                continue;
            }
            let min = gap(part)?;
            match gaps.rest.last_mut() {
                Some((least, piece)) if piece.is_empty() => *least = least.saturating_add(min),
                _ => gaps.rest.push((min, String::new())),
            }
        }
        (!gaps.rest.is_empty()).then_some(gaps)
    }

    /// The leftmost place is as good as any for each piece but the last, which ends the value.
    fn matches(&self, value: &str) -> bool {
        if !starts(value, &self.first) {
            return false;
        }
        let mut left = value.get(self.first.len()..).unwrap_or_default();
        let Some(((last_gap, last), middle)) = self.rest.split_last() else { return false };
        for (gap, piece) in middle {
            let found = skip(left, *gap).and_then(|from| from.split_once(piece.as_str()));
            let Some((_, after)) = found else { return false };
            left = after;
        }
        skip(left, *last_gap).is_some_and(|end| ends(end, last))
    }
}

// An empty text is looked for first, not compared: its bytes are nowhere, and on CPUs with AVX-512
// the memcmp of glibc takes 100 ns to find that there is nothing to compare.

fn starts(value: &str, prefix: &str) -> bool {
    prefix.is_empty() || value.starts_with(prefix)
}

fn ends(value: &str, suffix: &str) -> bool {
    suffix.is_empty() || value.ends_with(suffix)
}

/// `text` without its first `count` characters, if it has so many.
fn skip(text: &str, count: u32) -> Option<&str> {
    let mut chars = text.chars();
    for _ in 0..count {
        chars.next()?;
    }
    Some(chars.as_str())
}

/// The tree without the `^` and `$` around all of it, which change nothing.
fn without_anchors(hir: Hir) -> Hir {
    let HirKind::Concat(parts) = hir.kind() else { return hir };
    let anchor =
        |look: Look| move |part: &&Hir| matches!(part.kind(), HirKind::Look(l) if *l == look);
    let first = parts.iter().take_while(anchor(Look::Start)).count();
    let last = parts[first..].iter().rev().take_while(anchor(Look::End)).count();
    if first + last == 0 {
        return hir;
    }
    Hir::concat(parts[first..parts.len() - last].to_vec())
}

/// The pieces of a sequence; anything else is a sequence of one.
fn parts(hir: &Hir) -> &[Hir] {
    match hir.kind() {
        HirKind::Concat(parts) => parts,
        _ => std::slice::from_ref(hir),
    }
}

fn literal(hir: &Hir) -> Option<&str> {
    match hir.kind() {
        HirKind::Literal(text) => std::str::from_utf8(&text.0).ok(),
        _ => None,
    }
}

/// The least length of `.*`, `.+`, `.{3,}`.
fn gap(hir: &Hir) -> Option<u32> {
    let HirKind::Repetition(repetition) = hir.kind() else { return None };
    let HirKind::Class(Class::Unicode(class)) = repetition.sub.kind() else { return None };
    (repetition.max.is_none() && re2::is_any(class)).then_some(repetition.min)
}

/// All texts a pattern stands for, if they are few. Depth is bounded by [`re2::DEPTH_MAX`].
fn texts(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(text) => Some(vec![String::from_utf8(text.0.to_vec()).ok()?]),
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class.ranges().iter().map(ClassUnicodeRange::len).sum();
            let chars = || class.ranges().iter().flat_map(|r| r.start()..=r.end());
            (count <= SET_MADE_MAX).then(|| chars().map(String::from).collect())
        }
        HirKind::Repetition(r) if (r.min, r.max) == (0, Some(1)) => {
            let mut texts = texts(&r.sub)?;
            texts.push(String::new());
            Some(texts)
        }
        HirKind::Alternation(branches) => {
            let mut all = Vec::new();
            let mut size = 0;
            for branch in branches {
                let more = texts(branch)?;
                size += size_of_all(&more);
                if size > SET_BYTES_MAX {
                    return None;
                }
                all.extend(more);
            }
            Some(all)
        }
        HirKind::Concat(parts) => {
            let mut all = vec![String::new()];
            for part in parts {
                let ends = texts(part)?;
                let count = all.len() * ends.len();
                let size = size_of_all(&all) * ends.len() + size_of_all(&ends) * all.len();
                let made = all.len() > 1 && ends.len() > 1 && count > SET_MADE_MAX;
                if made || size > SET_BYTES_MAX {
                    return None;
                }
                let join = |start: &String| {
                    ends.iter().map(|end| format!("{start}{end}")).collect::<Vec<_>>()
                };
                all = all.iter().flat_map(join).collect();
            }
            Some(all)
        }
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Capture(_) => None,
    }
}

fn size_of_all(texts: &[String]) -> usize {
    texts.iter().map(|text| text.len() + size_of::<String>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::re2::tests::whole;
    use proptest::prelude::*;

    fn shape(pattern: &str) -> String {
        match Pattern::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")) {
            Pattern::Set(texts) => format!("set {}", texts.join(",")),
            Pattern::Gaps(gaps) => {
                let rest = gaps.rest.iter().map(|(min, piece)| format!(" <{min}> {piece}"));
                format!("gaps {}{}", gaps.first, rest.collect::<String>())
            }
            Pattern::Regex { prefix, suffix, .. } => format!("regex {prefix} .. {suffix}"),
        }
    }

    #[test]
    fn most_patterns_need_no_engine() {
        for (pattern, want) in [
            ("", "set "),
            ("a", "set a"),
            (r"10\.0\.0\.1:9100", "set 10.0.0.1:9100"),
            ("b|a|b", "set a,b"),
            ("^(b|a)$", "set a,b"),
            ("a|", "set ,a"),
            ("a(b|f)?c", "set abc,ac,afc"),
            ("web-[0-3]", "set web-0,web-1,web-2,web-3"),
            ("foo|foobar|fo", "set fo,foo,foobar"),
            ("(?i)a1", "set A1,a1"),
            (".*", "gaps  <0> "),
            (".+", "gaps  <1> "),
            ("^.*$", "gaps  <0> "),
            ("a.*", "gaps a <0> "),
            (".+a", "gaps  <1> a"),
            ("a.*b.+c", "gaps a <0> b <1> c"),
            (".*.+.{2,}a", "gaps  <3> a"),
            (r"[\s\S]+", "gaps  <1> "),
            ("a.{2}b", "regex a .. b"),
            ("(?-s).*", "regex  .. "),
            ("a[0-9]+b", "regex a .. b"),
            ("a.*(b|c)", "regex a .. "),
            ("[a-z]{9}x", "regex  .. x"),
            ("a$b", "regex a .. b"),
        ] {
            assert_eq!(shape(pattern), want, "{pattern}");
        }
    }

    #[test]
    fn long_lists_are_sets_and_long_patterns_are_refused() {
        let list: Vec<String> = (0..3000).map(|i| format!("pod-{i:04}")).collect();
        let pattern = Pattern::new(&list.join("|")).expect("a list");
        assert!(pattern.matches("pod-2999") && !pattern.matches("pod-3000"));
        assert!(matches!(pattern, Pattern::Set(texts) if *texts == *list));
        let long = format!("{}.", list.join("|"));
        let got = long.len();
        assert_eq!(Pattern::new(&long).err(), Some(MatcherError::TooLong { got }));
        let big = r"(\pL{1000}|a){1}";
        let refused = Some(MatcherError::TooBig { pattern: big.to_string() });
        assert_eq!(Pattern::new(big).err(), refused);
    }

    proptest! {
        /// The short ways answer as the engine does.
        #[test]
        fn shapes_answer_as_the_engine(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![
                    "a", "bé", ".*", ".+", ".{2,}", "[ab]", "(a|b|)", "(?:ab)?", "(?i)c", "|", "^",
                    "$", "é", "[^a]",
                ]),
                0..8,
            ),
            values in proptest::collection::vec("[abcCé]{0,7}", 30),
        ) {
            let text = pieces.concat();
            let pattern = Pattern::new(&text).expect("a pattern");
            let engine = whole(&text).expect("a pattern");
            for value in values.iter().map(String::as_str).chain(["", "a", "b", "ab", "bé"]) {
                let got = pattern.matches(value);
                prop_assert_eq!(got, engine.is_match(value), "{} {:?}", text, value);
            }
        }
    }
}

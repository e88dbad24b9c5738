//! Label regions: the labels of one series as they came over the wire, and their one right
//! spelling.
//!
//! ```text
//! region      label*
//! label       0a len  0a nlen name  12 vlen value        (prometheus.Label in field 1)
//! ```
//! Many regions say the same: labels in another order, a value before its name, lengths with
//! needless bytes, labels with empty values, which Prometheus takes for absent. The **canonical**
//! region of a label set is the one whose labels are exactly as above with the shortest lengths,
//! sorted by name bytewise, each name once, no name and no value empty, all of it UTF-8, at least
//! one label. Equal sets have equal canonical regions, so that a hash of the bytes stands for the
//! set. Prometheus and its kin send nothing else.
//!
//! ## Limits
//! [`LabelLimits`] says what they are; they bound the work here as well.

use std::fmt::Write as _;
use std::str;

use crate::decode::protobuf::{Cursor, RECORD, key, push_varint, varint_len};
use crate::decode::{Error, SeriesError};
use crate::model::Quoted;

const LABEL: u32 = key(1, RECORD);
const NAME: u32 = key(1, RECORD);
const VALUE: u32 = key(2, RECORD);

/// Longest part of a foreign text that an error repeats, in bytes.
const QUOTED_BYTES_MAX: usize = 80;

/// Where a region that is shown to its sender breaks off, in bytes: at the next label after that.
const SHOWN_BYTES_MAX: usize = 240;

/// How much may be said of one series.
///
/// Thanos and Prometheus have no such limits by default, so what they let through must come
/// through here, save for what no fleet means to send. The strict peers are Mimir (30 names, 80 for
/// info series, names of 1,024 and values of 2,048 bytes) and VictoriaMetrics (40 names, 256 and
/// 4,096 bytes); each default is a multiple of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelLimits {
    /// Most labels of a series, empty ones included. Default 128: above the widest info series of
    /// Kubernetes, and a request full of labels stays a bounded sort.
    pub names_max: usize,
    /// Longest name in bytes. Default 1,024.
    pub name_bytes_max: usize,
    /// Longest value in bytes. Default 16,384: there are SQL texts and URLs in labels out there.
    pub value_bytes_max: usize,
    /// Longest region in bytes. Default 65,536: a series' labels are written into a block of the
    /// log, into the index and into each StoreAPI frame, and must leave room for samples there.
    pub region_bytes_max: usize,
}

impl Default for LabelLimits {
    fn default() -> Self {
        Self {
            names_max: 128,
            name_bytes_max: 1024,
            value_bytes_max: 16 * 1024,
            region_bytes_max: 64 * 1024,
        }
    }
}

/// What was put right in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repairs {
    /// The labels were out of order.
    pub sorted: bool,
    /// How many labels with empty values were left out.
    pub emptied: u32,
}

/// The names and values of a region in the order of its bytes, whatever they are. After an error
/// there is nothing more.
pub fn labels(region: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Error>> {
    let mut rest = Cursor::new(region);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || rest.is_at_end() {
            return None;
        }
        let label = read_label(region, &mut rest);
        failed = label.is_err();
        Some(label)
    })
}

/// A region as PromQL writes a label set, to name the series in an error: in the order of its
/// bytes, long texts and many labels cut off, and what is no text or no label replaced.
pub fn shown(region: &[u8]) -> String {
    let mut text = String::from("{");
    for (i, label) in labels(region).enumerate() {
        text.push_str(if i == 0 { "" } else { ", " });
        match label {
            Ok((name, value)) if text.len() < SHOWN_BYTES_MAX => {
                let (name, value) = (quoted(name), quoted(value));
                // Writing to a String cannot fail.
                let _ = write!(text, "{name}={}", Quoted(&value));
            }
            Ok(_) | Err(_) => {
                text.push_str("...");
                break;
            }
        }
    }
    text.push('}');
    text
}

fn read_label<'a>(region: &'a [u8], rest: &mut Cursor<'_>) -> Result<(&'a [u8], &'a [u8]), Error> {
    let at = rest.at();
    if rest.key()? != LABEL {
        return Err(Error::NotALabel { at });
    }
    let record = rest.record()?;
    let mut label = rest.within(record);
    let (mut name, mut value) = (0..0, 0..0);
    while !label.is_at_end() {
        match label.key()? {
            NAME => name = label.record()?,
            VALUE => value = label.record()?,
            other => label.skip(other, &[1, 2])?,
        }
    }
    Ok((region.get(name).unwrap_or_default(), region.get(value).unwrap_or_default()))
}

/// Whether a region is the canonical one of its label set.
pub fn is_canonical(region: &[u8]) -> bool {
    // Most regions are ASCII through and through, which one pass finds out faster than many.
    let is_ascii = region.is_ascii();
    let is_text = |bytes| is_ascii || str::from_utf8(bytes).is_ok();
    let mut rest = region;
    let mut name_before: &[u8] = b"";
    while let Some((name, value, after)) = split_canonical(rest) {
        // An empty name is not above the empty one before the first.
        if name <= name_before || value.is_empty() || !is_text(name) || !is_text(value) {
            return false;
        }
        name_before = name;
        rest = after;
    }
    rest.is_empty() && !region.is_empty()
}

/// Appends the canonical region of a region's label set to `out`. Sorts and leaves out empty
/// values; refuses what is beyond repair or beyond the limits, and then appends nothing.
///
/// Cold: once per spelling of a series.
pub fn canonical(
    region: &[u8],
    limits: &LabelLimits,
    out: &mut Vec<u8>,
) -> Result<Repairs, SeriesError> {
    if region.len() > limits.region_bytes_max {
        let (got, max) = (region.len(), limits.region_bytes_max);
        return Err(SeriesError::RegionTooLong { got, max });
    }
    let mut set: Vec<(&str, &str)> = Vec::new();
    for label in labels(region) {
        let (name, value) = label?;
        if set.len() >= limits.names_max {
            return Err(SeriesError::TooManyNames { max: limits.names_max });
        }
        set.push(checked(name, value, limits)?);
    }

    let sorted = !set.is_sorted_by_key(|(name, _)| *name);
    if sorted {
        set.sort_unstable();
    }
    let mut neighbours = set.iter().zip(set.iter().skip(1));
    if let Some(((name, _), _)) = neighbours.find(|((a, _), (b, _))| a == b) {
        return Err(SeriesError::DuplicateName { name: quoted(name.as_bytes()) });
    }
    let count = set.len();
    set.retain(|(_, value)| !value.is_empty());
    if set.is_empty() {
        return Err(SeriesError::NoLabels);
    }
    let emptied = (count - set.len()) as u32;
    encode(set, out);
    Ok(Repairs { sorted, emptied })
}

/// A label as text, if it is one and within the limits.
fn checked<'a>(
    name: &'a [u8],
    value: &'a [u8],
    limits: &LabelLimits,
) -> Result<(&'a str, &'a str), SeriesError> {
    if name.is_empty() {
        return Err(SeriesError::EmptyName { value: quoted(value) });
    }
    if name.len() > limits.name_bytes_max {
        let (got, max) = (name.len(), limits.name_bytes_max);
        return Err(SeriesError::NameTooLong { name: quoted(name), got, max });
    }
    if value.len() > limits.value_bytes_max {
        let (got, max) = (value.len(), limits.value_bytes_max);
        return Err(SeriesError::ValueTooLong { name: quoted(name), got, max });
    }
    match (str::from_utf8(name), str::from_utf8(value)) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(SeriesError::NotUtf8 { name: quoted(name) }),
    }
}

/// The start of a foreign text, for an error.
fn quoted(text: &[u8]) -> String {
    match text.get(..QUOTED_BYTES_MAX) {
        Some(start) if start.len() < text.len() => {
            format!("{}...", String::from_utf8_lossy(start))
        }
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}

/// Appends the canonical region of a label set to `out`. The set is sorted by name, and has no name
/// twice and no empty name or value, as [`crate::model::Labels`] guarantees.
///
/// # Panics
/// If the names do not ascend: the bytes would say they are canonical, and would not be.
pub fn encode<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
    let mut name_before = "";
    for (name, value) in labels {
        assert!(name_before < name, "label {name:?} after {name_before:?}");
        debug_assert!(!value.is_empty(), "label {name:?} has an empty value");
        let record = record_len(name.len()) + record_len(value.len());
        out.push(LABEL as u8);
        push_varint(record as u64, out);
        for (key, text) in [(NAME, name), (VALUE, value)] {
            out.push(key as u8);
            push_varint(text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        }
        name_before = name;
    }
}

/// Length in bytes of a record of `content` bytes, key and length included.
fn record_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

/// The labels of a region that is known to be canonical, in order. It stops where the region is
/// damaged, which [`is_canonical`] would have said.
pub fn canonical_labels(region: &[u8]) -> impl Iterator<Item = (&str, &str)> + Clone {
    let mut rest = region;
    std::iter::from_fn(move || {
        let (name, value, after) = split_canonical(rest)?;
        rest = after;
        Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?))
    })
}

/// Splits the first label off, if its form is canonical: name, value, the rest.
#[inline]
fn split_canonical(region: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (label, after) = split_record(region, LABEL as u8)?;
    let (name, label) = split_record(label, NAME as u8)?;
    let (value, label) = split_record(label, VALUE as u8)?;
    label.is_empty().then_some((name, value, after))
}

/// Splits a record with this key and the shortest form of its length off.
#[inline]
fn split_record(bytes: &[u8], key: u8) -> Option<(&[u8], &[u8])> {
    match *bytes {
        [k, length, ref rest @ ..] if k == key && length < 0x80 => {
            rest.split_at_checked(usize::from(length))
        }
        [k, ref rest @ ..] if k == key => {
            let mut cursor = Cursor::new(rest);
            let length = cursor.varint().ok()?;
            let rest = rest.get(cursor.at()..)?;
            let is_shortest = cursor.at() == varint_len(length);
            rest.split_at_checked(usize::try_from(length).ok()?).filter(|_| is_shortest)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;
    use proptest::prelude::*;
    use prost::Message as _;
    use tidegate_proto::prometheus::{Label, TimeSeries};

    /// The region prost writes for these labels, in this order.
    fn by_prost(labels: &[(&str, &str)]) -> Vec<u8> {
        let label = |&(n, v): &(&str, &str)| Label { name: n.into(), value: v.into() };
        let labels = labels.iter().map(label).collect();
        TimeSeries { labels, ..TimeSeries::default() }.encode_to_vec()
    }

    fn repaired(region: &[u8], limits: &LabelLimits) -> Result<(Repairs, Vec<u8>), SeriesError> {
        let mut out = b"before".to_vec();
        let repairs = canonical(region, limits, &mut out);
        let rest = out.strip_prefix(b"before").expect("what was there before").to_vec();
        assert!(repairs.is_ok() || rest.is_empty(), "{repairs:?} appended {rest:x?}");
        repairs.map(|repairs| (repairs, rest))
    }

    #[test]
    fn vector() {
        let mut out = Vec::new();
        encode([("__name__", "up"), ("job", "a")], &mut out);
        assert_eq!(out, b"\x0a\x0e\x0a\x08__name__\x12\x02up\x0a\x08\x0a\x03job\x12\x01a");
        assert!(is_canonical(&out));
        let pairs: Vec<_> = canonical_labels(&out).collect();
        assert_eq!(pairs, [("__name__", "up"), ("job", "a")]);
    }

    #[test]
    fn spellings_of_one_set() {
        let canon = by_prost(&[("a", "1"), ("b", "2")]);
        let check = |region: &[u8], want: Repairs| {
            let limits = LabelLimits::default();
            assert_eq!(repaired(region, &limits), Ok((want, canon.clone())), "{region:x?}");
            assert_eq!(is_canonical(region), region == canon, "{region:x?}");
        };
        let (none, sorted) = (Repairs::default(), Repairs { sorted: true, emptied: 0 });
        check(&canon, none);
        check(&by_prost(&[("b", "2"), ("a", "1")]), sorted);
        check(
            &by_prost(&[("a", "1"), ("b", "2"), ("c", "")]),
            Repairs { sorted: false, emptied: 1 },
        );
        check(
            &by_prost(&[("z", ""), ("b", "2"), ("a", "1")]),
            Repairs { sorted: true, emptied: 1 },
        );
        let b = &canon[8..];
        // Value first; a needless byte in a key or a length; an unknown field; a name said twice.
        check(&[b"\x0a\x06\x12\x011\x0a\x01a", b].concat(), none);
        check(&[b"\x8a\x00\x06\x0a\x01a\x12\x011", b].concat(), none);
        check(&[b"\x0a\x86\x00\x0a\x01a\x12\x011", b].concat(), none);
        check(&[b"\x0a\x07\x0a\x81\x00a\x12\x011", b].concat(), none);
        check(&[b"\x0a\x08\x0a\x01a\x12\x011\x18\x00", b].concat(), none);
        check(&[b"\x0a\x09\x0a\x01x\x0a\x01a\x12\x011", b].concat(), none);
    }

    #[test]
    fn what_is_beyond_repair() {
        let check = |region: &[u8], want: SeriesError| {
            assert_eq!(repaired(region, &LabelLimits::default()), Err(want), "{region:x?}");
            assert!(!is_canonical(region), "{region:x?}");
        };
        let twice = |name: &str| SeriesError::DuplicateName { name: name.into() };
        check(b"", SeriesError::NoLabels);
        check(&by_prost(&[("a", ""), ("b", "")]), SeriesError::NoLabels);
        check(&by_prost(&[("a", "1"), ("a", "1")]), twice("a"));
        check(&by_prost(&[("b", "1"), ("a", "1"), ("b", "")]), twice("b"));
        check(&by_prost(&[("", "1"), ("a", "1")]), SeriesError::EmptyName { value: "1".into() });
        check(b"\x0a\x00", SeriesError::EmptyName { value: String::new() });
        let not_text = SeriesError::NotUtf8 { name: "a".into() };
        check(b"\x0a\x06\x0a\x01a\x12\x01\xff", not_text);
        let not_text = SeriesError::NotUtf8 { name: "\u{fffd}".into() };
        check(b"\x0a\x06\x0a\x01\xff\x12\x01a", not_text);
        // A character cut in two by the border of name and value.
        let cut = SeriesError::NotUtf8 { name: "\u{fffd}".into() };
        check(b"\x0a\x06\x0a\x01\xc3\x12\x01\xa9", cut);
        let truncated = Error::Truncated { at: 4, length: 9, left: 4 };
        check(b"\x0a\x06\x0a\x09a\x12\x01b", SeriesError::Malformed(truncated));
        check(b"\x12\x00", SeriesError::Malformed(Error::NotALabel { at: 0 }));
        let wrong = Error::BadWireType { at: 3, field: 1, wire_type: 0 };
        check(b"\x0a\x02\x08\x01", SeriesError::Malformed(wrong));
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let limits = LabelLimits {
            names_max: 2,
            name_bytes_max: 3,
            value_bytes_max: 200,
            region_bytes_max: 300,
        };
        let check = |labels: &[(&str, &str)], want: Option<SeriesError>| {
            assert_eq!(repaired(&by_prost(labels), &limits).err(), want);
        };
        let long = "x".repeat(201);
        let name = String::from("a");
        check(&[("abc", &long[..200]), ("d", "1")], None);
        check(&[("a", "1"), ("b", "1"), ("c", "")], Some(SeriesError::TooManyNames { max: 2 }));
        let error = SeriesError::NameTooLong { name: "abcd".into(), got: 4, max: 3 };
        check(&[("abcd", "1")], Some(error));
        check(&[("a", &long)], Some(SeriesError::ValueTooLong { name, got: 201, max: 200 }));
        let labels = [("a", &long[..150]), ("b", &long[..150])];
        let got = by_prost(&labels).len();
        check(&labels, Some(SeriesError::RegionTooLong { got, max: 300 }));
    }

    #[test]
    fn an_error_repeats_little_of_what_a_stranger_wrote() {
        let name = "n".repeat(10_000);
        let error = repaired(&by_prost(&[(&name, "v")]), &LabelLimits::default());
        let text = error.expect_err("the name is too long").to_string();
        assert!(text.len() < 200, "{text}");
        assert!(text.contains("10000"), "{text}");
    }

    #[test]
    fn what_is_shown_of_any_region() {
        let check = |region: &[u8], want: &str| assert_eq!(shown(region), want, "{region:x?}");
        check(b"", "{}");
        check(&by_prost(&[("__name__", "up"), ("job", "\"\n")]), r#"{__name__="up", job="\"\n"}"#);
        check(&by_prost(&[("b", "2"), ("a", "1"), ("b", "")]), r#"{b="2", a="1", b=""}"#);
        check(b"\x0a\x06\x0a\x01a\x12\x01\xff", "{a=\"\u{fffd}\"}");
        check(b"\x0a\x06\x0a\x01a\x12\x01b\x0a\x09\x0a", r#"{a="b", ...}"#);
        check(b"\x12\x00", "{...}");
        let long = "x".repeat(10_000);
        let begin = "x".repeat(QUOTED_BYTES_MAX);
        let region = by_prost(&[("__name__", "up"), ("a", &long), ("z", "1")]);
        check(&region, &format!(r#"{{__name__="up", a="{begin}...", z="1"}}"#));
        let names: Vec<String> = (0..1_000).map(|i| format!("name_{i:03}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let text = shown(&by_prost(&many));
        assert!(text.starts_with(r#"{name_000="1", "#) && text.ends_with(r#""1", ...}"#), "{text}");
        assert!(text.len() < 2 * SHOWN_BYTES_MAX, "{text}");
    }

    proptest! {
        /// The oracle: prost's reading of the labels, `Labels`' idea of a set, prost's writing.
        #[test]
        fn canonical_is_what_prost_writes_of_the_set(
            pairs in proptest::collection::vec(("[a-cé]{0,2}", "[xyé]{0,2}|x{120,140}"), 0..6),
        ) {
            let region = by_prost(
                &pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>(),
            );
            let want = Labels::new(pairs).ok().filter(|set| !set.is_empty()).map(|set| {
                by_prost(&set.iter().collect::<Vec<_>>())
            });
            let got = repaired(&region, &LabelLimits::default());
            prop_assert_eq!(is_canonical(&region), want.as_ref() == Some(&region));
            prop_assert_eq!(got.is_ok(), want.is_some());
            if let (Ok((repairs, got)), Some(want)) = (got, want) {
                prop_assert_eq!(&got, &want);
                prop_assert!(is_canonical(&got));
                if repairs == Repairs::default() {
                    prop_assert_eq!(&got, &region);
                }
                let set: Vec<_> = canonical_labels(&got).collect();
                prop_assert_eq!(by_prost(&set), got);
            }
        }
    }
}

//! The index against the format's example, against a slow oracle, and against damage.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A series as the tests say it.
pub(crate) type Case = (Vec<(String, String)>, Vec<ChunkMeta>);

fn pairs(labels: &[(String, String)]) -> Vec<(&str, &str)> {
    labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

fn chunk(min_t: i64, max_t: i64, reference: u64) -> ChunkMeta {
    ChunkMeta { min_t, max_t, reference: ChunkRef(reference) }
}

fn case(labels: &[(&str, &str)], chunks: &[ChunkMeta]) -> Case {
    let labels = labels.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
    (labels, chunks.to_vec())
}

fn write(series: &[Case]) -> Vec<u8> {
    let mut draft = Draft::new();
    for (labels, chunks) in series {
        draft.add(&pairs(labels), chunks).expect("a series in order");
    }
    assert_eq!(draft.series_count() as usize, series.len());
    let (mut index, mut out) = (Vec::new(), vec![1, 2, 3]);
    let mut writer = Writer::new(draft);
    loop {
        let step = writer.step(&mut out).expect("room");
        index.extend_from_slice(&out);
        if let Step::Done(summary) = step {
            assert_eq!(summary.size_bytes, index.len() as u64);
            assert_eq!(writer.step(&mut out), Ok(step));
            assert!(out.is_empty());
            return index;
        }
    }
}

/// The format said once more, section by section from whole collections. It writes what it is
/// given, sound or not: the tests of `block` make unsound blocks with it.
pub(crate) mod oracle {
    use super::*;

    fn uvarint(out: &mut Vec<u8>, mut v: u64) {
        while v > 127 {
            out.push((v % 128 + 128) as u8);
            v /= 128;
        }
        out.push(v as u8);
    }

    fn varint(out: &mut Vec<u8>, v: i64) {
        uvarint(out, if v < 0 { !(v as u64) * 2 + 1 } else { v as u64 * 2 });
    }

    fn ustr(out: &mut Vec<u8>, text: &str) {
        uvarint(out, text.len() as u64);
        out.extend(text.bytes());
    }

    /// Bit by bit.
    fn crc(bytes: &[u8]) -> [u8; 4] {
        let step = |c: u32, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 };
        let all = bytes.iter().fold(!0, |c: u32, &b| (0..8).fold(c ^ u32::from(b), step));
        (!all).to_be_bytes()
    }

    fn section(out: &mut Vec<u8>, bytes: &[u8]) {
        out.extend((bytes.len() as u32).to_be_bytes());
        out.extend(bytes);
        out.extend(crc(bytes));
    }

    fn body(symbols: &BTreeMap<&str, u64>, (labels, chunks): &Case) -> Vec<u8> {
        let mut out = Vec::new();
        uvarint(&mut out, labels.len() as u64);
        for (n, v) in labels {
            uvarint(&mut out, symbols[n.as_str()]);
            uvarint(&mut out, symbols[v.as_str()]);
        }
        uvarint(&mut out, chunks.len() as u64);
        for (i, c) in chunks.iter().enumerate() {
            if i == 0 {
                varint(&mut out, c.min_t);
            } else {
                uvarint(&mut out, c.min_t.wrapping_sub(chunks[i - 1].max_t) as u64);
            }
            uvarint(&mut out, (c.max_t - c.min_t) as u64);
            if i == 0 {
                uvarint(&mut out, c.reference.0);
            } else {
                varint(&mut out, c.reference.0 as i64 - chunks[i - 1].reference.0 as i64);
            }
        }
        out
    }

    pub(crate) fn write(series: &[Case]) -> Vec<u8> {
        let labels = || series.iter().flat_map(|(labels, _)| labels);
        let texts: BTreeSet<&str> = labels().flat_map(|(n, v)| [n.as_str(), v.as_str()]).collect();
        let symbols: BTreeMap<&str, u64> = texts.into_iter().zip(0..).collect();
        let mut out = vec![0xba, 0xaa, 0xd7, 0x00, 2];
        let mut table = (symbols.len() as u32).to_be_bytes().to_vec();
        for text in symbols.keys() {
            ustr(&mut table, text);
        }
        section(&mut out, &table);

        let series_at = out.len();
        let mut lists: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::from([(("", ""), vec![])]);
        for case in series {
            out.resize(out.len().next_multiple_of(16), 0);
            let id = (out.len() / 16) as u32;
            for (n, v) in std::iter::once(("", "")).chain(pairs(&case.0)) {
                lists.entry(key(case, n, v)).or_default().push(id);
            }
            let body = body(&symbols, case);
            uvarint(&mut out, body.len() as u64);
            out.extend(&body);
            out.extend(crc(&body));
        }
        let postings_at = out.len();
        out.resize(out.len().next_multiple_of(4), 0);
        let mut table = (lists.len() as u32).to_be_bytes().to_vec();
        for ((name, value), ids) in &lists {
            uvarint(&mut table, 2);
            ustr(&mut table, name);
            ustr(&mut table, value);
            uvarint(&mut table, out.len() as u64);
            let mut list = (ids.len() as u32).to_be_bytes().to_vec();
            list.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
            section(&mut out, &list);
        }
        let table_at = out.len();
        section(&mut out, &table);
        let toc: Vec<u8> = [5, series_at, postings_at, table_at, postings_at, table_at]
            .iter()
            .flat_map(|&at| (at as u64).to_be_bytes())
            .collect();
        out.extend(&toc);
        out.extend(crc(&toc));
        out
    }

    /// The pair with the lifetime of the case.
    fn key<'a>(case: &'a Case, name: &str, value: &str) -> (&'a str, &'a str) {
        let found = case.0.iter().find(|(n, v)| n == name && v == value);
        found.map_or(("", ""), |(n, v)| (n.as_str(), v.as_str()))
    }
}

/// All that a reader says, in plain values. Any error makes it `Err`.
type Answers = (Vec<Case>, Vec<String>, Vec<(String, String, Vec<u32>)>);

fn answers(index: &[u8]) -> Result<Answers, Error> {
    let reader = Reader::open(index)?;
    let mut series = Vec::new();
    let mut into = Series::default();
    for id in reader.all()? {
        reader.series_into(id, &mut into)?;
        series.push(case(&into.labels, &into.chunks));
    }
    let symbols: Result<_, _> =
        (0..reader.symbol_count()).map(|i| reader.symbol(i).map(str::to_owned)).collect();
    let mut lists = Vec::new();
    for name in reader.label_names() {
        for value in reader.label_values(name) {
            let ids = reader.postings(name, value)?.map(|id| id.0).collect();
            lists.push((name.to_owned(), value.to_owned(), ids));
        }
    }
    let mut walked = Vec::new();
    for List { name, value, postings, .. } in reader.lists().skip(1) {
        walked.push((name.to_owned(), value.to_owned(), postings?.map(|id| id.0).collect()));
    }
    assert_eq!(lists, walked, "both ways to a list give the same");
    Ok((series, symbols?, lists))
}

const EXAMPLE: &str = "baaad700020000001800000005085f5f6e616d655f5f01610162036a6f62027570f0b315e7\
    00000000000000000000000b020004030101d00fa11f08a7b495970b020004030201d00fa11f2febc60afa000000\
    0c000000020000000300000004495848d70000000c000000020000000300000004495848d7000000080000000100\
    000003a7692ed200000008000000010000000473a34a3900000027000000040200005002085f5f6e616d655f5f02\
    75706402036a6f6201617802036a6f6201628801077743eb00000000000000050000000000000025000000000000\
    0050000000000000009800000000000000500000000000000098b5f8ed31";

fn example() -> Vec<Case> {
    vec![
        case(&[("__name__", "up"), ("job", "a")], &[chunk(1000, 5001, 8)]),
        case(&[("__name__", "up"), ("job", "b")], &[chunk(1000, 5001, 47)]),
    ]
}

#[test]
fn the_example_of_the_format_is_exact() {
    let index = write(&example());
    let byte = |i| u8::from_str_radix(&EXAMPLE[i..i + 2], 16).expect("hex");
    let want: Vec<u8> = (0..EXAMPLE.len()).step_by(2).map(byte).collect();
    assert_eq!(index, want);
    assert_eq!(index, oracle::write(&example()));
    let (series, symbols, lists) = answers(&index).expect("a good index");
    assert_eq!(series, example());
    assert_eq!(symbols, ["__name__", "a", "b", "job", "up"]);
    let list = |n: &str, v: &str, ids: &[u32]| (n.to_owned(), v.to_owned(), ids.to_vec());
    let want = [list("__name__", "up", &[3, 4]), list("job", "a", &[3]), list("job", "b", &[4])];
    assert_eq!(lists, want);
    let reader = Reader::open(&index[..]).expect("a good index");
    assert_eq!(reader.label_names().collect::<Vec<_>>(), ["__name__", "job"]);
    assert_eq!(reader.label_values("").count(), 0);
    assert_eq!(reader.label_values("nope").count(), 0);
    for (name, value) in [("job", ""), ("job", "c"), ("nope", "a"), ("zz", "z")] {
        assert_eq!(reader.postings(name, value).map(|list| list.len()), Ok(0), "{name}={value}");
    }
}

#[test]
fn an_index_without_series_is_whole() {
    let index = write(&[]);
    assert_eq!(index, oracle::write(&[]));
    assert_eq!(answers(&index), Ok((vec![], vec![], vec![])));
}

/// A few thousand series: more than one page of everything, more than one step of each phase.
fn many() -> Vec<Case> {
    let mut at = 8;
    let mut series = Vec::new();
    for job in 0..40 {
        for instance in 0..300 {
            let long = "x".repeat(if instance == 7 { 70_000 } else { 3 });
            let labels = [
                ("__name__".to_owned(), "up".to_owned()),
                ("instance".to_owned(), format!("10.0.{instance}.{job}:9090")),
                ("job".to_owned(), format!("job-{job}")),
                ("long".to_owned(), long),
            ];
            let chunks = (0..=i64::from(instance % 5)).map(|i| {
                at += 100;
                chunk(i * 1_000_000, i * 1_000_000 + 900_000, at)
            });
            series.push((labels.to_vec(), chunks.collect()));
        }
    }
    series.sort_by(|a: &Case, b: &Case| a.0.cmp(&b.0));
    // Places follow the order of the series.
    let mut places: Vec<u64> =
        series.iter().flat_map(|(_, c)| c.iter().map(|c| c.reference.0)).collect();
    places.sort_unstable();
    let mut places = places.into_iter();
    for chunk in series.iter_mut().flat_map(|(_, chunks)| chunks) {
        chunk.reference = ChunkRef(places.next().expect("as many places as chunks"));
    }
    series
}

#[test]
fn thousands_of_series_come_back() {
    let series = many();
    let index = write(&series);
    assert!(index == oracle::write(&series), "the bytes differ from the oracle's");
    let (got, _, lists) = answers(&index).expect("a good index");
    assert!(got == series, "the series differ");
    assert_eq!(lists.len(), 1 + 12_000 + 40 + 2);
}

#[test]
fn what_would_spoil_the_index_is_refused_and_changes_nothing() {
    let first = [("a", "1"), ("b", "2")];
    let one = [chunk(0, 10, 8)];
    let check = |labels: &[(&str, &str)], chunks: &[ChunkMeta], want: &str| {
        let mut draft = Draft::new();
        draft.add(&first, &[chunk(0, 10, 100)]).expect("the first series");
        let error = draft.add(labels, chunks).expect_err("a refusal");
        assert!(error.to_string().contains(want), "{error} lacks {want:?}");
        draft.add(&[("a", "1"), ("b", "3")], &[chunk(0, 10, 101)]).expect("the next series");
        let mut writer = Writer::new(draft);
        let (mut out, mut index) = (Vec::new(), Vec::new());
        while writer.step(&mut out) == Ok(Step::More) {
            index.extend_from_slice(&out);
        }
        index.extend_from_slice(&out);
        let want = [
            case(&first, &[chunk(0, 10, 100)]),
            case(&[("a", "1"), ("b", "3")], &[chunk(0, 10, 101)]),
        ];
        assert_eq!(index, oracle::write(&want));
    };
    let later = [chunk(0, 10, 200)];
    check(&[], &later, "without labels");
    check(&[("b", "")], &later, "empty name or value");
    check(&[("", "b")], &later, "empty name or value");
    check(&[("c", "1"), ("b", "1")], &later, "does not come after");
    check(&[("c", "1"), ("c", "2")], &later, "does not come after");
    check(&first, &later, "{a=\"1\", b=\"2\"} does not come after {a=\"1\", b=\"2\"}");
    check(&[("a", "1")], &later, "does not come after");
    check(&[("a", "0"), ("z", "9")], &later, "does not come after");
    check(&[("c", "1")], &[], "no chunks");
    check(&[("c", "1")], &one, "lies before");
    check(&[("c", "1")], &[chunk(5, 4, 200)], "overlaps");
    check(&[("c", "1")], &[chunk(0, 10, 200), chunk(10, 20, 201)], "overlaps");
    check(&[("c", "1")], &[chunk(0, 10, 201), chunk(11, 20, 200)], "lies before");
}

#[test]
fn a_foreign_file_is_named() {
    let mut index = write(&example());
    index[4] = 3;
    assert_eq!(answers(&index), Err(Error::UnsupportedVersion { version: 3 }));
    index[0] = 0;
    assert_eq!(answers(&index), Err(Error::NotAnIndex { magic: 0x00aa_d700 }));
    assert!(answers(b"").is_err());
}

#[test]
fn every_flipped_bit_is_an_error_or_makes_no_difference() {
    let index = write(&example());
    let want = answers(&index);
    let mut errors = 0;
    for bit in 0..index.len() * 8 {
        let mut damaged = index.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let got = answers(&damaged);
        errors += usize::from(got.is_err());
        assert!(got.is_err() || got == want, "bit {bit}: {got:?}");
    }
    // Only the padding before the first series, at bytes 0x25 to 0x2f, may be flipped unseen.
    assert_eq!(errors, (index.len() - 11) * 8);
}

#[test]
fn every_byte_value_at_every_place_is_survived() {
    let index = write(&example());
    let want = answers(&index);
    for at in 0..index.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = index.clone();
            damaged[at] = byte;
            let got = answers(&damaged);
            assert!(got.is_err() || got == want, "{byte} at {at}: {got:?}");
        }
    }
}

#[test]
fn every_cut_is_an_error() {
    let index = write(&example());
    for len in 0..index.len() {
        assert!(answers(&index[..len]).is_err(), "cut at {len}");
    }
}

/// Damage behind a good checksum: what a buggy or hostile writer could make.
#[test]
fn lies_with_good_checksums_are_survived() {
    let index = write(&example());
    let toc_at = index.len() - Toc::BYTES;
    for field in 0..6 {
        for value in [0, 1, 4, 0x25, 0x30, 0x50, 0x98, toc_at as u64, u64::MAX, 1 << 40] {
            let mut lying = index.clone();
            let at = toc_at + field * 8;
            lying[at..at + 8].copy_from_slice(&value.to_be_bytes());
            let crc = coding::crc(&lying[toc_at..toc_at + 48]);
            lying[toc_at + 48..].copy_from_slice(&crc.to_be_bytes());
            if let Ok((series, _, _)) = answers(&lying) {
                assert_eq!(series, example(), "field {field} = {value}");
            }
        }
    }
    for (at, len) in [(0x31, 0xb), (0x41, 0xb), (0x54, 12), (0x9c, 0x27), (9, 0x18)] {
        for i in at..at + len {
            for byte in [0, 0x7f, 0xff] {
                let mut lying = index.clone();
                lying[i] = byte;
                let crc = coding::crc(&lying[at..at + len]);
                lying[at + len..at + len + 4].copy_from_slice(&crc.to_be_bytes());
                let _answers: Result<Answers, Error> = answers(&lying);
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    let labels = proptest::collection::btree_map("[a-c]{1,2}|é", "[a-c]{1,2}|ü\u{0}", 1..4);
    let chunks = proptest::collection::vec((1i64..1000, 0i64..1000, 1u64..1 << 33), 1..4);
    let start = -10_000i64..10_000;
    proptest::collection::btree_map(labels, (start, chunks), 0..40).prop_map(|series| {
        let mut sorted: Vec<_> =
            series.into_iter().map(|(l, c)| (l.into_iter().collect::<Vec<_>>(), c)).collect();
        sorted.sort();
        let mut place = 8;
        let mut cases = Vec::new();
        for (labels, (mut t, steps)) in sorted {
            let next = |(gap, len, bytes): (i64, i64, u64)| {
                place += bytes;
                let min_t = t + gap;
                t = min_t + len;
                chunk(min_t, t, place)
            };
            cases.push((labels, steps.into_iter().map(next).collect()));
        }
        cases
    })
}

proptest! {
    #[test]
    fn the_writer_writes_what_the_oracle_writes(series in cases()) {
        let index = write(&series);
        prop_assert_eq!(&index, &oracle::write(&series));
        let (got, _, lists) = answers(&index).expect("a good index");
        prop_assert_eq!(&got, &series);
        let reader = Reader::open(&index[..]).expect("a good index");
        for (name, value, ids) in lists {
            let want: Vec<SeriesRef> = reader
                .all()
                .expect("all series")
                .zip(&series)
                .filter(|(_, (labels, _))| labels.contains(&(name.clone(), value.clone())))
                .map(|(id, _)| id)
                .collect();
            prop_assert_eq!(ids, want.iter().map(|id| id.0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rubbish_is_not_an_index(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(answers(&bytes).is_err());
        bytes.splice(0..0, [0xba, 0xaa, 0xd7, 0x00, 2]);
        prop_assert!(answers(&bytes).is_err());
    }
}

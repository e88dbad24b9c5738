//! The series of a block that is being written, kept small until the index can be.
//!
//! The index begins with all symbols, sorted, which are known only after the last series. So the
//! draft keeps every text once, every label pair once, and for each series the numbers of its
//! pairs and its chunks as the index will spell them: about four bytes per label pair and ten per
//! chunk. A postings entry, four bytes more per label pair, comes when the [`Writer`] runs.
//!
//! [`Writer`]: super::Writer
//!
//! ## Promises
//!
//! A series is accepted only if the index stays valid: labels sorted and not empty, series in
//! ascending order, chunks in order without overlap. A refused series changes nothing. The work of
//! one [`Draft::add`] is bounded by what it is given: nothing here grows by copying all it holds.
//!
//! ## Why
//!
//! Neighbours in label order share most of their labels, so each label is first looked for in the
//! series before; only new ones are hashed.

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use thiserror::Error;

use super::coding::{Cursor, put_uvarint, put_varint};
use super::column::{Column, Place, Records};
use super::{ChunkMeta, ChunkRef};

/// Why a series cannot be part of the index.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DraftError {
    /// It has no labels at all.
    #[error("a series without labels cannot be stored")]
    NoLabels,
    /// A label has no name or no value.
    #[error("label {name:?}={value:?} has an empty name or value")]
    EmptyLabel {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Names are not strictly ascending.
    #[error("label name {name:?} does not come after {before:?}")]
    LabelsOutOfOrder {
        /// The earlier name.
        before: String,
        /// The one that should be greater.
        name: String,
    },
    /// The series does not come after the one before.
    #[error("series {series} does not come after {before} in label order")]
    SeriesOutOfOrder {
        /// The earlier series.
        before: String,
        /// The one that should be greater.
        series: String,
    },
    /// It has no chunks.
    #[error("series {series} has no chunks")]
    NoChunks {
        /// The series.
        series: String,
    },
    /// A chunk begins before the one before it has ended, or ends before it begins.
    #[error(
        "chunk [{min_t}, {max_t}] of series {series} overlaps the one before or is turned round"
    )]
    ChunksOverlap {
        /// The series.
        series: String,
        /// Its first time, ms.
        min_t: i64,
        /// Its last time, ms.
        max_t: i64,
    },
    /// A chunk lies before one that was added earlier.
    #[error("a chunk of series {series} lies before one of an earlier series")]
    ChunksOutOfPlace {
        /// The series.
        series: String,
    },
    /// The format has no room for more. The draft is of no use any more.
    #[error("the index has no room for more {what}")]
    Full {
        /// What there is too much of.
        what: &'static str,
    },
}

/// A label pair: numbers of its texts, and how many series have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) name: u32,
    pub(super) value: u32,
    /// Series with this pair; later the writer's cursor into the postings.
    pub(super) count: u32,
}

/// The texts of a draft, each once, numbered in the order of their coming.
#[derive(Debug)]
pub(super) struct Texts {
    /// Each as `ustr`, as the index will have it.
    records: Records,
    places: Column<Place>,
    /// Bytes of all records.
    pub(super) len_bytes: u64,
}

impl Texts {
    pub(super) fn count(&self) -> u32 {
        self.places.len() as u32
    }

    /// The bytes of a text.
    #[inline]
    pub(super) fn text(&self, number: u32) -> &[u8] {
        Cursor::new(self.records.from(self.places.at(number))).ustr().unwrap_or_default()
    }
}

/// The series of a block so far. See the module.
#[derive(Debug)]
pub struct Draft {
    pub(super) texts: Texts,
    text_numbers: Numbers,
    hasher: RandomState,
    pub(super) pairs: Column<Pair>,
    pair_numbers: Numbers,
    /// Per series: `uvarint length of the rest · uvarint labels · labels × uvarint pair`, and its
    /// chunks as in the index.
    pub(super) series: Records,
    pub(super) series_count: u32,
    /// Label pairs over all series: the length of all postings but the first.
    pub(super) entries: u32,
    /// Pairs of the last series, in order.
    last: Vec<u32>,
    last_chunk: ChunkRef,
    /// Pairs of the series being added, and its record.
    current: Vec<u32>,
    record: Vec<u8>,
}

impl Default for Draft {
    fn default() -> Self {
        Self::new()
    }
}

impl Draft {
    /// A draft without series.
    pub fn new() -> Self {
        let texts = Texts { records: Records::default(), places: Column::new(), len_bytes: 0 };
        Self {
            texts,
            text_numbers: Numbers::new(),
            hasher: RandomState::new(),
            pairs: Column::new(),
            pair_numbers: Numbers::new(),
            series: Records::default(),
            series_count: 0,
            entries: 0,
            last: Vec::new(),
            last_chunk: ChunkRef(0),
            current: Vec::new(),
            record: Vec::new(),
        }
    }

    /// How many series were added.
    pub fn series_count(&self) -> u32 {
        self.series_count
    }

    /// Whether a series with these labels may come next.
    pub fn check_labels(&self, labels: &[(&str, &str)]) -> Result<(), DraftError> {
        if labels.is_empty() {
            return Err(DraftError::NoLabels);
        }
        if let Some(&(name, value)) = labels.iter().find(|(n, v)| n.is_empty() || v.is_empty()) {
            return Err(DraftError::EmptyLabel { name: name.into(), value: value.into() });
        }
        if let Some(two) = labels.windows(2).find(|two| two[0].0 >= two[1].0) {
            let (before, name) = (two[0].0.into(), two[1].0.into());
            return Err(DraftError::LabelsOutOfOrder { before, name });
        }
        let before = self.last.iter().map(|&pair| self.pair_texts(pair));
        let these = labels.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        if before.clone().cmp(these) == Ordering::Less {
            return Ok(());
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let before: Vec<_> = before.map(|(n, v)| (text(n), text(v))).collect();
        let before: Vec<_> = before.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Err(DraftError::SeriesOutOfOrder { before: show(&before), series: show(labels) })
    }

    /// Adds the series that comes next in label order, with its chunks in time order. `labels`
    /// are sorted by name.
    pub fn add(&mut self, labels: &[(&str, &str)], chunks: &[ChunkMeta]) -> Result<(), DraftError> {
        self.check_labels(labels)?;
        self.check_chunks(labels, chunks)?;
        let entries = self.entries.checked_add(labels.len() as u32);
        let entries = entries.ok_or(DraftError::Full { what: "postings" })?;
        self.resolve(labels)?;
        self.write_record(chunks)?;
        for &pair in &self.current {
            self.pairs.at_mut(pair).count += 1;
        }
        self.entries = entries;
        self.series_count += 1;
        self.last_chunk = chunks.last().map_or(self.last_chunk, |c| c.reference);
        std::mem::swap(&mut self.last, &mut self.current);
        Ok(())
    }

    fn check_chunks(
        &self,
        labels: &[(&str, &str)],
        chunks: &[ChunkMeta],
    ) -> Result<(), DraftError> {
        if chunks.is_empty() {
            return Err(DraftError::NoChunks { series: show(labels) });
        }
        let mut before: Option<i64> = None;
        let mut place = self.last_chunk;
        for &ChunkMeta { min_t, max_t, reference } in chunks {
            if min_t > max_t || before.is_some_and(|before| min_t <= before) {
                return Err(DraftError::ChunksOverlap { series: show(labels), min_t, max_t });
            }
            if reference < place {
                return Err(DraftError::ChunksOutOfPlace { series: show(labels) });
            }
            (before, place) = (Some(max_t), reference);
        }
        Ok(())
    }

    /// Fills `current` with the numbers of the pairs, new ones included.
    fn resolve(&mut self, labels: &[(&str, &str)]) -> Result<(), DraftError> {
        self.current.clear();
        let mut at = 0;
        for (name, value) in labels {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            // Both series are sorted, so one walk meets every name they share.
            let mut known = None;
            while let Some(&pair) = self.last.get(at) {
                match self.pair_texts(pair).0.cmp(name) {
                    Ordering::Less => at += 1,
                    Ordering::Equal => {
                        known = Some(pair);
                        break;
                    }
                    Ordering::Greater => break,
                }
            }
            let pair = match known {
                Some(pair) if self.pair_texts(pair).1 == value => pair,
                Some(pair) => {
                    let name = self.pairs.at(pair).name;
                    let value = self.text_number(value)?;
                    self.pair_number(name, value)?
                }
                None => {
                    let name = self.text_number(name)?;
                    let value = self.text_number(value)?;
                    self.pair_number(name, value)?
                }
            };
            self.current.push(pair);
        }
        Ok(())
    }

    fn write_record(&mut self, chunks: &[ChunkMeta]) -> Result<(), DraftError> {
        let body = &mut self.record;
        body.clear();
        put_uvarint(body, self.current.len() as u64);
        for &pair in &self.current {
            put_uvarint(body, u64::from(pair));
        }
        put_uvarint(body, chunks.len() as u64);
        let mut before: Option<ChunkMeta> = None;
        for &chunk in chunks {
            match before {
                None => {
                    put_varint(body, chunk.min_t);
                    put_uvarint(body, chunk.max_t.wrapping_sub(chunk.min_t) as u64);
                    put_uvarint(body, chunk.reference.0);
                }
                Some(before) => {
                    put_uvarint(body, chunk.min_t.wrapping_sub(before.max_t) as u64);
                    put_uvarint(body, chunk.max_t.wrapping_sub(chunk.min_t) as u64);
                    put_varint(body, chunk.reference.0.wrapping_sub(before.reference.0) as i64);
                }
            }
            before = Some(chunk);
        }
        let len = body.len();
        put_uvarint(body, len as u64);
        let prefix = body.len() - len;
        body.rotate_right(prefix);
        let place = self.series.push(body);
        place.map(|_| ()).ok_or(DraftError::Full { what: "series" })
    }

    /// Frees some of what only adding needs. True when all of it is free.
    pub(super) fn free_numbers(&mut self) -> bool {
        self.text_numbers.free_some() && self.pair_numbers.free_some()
    }

    /// Frees some of the rest; nothing may be asked of the draft any more. True when all is free.
    pub(super) fn free_some(&mut self) -> bool {
        self.series.free_some()
            && self.texts.records.free_some()
            && self.texts.places.free_some()
            && self.pairs.free_some()
    }

    fn pair_texts(&self, pair: u32) -> (&[u8], &[u8]) {
        let Pair { name, value, .. } = self.pairs.at(pair);
        (self.texts.text(name), self.texts.text(value))
    }

    /// The number of a text, a new one if it is new.
    fn text_number(&mut self, text: &[u8]) -> Result<u32, DraftError> {
        let hash = self.hasher.hash_one(text);
        if let Some(number) = self.text_numbers.find(hash, |n| self.texts.text(n) == text) {
            return Ok(number);
        }
        let full = DraftError::Full { what: "symbols" };
        let number = self.texts.count();
        self.record.clear();
        put_uvarint(&mut self.record, text.len() as u64);
        self.record.extend_from_slice(text);
        let len_bytes = self.texts.len_bytes + self.record.len() as u64;
        if number == u32::MAX || len_bytes > u64::from(u32::MAX) - 4 {
            return Err(full);
        }
        let place = self.texts.records.push(&self.record).ok_or(full)?;
        self.texts.places.push(place);
        self.texts.len_bytes = len_bytes;
        self.text_numbers.insert(hash, number);
        Ok(number)
    }

    /// The number of a pair, a new one if it is new.
    fn pair_number(&mut self, name: u32, value: u32) -> Result<u32, DraftError> {
        // Our own numbers, not a stranger's bytes: a multiplication spreads them well enough.
        let key = u64::from(name) << 32 | u64::from(value);
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = hash ^ hash >> 32;
        let same = |n| {
            let pair = self.pairs.at(n);
            pair.name == name && pair.value == value
        };
        if let Some(number) = self.pair_numbers.find(hash, same) {
            return Ok(number);
        }
        let number = self.pairs.len() as u32;
        if number == u32::MAX {
            return Err(DraftError::Full { what: "label pairs" });
        }
        self.pairs.push(Pair { name, value, count: 0 });
        self.pair_numbers.insert(hash, number);
        Ok(number)
    }
}

/// A label set as PromQL writes it, for an error's text.
fn show(labels: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// How many tables [`Numbers`] has.
const PARTS: usize = 256;

/// From hashes to numbers: many small hash tables instead of a large one, so that none is ever
/// large when it grows. With a million entries one has some four thousand.
#[derive(Debug)]
struct Numbers(Vec<HashTable<(u32, u32)>>);

impl Numbers {
    fn new() -> Self {
        Self((0..PARTS).map(|_| HashTable::new()).collect())
    }

    /// Frees a few of the tables. True when all are free.
    fn free_some(&mut self) -> bool {
        self.0.truncate(self.0.len().saturating_sub(4));
        self.0.is_empty()
    }

    /// The low half of the hash is kept with the number, so that growing reads nothing else.
    fn spread(low: u32) -> u64 {
        u64::from(low).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let low = hash as u32;
        let part = &self.0[(hash >> 56) as usize];
        part.find(Self::spread(low), |&(l, n)| l == low && same(n)).map(|&(_, n)| n)
    }

    fn insert(&mut self, hash: u64, number: u32) {
        let low = hash as u32;
        let part = &mut self.0[(hash >> 56) as usize];
        part.insert_unique(Self::spread(low), (low, number), |&(l, _)| Self::spread(l));
    }
}

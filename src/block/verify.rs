//! Reads all of a block and believes nothing.
//!
//! What is checked is what other programs rely on: the index health of a Thanos Compactor, the
//! order that binary searches and merges need, and every checksum. A block that passes opens in
//! promtool, is served by a Store Gateway and does not halt a compactor.
//!
//! - every checksum: table of contents, symbols, offset table, each postings list, series, chunk
//! - symbols, series, label names of a series and chunks in strict order; no series without labels
//!   or chunks, no empty label
//! - chunks of a series do not overlap and lie in `[minTime, maxTime)`
//! - a chunk decodes, its times ascend, and the first and last are those of the index
//! - postings lists are sorted, lie back to back in the order of the table, and hold exactly the
//!   series that have the pair
//! - `meta.json` tells the directory's name, the counts and the sizes of its files
//!
//! The first fault found is the answer. Time: a pass over all bytes, plus some nanoseconds per
//! sample; memory: some hundred bytes per distinct label pair. For the control side's pool.

use std::collections::HashMap;
use std::iter;
use std::path::Path;

use crate::chunk::histogram::{self, Codec};
use crate::chunk::{self, Encoding, sample_count, xor};
use crate::index::{ChunkRef, Series};
use crate::model::Labels;
use crate::model::histogram::{Float, Integer};

use super::chunk_file::record_len;
use super::meta::Stats;
use super::{Error, Reader, filenames};

/// What a sound block holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Counts, as in `meta.json`.
    pub stats: Stats,
    /// Time of the first sample, ms.
    pub min_t: i64,
    /// Time of the last sample, ms.
    pub max_t: i64,
    /// Distinct label pairs.
    pub label_pairs: u64,
    /// Bytes of the index.
    pub index_size_bytes: u64,
    /// Bytes of all chunk records.
    pub chunks_size_bytes: u64,
}

/// What is wrong with a block.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read: a checksum, a length, a missing file.
    #[error(transparent)]
    Unreadable(#[from] Error),
    /// Symbols are not strictly ascending.
    #[error("symbol {number} does not come after the one before")]
    SymbolsUnsorted {
        /// Its position.
        number: u32,
    },
    /// Labels of a series are empty or not strictly ascending.
    #[error("the labels of series {series} are empty or not in order")]
    LabelsUnsorted {
        /// The series.
        series: String,
    },
    /// A series does not come after the one before.
    #[error("series {series} does not come after {before}")]
    SeriesUnsorted {
        /// The earlier series.
        before: String,
        /// The one that should be greater.
        series: String,
    },
    /// A series has no chunks.
    #[error("series {series} has no chunks")]
    NoChunks {
        /// The series.
        series: String,
    },
    /// A chunk reaches over the range of the block.
    #[error("chunk [{min_t}, {max_t}] of series {series} lies outside of the block's range")]
    ChunkOutOfRange {
        /// The series.
        series: String,
        /// First time of the chunk, ms.
        min_t: i64,
        /// Last time, ms.
        max_t: i64,
    },
    /// A chunk begins before the one before it has ended, or ends before it begins.
    #[error("chunk [{min_t}, {max_t}] of series {series} overlaps the one before it")]
    ChunksOverlap {
        /// The series.
        series: String,
        /// First time of the chunk, ms.
        min_t: i64,
        /// Last time, ms.
        max_t: i64,
    },
    /// Chunks do not lie in the order of their series.
    #[error("a chunk of series {series} lies before the chunk that should come before it")]
    ChunksOutOfPlace {
        /// The series.
        series: String,
    },
    /// A chunk's samples are not those the index tells.
    #[error("chunk [{min_t}, {max_t}] of series {series} {fact}")]
    ChunkContradicts {
        /// The series.
        series: String,
        /// First time of the chunk by the index, ms.
        min_t: i64,
        /// Last time, ms.
        max_t: i64,
        /// What is wrong with it.
        fact: &'static str,
    },
    /// A postings list is not sorted.
    #[error("the postings of {name}={value:?} are not in order")]
    PostingsUnsorted {
        /// Name of the pair; empty in the list of all series.
        name: String,
        /// Value of the pair.
        value: String,
    },
    /// A postings list does not begin where the one before ends.
    #[error("the postings of {name}={value:?} do not begin where the list before ends")]
    PostingsOutOfPlace {
        /// Name of the pair.
        name: String,
        /// Value of the pair.
        value: String,
    },
    /// A postings list does not hold the series that have the pair.
    #[error("the postings of {name}={value:?} are missing or do not hold the series that have it")]
    PostingsContradict {
        /// Name of the pair.
        name: String,
        /// Value of the pair.
        value: String,
    },
    /// `meta.json` tells something else.
    #[error("meta.json says {what} = {told}, the block has {found}")]
    MetaContradicts {
        /// Its field.
        what: String,
        /// What it says.
        told: String,
        /// What is there.
        found: String,
    },
    /// There is not one series.
    #[error("the block has no series")]
    Empty,
}

/// Checks the block in `dir`. See the module.
pub fn verify(dir: &Path) -> Result<Health, Fault> {
    let block = Reader::open(dir)?;
    check_symbols(&block)?;
    let mut walk = Walk { block: &block, pairs: HashMap::new(), health: Health::default() };
    walk.health.index_size_bytes = block.index.size_bytes();
    walk.series()?;
    walk.lists()?;
    walk.meta(dir)?;
    Ok(walk.health)
}

fn check_symbols(block: &Reader) -> Result<(), Fault> {
    let mut before: Option<&[u8]> = None;
    for (number, symbol) in (0..).zip(block.index.symbols()) {
        if before >= Some(symbol) {
            return Err(Fault::SymbolsUnsorted { number });
        }
        before = Some(symbol);
    }
    Ok(())
}

/// How many series have a pair, and the sum of their ids, mixed: a list that has the same of both
/// holds the same series, but for malice.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Members {
    count: u64,
    sum: u64,
}

impl Members {
    fn add(&mut self, id: u32) {
        let mixed = u64::from(id).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.count += 1;
        self.sum = self.sum.wrapping_add(mixed ^ mixed >> 29);
    }
}

struct Walk<'a> {
    block: &'a Reader,
    pairs: HashMap<(&'a str, &'a str), Members>,
    health: Health,
}

impl<'a> Walk<'a> {
    fn series(&mut self) -> Result<(), Fault> {
        let mut before: Option<Series<'a>> = None;
        let mut place: Option<ChunkRef> = None;
        let mut last_id = None;
        (self.health.min_t, self.health.max_t) = (i64::MAX, i64::MIN);
        for id in self.block.index.all().map_err(Error::from)? {
            if last_id >= Some(id) {
                return Err(Fault::PostingsUnsorted { name: String::new(), value: String::new() });
            }
            last_id = Some(id);
            let series = self.block.series(id)?;
            check_labels(&series)?;
            if let Some(before) = before.filter(|before| before.labels >= series.labels) {
                let (before, series) = (show(&before), show(&series));
                return Err(Fault::SeriesUnsorted { before, series });
            }
            for &pair in [("", "")].iter().chain(&series.labels) {
                self.pairs.entry(pair).or_default().add(id.0);
            }
            self.chunks(&series, &mut place)?;
            self.health.stats.num_series += 1;
            before = Some(series);
        }
        if before.is_none() { Err(Fault::Empty) } else { Ok(()) }
    }

    fn chunks(&mut self, series: &Series<'_>, place: &mut Option<ChunkRef>) -> Result<(), Fault> {
        if series.chunks.is_empty() {
            return Err(Fault::NoChunks { series: show(series) });
        }
        let range = self.block.meta().range();
        let mut before: Option<i64> = None;
        for chunk in &series.chunks {
            let (min_t, max_t) = (chunk.min_t, chunk.max_t);
            if !range.contains(min_t) || !range.contains(max_t) {
                return Err(Fault::ChunkOutOfRange { series: show(series), min_t, max_t });
            }
            if min_t > max_t || before >= Some(min_t) {
                return Err(Fault::ChunksOverlap { series: show(series), min_t, max_t });
            }
            if *place >= Some(chunk.reference) {
                return Err(Fault::ChunksOutOfPlace { series: show(series) });
            }
            let (encoding, payload) = self.block.chunk(chunk)?;
            let count = u64::from(sample_count(payload).map_err(Error::from)?);
            let contradiction = match encoding {
                _ if count == 0 => Some("has no samples"),
                Encoding::Xor => {
                    let samples = xor::Reader::new(payload).map_err(Error::from)?;
                    contradiction(samples.map(|sample| Ok(sample?.t)), (min_t, max_t))?
                }
                Encoding::Histogram => contradiction(times::<Integer>(payload)?, (min_t, max_t))?,
                Encoding::FloatHistogram => {
                    contradiction(times::<Float>(payload)?, (min_t, max_t))?
                }
            };
            if let Some(fact) = contradiction {
                let series = show(series);
                return Err(Fault::ChunkContradicts { series, min_t, max_t, fact });
            }
            self.count(encoding, count, payload.len());
            self.health.min_t = self.health.min_t.min(min_t);
            self.health.max_t = self.health.max_t.max(max_t);
            (before, *place) = (Some(max_t), Some(chunk.reference));
        }
        Ok(())
    }

    fn count(&mut self, encoding: Encoding, samples: u64, payload_len: usize) {
        let Health { stats, chunks_size_bytes, .. } = &mut self.health;
        stats.num_chunks += 1;
        stats.num_samples += samples;
        match encoding {
            Encoding::Xor => stats.num_float_samples += samples,
            Encoding::Histogram | Encoding::FloatHistogram => {
                stats.num_histogram_samples += samples;
            }
        }
        *chunks_size_bytes += record_len(payload_len);
    }

    fn lists(&mut self) -> Result<(), Fault> {
        let mut end = None;
        for list in self.block.index.lists() {
            let (name, value) = (list.name, list.value);
            let of = || (name.to_owned(), value.to_owned());
            let postings = list.postings.map_err(Error::from)?;
            if end.is_some_and(|end| end != list.offset) {
                let (name, value) = of();
                return Err(Fault::PostingsOutOfPlace { name, value });
            }
            end = Some(list.offset + 12 + 4 * postings.len() as u64);
            let mut members = Members::default();
            let mut before = None;
            for id in postings {
                if before >= Some(id) {
                    let (name, value) = of();
                    return Err(Fault::PostingsUnsorted { name, value });
                }
                before = Some(id);
                members.add(id.0);
            }
            if self.pairs.remove(&(name, value)) != Some(members) {
                let (name, value) = of();
                return Err(Fault::PostingsContradict { name, value });
            }
            self.health.label_pairs += u64::from(!name.is_empty());
        }
        match self.pairs.keys().min() {
            None => Ok(()),
            Some(&(name, value)) => {
                Err(Fault::PostingsContradict { name: name.into(), value: value.into() })
            }
        }
    }

    fn meta(&self, dir: &Path) -> Result<(), Fault> {
        let meta = self.block.meta();
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if filenames::block(name).is_some_and(|ulid| ulid != meta.ulid) {
            return Err(contradicts("ulid", &meta.ulid, &name));
        }
        let (told, found) = (&meta.stats, &self.health.stats);
        for (what, told, found) in [
            ("numSamples", told.num_samples, found.num_samples),
            ("numSeries", told.num_series, found.num_series),
            ("numChunks", told.num_chunks, found.num_chunks),
        ] {
            if told != found {
                return Err(contradicts(what, &told, &found));
            }
        }
        // Blocks of old writers tell neither of these two.
        let told = (told.num_float_samples, told.num_histogram_samples);
        let found = (found.num_float_samples, found.num_histogram_samples);
        if told != (0, 0) && told != found {
            let show = |(floats, histograms)| format!("{floats} + {histograms}");
            let what = "numFloatSamples + numHistogramSamples";
            return Err(contradicts(what, &show(told), &show(found)));
        }
        for file in meta.thanos.files.iter().filter(|file| file.size_bytes > 0) {
            let path = dir.join(&file.rel_path);
            let size = std::fs::metadata(&path).map(|file| file.len()).map_err(|source| {
                Error::Io { action: "look at", path: path.display().to_string(), source }
            })?;
            if size != file.size_bytes {
                let what = format!("size of {}", file.rel_path);
                return Err(contradicts(&what, &file.size_bytes, &size));
            }
        }
        Ok(())
    }
}

fn contradicts(what: &str, told: &impl ToString, found: &impl ToString) -> Fault {
    Fault::MetaContradicts { what: what.into(), told: told.to_string(), found: found.to_string() }
}

fn check_labels(series: &Series<'_>) -> Result<(), Fault> {
    let labels = &series.labels;
    let empty = labels.is_empty() || labels.iter().any(|(n, v)| n.is_empty() || v.is_empty());
    if empty || labels.windows(2).any(|two| two[0].0 >= two[1].0) {
        return Err(Fault::LabelsUnsorted { series: show(series) });
    }
    Ok(())
}

/// What is wrong with the samples of a float chunk.
fn contradiction(
    times: impl Iterator<Item = Result<i64, chunk::Error>>,
    (min_t, max_t): (i64, i64),
) -> Result<Option<&'static str>, Error> {
    let mut last: Option<i64> = None;
    for t in times {
        let t = t?;
        match last {
            None if t != min_t => return Ok(Some("begins at another time")),
            Some(last) if last >= t => return Ok(Some("has times that do not ascend")),
            _ => last = Some(t),
        }
    }
    Ok((last != Some(max_t)).then_some("ends at another time"))
}

/// The times of a chunk of histograms.
fn times<K: Codec>(
    payload: &[u8],
) -> Result<impl Iterator<Item = Result<i64, chunk::Error>>, Error> {
    let mut reader = histogram::Reader::<K>::new(payload)?;
    Ok(iter::from_fn(move || Some(reader.advance()?.map(|point| point.t))))
}

/// A series for the text of a fault. Damaged labels may be no label set: then as they are.
fn show(series: &Series<'_>) -> String {
    let labels = Labels::new(series.labels.iter().copied());
    labels.map_or_else(|_| format!("{:?}", series.labels), |labels| labels.to_string())
}

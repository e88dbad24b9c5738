//! The bytes of an index, from a [`Draft`], in steps.
//!
//! ## Promises
//!
//! - [`Writer::step`] does at most some tens of microseconds of work, whatever the size of the
//!   index, so that a core can look after its intake between two steps.
//! - The bytes are those Prometheus 3.x writes for the same series and symbols.
//! - Memory beyond the draft's: four bytes per label pair of each series for the postings, and 16
//!   bytes per symbol and per distinct pair.
//!
//! ## Order
//!
//! What only adding needs is freed first. Then symbols and pairs are sorted, which writes nothing.
//! The sections follow in the order of the file; the ids of series are handed to the postings
//! while the series are written. At last the memory is given back, in steps as well.

use super::coding::{Crc, Cursor, crc, put_ustr, put_uvarint, uvarint_len};
use super::column::Column;
use super::draft::{Draft, Pair};
use super::{DraftError, MAGIC, POSTINGS_ALIGN, SERIES_ALIGN, Toc, VERSION};
use crate::stdx::sort::Sorter;

/// Comparisons of texts in one step.
const STEP_COMPARISONS: usize = 256;
/// Small items in one step: ranks and pairs.
const STEP_ITEMS: u32 = 1024;
/// Texts in one step, each a miss of the cache or two: symbols and entries of the table.
const STEP_TEXTS: u32 = 128;
/// Label pairs of series in one step.
const STEP_LABELS: usize = 512;
/// Postings in one step, where a list counts as some more.
const STEP_POSTINGS: usize = 4096;
/// What beginning and ending a list costs, in postings.
const LIST_COST: usize = 64;

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is.
    More,
    /// The last bytes have been given.
    Done(Summary),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the whole index.
    pub size_bytes: u64,
    /// Bytes of the longest series entry with its padding. A reader that fetches as many fetches
    /// any series whole (`series_max_size` of Thanos).
    pub series_size_bytes_max: u64,
}

/// What the next step does.
#[derive(Debug)]
enum Phase {
    FreeNumbers,
    SortTexts(Sorter),
    RankTexts { next: u32 },
    RankPairs { next: u32 },
    SortPairs(Sorter),
    PlacePostings { next: u32, sum: u32 },
    Symbols { next: u32, crc: Crc },
    Series { page: usize, offset: usize },
    Lists(List),
    Table { next: u32, offset: u64, begin: u32, crc: Crc },
    Toc,
    Free(Summary),
    Done(Summary),
    Failed,
}

/// The postings list under way.
#[derive(Debug)]
struct List {
    /// 0 for the list of all series, then the pairs in order.
    number: u32,
    /// Where the list begins in its ids; its end is where the next begins.
    begin: u32,
    /// Ids that are written.
    done: u32,
    crc: Crc,
}

/// Writes the index of a draft. See the module.
#[derive(Debug)]
pub struct Writer {
    draft: Draft,
    phase: Phase,
    /// Numbers of the texts, sorted.
    texts: Vec<u32>,
    /// The symbol of each text.
    ranks: Column<u32>,
    /// Numbers of the pairs, sorted by name and value.
    pairs: Vec<u32>,
    /// Ids of all series.
    all: Column<u32>,
    /// Ids of the series of each pair, pair by pair in order.
    ids: Column<u32>,
    /// Bytes given before this step.
    written: u64,
    body: Vec<u8>,
    toc: Toc,
    series_size_bytes_max: u64,
    /// Length of the table, known when all lists have their place.
    table_len: u64,
}

impl Writer {
    /// A writer of these series.
    pub fn new(draft: Draft) -> Self {
        Self {
            draft,
            phase: Phase::FreeNumbers,
            texts: Vec::new(),
            ranks: Column::new(),
            pairs: Vec::new(),
            all: Column::new(),
            ids: Column::new(),
            written: 0,
            body: Vec::new(),
            toc: Toc {
                symbols: 0,
                series: 0,
                label_indices: 0,
                label_offset_table: 0,
                postings: 0,
                table: 0,
            },
            series_size_bytes_max: 0,
            table_len: 0,
        }
    }

    /// Does some work and replaces `out` by the next bytes of the index, often none. After an
    /// error, and after [`Step::Done`], there is nothing more to come.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, DraftError> {
        out.clear();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::FreeNumbers => self.free_numbers(),
            Phase::SortTexts(sorter) => self.sort_texts(sorter),
            Phase::RankTexts { next } => self.rank_texts(next),
            Phase::RankPairs { next } => self.rank_pairs(next),
            Phase::SortPairs(sorter) => self.sort_pairs(sorter),
            Phase::PlacePostings { next, sum } => self.place_postings(next, sum, out),
            Phase::Symbols { next, crc } => self.write_symbols(next, crc, out),
            Phase::Series { page, offset } => self.write_series(page, offset, out)?,
            Phase::Lists(list) => self.write_lists(list, out)?,
            Phase::Table { next, offset, begin, crc } => {
                self.write_table(next, offset, begin, crc, out)
            }
            Phase::Toc => self.write_toc(out),
            Phase::Free(summary) => self.free(summary),
            Phase::Done(summary) => Phase::Done(summary),
            Phase::Failed => {
                return Err(DraftError::Full { what: "bytes: an earlier step failed" });
            }
        };
        self.written += out.len() as u64;
        match self.phase {
            Phase::Done(summary) => Ok(Step::Done(summary)),
            _ => Ok(Step::More),
        }
    }

    /// Position in the file of the end of `out`.
    fn position(&self, out: &[u8]) -> u64 {
        self.written + out.len() as u64
    }

    fn pad(&self, out: &mut Vec<u8>, align: u64) {
        let padding = self.position(out).next_multiple_of(align) - self.position(out);
        out.resize(out.len() + padding as usize, 0);
    }

    fn free_numbers(&mut self) -> Phase {
        if self.draft.free_numbers() {
            Phase::SortTexts(Sorter::new(self.draft.texts.count()))
        } else {
            Phase::FreeNumbers
        }
    }

    fn sort_texts(&mut self, mut sorter: Sorter) -> Phase {
        let texts = &self.draft.texts;
        match sorter.step(STEP_COMPARISONS, |a, b| texts.text(a).cmp(texts.text(b))) {
            None => Phase::SortTexts(sorter),
            Some(sorted) => {
                self.texts = sorted;
                Phase::RankTexts { next: 0 }
            }
        }
    }

    fn rank_texts(&mut self, next: u32) -> Phase {
        if !self.ranks.grow_towards(self.texts.len(), 0) {
            return Phase::RankTexts { next };
        }
        let until = self.draft.texts.count().min(next + STEP_ITEMS);
        for rank in next..until {
            *self.ranks.at_mut(self.texts[rank as usize]) = rank;
        }
        if until < self.draft.texts.count() {
            Phase::RankTexts { next: until }
        } else {
            Phase::RankPairs { next: 0 }
        }
    }

    /// From here on pairs hold symbols instead of texts' numbers.
    fn rank_pairs(&mut self, next: u32) -> Phase {
        let count = self.draft.pairs.len() as u32;
        let until = count.min(next + STEP_ITEMS);
        for number in next..until {
            let pair = self.draft.pairs.at_mut(number);
            pair.name = self.ranks.at(pair.name);
            pair.value = self.ranks.at(pair.value);
        }
        if until < count {
            Phase::RankPairs { next: until }
        } else {
            Phase::SortPairs(Sorter::new(count))
        }
    }

    fn sort_pairs(&mut self, mut sorter: Sorter) -> Phase {
        let pairs = &self.draft.pairs;
        let key = |number| {
            let Pair { name, value, .. } = pairs.at(number);
            u64::from(name) << 32 | u64::from(value)
        };
        match sorter.step(STEP_COMPARISONS, |a, b| key(a).cmp(&key(b))) {
            None => Phase::SortPairs(sorter),
            Some(sorted) => {
                self.pairs = sorted;
                Phase::PlacePostings { next: 0, sum: 0 }
            }
        }
    }

    /// Turns the count of each pair into the place of its first id, and begins the file.
    fn place_postings(&mut self, next: u32, mut sum: u32, out: &mut Vec<u8>) -> Phase {
        if !self.ids.grow_towards(self.draft.entries as usize, 0) {
            return Phase::PlacePostings { next, sum };
        }
        let count = self.pairs.len() as u32;
        let until = count.min(next + STEP_ITEMS);
        for i in next..until {
            let pair = self.draft.pairs.at_mut(self.pairs[i as usize]);
            let begin = sum;
            sum += pair.count;
            pair.count = begin;
        }
        if until < count {
            return Phase::PlacePostings { next: until, sum };
        }
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.push(VERSION);
        self.toc.symbols = self.position(out);
        let symbols = self.draft.texts.count();
        // The draft refuses symbols beyond 4 GiB.
        out.extend_from_slice(&(self.draft.texts.len_bytes as u32 + 4).to_be_bytes());
        out.extend_from_slice(&symbols.to_be_bytes());
        let mut crc = Crc::new();
        crc.update(&symbols.to_be_bytes());
        Phase::Symbols { next: 0, crc }
    }

    fn write_symbols(&mut self, next: u32, mut crc: Crc, out: &mut Vec<u8>) -> Phase {
        let count = self.draft.texts.count();
        let until = count.min(next + STEP_TEXTS);
        for symbol in next..until {
            put_ustr(out, self.draft.texts.text(self.texts[symbol as usize]));
        }
        crc.update(out);
        if until < count {
            return Phase::Symbols { next: until, crc };
        }
        out.extend_from_slice(&crc.finish().to_be_bytes());
        self.toc.series = self.position(out);
        Phase::Series { page: 0, offset: 0 }
    }

    fn write_series(
        &mut self,
        page: usize,
        mut offset: usize,
        out: &mut Vec<u8>,
    ) -> Result<Phase, DraftError> {
        let mut labels = 0;
        while labels < STEP_LABELS {
            let records = self.draft.series.page(page);
            let Some(mut rest) = records.map(|page| Cursor::new(&page[offset..])) else {
                return Ok(self.begin_lists(out));
            };
            let Some(record) = rest.ustr() else {
                return Ok(Phase::Series { page: page + 1, offset: 0 });
            };
            let mut record = Cursor::new(record);
            self.body.clear();
            let count = record.uvarint().unwrap_or_default();
            put_uvarint(&mut self.body, count);
            let padding = self.position(out).next_multiple_of(SERIES_ALIGN) - self.position(out);
            let position = self.position(out) + padding;
            let id = u32::try_from(position / SERIES_ALIGN)
                .map_err(|_| DraftError::Full { what: "series: 64 GiB are written" })?;
            for _ in 0..count {
                let pair = record.uvarint().unwrap_or_default() as u32;
                let pair = self.draft.pairs.at_mut(pair);
                put_uvarint(&mut self.body, u64::from(pair.name));
                put_uvarint(&mut self.body, u64::from(pair.value));
                *self.ids.at_mut(pair.count) = id;
                pair.count += 1;
            }
            self.body.extend_from_slice(record.rest());
            out.resize(out.len() + padding as usize, 0);
            put_ustr(out, &self.body);
            out.extend_from_slice(&crc(&self.body).to_be_bytes());
            let size = (self.position(out) - position).next_multiple_of(SERIES_ALIGN);
            self.series_size_bytes_max = self.series_size_bytes_max.max(size);
            self.all.push(id);
            offset = records.map_or(0, <[u8]>::len) - rest.rest().len();
            labels += 1 + count as usize;
        }
        Ok(Phase::Series { page, offset })
    }

    /// Ends the series and begins the first list, that of all series.
    fn begin_lists(&mut self, out: &mut Vec<u8>) -> Phase {
        let end = self.position(out);
        (self.toc.label_indices, self.toc.postings) = (end, end);
        self.pad(out, POSTINGS_ALIGN);
        self.table_len = 4;
        Phase::Lists(List { number: 0, begin: 0, done: 0, crc: Crc::new() })
    }

    /// Length of list `number`. The cursor of a pair has stopped where its list ends.
    fn list_len(&self, number: u32, begin: u32) -> u32 {
        match number.checked_sub(1) {
            None => self.draft.series_count,
            Some(i) => self.draft.pairs.at(self.pairs[i as usize]).count - begin,
        }
    }

    fn write_lists(&mut self, mut list: List, out: &mut Vec<u8>) -> Result<Phase, DraftError> {
        let mut budget = STEP_POSTINGS;
        while list.number as usize <= self.pairs.len() {
            if budget < LIST_COST {
                return Ok(Phase::Lists(list));
            }
            let len = self.list_len(list.number, list.begin);
            let from = out.len();
            if list.done == 0 {
                self.table_len += self.entry_len(list.number, self.position(out));
                let bytes = 4 + u64::from(len) * 4;
                let bytes = u32::try_from(bytes)
                    .map_err(|_| DraftError::Full { what: "series in one postings list" })?;
                out.extend_from_slice(&bytes.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                list.crc.update(&len.to_be_bytes());
            }
            let from = if list.done == 0 { from + 8 } else { from };
            let ids = if list.number == 0 { &self.all } else { &self.ids };
            let until = len.min(list.done + (budget - LIST_COST + 1) as u32);
            for i in list.done..until {
                out.extend_from_slice(&ids.at(list.begin + i).to_be_bytes());
            }
            list.crc.update(&out[from..]);
            budget = budget.saturating_sub((until - list.done) as usize + LIST_COST);
            list.done = until;
            if until == len {
                out.extend_from_slice(&list.crc.finish().to_be_bytes());
                let begin = if list.number == 0 { 0 } else { list.begin + len };
                list = List { number: list.number + 1, begin, done: 0, crc: Crc::new() };
            }
        }
        self.begin_table(out)
    }

    /// Name and value of list `number` in the table.
    fn entry(&self, number: u32) -> (&[u8], &[u8]) {
        let Some(i) = number.checked_sub(1) else { return (b"", b"") };
        let Pair { name, value, .. } = self.draft.pairs.at(self.pairs[i as usize]);
        let text = |symbol: u32| self.draft.texts.text(self.texts[symbol as usize]);
        (text(name), text(value))
    }

    /// Bytes of an entry of the table.
    fn entry_len(&self, number: u32, offset: u64) -> u64 {
        let (name, value) = self.entry(number);
        let ustr_len = |text: &[u8]| uvarint_len(text.len() as u64) + text.len() as u64;
        1 + ustr_len(name) + ustr_len(value) + uvarint_len(offset)
    }

    fn begin_table(&mut self, out: &mut Vec<u8>) -> Result<Phase, DraftError> {
        let position = self.position(out);
        (self.toc.table, self.toc.label_offset_table) = (position, position);
        let len = u32::try_from(self.table_len)
            .map_err(|_| DraftError::Full { what: "label pairs in the offset table" })?;
        out.extend_from_slice(&len.to_be_bytes());
        let count = self.pairs.len() as u32 + 1;
        out.extend_from_slice(&count.to_be_bytes());
        let mut crc = Crc::new();
        crc.update(&count.to_be_bytes());
        let offset = self.toc.postings.next_multiple_of(POSTINGS_ALIGN);
        Ok(Phase::Table { next: 0, offset, begin: 0, crc })
    }

    fn write_table(
        &mut self,
        next: u32,
        mut offset: u64,
        mut begin: u32,
        mut crc: Crc,
        out: &mut Vec<u8>,
    ) -> Phase {
        let count = self.pairs.len() as u32 + 1;
        let until = count.min(next + STEP_TEXTS);
        for number in next..until {
            let (name, value) = self.entry(number);
            put_uvarint(out, 2);
            put_ustr(out, name);
            put_ustr(out, value);
            put_uvarint(out, offset);
            let len = self.list_len(number, begin);
            offset += 12 + u64::from(len) * 4;
            begin += if number == 0 { 0 } else { len };
        }
        crc.update(out);
        if until < count {
            return Phase::Table { next: until, offset, begin, crc };
        }
        debug_assert_eq!(offset, self.toc.table, "the lists fill the space before the table");
        out.extend_from_slice(&crc.finish().to_be_bytes());
        Phase::Toc
    }

    fn write_toc(&mut self, out: &mut Vec<u8>) -> Phase {
        self.toc.encode(out);
        Phase::Free(Summary {
            size_bytes: self.position(out),
            series_size_bytes_max: self.series_size_bytes_max,
        })
    }

    /// The bytes are all out. What is left is to give the memory back, page by page as well.
    fn free(&mut self, summary: Summary) -> Phase {
        let free = self.ids.free_some()
            && self.all.free_some()
            && self.ranks.free_some()
            && self.draft.free_some();
        if free { Phase::Done(summary) } else { Phase::Free(summary) }
    }
}

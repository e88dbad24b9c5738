//! Postings: the series that have a label pair, and the table that says where they are listed.

use std::ops::Range;

use super::coding::Cursor;
use super::{Error, SeriesRef, Toc, check_crc};

/// Entries of the table between two whose place is kept in memory.
const SAMPLE_ENTRIES: usize = 32;

/// Reads `len u32 · len bytes · CRC u32` at `at`; the bytes.
pub(super) fn section<'a>(index: &'a [u8], what: &'static str, at: u64) -> Result<&'a [u8], Error> {
    let cut = || Error::Damaged { what, at, fact: "reaches over the end" };
    let rest = usize::try_from(at).ok().and_then(|at| index.get(at..)).ok_or_else(cut)?;
    let mut rest = Cursor::new(rest);
    let len = rest.be32().ok_or_else(cut)?;
    let bytes = rest.take(len as usize).ok_or_else(cut)?;
    let crc = rest.be32().ok_or_else(cut)?;
    check_crc(what, at, bytes, crc)?;
    Ok(bytes)
}

/// One postings list: series in the order of the index.
#[derive(Debug, Clone, Default)]
pub struct Postings<'a>(std::slice::Iter<'a, [u8; 4]>);

impl<'a> Postings<'a> {
    pub(super) fn read(index: &'a [u8], at: u64) -> Result<Self, Error> {
        let what = "postings list";
        let damaged = |fact| Error::Damaged { what, at, fact };
        let mut bytes = Cursor::new(section(index, what, at)?);
        let count = bytes.be32().ok_or(damaged("is cut short"))?;
        let (series, rest) = bytes.rest().as_chunks::<4>();
        if series.len() != count as usize || !rest.is_empty() {
            return Err(damaged("has another length than it says"));
        }
        Ok(Self(series.iter()))
    }
}

impl Iterator for Postings<'_> {
    type Item = SeriesRef;

    #[inline]
    fn next(&mut self) -> Option<SeriesRef> {
        self.0.next().map(|bytes| SeriesRef(u32::from_be_bytes(*bytes)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Postings<'_> {}

/// A name in the table: where its entries lie.
#[derive(Debug)]
struct Name {
    /// The name, in the bytes of the table.
    text: Range<usize>,
    /// Its entries, in the bytes of the table.
    entries: Range<usize>,
    /// Which of the samples are its own; the first is its first entry.
    samples: Range<usize>,
}

/// The postings offset table, checked as a whole when it is opened.
#[derive(Debug)]
pub(super) struct Table {
    /// Offset of its bytes in the index.
    at: usize,
    names: Vec<Name>,
    /// Offsets of every 32nd entry of a name, in the bytes of the table.
    samples: Vec<usize>,
    /// Offset of the list of all series.
    pub(super) all: u64,
}

/// An entry: name, value and the offset of its list.
type Entry<'a> = (&'a str, &'a str, u64);

fn entry<'a>(cursor: &mut Cursor<'a>) -> Option<Entry<'a>> {
    let strings = cursor.uvarint()?;
    let name = str::from_utf8(cursor.ustr()?).ok()?;
    let value = str::from_utf8(cursor.ustr()?).ok()?;
    let offset = cursor.uvarint()?;
    (strings == 2).then_some((name, value, offset))
}

impl Table {
    pub(super) fn open(index: &[u8], toc: &Toc) -> Result<Self, Error> {
        let what = "postings offset table";
        let damaged = |fact| Error::Damaged { what, at: toc.table, fact };
        let bytes = section(index, what, toc.table)?;
        let mut cursor = Cursor::new(bytes);
        let count = cursor.be32().ok_or(damaged("is cut short"))?;
        let mut table = Self { at: toc.table as usize + 4, names: vec![], samples: vec![], all: 0 };
        let mut before: Option<(&str, &str)> = None;
        let mut of_name = 0;
        for _ in 0..count {
            let at = bytes.len() - cursor.rest().len();
            let (name, value, offset) =
                entry(&mut cursor).ok_or(damaged("has an entry that cannot be read"))?;
            if before >= Some((name, value)) {
                return Err(damaged("is not in order"));
            }
            if before.is_none() {
                if !(name.is_empty() && value.is_empty()) {
                    return Err(damaged("does not begin with all series"));
                }
                table.all = offset;
            }
            if before.is_none_or(|(before, _)| before != name) {
                // One byte says that there are two strings.
                let text = at + 1 + super::coding::uvarint_len(name.len() as u64) as usize;
                let samples = table.samples.len()..table.samples.len();
                let text = text..text + name.len();
                table.names.push(Name { text, entries: at..at, samples });
                of_name = 0;
            }
            if let Some(last) = table.names.last_mut() {
                if of_name % SAMPLE_ENTRIES == 0 {
                    table.samples.push(at);
                    last.samples.end += 1;
                }
                last.entries.end = bytes.len() - cursor.rest().len();
            }
            of_name += 1;
            before = Some((name, value));
        }
        if before.is_none() {
            return Err(damaged("is empty"));
        }
        Ok(table)
    }

    /// The bytes of the table, from an index that was opened with it.
    fn bytes<'a>(&self, index: &'a [u8]) -> &'a [u8] {
        index.get(self.at..).unwrap_or_default()
    }

    fn name<'a>(&self, index: &'a [u8], name: &Name) -> &'a str {
        let text = self.bytes(index).get(name.text.clone()).unwrap_or_default();
        str::from_utf8(text).unwrap_or_default()
    }

    /// All names with a label, in order.
    pub(super) fn names<'a>(&self, index: &'a [u8]) -> impl Iterator<Item = &'a str> {
        self.names.iter().map(|name| self.name(index, name)).filter(|name| !name.is_empty())
    }

    /// The entries of a name, in order of their values, from the one at `from` on.
    fn entries<'a>(&self, index: &'a [u8], from: usize, end: usize) -> Entries<'a> {
        Entries(Cursor::new(self.bytes(index).get(from..end).unwrap_or_default()))
    }

    /// All entries of a name.
    pub(super) fn of_name<'a>(&self, index: &'a [u8], name: &str) -> Entries<'a> {
        match self.find(index, name) {
            Some(name) => self.entries(index, name.entries.start, name.entries.end),
            None => Entries::none(),
        }
    }

    /// All entries, those of all series included.
    pub(super) fn all_entries<'a>(&self, index: &'a [u8]) -> Entries<'a> {
        let start = self.names.first().map_or(0, |name| name.entries.start);
        let end = self.names.last().map_or(0, |name| name.entries.end);
        self.entries(index, start, end)
    }

    fn find(&self, index: &[u8], name: &str) -> Option<&Name> {
        let at = self.names.binary_search_by(|n| self.name(index, n).cmp(name)).ok()?;
        self.names.get(at)
    }

    /// The offset of the list of a pair.
    pub(super) fn offset(&self, index: &[u8], name: &str, value: &str) -> Option<u64> {
        let name = self.find(index, name)?;
        let samples = self.samples.get(name.samples.clone())?;
        let first = |&at: &usize| self.entries(index, at, name.entries.end).next();
        let after = samples.partition_point(|at| first(at).is_some_and(|(_, v, _)| v <= value));
        let &from = samples.get(after.checked_sub(1)?)?;
        let mut entries = self.entries(index, from, name.entries.end).take(SAMPLE_ENTRIES);
        entries.find(|&(_, v, _)| v == value).map(|(_, _, offset)| offset)
    }
}

/// Entries of the table, in order.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a>(Cursor<'a>);

impl Entries<'_> {
    pub(super) fn none() -> Self {
        Self(Cursor::new(&[]))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        entry(&mut self.0)
    }
}

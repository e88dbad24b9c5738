//! Answers from the bytes of an index.
//!
//! ## Promises
//!
//! - No byte of the index can make this panic or take memory out of proportion.
//! - Every answer lies under a checksum that was compared: those of the table of contents, the
//!   symbols and the offset table when the index is opened, those of a series and of a postings
//!   list each time they are read.
//! - Memory: four bytes for every 16th symbol, eight for every 32nd label pair.
//!
//! Whether series, chunks and lists are in order is not checked here but by `block::verify`.

use super::coding::Cursor;
use super::postings::{Entries, Postings, Table, section};
use super::{
    ChunkMeta, ChunkRef, Error, HEADER_BYTES, MAGIC, SERIES_ALIGN, SeriesRef, Toc, VERSION,
    check_crc,
};

/// Symbols between two whose place is kept in memory.
const SAMPLE_SYMBOLS: usize = 16;

/// A series of an index. Its vectors can be used again for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Series<'a> {
    /// Label pairs as they are stored: sorted by name.
    pub labels: Vec<(&'a str, &'a str)>,
    /// Chunks as they are stored: in time order.
    pub chunks: Vec<ChunkMeta>,
}

/// A postings list and what the offset table says of it.
#[derive(Debug)]
pub struct List<'a> {
    /// Name of the pair; empty in the list of all series.
    pub name: &'a str,
    /// Value of the pair.
    pub value: &'a str,
    /// Where the list begins in the index, in bytes.
    pub offset: u64,
    /// Its series.
    pub postings: Result<Postings<'a>, Error>,
}

/// An open index. `B` holds the bytes: a mapped file, a slice, a vector.
#[derive(Debug)]
pub struct Reader<B> {
    bytes: B,
    toc: Toc,
    /// Offset of the first symbol, and of the end of the last, in the index.
    symbols: (usize, usize),
    symbol_count: u32,
    /// Offset of every 16th symbol, from the first.
    symbol_samples: Vec<u32>,
    table: Table,
}

impl<B: AsRef<[u8]>> Reader<B> {
    /// Opens an index: checks its sections and reads its table of contents.
    pub fn open(bytes: B) -> Result<Self, Error> {
        let index = bytes.as_ref();
        let short = Error::Damaged { what: "header", at: 0, fact: "is cut short" };
        let mut header = Cursor::new(index);
        let (magic, version) = header.be32().zip(header.byte()).ok_or(short)?;
        if magic != MAGIC {
            return Err(Error::NotAnIndex { magic });
        }
        if version != VERSION {
            return Err(Error::UnsupportedVersion { version });
        }
        let toc = Toc::decode(index)?;
        let table = Table::open(index, &toc)?;
        let what = "symbol table";
        let damaged = |fact| Error::Damaged { what, at: toc.symbols, fact };
        let section = section(index, what, toc.symbols)?;
        let mut symbols = Cursor::new(section);
        let symbol_count = symbols.be32().ok_or(damaged("is cut short"))?;
        let mut symbol_samples = Vec::new();
        for i in 0..symbol_count as usize {
            if i % SAMPLE_SYMBOLS == 0 {
                symbol_samples.push((section.len() - 4 - symbols.rest().len()) as u32);
            }
            symbols.ustr().ok_or(damaged("ends inside a symbol"))?;
        }
        let start = toc.symbols as usize + 8;
        let end = start + section.len() - 4;
        Ok(Self { bytes, toc, symbols: (start, end), symbol_count, symbol_samples, table })
    }

    /// The table of contents.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Bytes of the whole index.
    pub fn size_bytes(&self) -> u64 {
        self.index().len() as u64
    }

    fn index(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// How many symbols there are.
    pub fn symbol_count(&self) -> u32 {
        self.symbol_count
    }

    fn symbols_from(&self, offset: usize) -> Cursor<'_> {
        let (start, end) = self.symbols;
        Cursor::new(self.index().get(start + offset..end).unwrap_or_default())
    }

    /// The symbol with this number.
    pub fn symbol(&self, number: u32) -> Result<&str, Error> {
        let what = "symbol table";
        let damaged = |fact| Error::Damaged { what, at: self.toc.symbols, fact };
        let missing = damaged("lacks a symbol that a series has");
        if number >= self.symbol_count {
            return Err(missing);
        }
        let sample = self.symbol_samples.get(number as usize / SAMPLE_SYMBOLS);
        let mut symbols = self.symbols_from(*sample.ok_or(missing.clone())? as usize);
        for _ in 0..number as usize % SAMPLE_SYMBOLS {
            symbols.ustr().ok_or(missing.clone())?;
        }
        let symbol = symbols.ustr().ok_or(missing)?;
        str::from_utf8(symbol).map_err(|_| damaged("has a symbol that is not UTF-8"))
    }

    /// All symbols in order, as bytes.
    pub fn symbols(&self) -> impl Iterator<Item = &[u8]> {
        let mut symbols = self.symbols_from(0);
        (0..self.symbol_count).map_while(move |_| symbols.ustr())
    }

    /// All label names, in order.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.table.names(self.index())
    }

    /// All values of a label, in order; none for a name that does not occur.
    pub fn label_values(&self, name: &str) -> impl Iterator<Item = &str> {
        // The empty name is how the table spells "all series".
        let entries = if name.is_empty() { Entries::none() } else { self.entries_of(name) };
        entries.map(|(_, value, _)| value)
    }

    fn entries_of(&self, name: &str) -> Entries<'_> {
        self.table.of_name(self.index(), name)
    }

    /// The series with a label pair; none for a pair that does not occur.
    pub fn postings(&self, name: &str, value: &str) -> Result<Postings<'_>, Error> {
        match self.table.offset(self.index(), name, value) {
            Some(offset) => Postings::read(self.index(), offset),
            None => Ok(Postings::default()),
        }
    }

    /// All series.
    pub fn all(&self) -> Result<Postings<'_>, Error> {
        Postings::read(self.index(), self.table.all)
    }

    /// All lists in the order of the table, that of all series included.
    pub fn lists(&self) -> impl Iterator<Item = List<'_>> {
        let index = self.index();
        self.table.all_entries(index).map(move |(name, value, offset)| {
            let postings = Postings::read(index, offset);
            List { name, value, offset, postings }
        })
    }

    /// A series.
    pub fn series(&self, series: SeriesRef) -> Result<Series<'_>, Error> {
        let mut into = Series::default();
        self.series_into(series, &mut into)?;
        Ok(into)
    }

    /// Replaces `into` by a series.
    pub fn series_into<'a>(
        &'a self,
        series: SeriesRef,
        into: &mut Series<'a>,
    ) -> Result<(), Error> {
        let at = u64::from(series.0) * SERIES_ALIGN;
        let what = "series";
        let damaged = |fact| Error::Damaged { what, at, fact };
        if at < HEADER_BYTES.max(self.toc.series) {
            return Err(damaged("lies before the first"));
        }
        let over = damaged("reaches over the end");
        let rest = usize::try_from(at).ok().and_then(|at| self.index().get(at..));
        let mut entry = Cursor::new(rest.ok_or(over.clone())?);
        let body = entry.ustr().ok_or(over.clone())?;
        check_crc(what, at, body, entry.be32().ok_or(over)?)?;
        self.parse(body, into).ok_or(damaged("cannot be read"))?
    }

    /// The outer `None` says that the body ends too early.
    fn parse<'a>(&'a self, body: &[u8], into: &mut Series<'a>) -> Option<Result<(), Error>> {
        into.labels.clear();
        into.chunks.clear();
        let mut body = Cursor::new(body);
        for _ in 0..body.uvarint()? {
            let (name, value) = (body.uvarint()?, body.uvarint()?);
            let symbol = |number| self.symbol(u32::try_from(number).unwrap_or(u32::MAX));
            match (symbol(name), symbol(value)) {
                (Ok(name), Ok(value)) => into.labels.push((name, value)),
                (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
            }
        }
        let mut before: Option<ChunkMeta> = None;
        for _ in 0..body.uvarint()? {
            // Damaged times and places may wrap: `block::verify` finds them out of order.
            let min_t = match before {
                None => body.varint()?,
                Some(before) => before.max_t.wrapping_add(body.uvarint()? as i64),
            };
            let max_t = min_t.wrapping_add(body.uvarint()? as i64);
            let reference = match before {
                None => body.uvarint()?,
                Some(before) => before.reference.0.wrapping_add(body.varint()? as u64),
            };
            let chunk = ChunkMeta { min_t, max_t, reference: ChunkRef(reference) };
            into.chunks.push(chunk);
            before = Some(chunk);
        }
        Some(Ok(()))
    }
}

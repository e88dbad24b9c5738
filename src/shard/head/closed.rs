//! Closed chunks: immutable, appended to pages, chained from the newest to the oldest.
//!
//! A series holds one link, to its newest closed chunk; each chunk holds the link to the one
//! before. Chunks of about the same time lie in the same pages, so that after a flush whole pages
//! become free. Closing a chunk is a copy and no allocation but that of a page now and then.
//!
//! ```text
//! chunk   0 link of the chunk before   8 first time   16 last time
//!        24 length of the bytes (u32) 28 samples (u16) 30 encoding (u8) 31 zero   32 bytes
//! ```

use zerocopy::native_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::chunk::Encoding;

/// Bytes of a page.
const PAGE_BYTES: usize = 1024 * 1024;
/// Empty pages kept for the next chunks.
const SPARE_PAGES: usize = 4;

/// A link to a closed chunk. In memory only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClosedRef(u64);

impl ClosedRef {
    /// No chunk.
    pub(crate) const NONE: Self = Self(u64::MAX);

    fn new(page: usize, offset: usize) -> Self {
        Self(((page as u64) << 32) | offset as u64)
    }

    fn page(self) -> usize {
        (self.0 >> 32) as usize
    }

    fn offset(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Record {
    before: U64,
    min_t: I64,
    max_t: I64,
    len: U32,
    samples: U16,
    encoding: u8,
    zero: u8,
}

const RECORD_BYTES: usize = size_of::<Record>();

/// A closed chunk, as it lies in its page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClosedChunk<'a> {
    /// The chunk before it, of the same series.
    pub(crate) before: ClosedRef,
    /// Time of the first sample.
    pub(crate) min_t: i64,
    /// Time of the last sample.
    pub(crate) max_t: i64,
    /// How it is encoded.
    pub(crate) encoding: Encoding,
    /// The chunk, as a block has it.
    pub(crate) bytes: &'a [u8],
}

#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    alive: u32,
}

/// The closed chunks of a shard.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    pages: Vec<Page>,
    current: Option<usize>,
    free: Vec<usize>,
    spare: Vec<Vec<u8>>,
    chunks: u64,
}

impl Closed {
    /// Adds a chunk behind `before`; returns its link.
    pub(crate) fn push(
        &mut self,
        before: ClosedRef,
        span: (i64, i64),
        samples: u16,
        encoding: Encoding,
        bytes: &[u8],
    ) -> ClosedRef {
        let page = self.page_with_room(RECORD_BYTES + bytes.len());
        let slot = &mut self.pages[page];
        let offset = slot.bytes.len();
        let record = Record {
            before: before.0.into(),
            min_t: span.0.into(),
            max_t: span.1.into(),
            len: (bytes.len() as u32).into(),
            samples: samples.into(),
            encoding: encoding as u8,
            zero: 0,
        };
        slot.bytes.extend_from_slice(record.as_bytes());
        slot.bytes.extend_from_slice(bytes);
        slot.alive += 1;
        self.chunks += 1;
        ClosedRef::new(page, offset)
    }

    fn page_with_room(&mut self, len: usize) -> usize {
        if let Some(page) = self.current
            && self.pages[page].bytes.len() + len <= PAGE_BYTES.max(len)
        {
            return page;
        }
        if let Some(full) = self.current.take() {
            self.reclaim(full);
        }
        let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PAGE_BYTES));
        let page = Page { bytes, alive: 0 };
        let at = if let Some(at) = self.free.pop() {
            self.pages[at] = page;
            at
        } else {
            self.pages.push(page);
            self.pages.len() - 1
        };
        self.current = Some(at);
        at
    }

    /// The chunk behind a link.
    pub(crate) fn chunk(&self, link: ClosedRef) -> Option<ClosedChunk<'_>> {
        if link == ClosedRef::NONE {
            return None;
        }
        let bytes = &self.pages[link.page()].bytes[link.offset()..];
        let (record, rest) = Record::ref_from_prefix(bytes).ok()?;
        Some(ClosedChunk {
            before: ClosedRef(record.before.get()),
            min_t: record.min_t.get(),
            max_t: record.max_t.get(),
            encoding: Encoding::from_byte(record.encoding).ok()?,
            bytes: &rest[..record.len.get() as usize],
        })
    }

    /// Drops the chunks of a series that end before `end`, which are the oldest; returns the link
    /// the series holds from now on. At most the newest remain.
    pub(crate) fn drop_before(&mut self, newest: ClosedRef, end: i64) -> ClosedRef {
        let mut kept = ClosedRef::NONE;
        let mut link = newest;
        while let Some(chunk) = self.chunk(link) {
            if chunk.max_t < end {
                break;
            }
            (kept, link) = (link, chunk.before);
        }
        let first_gone = link;
        while let Some(chunk) = self.chunk(link) {
            let before = chunk.before;
            self.release(link.page());
            link = before;
        }
        if first_gone == newest {
            return ClosedRef::NONE;
        }
        if first_gone != ClosedRef::NONE {
            self.cut_behind(kept);
        }
        newest
    }

    /// Makes a chunk the oldest of its series.
    fn cut_behind(&mut self, link: ClosedRef) {
        let bytes = &mut self.pages[link.page()].bytes[link.offset()..];
        if let Ok((record, _)) = Record::mut_from_prefix(bytes) {
            record.before = ClosedRef::NONE.0.into();
        }
    }

    fn release(&mut self, page: usize) {
        self.chunks -= 1;
        self.pages[page].alive -= 1;
        if self.current != Some(page) {
            self.reclaim(page);
        }
    }

    /// Takes an empty page's memory back.
    fn reclaim(&mut self, page: usize) {
        if self.pages[page].alive > 0 {
            return;
        }
        let mut bytes = std::mem::take(&mut self.pages[page].bytes);
        if self.spare.len() < SPARE_PAGES {
            bytes.clear();
            self.spare.push(bytes);
        }
        self.free.push(page);
    }

    /// How many chunks there are.
    pub(crate) fn len(&self) -> u64 {
        self.chunks
    }

    /// Bytes of all pages, spare ones too.
    pub(crate) fn page_bytes(&self) -> usize {
        let used: usize = self.pages.iter().map(|p| p.bytes.capacity()).sum();
        used + self.spare.iter().map(Vec::capacity).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(closed: &Closed, mut link: ClosedRef) -> Vec<i64> {
        let mut all = Vec::new();
        while let Some(chunk) = closed.chunk(link) {
            assert!(chunk.bytes.iter().all(|&b| b == chunk.min_t as u8));
            all.push(chunk.min_t);
            link = chunk.before;
        }
        all
    }

    #[test]
    fn a_chain_loses_its_old_end() {
        let mut closed = Closed::default();
        let mut link = ClosedRef::NONE;
        for t in 0..10 {
            link = closed.push(link, (t, t), 1, Encoding::Xor, &[t as u8; 100]);
        }
        assert_eq!(times(&closed, link), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        let link = closed.drop_before(link, 7);
        assert_eq!(times(&closed, link), [9, 8, 7]);
        let link = closed.drop_before(link, 7);
        assert_eq!((times(&closed, link), closed.len()), (vec![9, 8, 7], 3));
        let link = closed.drop_before(link, 100);
        assert_eq!((link, closed.len()), (ClosedRef::NONE, 0));
        assert_eq!(closed.drop_before(ClosedRef::NONE, 100), ClosedRef::NONE);
    }

    #[test]
    fn pages_of_flushed_ranges_are_used_again() {
        let mut closed = Closed::default();
        let mut links = vec![ClosedRef::NONE; 1000];
        for t in 0..40 {
            for link in &mut links {
                *link = closed.push(*link, (t, t), 1, Encoding::Xor, &[t as u8; 300]);
            }
            for link in &mut links {
                *link = closed.drop_before(*link, t - 3);
            }
        }
        assert_eq!(closed.len(), 4000);
        for link in links {
            assert_eq!(times(&closed, link), [39, 38, 37, 36]);
        }
        assert!(closed.page_bytes() < 12 * PAGE_BYTES, "{}", closed.page_bytes());
    }
}

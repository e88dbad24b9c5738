//! Room for the open chunks: buffers in size classes, cut from pages.
//!
//! An open chunk begins with 32 bytes and doubles as it grows, so that a series whose values do
//! not change costs little. Pages are never given back to the allocator one by one: a buffer that
//! is freed is the next one handed out, and the steady state allocates nothing.

use crate::rt::prefetch;

/// Number of classes. The last holds 120 samples of the worst kind (XOR: 2 + 20 bytes each, 10 + 8
/// for the first, and room for the appender's look-ahead).
const CLASSES: usize = 8;
/// Bytes of the smallest class; each next one has twice as many.
const SMALLEST_BYTES: usize = 32;
/// Bytes of a page. Every class divides it.
const PAGE_BYTES: usize = 64 * 1024;

/// A buffer: its class in the upper four bits, its position in the class below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailRef(u32);

impl TailRef {
    /// No buffer.
    pub(crate) const NONE: Self = Self(u32::MAX);
    const INDEX_BITS: u32 = 28;

    fn new(class: usize, index: usize) -> Self {
        Self(((class as u32) << Self::INDEX_BITS) | index as u32)
    }

    fn class(self) -> usize {
        (self.0 >> Self::INDEX_BITS) as usize
    }

    fn index(self) -> usize {
        (self.0 & ((1 << Self::INDEX_BITS) - 1)) as usize
    }
}

#[derive(Debug, Default)]
struct Class {
    pages: Vec<Box<[u8]>>,
    handed_out: usize,
    free: Vec<u32>,
}

/// The buffers of a shard's open chunks.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    classes: [Class; CLASSES],
}

impl Tails {
    /// A buffer of the smallest size. What is in it is left over from its last user.
    pub(crate) fn allocate(&mut self) -> TailRef {
        self.allocate_in(0)
    }

    fn allocate_in(&mut self, class: usize) -> TailRef {
        let pool = &mut self.classes[class];
        if let Some(index) = pool.free.pop() {
            return TailRef::new(class, index as usize);
        }
        if pool.handed_out == pool.pages.len() << per_page_log2(class) {
            pool.pages.push(vec![0; PAGE_BYTES].into_boxed_slice());
        }
        pool.handed_out += 1;
        TailRef::new(class, pool.handed_out - 1)
    }

    /// A buffer twice the size with the same content; the old one is free. `None` beyond the
    /// largest class: then the chunk must be closed.
    pub(crate) fn grow(&mut self, tail: TailRef) -> Option<TailRef> {
        let class = tail.class();
        if class + 1 == CLASSES {
            return None;
        }
        let grown = self.allocate_in(class + 1);
        let (small, large) = self.classes.split_at_mut(class + 1);
        let from = bytes_of(&mut small[class], class, tail.index());
        bytes_of(&mut large[0], class + 1, grown.index())[..from.len()].copy_from_slice(from);
        self.free(tail);
        Some(grown)
    }

    /// Gives a buffer back.
    pub(crate) fn free(&mut self, tail: TailRef) {
        self.classes[tail.class()].free.push(tail.index() as u32);
    }

    /// The bytes of a buffer.
    #[inline]
    pub(crate) fn bytes(&mut self, tail: TailRef) -> &mut [u8] {
        let class = tail.class();
        bytes_of(&mut self.classes[class], class, tail.index())
    }

    /// Asks the memory for a byte of a buffer, if there is one.
    #[inline]
    pub(crate) fn prefetch(&self, tail: TailRef, at: usize) {
        if tail == TailRef::NONE {
            return;
        }
        let (class, index) = (tail.class(), tail.index());
        let shift = per_page_log2(class);
        if let Some(page) = self.classes[class].pages.get(index >> shift) {
            let in_page = index & ((1 << shift) - 1);
            prefetch(page, in_page * (SMALLEST_BYTES << class) + at);
        }
    }

    /// Bytes of all pages.
    pub(crate) fn page_bytes(&self) -> usize {
        self.classes.iter().map(|c| c.pages.len() * PAGE_BYTES).sum()
    }
}

/// Two to this are the buffers of a page. All sizes are powers of two: an append must not divide.
fn per_page_log2(class: usize) -> u32 {
    (PAGE_BYTES / SMALLEST_BYTES).ilog2() - class as u32
}

#[inline]
fn bytes_of(pool: &mut Class, class: usize, index: usize) -> &mut [u8] {
    let shift = per_page_log2(class);
    let size = SMALLEST_BYTES << class;
    let in_page = index & ((1 << shift) - 1);
    &mut pool.pages[index >> shift][in_page * size..][..size]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_and_do_not_meet() {
        let mut tails = Tails::default();
        let mut held: Vec<(TailRef, u8)> = Vec::new();
        for i in 0..5000_u32 {
            let tail = tails.allocate();
            tails.bytes(tail).fill(i as u8);
            held.push((tail, i as u8));
        }
        for (tail, _) in held.iter_mut().step_by(3) {
            while let Some(grown) = tails.grow(*tail) {
                *tail = grown;
                if tails.bytes(grown).len() == 512 {
                    break;
                }
            }
        }
        for (tail, fill) in &held {
            assert!(tails.bytes(*tail)[..32].iter().all(|b| b == fill));
        }
        let pages = tails.page_bytes();
        for (tail, _) in held {
            tails.free(tail);
        }
        for _ in 0..5000 {
            tails.allocate();
        }
        assert_eq!(tails.page_bytes(), pages, "freed buffers are used again");
    }

    #[test]
    fn the_largest_class_does_not_grow() {
        let mut tails = Tails::default();
        let mut tail = tails.allocate();
        while let Some(grown) = tails.grow(tail) {
            tail = grown;
        }
        assert_eq!(tails.bytes(tail).len(), 4096);
    }
}

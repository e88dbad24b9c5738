//! Body buffers: one contiguous stretch per request in progress, shared by a core's connections.
//!
//! ## Promises
//!
//! - A connection at rest owns no buffer: it is given back as soon as nothing waits in it.
//! - All buffers in use together stay below `lent_bytes_max`; where that ends, a request is
//!   refused, nothing is allocated.
//! - A buffer grows as bytes arrive, never because a header announced them.
//!
//! Bytes of a buffer are zeroed once, when it grows, not each time it is lent: the read side only
//! ever shows what was received.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, Range};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::io::AsyncRead;

use crate::listener::limits::Limits;

/// Length of a new buffer: more than the longest head, about half a usual body.
pub(crate) const BUFFER_BYTES_MIN: usize = 64 << 10;
/// Most bytes taken by one read: beyond that other connections wait for a copy by the kernel.
const READ_BYTES_MAX: usize = 256 << 10;
/// A buffer longer than this is not kept for reuse.
const BUFFER_BYTES_KEPT_MAX: usize = 4 << 20;

/// The free buffers of one core, and the account of those in use.
#[derive(Debug)]
pub(crate) struct Pool {
    free: RefCell<Vec<Vec<u8>>>,
    free_bytes: Cell<usize>,
    lent_bytes: Cell<usize>,
    kept_bytes_max: usize,
    lent_bytes_max: usize,
}

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::new(Vec::new()),
            free_bytes: Cell::new(0),
            lent_bytes: Cell::new(0),
            kept_bytes_max: limits.kept_bytes_max,
            lent_bytes_max: limits.lent_bytes_max,
        })
    }

    /// Bytes of buffers in use, and of buffers kept for reuse.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.lent_bytes.get(), self.free_bytes.get())
    }

    fn charge(&self, bytes: usize) -> bool {
        let lent = self.lent_bytes.get().saturating_add(bytes);
        let fits = lent <= self.lent_bytes_max;
        if fits {
            self.lent_bytes.set(lent);
        }
        fits
    }

    fn take(&self) -> Option<Vec<u8>> {
        let kept = self.free.borrow_mut().pop();
        if let Some(buffer) = kept {
            self.free_bytes.set(self.free_bytes.get() - buffer.len());
            if self.charge(buffer.len()) {
                return Some(buffer);
            }
        }
        self.charge(BUFFER_BYTES_MIN).then(|| vec![0; BUFFER_BYTES_MIN])
    }

    fn grow(&self, buffer: &mut Vec<u8>, len: usize) -> bool {
        let fits = self.charge(len.saturating_sub(buffer.len()));
        if fits {
            buffer.resize(len, 0);
        }
        fits
    }

    fn give(&self, buffer: Vec<u8>) {
        let bytes = buffer.len();
        self.lent_bytes.set(self.lent_bytes.get() - bytes);
        let kept = self.free_bytes.get().saturating_add(bytes);
        if bytes <= BUFFER_BYTES_KEPT_MAX && kept <= self.kept_bytes_max {
            self.free_bytes.set(kept);
            self.free.borrow_mut().push(buffer);
        }
    }
}

/// What a read brought.
#[derive(Debug)]
pub(crate) enum Fill {
    /// So many bytes.
    Bytes(usize),
    /// The peer has closed its side.
    End,
    /// The core has no buffer left. Bytes may have been lost: the connection must end.
    Full,
}

/// The bytes of a connection that are received and not yet consumed.
#[derive(Debug)]
pub(crate) struct Buffer {
    pool: Rc<Pool>,
    /// Empty, or on loan from the pool; all of it is initialised.
    bytes: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Buffer {
    pub(crate) fn new(pool: &Rc<Pool>) -> Self {
        Self { pool: Rc::clone(pool), bytes: Vec::new(), start: 0, filled: 0 }
    }

    /// What waits.
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.start..self.filled).unwrap_or_default()
    }

    pub(crate) fn pending_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.filled).unwrap_or_default()
    }

    /// Forgets the first `count` waiting bytes. If none is left, the buffer goes back.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.filled);
        if self.start == self.filled {
            self.release();
        }
    }

    /// Forgets all waiting bytes but the first `kept`.
    pub(crate) fn keep(&mut self, kept: usize) {
        self.filled = self.filled.min(self.start.saturating_add(kept));
    }

    /// Reads once into the free room, making room if there is none. `wanted` is how many waiting
    /// bytes the reader can use; the buffer does not grow beyond it. While nothing waits and
    /// nothing comes, no buffer is held.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Fill>> {
        if !self.make_room(wanted) {
            if !self.pending().is_empty() {
                return Poll::Ready(Ok(Fill::Full));
            }
            // At rest there is nothing to refuse yet: only a byte that comes makes a request.
            return Pin::new(stream)
                .poll_read(cx, &mut [0])
                .map_ok(|n| if n == 0 { Fill::End } else { Fill::Full });
        }
        let end = self.bytes.len().min(self.filled.saturating_add(READ_BYTES_MAX));
        let room = self.bytes.get_mut(self.filled..end).unwrap_or_default();
        let read = Pin::new(stream).poll_read(cx, room);
        match read {
            Poll::Ready(Ok(count)) if count > 0 => {
                self.filled = self.filled.saturating_add(count).min(self.bytes.len());
                Poll::Ready(Ok(Fill::Bytes(count)))
            }
            other => {
                if self.pending().is_empty() {
                    self.release();
                }
                other.map_ok(|_| Fill::End)
            }
        }
    }

    /// Makes room for at least one more byte: by taking a buffer, by moving what waits to the
    /// front, by growing to twice the length.
    fn make_room(&mut self, wanted: usize) -> bool {
        if self.bytes.is_empty() {
            let Some(bytes) = self.pool.take() else { return false };
            self.bytes = bytes;
        }
        if self.filled < self.bytes.len() {
            let fits = self.start.saturating_add(wanted) <= self.bytes.len();
            if fits || self.start == 0 {
                return true;
            }
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        if self.filled < self.bytes.len() {
            return true;
        }
        let len = self.bytes.len().saturating_mul(2).min(wanted).max(self.bytes.len() + 1);
        self.pool.grow(&mut self.bytes, len)
    }

    fn release(&mut self) {
        if !self.bytes.is_empty() {
            self.pool.give(std::mem::take(&mut self.bytes));
        }
        self.start = 0;
        self.filled = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// A request's body, contiguous, still compressed. Dropping it gives its buffer back, so drop it
/// as soon as it is decoded, before a long wait.
#[derive(Debug)]
pub struct Body<'a> {
    buffer: &'a mut Buffer,
    range: Range<usize>,
    taken: usize,
}

impl<'a> Body<'a> {
    /// The waiting bytes at `range` are the body; the first `taken` ones end with it.
    pub(crate) fn new(buffer: &'a mut Buffer, range: Range<usize>, taken: usize) -> Self {
        Self { buffer, range, taken }
    }
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.pending().get(self.range.clone()).unwrap_or_default()
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.buffer.consume(self.taken);
    }
}

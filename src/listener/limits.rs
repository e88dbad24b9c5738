//! What one connection and one core may cost: bytes, times, counts.
//!
//! Every limit has a name here and a status in `answer`. The defaults are
//! chosen so that a core full of the slowest allowed senders stays inside its buffer budget:
//! `connections_max` first buffers are a quarter of `lent_bytes_max`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// The limits of the data port, per connection unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest request line. Longer: 414.
    pub request_line_bytes_max: usize,
    /// Longest head, request line and headers together; also the longest trailer section.
    /// Longer: 431.
    pub head_bytes_max: usize,
    /// Longest body as sent, still compressed. Longer: 413. 32 MiB, as in Prometheus.
    pub body_bytes_max: usize,
    /// Most bytes of chunk extensions in one body. More: 400.
    pub chunk_extension_bytes_max: usize,
    /// A refused body up to this size is read and thrown away to keep the connection; a longer
    /// one costs the sender its connection. 256 KiB, as in Go's server.
    pub discard_bytes_max: u64,
    /// How long a connection may rest between requests. Then it is closed without a word.
    pub idle_time: Duration,
    /// From a request's first byte to the end of its head. Longer: 408.
    pub head_time: Duration,
    /// How long a body may come at any pace.
    pub body_grace_time: Duration,
    /// After the grace, each window of this length must bring its share of bytes. Else: 408.
    pub body_window_time: Duration,
    /// The slowest pace of a body after the grace, in bytes per second.
    pub body_bytes_per_second_min: u64,
    /// How long a body may come in all, whole windows after the grace. Longer: 408. Who brings it
    /// slowly keeps a buffer from others; senders give up on a request after half of it.
    pub body_time_max: Duration,
    /// How long the peer may take to read one answer. Longer: closed.
    pub write_time: Duration,
    /// How long to read on after the last answer of a connection that is cut short, so that
    /// the answer is not lost to a reset.
    pub linger_time: Duration,
    /// Most bytes to throw away while doing so.
    pub linger_bytes_max: u64,
    /// Most connections on one core. One more is answered 503 and closed.
    pub connections_max: usize,
    /// Most bytes of body buffers in use on one core. More: 503.
    pub lent_bytes_max: usize,
    /// Most bytes of body buffers kept for reuse on one core.
    pub kept_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line_bytes_max: 8 << 10,
            head_bytes_max: 16 << 10,
            body_bytes_max: 32 << 20,
            chunk_extension_bytes_max: 16 << 10,
            discard_bytes_max: 256 << 10,
            idle_time: Duration::from_mins(1),
            head_time: Duration::from_secs(5),
            body_grace_time: Duration::from_secs(30),
            body_window_time: Duration::from_secs(10),
            body_bytes_per_second_min: 1 << 10,
            body_time_max: Duration::from_mins(1),
            write_time: Duration::from_secs(30),
            linger_time: Duration::from_secs(2),
            linger_bytes_max: 64 << 20,
            connections_max: 1024,
            lent_bytes_max: 256 << 20,
            kept_bytes_max: 32 << 20,
        }
    }
}

impl Limits {
    /// How many bytes one window of a body must bring after the grace.
    pub(crate) fn window_bytes_min(&self) -> u64 {
        self.body_bytes_per_second_min.saturating_mul(self.body_window_time.as_secs())
    }
}

/// The places for connections on one core.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: Cell<usize>,
    max: usize,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { taken: Cell::new(0), max })
    }

    /// Takes a place, if one is free. It is free again when the [`Slot`] is dropped.
    pub(crate) fn take(self: &Rc<Self>) -> Option<Slot> {
        let taken = self.taken.get();
        if taken >= self.max {
            return None;
        }
        self.taken.set(taken + 1);
        Some(Slot(Rc::clone(self)))
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.get()
    }
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Slot(Rc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
    }
}

//! What a core's listener has counted of its connections. One writer, no atomics; read on the same
//! core. What was asked over them is counted in `requests`.

use std::cell::Cell;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

/// The counters of one core's listener, since the start.
#[derive(Debug, Default)]
pub struct Probe {
    /// Connections taken.
    pub connections: Counter,
    /// Connections refused because there were too many.
    pub connections_refused: Counter,
    /// Connections closed after resting too long.
    pub connections_idle: Counter,
    /// Connections closed because the peer did not read its answer.
    pub readers_too_slow: Counter,
    /// Connections ended by an error of the socket.
    pub connections_failed: Counter,
    /// Bytes received, heads and refused bodies included.
    pub bytes_received: Counter,
    /// Bytes of refused bodies, received and thrown away.
    pub bytes_discarded: Counter,
    /// Panics caught in the service or the connection.
    pub panics: Counter,
}

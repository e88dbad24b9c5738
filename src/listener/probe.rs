//! What a core's listener has counted. One writer, no atomics; read on the same core.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::listener::answer::{Answer, Status};

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
    answers: [Counter; Status::ALL.len()],
    /// Requests refused as a whole, by the refusal's name: a closed list.
    refused: RefCell<BTreeMap<&'static str, u64>>,
}

impl Probe {
    pub(crate) fn answered(&self, answer: &Answer) {
        if let Some(counter) = self.answers.get(answer.status as usize) {
            counter.add(1);
        }
        if let Some(name) = answer.refused {
            *self.refused.borrow_mut().entry(name).or_default() += 1;
        }
    }

    /// Requests refused as a whole, by the name of the refusal.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        self.refused.borrow().iter().map(|(&name, &count)| (name, count)).collect()
    }

    /// Answers with this status.
    pub fn answers(&self, status: Status) -> u64 {
        self.answers.get(status as usize).map_or(0, Counter::value)
    }
}

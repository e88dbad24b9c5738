//! What cores hand each other: buffers on loan.
//!
//! The core that decoded a request lends its one buffer to every shard that owns part of it. The
//! count is kept here and nowhere else; the last one to let go sends the buffer back to the pool
//! of the core it came from, so that memory made by a core is used by it again.

use std::ops::Deref;
use std::sync::Arc;

use concurrent_queue::ConcurrentQueue;

/// The way home of lent buffers. One per core; clones are the same way.
#[derive(Debug, Clone)]
pub struct Home(Arc<ConcurrentQueue<Vec<u8>>>);

impl Home {
    /// A home for at most `room` buffers; what comes back beyond is freed.
    pub fn new(room: usize) -> Self {
        Self(Arc::new(ConcurrentQueue::bounded(room)))
    }

    /// A buffer that came back, or a new one.
    pub fn take(&self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Lends a buffer out.
    pub fn lend(&self, bytes: Vec<u8>) -> Loan {
        Loan(Arc::new(Lent { bytes, home: self.clone() }))
    }

    /// Puts a buffer back that was not lent.
    pub fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.0.push(bytes).ok();
    }
}

/// A buffer on loan: read by any number of cores.
#[derive(Debug, Clone)]
pub struct Loan(Arc<Lent>);

#[derive(Debug)]
struct Lent {
    bytes: Vec<u8>,
    home: Home,
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_sends_it_home() {
        let home = Home::new(1);
        let mut bytes = home.take();
        bytes.extend_from_slice(&[1; 1000]);
        let loan = home.lend(bytes);
        let other = loan.clone();
        drop(loan);
        assert_eq!(home.take().capacity(), 0, "still lent");
        assert_eq!(&other[..3], [1; 3]);
        std::thread::scope(|s| s.spawn(move || drop(other)).join().expect("a thread"));
        let back = home.take();
        assert!(back.is_empty() && back.capacity() >= 1000);
    }
}

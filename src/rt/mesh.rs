//! What cores hand each other: buffers on loan.
//!
//! The core that decoded a request lends its one buffer to every shard that owns part of it. The
//! count is kept here and nowhere else; the last one to let go sends the buffer back to the pool
//! of the core it came from, so that memory made by a core is used by it again.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use concurrent_queue::ConcurrentQueue;

/// A buffer that grew beyond this is not kept: a monster request must not cost its memory for ever.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// The way home of lent buffers. Clones are the same way.
#[derive(Debug, Clone)]
pub struct Home(Arc<Returns>);

#[derive(Debug)]
struct Returns {
    queue: ConcurrentQueue<Vec<u8>>,
    /// Bytes of what is lent and has not come back, and of what was made of it.
    lent_bytes: AtomicU64,
}

/// Buffers of one core, lent to others and used again. The one that came back last goes out first:
/// it is still in this core's cache.
#[derive(Debug)]
pub struct Pool {
    home: Home,
    room: usize,
    at_hand: RefCell<Vec<Vec<u8>>>,
}

impl Pool {
    /// A pool that keeps at most `room` buffers; what comes back beyond is freed.
    pub fn new(room: usize) -> Self {
        Self { home: Home::new(room), room, at_hand: RefCell::new(Vec::new()) }
    }

    /// A buffer as it came back, with what was in it, or a new one.
    pub fn take(&self) -> Vec<u8> {
        let mut at_hand = self.at_hand.borrow_mut();
        while let Ok(bytes) = self.home.0.queue.pop() {
            if at_hand.len() < self.room {
                at_hand.push(bytes);
            }
        }
        at_hand.pop().unwrap_or_default()
    }

    /// The way here.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

impl Home {
    /// A home for at most `room` buffers; what comes back beyond is freed.
    pub fn new(room: usize) -> Self {
        let lent_bytes = AtomicU64::new(0);
        Self(Arc::new(Returns { queue: ConcurrentQueue::bounded(room), lent_bytes }))
    }

    /// Bytes of memory that are lent, or were made of what is lent, and have not come back.
    pub fn lent_bytes(&self) -> u64 {
        self.0.lent_bytes.load(Ordering::Relaxed)
    }

    /// Lends a buffer out.
    pub fn lend(&self, bytes: Vec<u8>) -> Loan {
        self.lend_with(bytes, 0)
    }

    /// Lends a buffer out, and counts `beside` bytes more until it comes back: what is made of it
    /// lives as long.
    pub fn lend_with(&self, bytes: Vec<u8>, beside: usize) -> Loan {
        let counted = (bytes.capacity() + beside) as u64;
        self.0.lent_bytes.fetch_add(counted, Ordering::Relaxed);
        Loan(Arc::new(Lent { bytes, counted, home: self.clone() }))
    }

    /// Puts a buffer back that was not lent. What is in it stays: who writes over it need not zero
    /// it first.
    pub fn give_back(&self, bytes: Vec<u8>) {
        if bytes.capacity() <= KEPT_BYTES_MAX {
            self.0.queue.push(bytes).ok();
        }
    }
}

/// A buffer on loan: read by any number of cores.
#[derive(Debug, Clone)]
pub struct Loan(Arc<Lent>);

#[derive(Debug)]
struct Lent {
    bytes: Vec<u8>,
    /// What it adds to the bytes that are lent.
    counted: u64,
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
        let bytes = std::mem::take(&mut self.bytes);
        self.home.0.lent_bytes.fetch_sub(self.counted, Ordering::Relaxed);
        self.home.give_back(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_sends_it_home() {
        let pool = Pool::new(2);
        let mut bytes = pool.take();
        bytes.extend_from_slice(&[1; 1000]);
        let loan = pool.home().lend(bytes);
        let other = loan.clone();
        drop(loan);
        assert_eq!(pool.take().capacity(), 0, "still lent");
        assert!(pool.home().lent_bytes() >= 1000);
        assert_eq!(&other[..3], [1; 3]);
        std::thread::scope(|s| s.spawn(move || drop(other)).join().expect("a thread"));
        assert_eq!(pool.take(), [1; 1000], "nothing was done to it");
        assert_eq!(pool.home().lent_bytes(), 0);
    }

    #[test]
    fn what_is_made_of_a_buffer_counts_as_long_as_it() {
        let pool = Pool::new(1);
        let loan = pool.home().lend_with(Vec::with_capacity(100), 1000);
        let other = loan.clone();
        drop(loan);
        assert_eq!(pool.home().lent_bytes(), 1100);
        drop(other);
        assert_eq!(pool.home().lent_bytes(), 0);
    }

    #[test]
    fn the_last_to_come_goes_first_and_few_and_small_ones_are_kept() {
        let pool = Pool::new(2);
        for i in 1..=3 {
            pool.home().give_back(vec![i]);
        }
        assert_eq!((pool.take(), pool.take(), pool.take()), (vec![2], vec![1], vec![]));
        pool.home().give_back(Vec::with_capacity(KEPT_BYTES_MAX + 1));
        assert_eq!(pool.take().capacity(), 0, "too large to keep");
    }
}

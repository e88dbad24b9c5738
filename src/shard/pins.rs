//! Who reads the head in more than one go, and who must be alone with it.
//!
//! A walk over the head pauses between slices and remembers positions and symbols. A truncation
//! gives both to others. So a reader takes a pin, and a truncation waits until it is alone.
//!
//! ## Promises
//! - First come, first served: who comes while a truncation waits or runs, waits behind it. So
//!   neither side starves the other.
//! - A truncation waits for the readers before it as long as its patience lasts. Then they are told
//!   to leave, which they notice at their next slice, also while a slow receiver holds them up.
//! - Whoever stops waiting, in either role, leaves no trace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The pins of one head.
#[derive(Debug, Default)]
pub(crate) struct Pins(RefCell<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Pins held.
    readers: usize,
    /// Whether somebody is alone with the head.
    taken: bool,
    /// How many who wait to be alone have lost patience.
    impatient: usize,
    next_ticket: u64,
    /// Who waits, in the order of coming.
    queue: BTreeMap<u64, Waiting>,
    /// Readers to be woken when they are told to leave.
    leaving: Vec<Waker>,
}

#[derive(Debug)]
struct Waiting {
    /// It waits to be alone, and no longer patiently.
    impatient: bool,
    waker: Waker,
}

impl Book {
    /// Lets the one with this ticket in, if it is its turn.
    fn admit(&mut self, ticket: u64, alone: bool) -> bool {
        let first = self.queue.keys().next().is_none_or(|&first| first >= ticket);
        if !first || self.taken || (alone && self.readers > 0) {
            return false;
        }
        self.strike_out(ticket);
        if alone {
            self.taken = true;
        } else {
            self.readers += 1;
        }
        self.wake_first();
        true
    }

    fn strike_out(&mut self, ticket: u64) {
        if self.queue.remove(&ticket).is_some_and(|waiting| waiting.impatient) {
            self.impatient -= 1;
        }
    }

    fn wake_first(&self) {
        if let Some(first) = self.queue.values().next() {
            first.waker.wake_by_ref();
        }
    }
}

/// A place in the queue; given up when dropped.
struct Turn<'p> {
    pins: &'p Pins,
    ticket: Option<u64>,
    alone: bool,
}

impl Turn<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut book = self.pins.0.borrow_mut();
        let ticket = *self.ticket.get_or_insert_with(|| {
            book.next_ticket += 1;
            book.next_ticket
        });
        if book.admit(ticket, self.alone) {
            self.ticket = None;
            return Poll::Ready(());
        }
        let waker = context.waker();
        let new = || Waiting { impatient: false, waker: waker.clone() };
        book.queue.entry(ticket).or_insert_with(new).waker.clone_from(waker);
        Poll::Pending
    }

    /// Tells those who are before this one to leave.
    fn lose_patience(&self) {
        let mut book = self.pins.0.borrow_mut();
        let book = &mut *book;
        let waiting = self.ticket.and_then(|ticket| book.queue.get_mut(&ticket));
        if let Some(waiting) = waiting.filter(|waiting| !waiting.impatient) {
            waiting.impatient = true;
            book.impatient += 1;
            book.leaving.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut book = self.pins.0.borrow_mut();
            book.strike_out(ticket);
            book.wake_first();
        }
    }
}

impl Pins {
    /// A pin: until it is dropped, nobody is alone with the head.
    pub(crate) async fn read(&self) -> ReadPin<'_> {
        let mut turn = Turn { pins: self, ticket: None, alone: false };
        poll_fn(|context| turn.poll(context)).await;
        ReadPin { pins: self }
    }

    /// Waits until no pin is held. When `patience` ends before, the holders are told to leave; how
    /// soon they do is theirs.
    pub(crate) async fn exclusive(&self, patience: impl Future<Output = ()>) -> Exclusive<'_> {
        let mut turn = Turn { pins: self, ticket: None, alone: true };
        let mut patience = pin!(patience);
        let mut patient = true;
        poll_fn(|context| {
            let polled = turn.poll(context);
            if polled.is_pending() && patient && patience.as_mut().poll(context).is_ready() {
                patient = false;
                turn.lose_patience();
            }
            polled
        })
        .await;
        Exclusive { pins: self }
    }
}

/// Keeps positions and symbols of the head from being given to others.
#[derive(Debug)]
#[must_use = "the head is pinned only as long as this lives"]
pub(crate) struct ReadPin<'p> {
    pins: &'p Pins,
}

impl ReadPin<'_> {
    /// Whether somebody has waited too long for this pin: fail the read and drop it.
    pub(crate) fn must_leave(&self) -> bool {
        self.pins.0.borrow().impatient > 0
    }

    /// Waits until [`Self::must_leave`]; for a reader that waits for something else meanwhile.
    pub(crate) async fn told_to_leave(&self) {
        poll_fn(|context| {
            let mut book = self.pins.0.borrow_mut();
            if book.impatient > 0 {
                return Poll::Ready(());
            }
            if !book.leaving.iter().any(|waker| waker.will_wake(context.waker())) {
                book.leaving.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for ReadPin<'_> {
    fn drop(&mut self) {
        let mut book = self.pins.0.borrow_mut();
        book.readers -= 1;
        if book.readers == 0 {
            book.leaving.clear();
            book.wake_first();
        }
    }
}

/// Alone with the head, until dropped.
#[derive(Debug)]
#[must_use = "others come back as soon as this is dropped"]
pub(crate) struct Exclusive<'p> {
    pins: &'p Pins,
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        let mut book = self.pins.0.borrow_mut();
        book.taken = false;
        book.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{self, block_on, pending, poll_once, ready};
    use std::pin::Pin;

    type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

    fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        block_on(poll_once(future))
    }

    #[test]
    fn readers_share_and_a_truncation_is_alone() {
        let pins = Pins::default();
        let first = block_on(pins.read());
        let second = block_on(pins.read());
        let mut alone: Boxed<'_, _> = Box::pin(pins.exclusive(pending()));
        assert!(poll(&mut alone).is_none());
        let mut late: Boxed<'_, _> = Box::pin(pins.read());
        assert!(poll(&mut late).is_none(), "behind the truncation");
        drop(first);
        assert!(poll(&mut alone).is_none(), "one reader is left");
        assert!(!second.must_leave());
        drop(second);
        assert!(poll(&mut late).is_none(), "still behind it");
        let held = poll(&mut alone).expect("alone at last");
        assert!(poll(&mut late).is_none());
        drop(held);
        assert!(poll(&mut late).is_some());
    }

    #[test]
    fn who_comes_first_is_served_first() {
        let pins = Pins::default();
        let held = block_on(pins.exclusive(pending()));
        let mut a: Boxed<'_, _> = Box::pin(pins.read());
        let mut b: Boxed<'_, _> = Box::pin(pins.exclusive(pending()));
        let mut c: Boxed<'_, _> = Box::pin(pins.read());
        assert!(poll(&mut a).is_none() && poll(&mut b).is_none() && poll(&mut c).is_none());
        drop(held);
        assert!(poll(&mut c).is_none() && poll(&mut b).is_none());
        let a = poll(&mut a).expect("the first in line");
        assert!(poll(&mut c).is_none() && poll(&mut b).is_none());
        drop(a);
        assert!(poll(&mut c).is_none());
        drop(poll(&mut b).expect("the second"));
        assert!(poll(&mut c).is_some());
    }

    #[test]
    fn impatience_reaches_a_reader_that_waits() {
        let pins = Pins::default();
        let reader = block_on(pins.read());
        let mut told: Boxed<'_, _> = Box::pin(reader.told_to_leave());
        assert!(poll(&mut told).is_none());
        let mut alone: Boxed<'_, _> = Box::pin(pins.exclusive(ready(())));
        assert!(poll(&mut alone).is_none());
        assert!(reader.must_leave());
        assert!(poll(&mut told).is_some());
        drop(told);
        drop(reader);
        let held = poll(&mut alone).expect("alone");
        drop(held);
        assert!(!block_on(pins.read()).must_leave(), "those after it may stay");
    }

    #[test]
    fn who_gives_up_leaves_no_trace() {
        let pins = Pins::default();
        let reader = block_on(pins.read());
        let mut alone: Boxed<'_, _> = Box::pin(pins.exclusive(ready(())));
        let mut late: Boxed<'_, _> = Box::pin(pins.read());
        assert!(poll(&mut alone).is_none() && poll(&mut late).is_none());
        assert!(reader.must_leave());
        drop(alone);
        assert!(!reader.must_leave());
        assert!(poll(&mut late).is_some());
        drop((late, reader));
        assert!(poll(&mut Box::pin(pins.exclusive(pending()))).is_some());
    }

    /// Wake-ups, not polls, carry everybody through: each task is polled only when it was woken.
    #[test]
    fn nobody_sleeps_for_ever() {
        let pins = Pins::default();
        let reader = async |turns: usize| {
            for _ in 0..20 {
                let pin = pins.read().await;
                for _ in 0..turns {
                    future::yield_now().await;
                }
                drop(pin);
                future::yield_now().await;
            }
        };
        let writer = async || {
            for _ in 0..20 {
                let held = pins.exclusive(pending()).await;
                assert_eq!(pins.0.borrow().readers, 0);
                future::yield_now().await;
                drop(held);
            }
        };
        let readers = future::zip(reader(0), future::zip(reader(1), reader(5)));
        block_on(future::zip(readers, future::zip(writer(), writer())));
        assert!(pins.0.borrow().queue.is_empty());
    }
}

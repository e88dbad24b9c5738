//! Who reads the head in more than one go, and who waits until they are gone.
//!
//! A walk over the head pauses between slices and remembers positions and symbols. So a reader
//! takes a pin, which costs it nothing and never makes it wait. Who wants to free what readers may
//! still look at first takes it out of everybody's sight, and then waits until all pins taken
//! before are dropped: those taken later cannot have seen it.
//!
//! ## Promises
//! - Nobody waits for a pin, and nobody who holds one waits for others.
//! - Who waits for readers does so as long as its patience lasts. Then those who were there before
//!   it are told to leave, which they notice at their next slice, also while a slow receiver holds
//!   them up.
//! - Who stops waiting leaves no trace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

/// The pins of one head.
#[derive(Debug, Default)]
pub(crate) struct Pins(RefCell<Book>);

#[derive(Debug, Default)]
struct Book {
    /// The present epoch: one ends whenever somebody begins to wait.
    epoch: u64,
    /// Pins held, by the epoch they were taken in.
    held: BTreeMap<u64, usize>,
    /// Pins of epochs before this one are told to leave.
    leave_before: u64,
    /// To be woken when the last pin of an epoch is dropped.
    waiting: Vec<Waker>,
    /// To be woken when pins are told to leave.
    leaving: Vec<Waker>,
}

impl Book {
    fn is_free_before(&self, epoch: u64) -> bool {
        self.held.keys().next().is_none_or(|&oldest| oldest >= epoch)
    }
}

fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

impl Pins {
    /// A pin: what is to be seen now stays in its place until it is dropped.
    pub(crate) fn read(&self) -> ReadPin<'_> {
        let mut book = self.0.borrow_mut();
        let epoch = book.epoch;
        *book.held.entry(epoch).or_default() += 1;
        ReadPin { pins: self, epoch }
    }

    /// Waits until all pins are dropped that were taken before. When `patience` ends first, their
    /// holders are told to leave; how soon they do is theirs.
    pub(crate) async fn older_readers_gone(&self, patience: impl Future<Output = ()>) {
        let epoch = {
            let mut book = self.0.borrow_mut();
            book.epoch += 1;
            book.epoch
        };
        let mut patience = pin!(patience);
        let mut patient = true;
        poll_fn(|context| {
            if self.0.borrow().is_free_before(epoch) {
                return Poll::Ready(());
            }
            if patient && patience.as_mut().poll(context).is_ready() {
                patient = false;
                self.tell_to_leave(epoch);
            }
            remember(&mut self.0.borrow_mut().waiting, context.waker());
            Poll::Pending
        })
        .await;
    }

    fn tell_to_leave(&self, epoch: u64) {
        let mut book = self.0.borrow_mut();
        book.leave_before = book.leave_before.max(epoch);
        book.leaving.drain(..).for_each(Waker::wake);
    }
}

/// Keeps what a reader has seen of the head in its place.
#[derive(Debug)]
#[must_use = "the head is pinned only as long as this lives"]
pub(crate) struct ReadPin<'p> {
    pins: &'p Pins,
    epoch: u64,
}

impl ReadPin<'_> {
    /// Whether somebody has waited too long for this pin: fail the read and drop it.
    pub(crate) fn must_leave(&self) -> bool {
        self.epoch < self.pins.0.borrow().leave_before
    }

    /// Waits until [`Self::must_leave`]; for a reader that waits for something else meanwhile.
    pub(crate) async fn told_to_leave(&self) {
        poll_fn(|context| {
            if self.must_leave() {
                return Poll::Ready(());
            }
            remember(&mut self.pins.0.borrow_mut().leaving, context.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for ReadPin<'_> {
    fn drop(&mut self) {
        let mut book = self.pins.0.borrow_mut();
        let book = &mut *book;
        let Some(held) = book.held.get_mut(&self.epoch) else { return };
        *held -= 1;
        if *held > 0 {
            return;
        }
        book.held.remove(&self.epoch);
        book.waiting.drain(..).for_each(Waker::wake);
        if book.held.is_empty() {
            book.leaving.clear();
        }
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
    fn only_those_who_came_before_are_waited_for() {
        let pins = Pins::default();
        let (first, second) = (pins.read(), pins.read());
        let mut early: Boxed<'_, _> = Box::pin(pins.older_readers_gone(pending()));
        assert!(poll(&mut early).is_none());
        let late = pins.read();
        let mut all: Boxed<'_, _> = Box::pin(pins.older_readers_gone(pending()));
        assert!(poll(&mut all).is_none());
        drop(first);
        assert!(poll(&mut early).is_none(), "one reader is left");
        assert!(!second.must_leave());
        drop(second);
        assert!(poll(&mut early).is_some(), "the late one does not count");
        assert!(poll(&mut all).is_none());
        drop(late);
        assert!(poll(&mut all).is_some());
    }

    #[test]
    fn impatience_reaches_a_reader_that_waits() {
        let pins = Pins::default();
        let reader = pins.read();
        let mut told: Boxed<'_, _> = Box::pin(reader.told_to_leave());
        assert!(poll(&mut told).is_none());
        let mut gone: Boxed<'_, _> = Box::pin(pins.older_readers_gone(ready(())));
        assert!(poll(&mut gone).is_none());
        let late = pins.read();
        assert!(reader.must_leave() && !late.must_leave());
        assert!(poll(&mut told).is_some());
        drop(told);
        drop(reader);
        assert!(poll(&mut gone).is_some());
    }

    #[test]
    fn who_gives_up_leaves_no_trace() {
        let pins = Pins::default();
        let reader = pins.read();
        let mut gone: Boxed<'_, _> = Box::pin(pins.older_readers_gone(pending()));
        assert!(poll(&mut gone).is_none());
        drop(gone);
        assert!(!reader.must_leave());
        drop(reader);
        assert!(pins.0.borrow().held.is_empty() && pins.0.borrow().waiting.is_empty());
    }

    /// Wake-ups, not polls, carry everybody through: each task is polled only when it was woken.
    #[test]
    fn nobody_sleeps_for_ever() {
        let pins = Pins::default();
        let reader = async |turns: usize| {
            for _ in 0..20 {
                let pin = pins.read();
                for _ in 0..turns {
                    future::yield_now().await;
                }
                drop(pin);
                future::yield_now().await;
            }
        };
        let writer = async || {
            for _ in 0..20 {
                let before = pins.0.borrow().epoch;
                pins.older_readers_gone(pending()).await;
                assert!(pins.0.borrow().is_free_before(before + 1));
                future::yield_now().await;
            }
        };
        let readers = future::zip(reader(0), future::zip(reader(1), reader(5)));
        block_on(future::zip(readers, future::zip(writer(), writer())));
        assert!(pins.0.borrow().held.is_empty());
    }
}

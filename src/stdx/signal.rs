//! A flag tasks wait for and others on the same core raise.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Raised or not. Raising it twice before it is waited for is raising it once.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    /// Who waits: one entry for each wait, whatever wakers it is polled with.
    waiting: RefCell<Vec<(u64, Waker)>>,
    waits: Cell<u64>,
}

/// A wait, as long as it lasts.
struct Wait<'s> {
    signal: &'s Signal,
    number: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.signal.waiting.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

impl Signal {
    /// Raises it and wakes who waits.
    pub fn raise(&self) {
        self.raised.set(true);
        for (_, waker) in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Waits until it is raised, and lowers it.
    pub async fn wait(&self) {
        let number = self.waits.get();
        self.waits.set(number + 1);
        let wait = Wait { signal: self, number };
        poll_fn(|context| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            match waiting.iter_mut().find(|(number, _)| *number == wait.number) {
                Some((_, waker)) => waker.clone_from(context.waker()),
                None => waiting.push((wait.number, context.waker().clone())),
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::poll_once;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wait_is_one_entry_whoever_polls_it_and_the_last_waker_counts() {
        let signal = Signal::default();
        let wakers: Vec<Arc<Count>> = (0..100).map(|_| Arc::default()).collect();
        {
            let mut wait = pin!(signal.wait());
            for waker in &wakers {
                let waker = Waker::from(waker.clone());
                assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                assert_eq!(signal.waiting.borrow().len(), 1);
            }
            signal.raise();
            let woken: Vec<usize> = wakers.iter().map(|w| w.0.load(Ordering::Relaxed)).collect();
            assert_eq!((woken[98], woken[99]), (0, 1));
            let waker = Waker::from(wakers[0].clone());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        }
        futures_lite::future::block_on(async {
            assert!(poll_once(signal.wait()).await.is_none(), "lowered, and the wait given up");
        });
        assert_eq!(signal.waiting.borrow().len(), 0);
    }
}

//! Keeps cores from sleeping over work.
//!
//! glommio 0.9.0 (and glommio-ng 0.12.0) may put a core to sleep while tasks are ready: if the
//! preempt timer fires before a round has run its first task, the round counts as idle. On a
//! machine with more threads than processors that happens every few starts, and a core that is
//! only waiting for itself then sleeps for ever. So every core is woken from outside at a steady
//! pace. It costs a core some microseconds each time.
//!
//! A core that stalls before its first task has run cannot be reached from here; only a runtime
//! with the fix (glommio/glommio#53) ends that as well, and this module with it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::rt::beside;
use crate::rt::channel::mpsc;
use crate::rt::core as rt_core;

/// The longest sleep over work.
const PACE: Duration = Duration::from_millis(20);
/// Wakes a core may owe: glommio counts those under way in 16 bits.
const OWED_MAX: u32 = 100;

/// One core, as it is woken.
#[derive(Debug)]
struct Sleeper {
    waker: Waker,
    owed: Arc<AtomicU32>,
}

/// Where cores say how to wake them. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pulse(mpsc::UnboundedSender<Sleeper>);

impl Pulse {
    /// Begins to wake whoever asks for it.
    pub(super) fn begin() -> Self {
        let (to, mut from) = mpsc::unbounded_channel::<Sleeper>();
        beside::spawn(async move {
            let mut sleepers: Vec<Sleeper> = Vec::new();
            loop {
                beside::sleep(PACE).await;
                while let Ok(sleeper) = from.try_recv() {
                    sleepers.push(sleeper);
                }
                for sleeper in sleepers.iter().filter(|s| s.owed.load(Relaxed) < OWED_MAX) {
                    sleeper.owed.fetch_add(1, Relaxed);
                    sleeper.waker.wake_by_ref();
                }
            }
        });
        Self(to)
    }

    /// Has this core woken for as long as it lives. On a core.
    pub(super) fn keep_awake(self) {
        rt_core::spawn(async move {
            let owed = Arc::new(AtomicU32::new(0));
            let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
            // Nobody listens only when the process ends.
            drop(self.0.send(Sleeper { waker, owed: owed.clone() }));
            poll_fn(|_| -> Poll<()> {
                owed.store(0, Relaxed);
                Poll::Pending
            })
            .await;
        });
    }
}

//! Who may read now: few reads at a time, few that wait, few steps on the control pool.
//!
//! ## Promises
//! - The turn of a read lasts until its last step has ended, even if its client left long before:
//!   what still runs is counted as running.
//! - Steps of reads never take the whole pool: who lists and deletes blocks, and who stops the
//!   process, does not wait behind them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::query::{Error, Limits};
use crate::rt::beside::{self, BrokenOff};
use crate::rt::clock::Moment;

/// Steps of reads at the same time. Two threads are left: the keeper takes one at a time, and at a
/// stop the wait for uploads stands beside the wait for the cores.
const STEPS_MAX: usize = beside::POOL_THREADS - 2;

/// Lets few reads through at a time and few wait.
#[derive(Debug)]
pub(super) struct Gate {
    running: Arc<Semaphore>,
    waiting: Semaphore,
    steps: Arc<Semaphore>,
    overloaded: Error,
}

/// A turn to read. Clones are the same turn, which ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    _running: Arc<OwnedSemaphorePermit>,
    steps: Arc<Semaphore>,
}

/// The time of one step, which begins when the step does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    began: Moment,
    max: Duration,
}

impl Slice {
    pub(super) fn begin(max: Duration) -> Self {
        Self { began: Moment::now(), max }
    }

    /// Whether the step should end, so that others have their turn.
    pub(super) fn is_over(self) -> bool {
        self.began.elapsed() >= self.max
    }
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { selects_max, waiting_max, .. } = limits;
        Self {
            running: Arc::new(Semaphore::new(selects_max)),
            waiting: Semaphore::new(waiting_max),
            steps: Arc::new(Semaphore::new(STEPS_MAX)),
            overloaded: Error::Overloaded { running: selects_max, waiting: waiting_max },
        }
    }

    /// Waits for a turn to read, if the line is not too long.
    pub(super) async fn pass(&self) -> Result<Turn, Error> {
        let turn = |running| Turn { _running: Arc::new(running), steps: Arc::clone(&self.steps) };
        if let Ok(running) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(turn(running));
        }
        let overloaded = || self.overloaded.clone();
        let _in_line = self.waiting.try_acquire().map_err(|_| overloaded())?;
        Arc::clone(&self.running).acquire_owned().await.map(turn).map_err(|_| overloaded())
    }
}

impl Turn {
    /// Runs a step on the control pool once one of its threads is free for reads. Dropping the
    /// future does not stop a step that has begun; the turn lasts until it ends.
    pub(super) async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokenOff> {
        let thread = Arc::clone(&self.steps).acquire_owned().await.map_err(|_| BrokenOff)?;
        let turn = self.clone();
        let held = move || {
            let _held = (turn, thread);
            step()
        };
        beside::blocking(held).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::rt::control;

    #[test]
    fn what_nobody_waits_for_any_more_still_counts() {
        let limits = Limits { selects_max: 1, waiting_max: 0, ..Limits::default() };
        let test = async {
            let gate = Gate::new(limits);
            let (go_on, wait) = mpsc::channel::<()>();
            let turn = gate.pass().await.expect("a turn");
            let step = beside::spawn(async move { turn.step(move || wait.recv()).await });
            beside::sleep(Duration::from_millis(50)).await;
            step.abort();
            step.await.expect_err("aborted");
            assert!(gate.pass().await.is_err(), "its step still runs");
            drop(go_on);
            while gate.pass().await.is_err() {
                beside::sleep(Duration::from_millis(5)).await;
            }
        };
        let test = async { beside::timeout(Duration::from_secs(20), test).await };
        control::run(test).expect("a control thread").expect("the turn never ends");
    }

    #[test]
    fn steps_of_reads_leave_threads_for_others() {
        let test = async {
            let gate = Gate::new(Limits::default());
            let mut blocked = Vec::new();
            for _ in 0..beside::POOL_THREADS {
                let (go_on, wait) = mpsc::channel::<()>();
                let turn = gate.pass().await.expect("a turn");
                beside::spawn(async move { turn.step(move || wait.recv()).await });
                blocked.push(go_on);
            }
            beside::sleep(Duration::from_millis(50)).await;
            let others = beside::timeout(Duration::from_secs(10), beside::blocking(|| 7)).await;
            drop(blocked);
            assert_eq!(others.expect("it waits behind reads"), Ok(7));
        };
        control::run(test).expect("a control thread");
    }
}

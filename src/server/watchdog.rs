//! What systemd is told: ready, stopping, and that every core still answers.

use std::time::Duration;

use crate::rt::beside;
use crate::rt::channel::{mpsc, oneshot};
use crate::shard::message::{Ask, Stats};

/// Longest time without an answer from a core before the watchdog is left unfed.
const PULSE: Duration = Duration::from_secs(5);
/// Time that systemd is asked for again and again while the logs are replayed.
const START_TIME: Duration = Duration::from_mins(1);

/// Tells systemd, if it listens.
pub(super) fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Asks systemd for more time to start: how much there is to replay is not for a unit to know.
pub(super) async fn ask_for_time() {
    loop {
        notify(sd_notify::NotifyState::ExtendTimeoutUsec(START_TIME.as_micros() as u32));
        beside::sleep(START_TIME / 3).await;
    }
}

/// Feeds systemd's watchdog for as long as every core answers.
pub(super) async fn feed(shards: Vec<mpsc::Sender<Ask>>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    loop {
        if all_answer(&shards, PULSE).await {
            notify(sd_notify::NotifyState::Watchdog);
        } else {
            tracing::error!("a core does not answer; the watchdog is not fed");
        }
        beside::sleep(timeout / 3).await;
    }
}

/// Whether each core answers within `patience`.
async fn all_answer(shards: &[mpsc::Sender<Ask>], patience: Duration) -> bool {
    for shard in shards {
        let (reply, answer) = oneshot::channel::<Stats>();
        let asked = beside::timeout(patience, shard.send(Ask::Stats(reply))).await;
        if !matches!(asked, Ok(Ok(()))) {
            return false;
        }
        if !matches!(beside::timeout(patience, answer).await, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::control;

    /// A core that answers so many questions, and then hangs with its queue open.
    fn core(answers: usize) -> mpsc::Sender<Ask> {
        let (ask, mut asked) = mpsc::channel(1);
        beside::spawn(async move {
            for _ in 0..answers {
                if let Some(Ask::Stats(reply)) = asked.recv().await {
                    reply.send(Stats::default()).ok();
                }
            }
            std::future::pending::<()>().await;
            drop(asked);
        });
        ask
    }

    #[test]
    fn one_core_that_hangs_is_enough() {
        let patience = Duration::from_millis(100);
        let told = control::run(async {
            let shards = [core(usize::MAX), core(2), core(usize::MAX)];
            let mut told = Vec::new();
            for _ in 0..5 {
                told.push(all_answer(&shards, patience).await);
            }
            told
        });
        // The third question is in the queue, the fourth finds it full.
        assert_eq!(told.expect("a runtime"), [true, true, false, false, false]);
    }
}

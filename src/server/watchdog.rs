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
        if all_answer(&shards).await {
            notify(sd_notify::NotifyState::Watchdog);
        } else {
            tracing::error!("a core does not answer; the watchdog is not fed");
        }
        beside::sleep(timeout / 3).await;
    }
}

async fn all_answer(shards: &[mpsc::Sender<Ask>]) -> bool {
    for shard in shards {
        let (reply, answer) = oneshot::channel::<Stats>();
        let asked = beside::timeout(PULSE, shard.send(Ask::Stats(reply))).await;
        if !matches!(asked, Ok(Ok(()))) {
            return false;
        }
        if !matches!(beside::timeout(PULSE, answer).await, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

//! How much there is, kept fresh beside.
//!
//! `Info` and `/metrics` must answer at once however busy the shards are, so neither asks a shard:
//! both read the last [`Stats`] of each, which [`follow`] renews about once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::Labels;
use crate::query::{Shards, TenantInfo, View};
use crate::rt::beside;
use crate::rt::channel::{oneshot, watch};
use crate::shard::message::{Ask, Stats};

/// The last word of each shard, by shard number; `None` until its first.
pub type KnownStats = Arc<[Option<Stats>]>;

/// Between the answer of a shard and the next question.
const RENEW_AFTER: Duration = Duration::from_secs(1);

/// Asks every shard for its stats for ever and keeps the answers in `known`. Each shard has its
/// own pace, at most one question is open at each. Ends when all shards are gone or nobody listens.
pub async fn follow(shards: Shards, known: Arc<watch::Sender<KnownStats>>) {
    known.send_modify(|stats| *stats = vec![None; shards.len()].into());
    let mut tasks = Vec::with_capacity(shards.len());
    for (shard, asks) in shards.into_iter().enumerate() {
        let known = Arc::clone(&known);
        tasks.push(beside::spawn(async move {
            loop {
                let (reply, answer) = oneshot::channel();
                if asks.send(Ask::Stats(reply)).await.is_err() || known.is_closed() {
                    return;
                }
                if let Ok(stats) = answer.await {
                    known.send_modify(|all| {
                        let mut renewed = all.to_vec();
                        if let Some(slot) = renewed.get_mut(shard) {
                            *slot = Some(stats);
                        }
                        *all = renewed.into();
                    });
                }
                beside::sleep(RENEW_AFTER).await;
            }
        }));
    }
    for task in tasks {
        drop(task.await);
    }
}

impl View {
    /// One entry per label set that data has: per tenant, or per tenant and shard if shards carry a
    /// label. Ascending by labels. Answers at once, from what was known about a second ago.
    pub fn info(&self) -> Vec<TenantInfo> {
        let mut known: BTreeMap<Labels, (i64, i64)> = BTreeMap::new();
        let stats = Arc::clone(&self.stats.borrow());
        for (shard, stats) in (0u16..).zip(stats.iter()) {
            for tenant in stats.iter().flat_map(|s| &s.tenants) {
                widen(
                    &mut known,
                    self.external.of(&tenant.tenant, shard),
                    tenant.min_t,
                    tenant.max_t,
                );
            }
        }
        known
            .into_iter()
            .map(|(labels, (min_t, max_t))| TenantInfo { labels, min_t, max_t })
            .collect()
    }

    /// The last stats of each shard.
    pub fn stats(&self) -> KnownStats {
        Arc::clone(&self.stats.borrow())
    }
}

/// Makes the span of a label set hold another.
fn widen(known: &mut BTreeMap<Labels, (i64, i64)>, labels: Labels, min_t: i64, max_t: i64) {
    let span = known.entry(labels).or_insert((i64::MAX, i64::MIN));
    *span = (span.0.min(min_t), span.1.max(max_t));
}

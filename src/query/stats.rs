//! How much there is, kept fresh beside.
//!
//! `Info` and `/metrics` must answer at once however busy the shards are, so neither asks a shard:
//! both read the last [`Stats`] of each, which [`follow`] renews about once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Labels, TenantId};
use crate::query::{Shards, TenantInfo, View};
use crate::rt::beside;
use crate::rt::channel::{oneshot, watch};
use crate::shard::message::{Ask, Stats};
use crate::telemetry::{Metric, Snapshot};

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
        for block in self.blocks.now().iter() {
            let labels = self.external.of(&block.tenant, block.shard);
            widen(&mut known, labels, block.range.start, block.range.end.saturating_sub(1));
        }
        known
            .into_iter()
            .map(|(labels, (min_t, max_t))| TenantInfo { labels, min_t, max_t })
            .collect()
    }

    /// Adds to a scrape what the heads hold of each tenant, and whether all of it can be read.
    pub fn sample(&self, out: &mut Snapshot) {
        self.probe.sample(out);
        let labels = |check: &str| vec![("component", "receive".into()), ("check", check.into())];
        let ready = if self.ready().is_ok() { 1.0 } else { 0.0 };
        out.gauge(Metric::Status, labels("ready"), ready);
        out.gauge(Metric::Status, labels("healthy"), 1.0);
        let mut spans: BTreeMap<&TenantId, (i64, i64)> = BTreeMap::new();
        let stats = Arc::clone(&self.stats.borrow());
        for tenant in stats.iter().flatten().flat_map(|s| &s.tenants) {
            let label = || vec![("tenant", tenant.tenant.to_string())];
            out.gauge(Metric::HeadSeries, label(), tenant.series as f64);
            out.gauge(Metric::HeadChunks, label(), tenant.chunks as f64);
            let appended = [label(), vec![("type", "float".into())]].concat();
            out.count(Metric::HeadSamplesAppended, appended, tenant.samples_appended);
            // So that it shows before the first block.
            out.gauge(Metric::BlocksLoaded, label(), 0.0);
            widen(&mut spans, &tenant.tenant, tenant.min_t, tenant.max_t);
        }
        // A head without samples has no times.
        for (tenant, (min_t, max_t)) in spans.into_iter().filter(|(_, (min, max))| min <= max) {
            let label = || vec![("tenant", tenant.to_string())];
            out.gauge(Metric::HeadMinTime, label(), min_t as f64);
            out.gauge(Metric::HeadMaxTime, label(), max_t as f64);
        }
        for block in self.blocks.now().iter() {
            out.gauge(Metric::BlocksLoaded, vec![("tenant", block.tenant.to_string())], 1.0);
        }
    }
}

/// Makes the span of a key hold another.
fn widen<K: Ord>(known: &mut BTreeMap<K, (i64, i64)>, key: K, min_t: i64, max_t: i64) {
    let span = known.entry(key).or_insert((i64::MAX, i64::MIN));
    *span = (span.0.min(min_t), span.1.max(max_t));
}

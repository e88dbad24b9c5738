//! What tenants may write: the limits file, read again when it changes.
//!
//! ## Promises
//! - A file that cannot be read, is empty or is no limits file, is told of once and counted; what
//!   held before goes on.
//! - A file counts when two looks find the same: one that is being written is not taken for whole.
//! - A new limit holds for the next request of every core, and for the next series.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, LimitsTable};
use crate::model::TenantId;
use crate::rt::channel::watch;
use crate::rt::quota::Quotas;
use crate::rt::{beside, files};
use crate::telemetry::{Counters, Metric, Snapshot};

/// What all cores share of the limits.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) table: watch::Receiver<Arc<LimitsTable>>,
    pub(super) quotas: Quotas,
}

/// The limits file, and whom to tell of it.
pub(super) struct Follower {
    path: PathBuf,
    every: Duration,
    table: watch::Sender<Arc<LimitsTable>>,
    quotas: Quotas,
    counters: Counters,
    /// What the file held when it was taken or told of; none when it could not be read.
    seen: Option<Vec<u8>>,
    /// What it held at the last look.
    last: Option<Vec<u8>>,
}

fn set(quotas: &Quotas, table: &Arc<LimitsTable>) {
    let table = Arc::clone(table);
    quotas.set(move |name| {
        let limits = TenantId::new(name).map(|tenant| table.of(&tenant));
        limits.ok().and_then(|limits| limits.head_series_max).unwrap_or(u64::MAX)
    });
}

impl Limits {
    /// The limits of a start, for so many shards; with who follows the file, if there is one.
    pub(super) fn start(
        config: &config::TenantLimitsSource,
        shards: u16,
        counters: Counters,
    ) -> (Self, Option<Follower>) {
        for metric in [Metric::LimitsReloads, Metric::LimitsReloadErrors] {
            counters.count(metric, vec![], 0);
        }
        let first = Arc::new(config.table.clone());
        let quotas = Quotas::unlimited(shards.into());
        set(&quotas, &first);
        let (tell, table) = watch::channel(first);
        let follower = config.path.clone().map(|path| Follower {
            path,
            every: config.reload_every,
            table: tell,
            quotas: quotas.clone(),
            counters,
            seen: Some(Vec::new()),
            last: None,
        });
        (Self { table, quotas }, follower)
    }

    /// Adds the limits of tenants that have any to a scrape.
    pub(super) fn sample(&self, out: &mut Snapshot) {
        let table = self.table.borrow().clone();
        let named = table.tenants().map(|(tenant, limits)| (tenant.as_str(), limits));
        for (tenant, limits) in named.chain([("", table.default_limits())]) {
            if let Some(max) = limits.head_series_max {
                let label = vec![("tenant", tenant.to_owned())];
                out.gauge(Metric::HeadSeriesLimit, label, max as f64);
            }
        }
    }
}

impl Follower {
    /// Follows the file for ever.
    pub(super) async fn run(mut self) {
        loop {
            self.look().await;
            beside::sleep(self.every).await;
        }
    }

    async fn look(&mut self) {
        let path = self.path.clone();
        let read = beside::blocking(move || files::read(&path)).await;
        let bytes = match read {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return self.failed("it is gone"),
            Ok(Err(error)) => return self.failed(&error.to_string()),
            Err(error) => return self.failed(&error.to_string()),
        };
        let again = self.last.replace(bytes.clone()).as_ref() == Some(&bytes);
        if !again || self.seen.as_ref() == Some(&bytes) {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.seen = Some(bytes);
        match config::parse_limits(&text) {
            Ok((table, notes)) => self.take(table, &notes),
            Err(error) => self.told(&self.path, &error.to_string()),
        }
    }

    fn take(&self, table: LimitsTable, notes: &[String]) {
        let table = Arc::new(table);
        if *self.table.borrow() == table {
            return;
        }
        set(&self.quotas, &table);
        self.table.send_replace(table);
        self.counters.count(Metric::LimitsReloads, vec![], 1);
        tracing::info!(path = %self.path.display(), "new limits of tenants hold");
        for note in notes {
            tracing::info!(note, "of the limits file");
        }
    }

    fn failed(&mut self, error: &str) {
        // Once, until it can be read again.
        if self.seen.take().is_some() {
            self.told(&self.path, error);
        }
    }

    fn told(&self, path: &Path, error: &str) {
        self.counters.count(Metric::LimitsReloadErrors, vec![], 1);
        let what = "the limits file cannot be used; the last good one holds";
        tracing::warn!(path = %path.display(), error, "{what}");
    }
}

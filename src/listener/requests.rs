//! What was asked over the data port and how it was answered, under the names that Thanos'
//! dashboards and alerts read. One writer, no atomics; read on the same core.
//!
//! ## Metrics
//! By `code`, `handler`, `method` and `tenant`: `http_requests_total`,
//! `http_request_duration_seconds`, `http_request_size_bytes`; without a code
//! `http_inflight_requests`. By `code` and `tenant`, for requests that could be read:
//! `thanos_receive_write_timeseries`, `thanos_receive_write_samples`. By `reason`, which is the id
//! that stands in the answer behind `err-tidegate-`: `tidegate_rejected_samples_total`;
//! `tidegate_refused_requests_total`, and of these `tidegate_turned_away_requests_total`, whose
//! senders come again.
//!
//! A tenant is named once samples of it were stored; until then its requests count under the empty
//! name. So a stranger who makes tenants up makes no series. What is no request for a path that is
//! served here counts under handler `none`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::listener::answer::{Answer, Endpoint, Status};
use crate::listener::http::Head;
use crate::listener::refusal::TURNED_AWAY;
use crate::listener::tally::{Load, Reason, Tally};
use crate::model::TenantId;
use crate::telemetry::{Buckets, LabelPairs, Metric, Snapshot};

/// Tenants whose numbers are copied without a pause: about 50 microseconds.
const TENANTS_PER_SLICE: usize = 16;

/// The counters of one core's data port. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Requests(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By tenant; those that are not known together.
    tenants: RefCell<BTreeMap<Option<TenantId>, Row>>,
    /// By the refusal's name: a closed list.
    refused: RefCell<BTreeMap<&'static str, u64>>,
    /// Samples, histograms and exemplars, by [`Reason`].
    rejected: [Cell<u64>; Reason::ALL.len()],
}

#[derive(Debug, Default)]
struct Row {
    in_flight: u64,
    answered: BTreeMap<(Kind, Status), Answered>,
}

/// What kind of request it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    handler: &'static str,
    method: &'static str,
}

impl Kind {
    /// What cannot be read as a request.
    pub(crate) const NONE: Self = Self { handler: "none", method: "other" };

    /// The kind of a request.
    pub(crate) fn of(head: &Head<'_>, endpoint: Option<Endpoint>) -> Self {
        let method = match head.method {
            "GET" => "get",
            "HEAD" => "head",
            "POST" => "post",
            _ => "other",
        };
        Self { handler: if endpoint.is_some() { "receive" } else { "none" }, method }
    }

    fn labels(self, code: Option<Status>, tenant: &str) -> LabelPairs {
        let code = code.map(|status| ("code", status.code().to_string()));
        let others = [("handler", self.handler), ("method", self.method), ("tenant", tenant)];
        code.into_iter().chain(others.map(|(name, value)| (name, value.to_owned()))).collect()
    }
}

/// Answers of one status.
#[derive(Debug)]
struct Answered {
    seconds: Buckets,
    body_bytes: Buckets,
    series: Buckets,
    samples: Buckets,
}

impl Default for Answered {
    fn default() -> Self {
        Self {
            seconds: Buckets::of(Metric::HttpRequestDuration),
            body_bytes: Buckets::of(Metric::HttpRequestBytes),
            series: Buckets::of(Metric::WriteSeries),
            samples: Buckets::of(Metric::WriteSamples),
        }
    }
}

/// A request as it is counted.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// Whose it says it is, if that could be read.
    pub(crate) tenant: Option<TenantId>,
    /// Its kind.
    pub(crate) kind: Kind,
    /// Bytes of its body, as sent or as announced.
    pub(crate) body_bytes: u64,
    /// From its first byte to its answer.
    pub(crate) took: Duration,
    /// What became of its samples, if it could be read.
    pub(crate) tally: Option<&'a Tally>,
}

/// An admitted request. Dropped when it ends.
#[derive(Debug)]
pub(crate) struct InFlight {
    requests: Requests,
    tenant: Option<TenantId>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.requests.row(self.tenant.take(), |row| row.in_flight -= 1);
    }
}

impl Requests {
    /// Counts an admitted request until what is returned is dropped.
    pub(crate) fn begin(&self, tenant: &TenantId) -> InFlight {
        let tenant = self.known(Some(tenant.clone()));
        self.row(tenant.clone(), |row| row.in_flight += 1);
        InFlight { requests: self.clone(), tenant }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, asked: Asked<'_>, answer: &Answer) {
        if let Some(name) = answer.refused {
            *self.0.refused.borrow_mut().entry(name).or_default() += 1;
        }
        for (reason, count) in asked.tally.into_iter().flat_map(Tally::reasons) {
            if let Some(rejected) = self.0.rejected.get(reason as usize) {
                rejected.set(rejected.get() + count);
            }
        }
        let stored = asked.tally.is_some_and(|tally| tally.written.samples > 0);
        let tenant = if stored { asked.tenant } else { self.known(asked.tenant) };
        self.row(tenant, |row| {
            let answered = row.answered.entry((asked.kind, answer.status)).or_default();
            answered.seconds.observe(asked.took.as_secs_f64());
            answered.body_bytes.observe(asked.body_bytes as f64);
            if let Some(&Tally { load: Load { series, samples }, .. }) = asked.tally {
                answered.series.observe(series as f64);
                answered.samples.observe(samples as f64);
            }
        });
    }

    fn known(&self, tenant: Option<TenantId>) -> Option<TenantId> {
        let known = self.0.tenants.borrow().contains_key(&tenant);
        if known { tenant } else { None }
    }

    fn row(&self, tenant: Option<TenantId>, change: impl FnOnce(&mut Row)) {
        change(self.0.tenants.borrow_mut().entry(tenant).or_default());
    }

    /// Adds the numbers to a snapshot, in slices: after each, `pause` lets others run.
    pub async fn sample(&self, out: &mut Snapshot, pause: impl AsyncFn()) {
        let reason = |id: &str| vec![("reason", id.to_owned())];
        for (&id, &count) in &*self.0.refused.borrow() {
            out.count(Metric::RefusedRequests, reason(id), count);
        }
        for id in TURNED_AWAY {
            let count = self.0.refused.borrow().get(id).copied().unwrap_or(0);
            out.count(Metric::TurnedAwayRequests, reason(id), count);
        }
        for (why, count) in Reason::ALL.into_iter().zip(&self.0.rejected) {
            out.count(Metric::RejectedSamples, reason(why.id()), count.get());
        }
        let tenants: Vec<_> = self.0.tenants.borrow().keys().cloned().collect();
        for slice in tenants.chunks(TENANTS_PER_SLICE) {
            for tenant in slice {
                let name = tenant.as_ref().map_or("", TenantId::as_str);
                self.row(tenant.clone(), |row| row.sample(name, out));
            }
            pause().await;
        }
    }
}

impl Row {
    fn sample(&self, tenant: &str, out: &mut Snapshot) {
        let writes = Kind { handler: "receive", method: "post" };
        out.gauge(Metric::HttpInFlight, writes.labels(None, tenant), self.in_flight as f64);
        for (&(kind, status), answered) in &self.answered {
            let labels = || kind.labels(Some(status), tenant);
            out.count(Metric::HttpRequests, labels(), answered.seconds.count());
            out.buckets(Metric::HttpRequestDuration, labels(), answered.seconds.clone());
            out.buckets(Metric::HttpRequestBytes, labels(), answered.body_bytes.clone());
            if answered.series.count() > 0 {
                let code = ("code", status.code().to_string());
                let labels = || vec![code.clone(), ("tenant", tenant.to_owned())];
                out.buckets(Metric::WriteSeries, labels(), answered.series.clone());
                out.buckets(Metric::WriteSamples, labels(), answered.samples.clone());
            }
        }
    }
}

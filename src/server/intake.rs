//! What the data port's door asks of the house: may this request come in, and store it.
//!
//! Translates between the listener's words and those of route and shard, which do not know each
//! other. What a body announces is not charged, for announcing costs a stranger nothing: what has
//! come of it lies in the listener's buffers, and what it is decoded to in the router's; both have
//! a bound.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{LimitsTable, TenantLimits};
use crate::decode::{self, BadSeries, SeriesError, region};
use crate::listener::{Body, Fact, Intake, Load, Outcome, Refusal, Tally, Version, Written};
use crate::model::TenantId;
use crate::route::{Error, RequestLimits, Routed, Router};
use crate::rt::channel::watch;
use crate::rt::core::Disk;
use crate::shard::write::{Refusal as SampleRefusal, RefusedSample, Unavailable};

/// Where a core stands.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Logs are being replayed.
    Starting,
    /// Requests are taken.
    Serving(Rc<Router<Disk>>),
    /// The process is about to stop.
    Draining,
}

/// The door's view of one core.
#[derive(Debug, Clone)]
pub(super) struct CoreIntake {
    stage: Rc<RefCell<Stage>>,
    counts: Rc<Counts>,
    /// What tenants may write, as of now.
    limits: watch::Receiver<Arc<LimitsTable>>,
}

/// What the core counts per request beside what it is answered.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) duplicates: Cell<u64>,
    pub(super) series: Cell<u64>,
    pub(super) metadata: Cell<u64>,
    pub(super) start_timestamps: Cell<u64>,
    pub(super) repaired: Cell<u64>,
    pub(super) bad_series: Cell<u64>,
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

impl CoreIntake {
    pub(super) fn new(limits: watch::Receiver<Arc<LimitsTable>>) -> Self {
        Self { stage: Rc::new(RefCell::new(Stage::Starting)), counts: Rc::default(), limits }
    }

    pub(super) fn enter(&self, stage: Stage) {
        *self.stage.borrow_mut() = stage;
    }

    /// The router, or why there is none.
    pub(super) fn router(&self) -> Result<Rc<Router<Disk>>, Unavailable> {
        match &*self.stage.borrow() {
            Stage::Starting => Err(Unavailable::Starting),
            Stage::Serving(router) => Ok(router.clone()),
            Stage::Draining => Err(Unavailable::Stopping),
        }
    }

    pub(super) fn counts(&self) -> Rc<Counts> {
        self.counts.clone()
    }

    fn account(&self, routed: &Routed) {
        let counts = &self.counts;
        let written = &routed.written;
        if written.unavailable.is_some() {
            // It comes again, and is counted when it is taken.
            return;
        }
        add(&counts.duplicates, written.floats.duplicates + written.histograms.duplicates);
        add(&counts.series, routed.series);
        add(&counts.metadata, routed.metadata);
        add(&counts.start_timestamps, routed.start_timestamps);
        add(&counts.repaired, written.repaired);
        add(&counts.bad_series, written.bad.iter().map(|b| b.series).sum());
    }
}

impl Intake for CoreIntake {
    fn admit(&self, tenant: &TenantId, length: Option<u64>) -> Result<(), Refusal> {
        check_length(length, &self.limits.borrow().of(tenant))?;
        let refusal = match &*self.stage.borrow() {
            Stage::Starting => Refusal::NotReady { what: "the logs are being replayed" },
            Stage::Draining => Refusal::Draining,
            Stage::Serving(router) if router.is_full() => {
                Refusal::Overloaded { what: "the budget of decoded bytes".into() }
            }
            Stage::Serving(_) => return Ok(()),
        };
        Err(refusal)
    }

    async fn write(&self, tenant: TenantId, version: Version, body: Body<'_>) -> Outcome {
        let router = match self.router() {
            Ok(router) => router,
            Err(why) => return Outcome::Refused(unavailable(why)),
        };
        let limits = self.limits.borrow().of(&tenant);
        // What came in chunks did not announce its length.
        if let Err(refusal) = check_length(Some(body.len() as u64), &limits) {
            return Outcome::Refused(refusal);
        }
        match router.write(tenant, version, body, of_request(&limits)).await {
            Ok(routed) => {
                self.account(&routed);
                outcome(routed)
            }
            Err(Error::NoRoom { shard }) => {
                let what = format!("the queue to shard {shard}").into();
                Outcome::Refused(Refusal::Overloaded { what })
            }
            Err(Error::NoMemory { lent }) => {
                let what =
                    format!("the budget of decoded bytes, of which {lent} wait for a shard,");
                Outcome::Refused(Refusal::Overloaded { what: what.into() })
            }
            Err(Error::AboveLimit { what, got, max }) => {
                Outcome::Refused(Refusal::AboveLimit { what, got, max })
            }
            Err(Error::Body(error)) => Outcome::Refused(bad_body(&error)),
        }
    }
}

fn of_request(limits: &TenantLimits) -> RequestLimits {
    RequestLimits {
        bytes_max: limits.request_bytes_max,
        series_max: limits.request_series_max,
        samples_max: limits.request_samples_max,
    }
}

fn check_length(length: Option<u64>, limits: &TenantLimits) -> Result<(), Refusal> {
    match (length, limits.request_bytes_max) {
        (Some(got), Some(max)) if got > max => Err(Refusal::AboveLimit { what: "bytes", got, max }),
        _ => Ok(()),
    }
}

/// What the sender is told of a body that is not a write request.
fn bad_body(error: &decode::Error) -> Refusal {
    match error {
        decode::Error::DecodedTooLarge { declared, limit } => {
            Refusal::DecodedTooLong { declared: *declared as u64, max: *limit as u64 }
        }
        decode::Error::LabelsTooLarge { limit } => Refusal::LabelsTooLong { max: *limit as u64 },
        decode::Error::TooManyRecords { .. } => Refusal::RecordsTooMany { what: error.to_string() },
        decode::Error::EmptyBody
        | decode::Error::ImpossibleLength { .. }
        | decode::Error::CorruptSnappy(_) => Refusal::SnappyInvalid { what: error.to_string() },
        _ => Refusal::MessageInvalid { what: error.to_string() },
    }
}

/// What the sender is told when a shard cannot write now.
fn unavailable(why: Unavailable) -> Refusal {
    match why {
        Unavailable::NoRoom => Refusal::Overloaded { what: "the queue to another shard".into() },
        Unavailable::GroupFull => Refusal::LogBehind,
        Unavailable::SeriesWait => Refusal::SeriesWait,
        Unavailable::Starting => Refusal::NotReady { what: "another core replays its log" },
        Unavailable::LogFailed => {
            let what = format!("{why}, see the log of the server");
            Refusal::StorageFailed { what }
        }
        Unavailable::LogWaits => Refusal::StorageFailed { what: why.to_string() },
        Unavailable::Stopping => Refusal::Draining,
    }
}

/// What a request has come to. Shards that differ give one answer: 503 before 4xx before 2xx.
fn outcome(routed: Routed) -> Outcome {
    let written = routed.written;
    if let Some(why) = written.unavailable {
        return Outcome::Refused(unavailable(why));
    }
    let refused: u64 = written.floats.refused.iter().sum();
    let bad: u64 = written.bad.iter().map(|bad| bad.samples).sum();
    let (samples, histograms) = (written.floats.written(), written.histograms.written());
    let load = Load { series: routed.series, samples: samples + refused + bad };
    let mut tally = Tally::of(load, Written { samples, histograms, ..Written::default() });
    let refused = written.floats.refused.into_iter().zip(written.histograms.refused);
    let refused = refused.map(|(floats, histograms)| floats + histograms);
    let refused = SampleRefusal::ALL.into_iter().zip(refused).zip(written.first_refused);
    for ((reason, count), first) in refused {
        if let Some(first) = first {
            tally.refuse(fact(reason, &first), count, || region::shown(&first.region));
        }
    }
    for BadSeries { error, shown, samples, series } in written.bad {
        tally.refuse(series_fact(error), samples.max(series), || shown);
    }
    if routed.exemplars > 0 {
        tally.refuse(Fact::ExemplarNotStored, routed.exemplars, String::new);
    }
    Outcome::Applied(tally)
}

fn fact(reason: SampleRefusal, first: &RefusedSample) -> Fact {
    let t = first.t;
    match reason {
        SampleRefusal::Conflict => Fact::SampleConflict { t },
        SampleRefusal::OutOfOrder => Fact::SampleOutOfOrder { t, newest: first.newest },
        SampleRefusal::TooOld => Fact::SampleTooOld { t, min: first.window_from },
        SampleRefusal::OutOfBounds => Fact::SampleOutOfBounds { t, min: first.bounds.0 },
        SampleRefusal::TooFarInFuture => Fact::SampleTooFarInFuture { t, max: first.bounds.1 },
        SampleRefusal::SeriesLimit => Fact::SeriesLimit { max: first.series_max },
    }
}

fn series_fact(error: SeriesError) -> Fact {
    use SeriesError as E;
    match error {
        E::NoLabels => Fact::LabelsMissing,
        E::EmptyName { .. } => Fact::LabelNameEmpty,
        E::DuplicateName { name } => Fact::LabelNameTwice { name },
        E::NotUtf8 { name } => Fact::LabelNotUtf8 { name },
        E::Malformed(error) => Fact::LabelMalformed { what: error.to_string() },
        E::TooManyNames { max } => Fact::LabelsTooMany { max },
        E::NameTooLong { name, got, max } => Fact::LabelNameTooLong { name, got, max },
        E::ValueTooLong { name, got, max } => Fact::LabelValueTooLong { name, got, max },
        E::RegionTooLong { got, max } => Fact::LabelSetTooLong { got, max },
        E::OddRefs | E::RefOutOfRange { .. } => Fact::SymbolRefsInvalid { what: error.to_string() },
        E::NoMetricName => Fact::MetricNameMissing,
        E::NoSamples => Fact::SamplesMissing,
        E::HistogramInvalid { what } => Fact::HistogramInvalid { what },
        E::HistogramTooWide { got, max } => Fact::HistogramTooWide { got, max },
        E::HistogramTooLong { got, max } => Fact::HistogramTooLong { got, max },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::{Answer, Endpoint, Reply, Status};
    use crate::shard::write::{Counts, Written as Stored};

    const REPLY: Reply =
        Reply { version: Some(Version::V1), endpoint: Some(Endpoint::Receive), pause_s: 5 };

    /// Its own senders hear of its log, and those of other cores of another one's.
    #[test]
    fn a_core_that_replays_says_so() {
        let (_, limits) = watch::channel(Arc::default());
        let starting = CoreIntake::new(limits);
        let tenant = TenantId::new("t").expect("a tenant");
        let own = starting.admit(&tenant, None).expect_err("it replays");
        let others = unavailable(starting.router().expect_err("it replays"));
        for (refusal, says) in
            [(own, "the logs are being replayed"), (others, "another core replays its log")]
        {
            let answer = Answer::of(&Outcome::Refused(refusal), REPLY);
            assert_eq!((answer.status, answer.retry_after_s), (Status::Unavailable, Some(5)));
            assert!(answer.text.contains(says), "{answer:?}");
        }
        starting.enter(Stage::Draining);
        assert_eq!(starting.router().expect_err("it stops"), Unavailable::Stopping);
    }

    #[test]
    fn shards_that_differ_answer_503_before_429_before_4xx_before_2xx() {
        let floats = Counts { stored: 1, ..Counts::default() };
        let fine = || Stored { floats, ..Stored::default() };
        let waits = || Stored { unavailable: Some(Unavailable::LogWaits), ..fine() };
        let bad = || {
            let mut part = fine();
            BadSeries::add(&mut part.bad, SeriesError::TooManyNames { max: 3 }, 1, b"");
            part
        };
        let conflict = || {
            let (mut part, at) = (fine(), SampleRefusal::Conflict as usize);
            let (region, bounds) = (Vec::new(), (0, 9));
            let (t, newest, window_from, series_max) = (1, 1, 1, 1);
            let first = RefusedSample { region, t, newest, bounds, window_from, series_max };
            part.floats.refused[at] = 1;
            part.first_refused[at] = Some(Box::new(first));
            part
        };
        let above = || {
            let (mut part, at) = (conflict(), SampleRefusal::SeriesLimit as usize);
            part.floats.refused[at] = 1;
            part.first_refused[at] = part.first_refused[SampleRefusal::Conflict as usize].clone();
            part
        };
        let in_order: [(&dyn Fn() -> Stored, Status); 5] = [
            (&waits, Status::Unavailable),
            (&above, Status::TooManyRequests),
            (&bad, Status::BadRequest),
            (&conflict, Status::Conflict),
            (&fine, Status::Ok),
        ];
        let status = |parts: [Stored; 2]| {
            let mut routed = Routed::default();
            for part in parts {
                routed.written.merge(part);
            }
            Answer::of(&outcome(routed), REPLY).status
        };
        for (i, (one, decides)) in in_order.iter().enumerate() {
            for (two, _) in &in_order[i..] {
                assert_eq!(status([one(), two()]), *decides);
                assert_eq!(status([two(), one()]), *decides);
            }
        }
    }
}

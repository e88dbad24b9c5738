//! What the data port's door asks of the house: may this request come in, and store it.
//!
//! Translates between the listener's words and those of route and shard, which do not know each
//! other. It also keeps the core's budget of bytes in flight, so that a flood is turned away
//! before it is read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::decode::{self, BadSeries, SeriesError, region};
use crate::listener::{Body, Fact, Intake, Load, Outcome, Refusal, Tally, Version, Written};
use crate::model::TenantId;
use crate::route::{Error, Routed, Router};
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
    /// Announced bytes of requests in progress.
    in_flight: Rc<Cell<u64>>,
    in_flight_max: u64,
    /// What an unannounced body is taken to have.
    body_bytes_max: u64,
    counts: Rc<Counts>,
}

/// What the core counts per request.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) duplicates: Cell<u64>,
    pub(super) series: Cell<u64>,
    pub(super) metadata: Cell<u64>,
    pub(super) start_timestamps: Cell<u64>,
    pub(super) histograms_refused: Cell<u64>,
    pub(super) exemplars_refused: Cell<u64>,
    pub(super) repaired: Cell<u64>,
    pub(super) bad_series: Cell<u64>,
    pub(super) refused: [Cell<u64>; SampleRefusal::ALL.len()],
    pub(super) turned_away: Cell<u64>,
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

impl CoreIntake {
    pub(super) fn new(in_flight_max: u64, body_bytes_max: u64) -> Self {
        Self {
            stage: Rc::new(RefCell::new(Stage::Starting)),
            in_flight: Rc::default(),
            in_flight_max,
            body_bytes_max,
            counts: Rc::default(),
        }
    }

    pub(super) fn enter(&self, stage: Stage) {
        *self.stage.borrow_mut() = stage;
    }

    pub(super) fn router(&self) -> Option<Rc<Router<Disk>>> {
        match &*self.stage.borrow() {
            Stage::Serving(router) => Some(router.clone()),
            _ => None,
        }
    }

    pub(super) fn counts(&self) -> Rc<Counts> {
        self.counts.clone()
    }

    fn turn_away(&self, refusal: Refusal) -> Outcome {
        add(&self.counts.turned_away, 1);
        Outcome::Refused(refusal)
    }

    fn account(&self, routed: &Routed) {
        let counts = &self.counts;
        let written = &routed.written;
        add(&counts.duplicates, written.duplicates);
        add(&counts.series, routed.series);
        add(&counts.metadata, routed.metadata);
        add(&counts.start_timestamps, routed.start_timestamps);
        add(&counts.histograms_refused, routed.histograms);
        add(&counts.exemplars_refused, routed.exemplars);
        add(&counts.repaired, written.repaired);
        add(&counts.bad_series, written.bad.iter().map(|b| b.series).sum());
        for (count, &refused) in counts.refused.iter().zip(&written.refused) {
            add(count, refused);
        }
    }
}

/// Bytes of a request in progress; given back when it ends.
#[derive(Debug)]
pub(super) struct Permit {
    in_flight: Rc<Cell<u64>>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - self.bytes);
    }
}

impl Intake for CoreIntake {
    type Permit = Permit;

    fn admit(&self, _: &TenantId, body_bytes: Option<u64>) -> Result<Permit, Refusal> {
        let refusal = match &*self.stage.borrow() {
            Stage::Starting => Some(Refusal::NotReady { what: "the logs are being replayed" }),
            Stage::Draining => Some(Refusal::Draining),
            Stage::Serving(_) => None,
        };
        let bytes = body_bytes.unwrap_or(self.body_bytes_max);
        let full = self.in_flight.get() + bytes > self.in_flight_max && self.in_flight.get() > 0;
        let full = full.then_some(Refusal::Overloaded { what: "the budget of bytes in flight" });
        if let Some(refusal) = refusal.or(full) {
            add(&self.counts.turned_away, 1);
            return Err(refusal);
        }
        self.in_flight.set(self.in_flight.get() + bytes);
        Ok(Permit { in_flight: self.in_flight.clone(), bytes })
    }

    async fn write(
        &self,
        tenant: TenantId,
        version: Version,
        permit: Permit,
        body: Body<'_>,
    ) -> Outcome {
        let Some(router) = self.router() else {
            return self.turn_away(Refusal::Draining);
        };
        let outcome = match router.write(tenant, version, body).await {
            Ok(routed) => {
                if let Some(why) = routed.written.unavailable {
                    // It comes again, and what is refused of it is counted when it is taken.
                    self.turn_away(unavailable(why))
                } else {
                    self.account(&routed);
                    outcome(routed)
                }
            }
            Err(Error::NoRoom { .. }) => {
                self.turn_away(Refusal::Overloaded { what: "the queue to another core" })
            }
            Err(Error::NoMemory { .. }) => {
                self.turn_away(Refusal::Overloaded { what: "the budget of decoded bytes" })
            }
            Err(Error::Body(error)) => Outcome::Refused(bad_body(&error)),
        };
        drop(permit);
        outcome
    }
}

/// What the sender is told of a body that is not a write request.
fn bad_body(error: &decode::Error) -> Refusal {
    match error {
        decode::Error::DecodedTooLarge { declared, limit } => {
            Refusal::DecodedTooLong { declared: *declared as u64, max: *limit as u64 }
        }
        decode::Error::LabelsTooLarge { limit } => Refusal::LabelsTooLong { max: *limit as u64 },
        decode::Error::EmptyBody
        | decode::Error::ImpossibleLength { .. }
        | decode::Error::CorruptSnappy(_) => Refusal::SnappyInvalid { what: error.to_string() },
        _ => Refusal::MessageInvalid { what: error.to_string() },
    }
}

/// What the sender is told when a shard cannot write now.
fn unavailable(why: Unavailable) -> Refusal {
    match why {
        Unavailable::NoRoom => Refusal::Overloaded { what: "the queue to another shard" },
        Unavailable::LogFailed => {
            let what = "the log cannot be written, see the log of the server".into();
            Refusal::StorageFailed { what }
        }
        Unavailable::LogWaits => {
            let what = "the log waits for space on its disk or for file descriptors".into();
            Refusal::StorageFailed { what }
        }
        Unavailable::Stopping => Refusal::Draining,
    }
}

fn outcome(routed: Routed) -> Outcome {
    let written = routed.written;
    let samples = written.stored + written.duplicates;
    let refused: u64 = written.refused.iter().sum();
    let bad: u64 = written.bad.iter().map(|bad| bad.samples).sum();
    let load = Load { series: routed.series, samples: samples + refused + bad };
    let mut tally = Tally::of(load, Written { samples, ..Written::default() });
    let refused = SampleRefusal::ALL.into_iter().zip(written.refused).zip(written.first_refused);
    for ((reason, count), first) in refused {
        if let Some(first) = first {
            tally.refuse(fact(reason, &first), count, || region::shown(&first.region));
        }
    }
    for BadSeries { error, shown, samples, series } in written.bad {
        tally.refuse(series_fact(error), samples.max(series), || shown);
    }
    if routed.histograms > 0 {
        tally.refuse(Fact::HistogramNotStored, routed.histograms, String::new);
    }
    if routed.exemplars > 0 {
        tally.refuse(Fact::ExemplarNotStored, routed.exemplars, String::new);
    }
    Outcome::Applied(tally)
}

fn fact(reason: SampleRefusal, first: &RefusedSample) -> Fact {
    let t = first.sample.t;
    match reason {
        SampleRefusal::Conflict => Fact::SampleConflict { t },
        SampleRefusal::OutOfOrder => Fact::SampleOutOfOrder { t, newest: first.newest },
        SampleRefusal::TooOld => Fact::SampleOutOfBounds { t, min: first.bounds.0 },
        SampleRefusal::TooFarInFuture => Fact::SampleTooFarInFuture { t, max: first.bounds.1 },
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
    }
}

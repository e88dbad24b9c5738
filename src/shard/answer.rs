//! Answers to what the control plane asks.
//!
//! Every ask is a task of its own on the shard's core, beside the intake. It reads the head in
//! slices of about 50 microseconds and lets others run in between; between slices it holds a pin,
//! never a borrow.
//!
//! ## Promises
//! - What was applied before a read began is in its answer. What comes meanwhile may be.
//! - A receiver that is gone stops the read at its next slice; one that is slow holds up nobody. It
//!   keeps the head from giving memory back, until others lose their patience with it.
//! - What reads hold in memory is bounded, see [`crate::shard::budget`].
//!
//! ## Why steps
//! A slice is measured by counting steps and not by a clock: the twin then runs the same slices on
//! every machine. A step is about 100 ns: a series that is looked at and not wanted.

use crate::model::{External, Labels, Matcher, TimeSpan};
use crate::rt::step::{self, Step};
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::budget::OverBudget;
use crate::shard::cuts::Cuts;
use crate::shard::flush::{FlushOrder, held_of};
use crate::shard::head::members::Members;
use crate::shard::head::series::Tenant;
use crate::shard::head::{Head, SeriesIndex};
use crate::shard::message::{Ask, FlushAsk, FlushedBlock, HeadFrom, Stats, TenantStats};
use crate::shard::pins::ReadPin;

/// Steps of one slice.
pub(crate) const SLICE_STEPS: usize = 500;
/// Steps of asking a matcher about a value: a regular expression runs.
pub(crate) const ASKED_STEPS: usize = 5;
/// Steps of looking at a tenant: its external labels are made.
const TENANT_STEPS: usize = 20;
/// Steps of copying a tenant's counters, and looking its cuts up.
const STATS_STEPS: usize = 5;

/// Why a read ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nobody is there to hear the rest.
    Unwanted,
    /// It cannot go on, and this is why.
    Failed(String),
}

impl From<OverBudget> for Stop {
    fn from(error: OverBudget) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A read under way: its pin, and its pace.
#[derive(Debug)]
pub(crate) struct Reading<'s, S: Storage> {
    storage: &'s S,
    pin: ReadPin<'s>,
}

impl<S: Storage> Reading<'_, S> {
    /// Ends a slice: others run, then the next may begin if the answer is still wanted.
    pub(crate) async fn pause(&self, unwanted: bool) -> Result<(), Stop> {
        if unwanted {
            return Err(Stop::Unwanted);
        }
        self.storage.pause().await;
        if self.pin.must_leave() { Err(left_behind()) } else { Ok(()) }
    }

    /// Waits until the read must end for others' sake.
    pub(crate) async fn must_end(&self) -> Stop {
        self.pin.told_to_leave().await;
        left_behind()
    }
}

fn left_behind() -> Stop {
    let why = "the query took too long: what it reads is moving from memory into a block; \
               run it again, or narrow it";
    Stop::Failed(why.into())
}

/// A tenant that the matchers on external labels have let through.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The external labels of its series.
    pub(crate) labels: Labels,
    /// What of the asked span its head serves; `None` when that is nothing.
    pub(crate) span: Option<TimeSpan>,
    /// From when on its head serves it.
    pub(crate) from: HeadFrom,
    /// Its series, and how many they were when it was chosen.
    members: (Members, usize),
}

/// A walk over a tenant's series.
#[derive(Debug)]
pub(crate) struct Walk {
    members: Members,
    at: usize,
    until: usize,
}

impl Walk {
    /// A walk over the series that a tenant had when it was chosen.
    pub(crate) fn over(tenant: &Chosen) -> Self {
        let (members, until) = tenant.members.clone();
        Self { members, at: 0, until }
    }

    /// Visits the series of one slice. A visit returns the steps it took beyond its first. Whether
    /// there are more.
    pub(crate) fn slice(
        &mut self,
        head: &Head,
        mut visit: impl FnMut(SeriesIndex) -> Result<usize, Stop>,
    ) -> Result<bool, Stop> {
        let members = self.members.from(self.at);
        let mut steps = 0;
        for &index in members.iter().take(self.until - self.at) {
            if steps >= SLICE_STEPS {
                break;
            }
            self.at += 1;
            steps += 1;
            if head.cold[index as usize].alive {
                steps += visit(index)?;
            }
        }
        Ok(self.at < self.until)
    }
}

impl<S: Storage> Shard<S> {
    /// Answers an ask. Runs as long as the receiver takes to hear it.
    pub(crate) async fn answer(&self, ask: Ask) {
        match ask {
            Ask::Select(select) => self.select(select).await,
            Ask::Labels(ask) => self.labels(ask).await,
            Ask::Stats(reply) => {
                let tenants = self.tell_tenants(|tenant, _| Some(stats_of(tenant))).await;
                drop(reply.send(Stats { tenants }));
            }
            Ask::Held(reply) => {
                let held = |tenant: &Tenant, cuts: &Cuts| {
                    let held = held_of(tenant, cuts);
                    held.is_open().then(|| (tenant.id.clone(), held))
                };
                drop(reply.send(self.tell_tenants(held).await));
            }
            Ask::Covered(reply) => {
                let covered = |tenant: &Tenant, cuts: &Cuts| {
                    Some((tenant.id.clone(), cuts.covered_below(&tenant.id)))
                };
                drop(reply.send(self.tell_tenants(covered).await));
            }
            Ask::Settle(reply) => {
                let settled = self.settle_log().await;
                drop(reply.send(settled.map_err(|reason| reason.to_string())));
            }
            Ask::Cut { tenant, end_ms, reply } => {
                self.cut(&tenant, end_ms);
                step::done(Step::RangeCut);
                reply.send(()).ok();
            }
            Ask::Flush(FlushAsk { tenant, end_ms, external, ulid, reply }) => {
                let order = FlushOrder { external: External::clone(&external), ulid };
                let flushed = self.flush(&tenant, end_ms, &order).await;
                let flushed = flushed.map(|block| block.as_ref().map(FlushedBlock::of));
                drop(reply.send(flushed.map_err(|error| error.to_string())));
            }
            // These need a clock, or a list that the core keeps: it takes them before.
            Ask::Truncate { .. } | Ask::DropOld { .. } => {}
        }
    }

    /// Begins a read: from here on positions and symbols stay what they are.
    pub(crate) fn begin_reading(&self) -> Reading<'_, S> {
        Reading { storage: &self.storage, pin: self.pins.read() }
    }

    /// The tenants whose external labels match, in the order of their coming.
    pub(crate) async fn choose(
        &self,
        reading: &Reading<'_, S>,
        external: &External,
        matchers: &[Matcher],
        span: TimeSpan,
        unwanted: impl Fn() -> bool,
    ) -> Result<Vec<Chosen>, Stop> {
        let mut chosen = Vec::new();
        let mut at = 0;
        loop {
            {
                let state = self.state.borrow();
                let tenants = &state.applier.head.tenants;
                let slice = tenants.iter().skip(at).take(SLICE_STEPS / TENANT_STEPS);
                for tenant in slice {
                    let labels = external.of(&tenant.id, self.shard);
                    let value = |matcher: &Matcher| labels.get(matcher.name()).unwrap_or_default();
                    if matchers.iter().all(|m| m.matches(value(m))) {
                        chosen.push(Chosen::new(tenant, labels, span));
                    }
                    at += 1;
                }
                if at == tenants.len() {
                    return Ok(chosen);
                }
            }
            reading.pause(unwanted()).await?;
        }
    }

    /// Which shard this is.
    pub(crate) fn number(&self) -> u16 {
        self.shard
    }

    /// What is said of the tenants, from counters alone. None goes meanwhile, and who comes
    /// meanwhile comes in at the end.
    async fn tell_tenants<T>(&self, say: impl Fn(&Tenant, &Cuts) -> Option<T>) -> Vec<T> {
        let (mut told, mut at) = (Vec::new(), 0);
        loop {
            {
                let state = self.state.borrow();
                let all = &state.applier.head.tenants;
                let slice = at..all.len().min(at + SLICE_STEPS / STATS_STEPS);
                at = slice.end;
                told.extend(all[slice].iter().filter_map(|tenant| say(tenant, &state.cuts)));
                if at == all.len() {
                    return told;
                }
            }
            self.storage.pause().await;
        }
    }
}

impl Chosen {
    fn new(tenant: &Tenant, labels: Labels, span: TimeSpan) -> Self {
        let from = HeadFrom { tenant: tenant.id.clone(), from_ms: tenant.served_from_ms };
        let span = TimeSpan { min: span.min.max(from.from_ms), max: span.max };
        let span = (span.min <= span.max).then_some(span);
        let members = (tenant.members.clone(), tenant.members.len());
        Self { labels, span, from, members }
    }
}

fn stats_of(tenant: &Tenant) -> TenantStats {
    let oldest = tenant.oldest_ms.max(tenant.served_from_ms);
    let empty = tenant.oldest_ms == i64::MAX || tenant.newest_ms < oldest;
    let (min_t, max_t) = if empty { (i64::MAX, i64::MIN) } else { (oldest, tenant.newest_ms) };
    TenantStats {
        tenant: tenant.id.clone(),
        series: tenant.series,
        min_t,
        max_t,
        chunks: tenant.chunks,
        samples_appended: tenant.samples,
    }
}

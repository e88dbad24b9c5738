//! What may go when samples are in blocks: from the head, from the log, from the series file.
//!
//! All of it runs beside the intake and the reads: no answer waits for it. What is new in the open
//! group is told to the series file here, too, some mebibyte at a time.
//!
//! ## The head
//! 1. [`Shard::truncate`]: from now on reads get from the head what is newer than the cut, and no
//!    more. The blocks must be in the control plane's list. The log may go at once.
//! 2. [`Shard::free`]: when the readers that began before are gone, the samples are dropped and
//!    series without others are taken out, in slices. A slow reader holds back memory, nothing
//!    else; once patience ends it is told to leave.
//! 3. When those are gone, too, that may have met such series on their walk, positions and symbols
//!    are given to others.
//!
//! ## The log
//! 1. In one moment is noted: which segments are closed, which cuts stand, which series the series
//!    file does not have yet.
//! 2. These series are made durable there, and these cuts in a new block of the log.
//! 3. Of these segments those go whose samples lie before these cuts, oldest first.
//! 4. When more series in the series file are gone than live, it is written anew
//!    ([`series_file`](crate::shard::wal::series_file)): the living are told again in slices, from
//!    the head. Who is not in the head has no sample that is not in a block, so a replay needs no
//!    labels for it. While logs of an earlier generation lie in the directory this waits: they may
//!    need series that others own now.
//!
//! ## Crash
//! Each step leaves what a replay needs: a segment goes only after what it alone had is told
//! elsewhere.
//!
//! ## When there is no room
//! It waits for some and goes on. Meanwhile the log goes on as long as it has room itself; new
//! series are turned away when too many wait here.

use std::future::Future;

use crate::decode::region;
use crate::model::TenantId;
use crate::rt::clock::Clock;
use crate::rt::step::{self, Step};
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::commit::Notice;
use crate::shard::head::{SeriesIndex, TenantIndex, Truncation};
use crate::shard::wal::backlog::{Backlog, Closed};
use crate::shard::wal::record::{CutRecord, Group};
use crate::shard::wal::series_file::SeriesFile;
use crate::shard::wal::writer::LogError;

/// Bytes of untold series that are worth a write.
pub(crate) const TELL_BYTES: usize = 1024 * 1024;
/// Bytes of one write of a rewriting.
const REWRITE_BYTES: usize = 256 * 1024;
/// Series looked at in one slice of a rewriting.
const REWRITE_SERIES: usize = 64;

/// Series truncated in one slice.
const TRUNCATE_SERIES: usize = 64;

/// What a truncation of the log goes by, all of it noted in one moment.
struct Noted {
    /// Number of the last segment that may go.
    last: u64,
    cuts: Vec<CutRecord>,
    /// Up to when samples are covered, by tenant.
    covered: Vec<i64>,
    /// Who waits for the end of it.
    waiting: Vec<Notice>,
}

impl Noted {
    fn covers(&self, segment: &Closed) -> bool {
        let covers =
            |tenant: u32, t: i64| self.covered.get(tenant as usize).is_some_and(|&e| t < e);
        segment.number <= self.last && segment.newest.iter().all(|(&tenant, &t)| covers(tenant, t))
    }
}

impl<S: Storage> Shard<S> {
    /// Has the head serve a tenant's samples from `end_ms` on, or from where they are covered if
    /// that is earlier, and the log let go of what is older. The blocks must be in the control
    /// plane's list. The memory is there until [`Self::free`].
    pub(crate) fn truncate(&self, tenant: &TenantId, end_ms: i64) {
        {
            let mut state = self.state.borrow_mut();
            let end_ms = end_ms.min(state.cuts.covered_below(tenant));
            let index = state.applier.tenant(tenant);
            let owner = &mut state.applier.head.tenants[index as usize];
            owner.served_from_ms = owner.served_from_ms.max(end_ms);
        }
        self.request_truncation();
    }

    /// Drops what the head does not serve any more of a tenant, when nobody reads it. Readers have
    /// as much time as `patience` takes, then they are told to leave. Who begins it drives it to
    /// its end, or ends the process; who comes meanwhile leaves it to the first.
    pub(crate) async fn free<P: Future<Output = ()>>(
        &self,
        tenant: &TenantId,
        patience: impl Fn() -> P,
    ) {
        let index = self.state.borrow_mut().applier.tenant(tenant);
        let mut end_ms = {
            let mut state = self.state.borrow_mut();
            let owner = &mut state.applier.head.tenants[index as usize];
            if std::mem::replace(&mut owner.freeing, true) {
                return;
            }
            owner.served_from_ms
        };
        loop {
            self.pins.older_readers_gone(patience()).await;
            let removed = self.drop_before(index, end_ms).await;
            step::done(Step::HeadTruncated);
            if !removed.is_empty() {
                self.pins.older_readers_gone(patience()).await;
                self.release(&removed).await;
            }
            let mut state = self.state.borrow_mut();
            let owner = &mut state.applier.head.tenants[index as usize];
            if owner.served_from_ms == end_ms {
                owner.freeing = false;
                return;
            }
            end_ms = owner.served_from_ms;
        }
    }

    /// Drops the samples of a tenant before `end_ms`; returns the series taken out.
    async fn drop_before(&self, tenant: TenantIndex, end_ms: i64) -> Vec<SeriesIndex> {
        let mut truncation = Truncation::begin(&self.state.borrow().applier.head, tenant, end_ms);
        while !truncation.slice(&mut self.state.borrow_mut().applier.head, TRUNCATE_SERIES) {
            self.storage.pause().await;
        }
        truncation.removed
    }

    /// Gives positions and symbols of series that were taken out to others.
    async fn release(&self, removed: &[SeriesIndex]) {
        for slice in removed.chunks(TRUNCATE_SERIES) {
            {
                let head = &mut self.state.borrow_mut().applier.head;
                for &series in slice {
                    head.release(series);
                }
            }
            self.storage.pause().await;
        }
    }

    /// Asks for segments to be let go whose samples are all cut.
    pub(crate) fn request_truncation(&self) {
        self.state.borrow_mut().commits.truncate = true;
        self.shrink.raise();
    }

    /// Says that the old segments in this shard's directory are gone: its own may follow.
    pub(crate) fn old_segments_are_gone(&self) {
        self.state.borrow_mut().commits.behind_old = false;
    }

    /// Truncates as long as the shard lives, or until the series file cannot be written.
    pub(super) async fn truncate_for_ever(
        &self,
        mut series: SeriesFile<S>,
        backlog: &Backlog<S>,
        clock: &Clock,
    ) -> LogError {
        loop {
            if let Err(error) = self.shrink_all(&mut series, backlog, clock).await {
                return error;
            }
            self.shrink.wait().await;
        }
    }

    async fn shrink_all(
        &self,
        series: &mut SeriesFile<S>,
        backlog: &Backlog<S>,
        clock: &Clock,
    ) -> Result<(), LogError> {
        let untold = self.state.borrow().applier.untold.len_bytes();
        if untold >= TELL_BYTES {
            self.tell_series(series, clock).await?;
        }
        while let Some(noted) = self.note(backlog) {
            self.truncate_log(noted, series, backlog, clock).await?;
            self.rewrite_series(series, clock).await?;
        }
        Ok(())
    }

    /// Notes what holds now, when a truncation is asked for.
    fn note(&self, backlog: &Backlog<S>) -> Option<Noted> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        // A cut that is durable and not known yet may lie in a segment that would go: it is waited
        // for, and raises the signal again.
        if !state.commits.truncate || state.commits.cutting > 0 {
            return None;
        }
        state.commits.truncate = false;
        let waiting = std::mem::take(&mut state.commits.truncated);
        let tenants = &state.applier.head.tenants;
        let covered = tenants.iter().map(|t| state.cuts.covered_below(&t.id)).collect();
        let last = if state.commits.behind_old { 0 } else { backlog.newest() };
        Some(Noted { last, cuts: state.cuts.records(), covered, waiting })
    }

    /// Makes the series durable that the series file does not have.
    async fn tell_series(&self, series: &mut SeriesFile<S>, clock: &Clock) -> Result<(), LogError> {
        let untold = series.take(&mut self.state.borrow_mut().applier.untold);
        if untold { self.write_series(series, clock).await } else { Ok(()) }
    }

    async fn write_series(
        &self,
        series: &mut SeriesFile<S>,
        clock: &Clock,
    ) -> Result<(), LogError> {
        self.with_room(async || series.write(clock.wall_ms()).await).await.map(drop)
    }

    /// Does what needs room as soon as there is some.
    async fn with_room<T>(
        &self,
        mut work: impl AsyncFnMut() -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut waited = false;
        loop {
            match work().await {
                Err(error) if error.waits_for_room() => {
                    if !waited {
                        let what = "no log is let go before there is room";
                        tracing::warn!(shard = self.shard, %error, "{what}");
                    }
                    waited = true;
                }
                done => return done,
            }
            self.storage.rest().await;
        }
    }

    /// Lets segments go, and tells who asked for it.
    async fn truncate_log(
        &self,
        noted: Noted,
        series: &mut SeriesFile<S>,
        backlog: &Backlog<S>,
        clock: &Clock,
    ) -> Result<(), LogError> {
        // What is taken here was untold when it was noted what may go.
        self.tell_series(series, clock).await?;
        step::done(Step::SeriesTold);
        let told = self.log_cuts(&noted.cuts).await;
        if told.is_ok() {
            step::done(Step::CutsTold);
            let truncate = async || backlog.truncate(Step::SegmentGone, |s| noted.covers(s)).await;
            let gone = self.with_room(truncate).await?;
            self.state.borrow_mut().commits.segments_went(gone);
        } else {
            // Again when the log has room. If it is dead this ends with it.
            self.storage.rest().await;
            self.state.borrow_mut().commits.truncate = true;
        }
        for notice in noted.waiting {
            notice.send(told).ok();
        }
        Ok(())
    }

    /// Writes the series file anew, if most of the series in it are gone.
    async fn rewrite_series(
        &self,
        series: &mut SeriesFile<S>,
        clock: &Clock,
    ) -> Result<(), LogError> {
        let (floor, positions) = {
            let state = self.state.borrow();
            let head = &state.applier.head;
            if state.commits.behind_old || !series.is_worth_rewriting(head.len() as u64) {
                return Ok(());
            }
            (state.applier.next_id, head.keys.len())
        };
        let first = series.begin_again().await;
        let mut living = Group::default();
        let mut region = Vec::new();
        let mut at = 0;
        while at < positions {
            {
                let state = self.state.borrow();
                let head = &state.applier.head;
                let slice = at..positions.min(at + REWRITE_SERIES);
                at = slice.end;
                for index in slice {
                    // Those from the floor on are told as new ones.
                    let (id, cold) = (head.log_ids[index], &head.cold[index]);
                    if cold.alive && (1..floor).contains(&id) {
                        let tenant = head.tenants[cold.tenant as usize].id.as_str();
                        region.clear();
                        region::encode(head.labels(index as u32), &mut region);
                        living.add_series(id, tenant, &region);
                    }
                }
            }
            if living.len_bytes() >= REWRITE_BYTES {
                series.take(&mut living);
                self.write_series(series, clock).await?;
                self.tell_series(series, clock).await?;
            }
            self.storage.pause().await;
        }
        living.set_floor(floor);
        series.take(&mut living);
        self.write_series(series, clock).await?;
        step::done(Step::SeriesToldAgain);
        self.with_room(async || series.let_go_before(first).await).await.map(drop)
    }
}

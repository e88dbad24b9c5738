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
//! 1. In one moment, when no cut is on its way into the log, is noted which segments are closed.
//! 2. Of these the oldest may go whose samples all lie before cuts that stand. What was found
//!    covered stays so: the next look begins where this one has ended.
//! 3. If one may go, the series that the series file does not have are made durable there, and in
//!    new blocks of the log the cuts that the segments hold; then they go, oldest first.
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
//! series are turned away when too many wait here. When the log has none, cuts cannot be told
//! again; segments that hold none go all the same, for their samples are in published blocks, and
//! each of these stands for its cut.
//!
//! ## When a segment cannot be deleted
//! It is tried again for ever. It takes room and nothing else.

use std::future::Future;

use crate::decode::region;
use crate::model::TenantId;
use crate::rt::clock::Clock;
use crate::rt::step::{self, Step};
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::commit::Notice;
use crate::shard::head::{SeriesIndex, TenantIndex, Truncation};
use crate::shard::wal::backlog::Backlog;
use crate::shard::wal::record::{Group, TELL_BYTES};
use crate::shard::wal::series_file::SeriesFile;
use crate::shard::wal::writer::LogError;
use crate::shard::write::Unavailable;

/// Bytes of one write of a rewriting.
const REWRITE_BYTES: usize = 256 * 1024;
/// Series looked at in one slice of a rewriting.
const REWRITE_SERIES: usize = 64;

/// Tenants whose series are counted anew in one slice.
const TENANTS_OF_SLICE: usize = 64;
/// Series truncated in one slice.
const TRUNCATE_SERIES: usize = 64;

/// Tenants looked at in one slice.
const SLICE_TENANTS: usize = 64;
/// Cuts in one block, or a few more.
const TELL_CUTS: usize = 512;

/// What a truncation of the log goes by, noted in one moment.
struct Noted {
    /// Number of the last segment that may go.
    last: u64,
    /// Who waits for the end of it.
    waiting: Vec<Notice>,
}

/// How far closed segments were looked at.
#[derive(Default)]
struct Looked {
    /// Up to this one all samples are covered.
    segment: u64,
    /// In the next one those of the tenants before this are.
    tenant: u32,
}

/// What letting go works with.
struct Shrinking<'b, S: Storage> {
    series: SeriesFile<S>,
    backlog: &'b Backlog<S>,
    clock: &'b Clock,
    looked: Looked,
    /// Whether it was said that segments cannot be deleted.
    warned: bool,
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
            self.state.borrow_mut().applier.settle_series(index);
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

    /// Gives back what is not used of the limits of series, when they were set since `seen`.
    pub(crate) async fn follow_series_limits(&self, seen: &mut u64) {
        let now = self.state.borrow().applier.series_limits_set();
        if std::mem::replace(seen, now) == now {
            return;
        }
        let tenants = self.state.borrow().applier.head.tenants.len();
        for tenant in 0..tenants {
            if tenant % TENANTS_OF_SLICE == 0 {
                self.storage.pause().await;
            }
            self.state.borrow_mut().applier.settle_series(tenant as TenantIndex);
        }
    }

    /// Drops the samples of a tenant before `end_ms`; returns the series taken out.
    async fn drop_before(&self, tenant: TenantIndex, end_ms: i64) -> Vec<SeriesIndex> {
        let mut truncation =
            Truncation::begin(&mut self.state.borrow_mut().applier.head, tenant, end_ms);
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
        series: SeriesFile<S>,
        backlog: &Backlog<S>,
        clock: &Clock,
    ) -> LogError {
        let looked = Looked::default();
        let mut shrinking = Shrinking { series, backlog, clock, looked, warned: false };
        loop {
            if let Err(error) = self.shrink_all(&mut shrinking).await {
                return error;
            }
            self.shrink.wait().await;
        }
    }

    async fn shrink_all(&self, with: &mut Shrinking<'_, S>) -> Result<(), LogError> {
        loop {
            let untold = self.state.borrow().applier.untold.len_bytes();
            if untold >= TELL_BYTES {
                self.tell_series(&mut with.series, with.clock).await?;
            }
            let Some(noted) = self.note(with.backlog) else { return Ok(()) };
            self.truncate_log(noted, with).await?;
            self.rewrite_series(&mut with.series, with.clock).await?;
            let gone = with.series.let_go().await;
            self.went(gone, &mut with.warned).await;
        }
    }

    /// Counts segments that were to be let go. If that has failed it is asked for again, later.
    async fn went(&self, gone: Result<u64, LogError>, warned: &mut bool) -> u64 {
        match gone {
            Ok(count) => {
                *warned &= count == 0;
                return count;
            }
            Err(error) if !*warned => {
                let what = "a log segment that is not needed cannot be deleted; it is tried again";
                tracing::error!(shard = self.shard, %error, "{what}");
                *warned = true;
            }
            Err(_) => {}
        }
        self.storage.rest().await;
        self.state.borrow_mut().commits.truncate = true;
        0
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
        let last = if state.commits.behind_old { 0 } else { backlog.newest() };
        Some(Noted { last, waiting })
    }

    /// Makes the series durable that the series file does not have.
    async fn tell_series(&self, series: &mut SeriesFile<S>, clock: &Clock) -> Result<(), LogError> {
        let groups = self.state.borrow().applier.untold.groups();
        for _ in 0..groups {
            if series.take_oldest(&mut self.state.borrow_mut().applier.untold) {
                self.write_series(series, clock).await?;
            }
        }
        Ok(())
    }

    /// Makes durable what the series file has taken, as soon as there is room for it.
    async fn write_series(
        &self,
        series: &mut SeriesFile<S>,
        clock: &Clock,
    ) -> Result<(), LogError> {
        let mut waited = false;
        loop {
            match series.write(clock.wall_ms()).await {
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
        with: &mut Shrinking<'_, S>,
    ) -> Result<(), LogError> {
        let backlog = with.backlog;
        let mut last = self.covered_up_to(noted.last, backlog, &mut with.looked).await;
        if noted.waiting.is_empty() && backlog.oldest().is_none_or(|oldest| oldest > last) {
            return Ok(());
        }
        // What is taken here was untold when it was noted what may go.
        self.tell_series(&mut with.series, with.clock).await?;
        step::done(Step::SeriesTold);
        let told = self.tell_cuts(last).await;
        if told.is_ok() {
            step::done(Step::CutsTold);
        } else {
            last = self.holds_no_cut(last).await;
        }
        let gone = backlog.truncate(Step::SegmentGone, last).await;
        let gone = self.went(gone, &mut with.warned).await;
        self.state.borrow_mut().commits.segments_went(gone);
        for notice in noted.waiting {
            notice.send(told).ok();
        }
        if told.is_err() {
            // Again when the log has room. If it is dead this ends with it.
            self.storage.rest().await;
            self.state.borrow_mut().commits.truncate = true;
        }
        Ok(())
    }

    /// Number of the last closed segment up to `last` that may go: up to it all samples are in
    /// blocks.
    async fn covered_up_to(&self, last: u64, backlog: &Backlog<S>, looked: &mut Looked) -> u64 {
        loop {
            let next = backlog.behind(looked.segment, looked.tenant, SLICE_TENANTS);
            let Some((segment, newest)) = next.filter(|(segment, _)| *segment <= last) else {
                return looked.segment.min(last);
            };
            {
                let state = self.state.borrow();
                for &(tenant, t) in &newest {
                    looked.tenant = tenant;
                    let id = &state.applier.head.tenants[tenant as usize].id;
                    if t >= state.cuts.covered_below(id) {
                        return looked.segment;
                    }
                }
            }
            if newest.len() < SLICE_TENANTS {
                *looked = Looked { segment, tenant: 0 };
            } else {
                looked.tenant += 1;
            }
            self.storage.pause().await;
        }
    }

    /// Tells the cuts again that segments up to `last` hold, and those that no log holds.
    async fn tell_cuts(&self, last: u64) -> Result<(), Unavailable> {
        let mut at = None;
        loop {
            let (mut told, mut records) = (Vec::new(), Vec::new());
            loop {
                let slice = self.state.borrow().cuts.to_tell(last, &mut at, SLICE_TENANTS);
                records.extend(slice.iter().flat_map(|told| told.records.iter().cloned()));
                told.extend(slice);
                if at.is_none() || records.len() >= TELL_CUTS {
                    break;
                }
                self.storage.pause().await;
            }
            if !records.is_empty() {
                let segment = self.log_cuts(&records).await?;
                for slice in told.chunks(SLICE_TENANTS) {
                    for told in slice {
                        self.state.borrow_mut().cuts.told_again(told, segment);
                    }
                    self.storage.pause().await;
                }
            }
            if at.is_none() {
                return Ok(());
            }
        }
    }

    /// Number of the last segment up to `last` before which, and in which, no cut is told that must
    /// be told again.
    async fn holds_no_cut(&self, last: u64) -> u64 {
        let (mut free, mut at) = (last, None);
        loop {
            for told in self.state.borrow().cuts.to_tell(last, &mut at, SLICE_TENANTS) {
                free = free.min(told.told_in.saturating_sub(1));
            }
            if at.is_none() {
                return free;
            }
            self.storage.pause().await;
        }
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
        series.end_rewriting(first);
        Ok(())
    }
}

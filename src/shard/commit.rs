//! Group commit: one write in flight, the next group is whatever arrived meanwhile.
//!
//! ## Order
//! apply -> open group -> sealed block -> written -> flushed -> answers. An answer waits for the
//! block that was open when its batch was applied, and if nothing was new in the batch, for what
//! was in flight: a duplicate may be the echo of a sample whose flush is still to come.
//!
//! With `--log.ack=relaxed` answers leave one step earlier, when the block is written. The flush
//! follows at once, but only the next block waits for it.
//!
//! ## Crash
//! What was answered is in a flushed block. What was applied and not answered may or may not be
//! found again; its sender was told nothing and comes again. Relaxed, what was answered is in a
//! written block: it outlives the process, and not a power cut before its flush.
//!
//! ## When the device refuses
//! The log has tried a fresh segment and failed. The shard then answers 503 to every write: for a
//! lack of room (space, quota, descriptors) until there is some, for anything else until the next
//! start. Samples in the head that the log does not have are never answered as duplicates: they are
//! the first to be written when there is room.

use std::collections::VecDeque;

use futures_lite::future;

use crate::rt::channel::{mpsc, oneshot};
use crate::rt::clock::Clock;
use crate::rt::storage::Storage;
use crate::shard::apply::SentOn;
use crate::shard::wal::record::{CutRecord, TELL_BYTES};
use crate::shard::wal::series_file::SeriesFile;
use crate::shard::wal::writer::{Log, LogError, LogStats, Sealed};
use crate::shard::write::{Batch, Unavailable, Written};
use crate::shard::{Shard, State};

/// Bytes in the open group above which batches are turned away, and bytes of untold series above
/// which those with new ones are.
pub(super) const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who waits for something to be durable.
pub(super) type Notice = oneshot::Sender<Result<(), Unavailable>>;

/// Which blocks are written and durable, and who waits for which.
#[derive(Debug)]
pub(crate) struct Commits {
    /// Number the open group will get.
    open_seq: u64,
    /// The last block that is written.
    written: u64,
    /// The last block that is durable.
    durable: u64,
    /// Answers to batches, by the block they wait for.
    answers: VecDeque<(u64, mpsc::UnboundedSender<Written>, Written)>,
    /// Those who wait for a block to be durable, whatever answers wait for.
    notices: VecDeque<(u64, Notice)>,
    /// Whether a truncation is asked for, and who waits for the end of it.
    pub(super) truncate: bool,
    pub(super) truncated: Vec<Notice>,
    /// Cuts that are being logged and are not noted yet.
    pub(super) cutting: usize,
    /// Whether segments of an earlier generation lie before those of this log. None of ours goes
    /// before them: a reader takes a gap for lost blocks.
    pub(super) behind_old: bool,
    failed: Option<Unavailable>,
    stats: LogStats,
}

impl Commits {
    /// Nothing is waiting; the first group gets `next_seq`. `behind_old`: segments of an earlier
    /// generation lie in the same directory. `stats` are those of the log as it was opened.
    pub(crate) fn new(next_seq: u64, behind_old: bool, stats: LogStats) -> Self {
        Self {
            open_seq: next_seq,
            written: next_seq.saturating_sub(1),
            durable: next_seq.saturating_sub(1),
            answers: VecDeque::new(),
            notices: VecDeque::new(),
            truncate: false,
            truncated: Vec::new(),
            cutting: 0,
            behind_old,
            failed: None,
            stats,
        }
    }

    /// Figures of the log, as of the last commit or of its opening.
    pub(crate) fn stats(&self) -> LogStats {
        self.stats
    }

    /// Counts segments that were let go.
    pub(super) fn segments_went(&mut self, count: u64) {
        self.stats.segments = self.stats.segments.saturating_sub(count);
    }

    /// Whether writes are taken.
    pub(crate) fn is_writable(&self) -> bool {
        self.failed.is_none()
    }

    /// The block that holds the last of all that is applied by now.
    fn newest(&self, group_is_empty: bool) -> u64 {
        if group_is_empty { self.open_seq.saturating_sub(1) } else { self.open_seq }
    }

    fn is_durable(&mut self, seq: u64) {
        (self.written, self.durable) = (seq, seq);
        while let Some((_, notice)) = self.notices.pop_front_if(|(waits, _)| *waits <= seq) {
            notice.send(Ok(())).ok();
        }
    }

    /// Sends the answers that wait for no block after `seq`.
    fn answer(&mut self, seq: u64) {
        while let Some((_, reply, written)) = self.answers.pop_front_if(|(at, ..)| *at <= seq) {
            drop(reply.send(written));
        }
    }

    pub(crate) fn has_room(&mut self) {
        self.failed = None;
    }

    pub(crate) fn fail(&mut self, reason: Unavailable) {
        self.failed = Some(reason);
        for (_, notice) in self.notices.drain(..) {
            notice.send(Err(reason)).ok();
        }
        for notice in self.truncated.drain(..) {
            notice.send(Err(reason)).ok();
        }
        for (_, reply, written) in self.answers.drain(..) {
            drop(reply.send(Written { unavailable: Some(reason), ..written }));
        }
    }
}

impl State {
    fn group_is_full(&self) -> bool {
        self.applier.group.len_bytes() > GROUP_BYTES_MAX
    }

    fn series_wait(&self) -> bool {
        self.applier.untold.len_bytes() > GROUP_BYTES_MAX
    }

    /// Why a batch cannot be taken now, if so.
    fn cannot_take(&mut self, batch: &Batch) -> Option<Unavailable> {
        if self.commits.failed.is_some() {
            return self.commits.failed;
        }
        if self.group_is_full() {
            return Some(Unavailable::GroupFull);
        }
        let waits = self.series_wait() && self.applier.has_new_series(batch);
        waits.then_some(Unavailable::SeriesWait)
    }
}

/// What the log is written with.
struct Pen<S: Storage> {
    log: Log<S>,
    sealed: Sealed,
    /// Whether `sealed` is not in the log yet.
    unwritten: bool,
}

impl<S: Storage> Shard<S> {
    /// Applies a batch; its answer follows when it is durable. Returns what belongs to other
    /// shards: the caller sends it, and answers [`Unavailable::NoRoom`] for what it cannot send.
    pub(crate) fn write(&self, batch: Batch) -> Vec<(u16, Batch)> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let now = state.cannot_take(&batch);
        if state.turned_away.turns_away(&batch, now) {
            return Vec::new();
        }
        let mut sent_on = SentOn::default();
        let mut written = state.applier.apply(&batch, &mut sent_on);
        let onward = if sent_on.is_empty() {
            Vec::new()
        } else {
            sent_on.batches(&batch, &state.applier.home, self.shards)
        };
        written.sent_on = onward.len() as u32;
        let Batch { bytes, reply, .. } = batch;
        drop(bytes);
        let commits = &mut state.commits;
        commits.answers.push_back((commits.newest(state.applier.group.is_empty()), reply, written));
        commits.answer(if self.answers_wait { commits.durable } else { commits.written });
        self.work.raise();
        onward
    }

    /// Whether so much waits for the log or the series file that batches are turned away, which
    /// ends when it is written.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.state.borrow();
        state.commits.failed.is_none() && (state.group_is_full() || state.series_wait())
    }

    /// Whether everything applied is durable, or will never be.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state.borrow();
        let commits = &state.commits;
        let newest = commits.newest(state.applier.group.is_empty());
        commits.durable >= newest || commits.failed.is_some()
    }

    /// Why nothing can be logged any more, if so.
    pub(crate) fn log_failure(&self) -> Option<Unavailable> {
        self.state.borrow().commits.failed
    }

    /// Logs cuts; returns when they are durable, with the number of a segment: they are in none
    /// before it.
    pub(crate) async fn log_cuts(&self, cuts: &[CutRecord]) -> Result<u64, Unavailable> {
        let (segment, done) = {
            let mut state = self.state.borrow_mut();
            if let Some(reason) = state.commits.failed {
                return Err(reason);
            }
            for cut in cuts {
                state.applier.group.add_cut(cut);
            }
            let (notice, done) = oneshot::channel();
            let seq = state.commits.open_seq;
            state.commits.notices.push_back((seq, notice));
            (state.commits.stats.segment, done)
        };
        self.work.raise();
        done.await.unwrap_or(Err(Unavailable::Stopping)).map(|()| segment)
    }

    /// Lets segments go whose samples are all cut, and waits for the end of it. What is then
    /// durable in this shard's own log and series file: every cut of its slots, and the labels of
    /// every series number.
    pub(crate) async fn settle_log(&self) -> Result<(), Unavailable> {
        let done = {
            let mut state = self.state.borrow_mut();
            if let Some(reason) = state.commits.failed {
                return Err(reason);
            }
            let (notice, done) = oneshot::channel();
            state.commits.truncated.push(notice);
            done
        };
        self.request_truncation();
        done.await.unwrap_or(Err(Unavailable::Stopping))
    }

    /// Writes the log for as long as the shard lives, or until the device refuses; beside it, lets
    /// go of what is not needed any more.
    pub(crate) async fn commit_loop(
        &self,
        log: Log<S>,
        series: SeriesFile<S>,
        clock: &Clock,
    ) -> LogError {
        let backlog = log.backlog();
        let commits = self.commit_for_ever(log, clock);
        let error = future::or(commits, self.truncate_for_ever(series, &backlog, clock)).await;
        self.state.borrow_mut().commits.fail(Unavailable::LogFailed);
        error
    }

    async fn commit_for_ever(&self, log: Log<S>, clock: &Clock) -> LogError {
        let mut pen = Pen { log, sealed: Sealed::default(), unwritten: false };
        loop {
            self.work.wait().await;
            if let Err(error) = self.commit_with_patience(&mut pen, clock).await {
                return error;
            }
        }
    }

    /// Commits all there is. When there is no room for it, refuses writes until there is.
    async fn commit_with_patience(&self, pen: &mut Pen<S>, clock: &Clock) -> Result<(), LogError> {
        let mut waited = false;
        loop {
            match self.commit_all(pen, clock).await {
                Ok(()) => break,
                Err(error) if error.waits_for_room() => {
                    if !waited {
                        let what = "the log has no room: writes are answered 503";
                        tracing::error!(shard = self.shard, %error, "{what}");
                    }
                    waited = true;
                    let commits = &mut self.state.borrow_mut().commits;
                    commits.stats = pen.log.stats();
                    commits.fail(Unavailable::LogWaits);
                }
                Err(error) => return Err(error),
            }
            self.storage.rest().await;
        }
        if waited {
            self.state.borrow_mut().commits.has_room();
            tracing::info!(shard = self.shard, "the log has room again: writes are taken");
        }
        Ok(())
    }

    /// Commits group after group until there is nothing left to do. After an error it may be
    /// called again.
    async fn commit_all(&self, pen: &mut Pen<S>, clock: &Clock) -> Result<(), LogError> {
        while pen.unwritten || self.seal(pen) {
            self.commit(pen, clock.wall_ms()).await?;
        }
        Ok(())
    }

    /// Writes the sealed block and makes it durable; sends the answers when it is what they wait
    /// for.
    async fn commit(&self, pen: &mut Pen<S>, wall_ms: i64) -> Result<(), LogError> {
        let written = |seq| {
            let commits = &mut self.state.borrow_mut().commits;
            commits.written = seq;
            if !self.answers_wait {
                commits.answer(seq);
            }
        };
        let seq = pen.log.commit(&mut pen.sealed, wall_ms, written).await?;
        pen.unwritten = false;
        let commits = &mut self.state.borrow_mut().commits;
        commits.stats = pen.log.stats();
        commits.is_durable(seq);
        commits.answer(seq);
        Ok(())
    }

    /// Seals the open group.
    fn seal(&self, pen: &mut Pen<S>) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.applier.group.is_empty() {
            return false;
        }
        pen.sealed.fill(&mut state.applier.group, &mut state.applier.newest);
        pen.unwritten = true;
        if state.applier.untold.len_bytes() >= TELL_BYTES {
            self.shrink.raise();
        }
        state.commits.open_seq += 1;
        true
    }
}

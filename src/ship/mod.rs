//! Finished blocks on their way to the bucket, and what may be deleted after.
//!
//! A block directory that was flushed, synced and verified is offered to the [`Shipper`]. It
//! uploads the files, looks at each, makes the block visible with `meta.json`, looks at all of it
//! again, and only then says [`Shipped`]. Intake never waits for any of it.
//!
//! | file | is |
//! |---|---|
//! | `queue` | which block when: order, pauses (pure) |
//! | `upload` | which step when: the closed list [`Step`] (pure) |
//! | `meta` | the block on disk; its `meta.json` in the bucket |
//! | `state` | `thanos.shipper.json` |
//! | `job` | does the steps |
//! | `retain` | what may be deleted |
//!
//! ## Promises
//! A block is visible in the bucket whole or not at all, and once: whatever step a crash cuts off,
//! the next run finds out what is there and finishes it. A block that cannot be uploaded is tried
//! for ever. Nothing local is deleted here; [`deletable`] says what may be, and never a block that
//! was not seen whole in the bucket.
//!
//! ## Limits
//! Up to [`Settings::uploads_at_once`] parts of an upload are in memory (a part is the bucket's
//! `part_size`). Who asks waits for the shipper, and it waits for nobody who asks: [`Shipped`] goes
//! into a channel without a bound, that holds at most one message for each local block.
//!
//! ## Metrics
//! By tenant: `thanos_shipper_uploads_total`, `thanos_shipper_upload_failures_total`,
//! `thanos_shipper_corrupted_blocks_total`, from the first block of a tenant on. In all:
//! `tidegate_ship_backlog_blocks`, `tidegate_ship_backlog_bytes`, and
//! `thanos_objstore_bucket_last_successful_upload_time`, which shows after the first block that
//! this process has shipped.

mod job;
mod meta;
mod queue;
mod retain;
mod state;
mod upload;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{self, JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use ulid::Ulid;

use crate::bucket::Bucket;
use crate::model::TenantId;
use crate::rt::channel::{mpsc, watch};
use crate::ship::job::Job;
use crate::ship::state::State;
use crate::telemetry::{Counters, LabelPairs, Metric};

pub use job::{COPY_AGE_MS_MAX, HashFunc, Terms, Trouble};
pub use meta::BlockError;
pub use queue::{Backlog, Next, Outcome, Queue};
pub use retain::{Kept, Pruned, Pruner, Retention, deletable};
pub use state::STATE_FILE;
pub use upload::{Step, Unfaithful};

/// Longest wait at a stop for uploads to reach the end of their step. A step that is cut off
/// instead is what a crash does.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How to ship.
#[derive(Clone)]
pub struct Settings {
    /// Uploads at once, each of another tenant.
    pub uploads_at_once: usize,
    /// What holds for each of them.
    pub terms: Terms,
    /// Feeds the jitter of pauses.
    pub seed: u64,
    /// Where it counts.
    pub counters: Counters,
}

/// What the shipper is asked.
#[derive(Debug)]
pub enum Ask {
    /// A finished block directory. At start all that exist are offered; those in the bucket are
    /// answered with [`Shipped`] at once.
    Offer(PathBuf),
    /// A block directory that was deleted.
    Forget(PathBuf),
}

/// A block that is verified to be in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    /// Its local directory.
    pub dir: PathBuf,
    /// Its ULID in the bucket; none if it has no samples and stays out.
    pub copy: Option<Ulid>,
}

/// The uploads of one process.
pub struct Shipper {
    bucket: Bucket,
    settings: Settings,
    queue: Queue,
    /// By directory of a tenant.
    states: BTreeMap<PathBuf, Arc<Mutex<State>>>,
    /// Those tried before, and what their upload remembers.
    jobs: BTreeMap<PathBuf, Job>,
    running: JoinSet<Attempt>,
    running_dirs: BTreeMap<task::Id, PathBuf>,
    shipped: mpsc::UnboundedSender<Shipped>,
    begun: Instant,
}

/// An attempt that ended.
struct Attempt {
    dir: PathBuf,
    job: Option<Job>,
    result: Result<Option<Ulid>, Trouble>,
}

impl Shipper {
    /// A shipper to a bucket. To be made inside the tokio runtime that will run it.
    pub fn new(
        bucket: Bucket,
        settings: Settings,
        shipped: mpsc::UnboundedSender<Shipped>,
    ) -> Self {
        Self {
            queue: Queue::new(settings.uploads_at_once, settings.seed),
            bucket,
            settings,
            states: BTreeMap::new(),
            jobs: BTreeMap::new(),
            running: JoinSet::new(),
            running_dirs: BTreeMap::new(),
            shipped,
            begun: Instant::now(),
        }
    }

    /// Ships until `stop` turns true, or until all is shipped after the last asker has gone.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut stop: watch::Receiver<bool>) {
        let mut open = true;
        loop {
            self.tell_backlog();
            let next = self.start_all(&stop);
            if !open && self.queue.is_empty() {
                return;
            }
            let wait = match next {
                Next::WaitUntil(at_ms) => Some((at_ms - self.now_ms()).max(0).unsigned_abs()),
                Next::Start(_) | Next::Idle => None,
            };
            tokio::select! {
                () = stopped(&mut stop) => break,
                ask = asks.recv(), if open => match ask {
                    None => open = false,
                    Some(Ask::Offer(dir)) => self.offer(dir).await,
                    Some(Ask::Forget(dir)) => self.forget(&dir).await,
                },
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    self.ended(ended);
                }
                () = sleep(Duration::from_millis(wait.unwrap_or(0))), if wait.is_some() => {}
            }
        }
        let drained = async { while self.running.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, drained).await.is_err() {
            self.running.shutdown().await;
        }
    }

    /// Milliseconds of a clock that does not step.
    fn now_ms(&self) -> i64 {
        self.begun.elapsed().as_millis() as i64
    }

    fn start_all(&mut self, stop: &watch::Receiver<bool>) -> Next {
        loop {
            match self.queue.next(self.now_ms()) {
                Next::Start(dir) => self.start(dir, stop.clone()),
                other => return other,
            }
        }
    }

    fn start(&mut self, dir: PathBuf, stop: watch::Receiver<bool>) {
        let (bucket, terms) = (self.bucket.clone(), self.settings.terms.clone());
        let state = self.states.get(lane_of(&dir)).map(Arc::clone);
        let mut job = self.jobs.remove(&dir);
        let owned = dir.clone();
        let task = self.running.spawn(async move {
            let watch =
                |_| if *stop.borrow() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let result = attempt(&owned, &mut job, &bucket, state, &terms, watch).await;
            Attempt { dir: owned, job, result }
        });
        self.running_dirs.insert(task.id(), dir);
    }

    async fn offer(&mut self, dir: PathBuf) {
        for metric in
            [Metric::ShipperUploads, Metric::ShipperUploadFailures, Metric::ShipperCorruptedBlocks]
        {
            self.count(metric, &dir, 0);
        }
        let state = match self.state(lane_of(&dir)).await {
            Ok(state) => state,
            Err(error) => {
                let text = "the reader of the state of uploads panicked";
                tracing::error!(tenant = tenant_name(&dir), dir = %dir.display(), %error, "{text}");
                return;
            }
        };
        let named =
            dir.file_name().and_then(|n| n.to_str()).and_then(|n| Ulid::from_string(n).ok());
        let Some(ulid) = named else {
            tracing::error!(dir = %dir.display(), "was offered but is not a block directory");
            return;
        };
        let known = {
            let state = state.lock().await;
            state.is_uploaded(ulid).then(|| state.copy_of(ulid))
        };
        if known.is_some() {
            self.tell(Shipped { dir, copy: known });
            return;
        }
        // A damaged block is queued too: its attempt will say so, now and again.
        let (min_time_ms, size_bytes) = match Job::open(&dir).await {
            Ok(job) => (job.min_time_ms(), job.size_bytes()),
            Err(_) => (ulid.timestamp_ms() as i64, 0),
        };
        self.queue.offer(&dir, ulid, min_time_ms, size_bytes);
    }

    async fn forget(&mut self, dir: &Path) {
        self.queue.forget(dir);
        self.jobs.remove(dir);
        let named =
            dir.file_name().and_then(|n| n.to_str()).and_then(|n| Ulid::from_string(n).ok());
        let Some((ulid, state)) = named.zip(self.states.get(lane_of(dir))) else { return };
        let mut state = Arc::clone(state).lock_owned().await;
        match spawn_blocking(move || state.forget(ulid)).await.map_err(io::Error::other).flatten() {
            Ok(()) => {}
            Err(error) => {
                let what = "cannot write the list of uploaded blocks";
                tracing::warn!(tenant = tenant_name(dir), dir = %dir.display(), %error, "{what}");
            }
        }
    }

    /// The state of a tenant's blocks, read on the first use.
    async fn state(&mut self, lane: &Path) -> Result<Arc<Mutex<State>>, JoinError> {
        if let Some(state) = self.states.get(lane) {
            return Ok(Arc::clone(state));
        }
        let owned = lane.to_owned();
        let state = spawn_blocking(move || State::load(&owned)).await?;
        let state = Arc::new(Mutex::new(state));
        self.states.insert(lane.to_owned(), Arc::clone(&state));
        Ok(state)
    }

    fn ended(&mut self, ended: Result<(task::Id, Attempt), JoinError>) {
        let now_ms = self.now_ms();
        match ended {
            Ok((id, Attempt { dir, job, result })) => {
                self.running_dirs.remove(&id);
                match result {
                    Ok(copy) => {
                        self.queue.finished(&dir, Outcome::Shipped, now_ms);
                        if let Some(copy) = copy {
                            let tenant = tenant_name(&dir);
                            tracing::info!(tenant, dir = %dir.display(), %copy, "block shipped");
                            self.count_upload(&dir);
                        }
                        self.tell(Shipped { dir, copy });
                    }
                    Err(trouble) => {
                        let outcome = trouble.outcome();
                        self.queue.finished(&dir, outcome, now_ms);
                        self.count_failure(&dir, outcome == Outcome::BlockDamaged);
                        tracing::warn!(
                            tenant = tenant_name(&dir), dir = %dir.display(), ?outcome,
                            error = %trouble, "block not shipped, will try again"
                        );
                        // A damaged block is read anew: somebody may have mended it.
                        if let Some(job) = job.filter(|_| outcome != Outcome::BlockDamaged) {
                            self.jobs.insert(dir, job);
                        }
                    }
                }
            }
            Err(error) => {
                let Some(dir) = self.running_dirs.remove(&error.id()) else { return };
                self.queue.finished(&dir, Outcome::BlockDamaged, now_ms);
                self.count_failure(&dir, true);
                let what = "the upload of a block panicked";
                tracing::error!(tenant = tenant_name(&dir), dir = %dir.display(), %error, "{what}");
            }
        }
    }

    fn count_upload(&self, dir: &Path) {
        self.count(Metric::ShipperUploads, dir, 1);
        let bucket = vec![("bucket", self.bucket.name().to_owned())];
        let wall_s = self.settings.terms.clock.wall_ms() as f64 / 1000.0;
        self.settings.counters.set(Metric::BucketLastUpload, bucket, wall_s);
    }

    fn count_failure(&self, dir: &Path, damaged: bool) {
        self.count(Metric::ShipperUploadFailures, dir, 1);
        self.count(Metric::ShipperCorruptedBlocks, dir, u64::from(damaged));
    }

    fn count(&self, metric: Metric, dir: &Path, count: u64) {
        self.settings.counters.count(metric, tenant_of(dir), count);
    }

    fn tell_backlog(&self) {
        let backlog = self.queue.backlog();
        let set = |metric, value| self.settings.counters.set(metric, vec![], value);
        set(Metric::ShipBacklogBlocks, backlog.blocks as f64);
        set(Metric::ShipBacklogBytes, backlog.size_bytes as f64);
    }

    /// Tells who keeps the list of blocks; if nobody does any more, nobody needs to know.
    fn tell(&self, shipped: Shipped) {
        if let Err(unheard) = self.shipped.send(shipped) {
            tracing::debug!(dir = %unheard.0.dir.display(), "nobody listens");
        }
    }
}

/// One attempt at one block, without a queue: for tools, and for tests that cut it off.
/// `watch` sees each step that was done and may stop there.
pub async fn ship_block(
    dir: &Path,
    bucket: &Bucket,
    terms: &Terms,
    watch: impl FnMut(Step) -> ControlFlow<()>,
) -> Result<Option<Ulid>, Trouble> {
    let lane = lane_of(dir).to_owned();
    let loaded = spawn_blocking(move || State::load(&lane)).await.map_err(io::Error::other);
    let state = loaded.map_err(|source| Trouble::State { dir: dir.into(), source })?;
    let mut job = None;
    attempt(dir, &mut job, bucket, Some(Arc::new(Mutex::new(state))), terms, watch).await
}

async fn attempt(
    dir: &Path,
    job: &mut Option<Job>,
    bucket: &Bucket,
    state: Option<Arc<Mutex<State>>>,
    terms: &Terms,
    watch: impl FnMut(Step) -> ControlFlow<()>,
) -> Result<Option<Ulid>, Trouble> {
    let Some(state) = state else {
        let source = io::Error::other("was not read");
        return Err(Trouble::State { dir: dir.to_owned(), source });
    };
    let job = match job {
        Some(job) => job,
        None => job.insert(Job::open(dir).await?),
    };
    debug_assert!(dir.ends_with(job.ulid().to_string()), "a job is of its directory");
    job.attempt(bucket, &state, terms, watch).await
}

/// Tenants' blocks lie in one directory each, their state file beside them.
fn lane_of(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}

/// Whose a block is: its directory lies in that of its tenant.
fn tenant_name(dir: &Path) -> String {
    let name = lane_of(dir).file_name().unwrap_or_default().to_string_lossy();
    TenantId::of_dir(&name).map_or_else(|| name.into_owned(), |tenant| tenant.to_string())
}

/// The label of a block's tenant.
fn tenant_of(dir: &Path) -> LabelPairs {
    vec![("tenant", tenant_name(dir))]
}

/// Returns when `stop` is true, or when nobody can make it so any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let nobody = stop.wait_for(|stop| *stop).await.is_err();
    if nobody {
        std::future::pending::<()>().await;
    }
}

//! Does the steps of one upload: the hands to [`Upload`]'s head.
//!
//! Runs on the control side. Reading and hashing happen on tokio's blocking threads; the bucket
//! signs, and so hashes, what it sends on the thread that polls it: run uploads on the control
//! side's pool, not on the reactor that answers Info.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use ulid::Ulid;

use crate::bucket::{self, Bucket, Fault};
use crate::rt::clock::Clock;
use crate::ship::meta::{self, Block, BlockError, Found, META_BYTES_MAX, META_FILE};
use crate::ship::queue::Outcome;
use crate::ship::state::State;
use crate::ship::upload::{Answer, Step, Unfaithful, Upload};

/// Age of a copy's ULID from which no upload begins under it: half the age at which a compactor
/// takes an unfinished upload for abandoned and deletes it.
pub const COPY_AGE_MS_MAX: i64 = 24 * 60 * 60 * 1_000;

/// `--hash-func`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashFunc {
    /// No hashes in `meta.json`.
    #[default]
    None,
    /// SHA-256 of each file.
    Sha256,
}

/// What holds for all uploads.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Whether files are hashed.
    pub hash: HashFunc,
    /// Age of a copy's ULID from which no upload begins under it; see [`COPY_AGE_MS_MAX`].
    pub copy_age_ms_max: i64,
    /// For ULIDs of new copies and `upload_time`.
    pub clock: Clock,
}

/// Why an attempt ended before the block was in the bucket.
#[derive(Debug, Error)]
pub enum Trouble {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] bucket::Error),
    /// The bucket does not keep what it confirms.
    #[error(transparent)]
    Unfaithful(#[from] Unfaithful),
    /// The block cannot be shipped as it is.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Another block has this one's place.
    #[error("{copy}/{META_FILE} in the bucket is of other data than local block {block}")]
    Foreign {
        /// The local block.
        block: Ulid,
        /// The place.
        copy: Ulid,
    },
    /// The state file could not be written.
    #[error("state of uploads in {}: {source}", dir.display())]
    State {
        /// Its directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The watcher said stop after this step.
    #[error("stopped after {0:?}")]
    Stopped(Step),
}

impl Trouble {
    /// Whom it concerns.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Bucket(error) if error.fault.whole_bucket() => Outcome::BucketFailed,
            Self::Bucket(error) if error.fault == Fault::Local => Outcome::BlockDamaged,
            Self::Bucket(_) => Outcome::BlockRefused,
            Self::Unfaithful(_) | Self::State { .. } | Self::Stopped(_) => Outcome::BucketFailed,
            Self::Block(_) | Self::Foreign { .. } => Outcome::BlockDamaged,
        }
    }
}

/// One block's upload, over all its attempts in this process.
#[derive(Debug)]
pub(super) struct Job {
    block: Block,
    upload: Upload,
    hashes: Option<Vec<String>>,
    published: Bytes,
}

impl Job {
    /// Reads a block directory.
    pub(super) async fn open(dir: &Path) -> Result<Self, Trouble> {
        let owned = dir.to_owned();
        let block = blocking(dir, move || Ok(Block::read(&owned))).await??;
        let sizes = block.files.iter().map(|f| f.size_bytes).collect();
        Ok(Self { upload: Upload::new(sizes), block, hashes: None, published: Bytes::new() })
    }

    pub(super) fn ulid(&self) -> Ulid {
        self.block.ulid
    }

    pub(super) fn min_time_ms(&self) -> i64 {
        self.block.min_time_ms
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.block.size_bytes()
    }

    /// Brings the block into the bucket, or as far as it goes. `watch` sees each step that was
    /// done and may stop there. Returns the copy's ULID; none for a block without samples, which
    /// no bucket needs.
    pub(super) async fn attempt(
        &mut self,
        bucket: &Bucket,
        state: &Arc<Mutex<State>>,
        terms: &Terms,
        mut watch: impl FnMut(Step) -> ControlFlow<()>,
    ) -> Result<Option<Ulid>, Trouble> {
        let block = self.block.ulid;
        if self.block.samples == 0 {
            self.note(state, move |s| s.record(block)).await?;
            return Ok(None);
        }
        self.upload.again();
        loop {
            let copy = state.lock().await.copy_of(block);
            let step = self.upload.step();
            let answer = match step {
                Step::Probe => self.probe(bucket, copy, terms).await?,
                Step::Assign => {
                    let copy = new_ulid(terms.clock.wall_ms());
                    let copy = copy.map_err(|e| self.state_trouble(e))?;
                    self.note(state, move |s| s.assign(block, copy)).await?;
                    let dir = self.block.dir.display();
                    tracing::info!(%dir, %copy, "the block gets a new ULID in the bucket");
                    Answer::Done
                }
                Step::Put(i) => {
                    let (key, path) = self.file(copy, i);
                    Answer::Stored(bucket.put_file(&key, &path).await?)
                }
                Step::Check(i) | Step::CheckAll(i) => {
                    let (key, _) = self.file(copy, i);
                    bucket.head(&key).await?.map_or(Answer::Absent, Answer::Stored)
                }
                Step::Publish => self.publish(bucket, copy, terms).await?,
                Step::CheckPublished => self.check_published(bucket, copy).await?,
                Step::Record => {
                    self.note(state, move |s| s.record(block)).await?;
                    Answer::Done
                }
                Step::Done => return Ok(Some(copy)),
            };
            self.upload.answer(answer)?;
            step.done();
            if watch(step).is_break() {
                return Err(Trouble::Stopped(step));
            }
        }
    }

    async fn probe(&self, bucket: &Bucket, copy: Ulid, terms: &Terms) -> Result<Answer, Trouble> {
        let key = format!("{copy}/{META_FILE}");
        if bucket.exists(&key).await? {
            let bytes = bucket.get(&key, META_BYTES_MAX).await?;
            match meta::judge(&bytes, &self.block, copy) {
                Found::Ours => return Ok(Answer::Present),
                Found::Foreign => return Err(Trouble::Foreign { block: self.block.ulid, copy }),
                Found::Broken => {}
            }
        }
        let made_ms = i64::try_from(copy.timestamp_ms()).unwrap_or(i64::MAX);
        let age_ms = terms.clock.wall_ms().saturating_sub(made_ms);
        Ok(if age_ms > terms.copy_age_ms_max { Answer::AbsentAndOld } else { Answer::Absent })
    }

    async fn publish(
        &mut self,
        bucket: &Bucket,
        copy: Ulid,
        terms: &Terms,
    ) -> Result<Answer, Trouble> {
        if self.hashes.is_none() {
            self.hashes = Some(match terms.hash {
                HashFunc::None => Vec::new(),
                HashFunc::Sha256 => {
                    let block = self.block.clone();
                    blocking(&self.block.dir, move || Ok(block.hashes())).await??
                }
            });
        }
        let hashes = self.hashes.as_deref().unwrap_or_default();
        let upload_time = Timestamp::from_millisecond(terms.clock.wall_ms());
        let upload_time = upload_time.map_err(|e| self.state_trouble(io::Error::other(e)))?;
        self.published = self.block.published(copy, hashes, &upload_time.to_string()).into();
        bucket.put(&format!("{copy}/{META_FILE}"), self.published.clone()).await?;
        Ok(Answer::Done)
    }

    async fn check_published(&self, bucket: &Bucket, copy: Ulid) -> Result<Answer, Trouble> {
        match bucket.get(&format!("{copy}/{META_FILE}"), META_BYTES_MAX).await {
            Ok(bytes) if bytes == self.published => Ok(Answer::Present),
            Ok(_) => Ok(Answer::Absent),
            Err(error) if error.fault == Fault::NotFound => Ok(Answer::Absent),
            Err(error) => Err(error.into()),
        }
    }

    /// Key and path of file `i`.
    fn file(&self, copy: Ulid, i: usize) -> (String, PathBuf) {
        let rel_path = self.block.files.get(i).map_or("", |f| f.rel_path.as_str());
        (format!("{copy}/{rel_path}"), self.block.dir.join(rel_path))
    }

    /// Changes the state file.
    async fn note(
        &self,
        state: &Arc<Mutex<State>>,
        change: impl FnOnce(&mut State) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Trouble> {
        let mut state = Arc::clone(state).lock_owned().await;
        blocking(&self.block.dir, move || change(&mut state)).await
    }

    fn state_trouble(&self, source: io::Error) -> Trouble {
        Trouble::State { dir: self.block.dir.clone(), source }
    }
}

/// Disk work away from the reactor.
fn blocking<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl Future<Output = Result<T, Trouble>> + Send + 'static {
    let dir = dir.to_owned();
    async move {
        let done = spawn_blocking(work).await.map_err(io::Error::other).flatten();
        done.map_err(|source| Trouble::State { dir, source })
    }
}

fn new_ulid(wall_ms: i64) -> io::Result<Ulid> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let ms = u64::try_from(wall_ms).map_err(io::Error::other)?;
    Ok(Ulid::from_parts(ms, u128::from_le_bytes(random)))
}

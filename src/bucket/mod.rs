//! Object storage: where finished blocks live on.
//!
//! A [`Bucket`] is S3 or a directory behind one small set of operations, those that shipping and
//! reading blocks need. It lives on the control side, in a tokio runtime, and never on a core: the
//! client sleeps on tokio's timers, and signing hashes every byte.
//!
//! ## Promises
//! What a `put` has confirmed is stored whole (see [`s3`](self) and [`Directory`]); an object is
//! never visible in part. Each error names the operation, the key and the way out, and says
//! whether another try could help ([`Error::worth_retry`]). No operation waits for ever.
//!
//! ## Limits
//! One part (`part_size`) or one whole small object is in memory per running operation.
//!
//! ## Metrics
//! `thanos_objstore_bucket_operations_total`, `_operation_failures_total`,
//! `_operation_duration_seconds` and `_operation_transferred_bytes`, with labels `bucket` and
//! `operation` as in Thanos. An object that is not there is an answer to `exists` and `attributes`,
//! not a failure.

mod connector;
mod directory;
mod error;
mod s3;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;
use ulid::Ulid;

use crate::config;
use crate::rt::clock::Moment;
use crate::telemetry::{Counters, LabelPairs, Metric};

pub use directory::Directory;
pub use error::{Error, Fault, Op, SettingsError};

/// A stored object as the bucket describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its `ETag`, if the bucket has such a thing. Equal tags mean equal bytes; unequal tags of
    /// equal bytes are possible (another part size).
    pub tag: Option<String>,
}

impl Stored {
    /// Whether two descriptions can be of one object: equal sizes, and equal tags where both
    /// have one.
    pub fn agrees(&self, other: &Self) -> bool {
        let tags = self.tag.as_ref().zip(other.tag.as_ref());
        self.size_bytes == other.size_bytes && tags.is_none_or(|(a, b)| a == b)
    }
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key, without the bucket's prefix.
    pub key: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// An open bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    kind: Kind,
    name: Arc<str>,
    counters: Counters,
}

#[derive(Debug, Clone)]
enum Kind {
    S3(s3::Store),
    Directory(Directory),
}

impl Bucket {
    /// Opens a bucket: checks the settings, reads certificates, makes the directory and writes to
    /// it. Asks nothing of a server; [`Bucket::check`] does.
    pub fn open(settings: &config::Bucket) -> Result<Self, SettingsError> {
        let (kind, name) = match settings {
            config::Bucket::S3(s3) => (Kind::S3(s3::Store::open(s3)?), s3.bucket.clone()),
            config::Bucket::Filesystem { directory, prefix } => {
                // Joining an empty one would add a slash.
                let root = match prefix.trim_matches('/') {
                    "" => directory.clone(),
                    prefix => directory.join(prefix),
                };
                let opened = Directory::open(&root)
                    .map_err(|source| SettingsError::Directory { path: root.clone(), source })?;
                (Kind::Directory(opened), root.display().to_string())
            }
        };
        Ok(Self { kind, name: name.into(), counters: Counters::default() })
    }

    /// Its name: the label `bucket` of Thanos' metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was asked of it so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Asks the bucket for a little: whether endpoint, name and credentials are right.
    pub async fn check(&self) -> Result<(), Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.check().await,
                Kind::Directory(dir) => local(dir, Op::Iter, "", |d, _| d.blocks().map(drop)).await,
            }
        };
        self.count(Op::Iter, asked, |()| 0).await
    }

    /// Writes a small object from memory.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<Stored, Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.put(key, bytes).await,
                Kind::Directory(dir) => {
                    local(dir, Op::Upload, key, move |d, k| d.put(k, &bytes)).await
                }
            }
        };
        self.count(Op::Upload, asked, |stored| stored.size_bytes).await
    }

    /// Writes an object from a file that does not change meanwhile. An object of an earlier try is
    /// replaced.
    pub async fn put_file(&self, key: &str, source: &Path) -> Result<Stored, Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.put_file(key, source).await,
                Kind::Directory(dir) => {
                    let source = source.to_owned();
                    let unreadable = |e| Error::new(Op::Upload, key, Fault::Local, e);
                    let file = source.clone();
                    let opened = spawn_blocking(move || std::fs::File::open(file)).await;
                    // A block that cannot be read is no fault of the bucket.
                    drop(opened.map_err(io::Error::other).flatten().map_err(unreadable)?);
                    local(dir, Op::Upload, key, move |d, k| d.put_file(k, &source)).await
                }
            }
        };
        self.count(Op::Upload, asked, |stored| stored.size_bytes).await
    }

    /// Reads a whole object of at most `size_bytes_max`.
    pub async fn get(&self, key: &str, size_bytes_max: u64) -> Result<Bytes, Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.get(key, None, size_bytes_max).await,
                Kind::Directory(dir) => {
                    let len_max = size_bytes_max.saturating_add(1);
                    let bytes = local(dir, Op::Get, key, move |d, k| d.get(k, 0, len_max)).await?;
                    if bytes.len() as u64 > size_bytes_max {
                        let text = format!("more than {size_bytes_max} bytes");
                        return Err(Error::new(Op::Get, key, Fault::Unexpected, text));
                    }
                    Ok(bytes.into())
                }
            }
        };
        self.count(Op::Get, asked, |bytes| bytes.len() as u64).await
    }

    /// Reads `len` bytes of an object from `offset`; fewer if it ends before.
    pub async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.get(key, Some((offset, len)), len).await,
                Kind::Directory(dir) => {
                    let read = move |d: &Directory, k: &str| d.get(k, offset, len);
                    local(dir, Op::GetRange, key, read).await.map(Bytes::from)
                }
            }
        };
        self.count(Op::GetRange, asked, |bytes| bytes.len() as u64).await
    }

    /// What the bucket knows of an object; nothing if there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Stored>, Error> {
        self.count(Op::Attributes, self.ask_head(key, Op::Attributes), |_| 0).await
    }

    /// Whether there is such an object.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        self.count(Op::Exists, self.ask_head(key, Op::Exists), |_| 0).await.map(|s| s.is_some())
    }

    async fn ask_head(&self, key: &str, op: Op) -> Result<Option<Stored>, Error> {
        match &self.kind {
            Kind::S3(store) => store.head(key).await,
            Kind::Directory(dir) => local(dir, op, key, Directory::head).await,
        }
    }

    /// The block directories in the bucket, also those without `meta.json`.
    pub async fn blocks(&self) -> Result<BTreeSet<Ulid>, Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.blocks().await,
                Kind::Directory(dir) => local(dir, Op::Iter, "", |d, _| d.blocks()).await,
            }
        };
        self.count(Op::Iter, asked, |_| 0).await
    }

    /// The objects of a block, in any order.
    pub async fn objects(&self, block: Ulid) -> Result<Vec<Object>, Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.objects(block).await,
                Kind::Directory(dir) => {
                    let key = block.to_string();
                    local(dir, Op::Iter, &key, move |d, _| d.objects(block)).await
                }
            }
        };
        self.count(Op::Iter, asked, |_| 0).await
    }

    /// Deletes an object. One that is not there is deleted.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let asked = async {
            match &self.kind {
                Kind::S3(store) => store.delete(key).await,
                Kind::Directory(dir) => local(dir, Op::Delete, key, Directory::delete).await,
            }
        };
        self.count(Op::Delete, asked, |()| 0).await
    }

    async fn count<T>(
        &self,
        op: Op,
        asked: impl Future<Output = Result<T, Error>>,
        size_bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, Error> {
        let begun = Moment::now();
        let result = asked.await;
        let took_s = begun.elapsed().as_secs_f64();
        let labels = || self.labels(op);
        self.counters.observe(Metric::BucketOperationDuration, labels(), took_s);
        self.counters.count(Metric::BucketOperations, labels(), 1);
        self.counters.count(Metric::BucketOperationFailures, labels(), u64::from(result.is_err()));
        let moved = result.as_ref().map_or(0, size_bytes);
        if moved > 0 {
            self.counters.observe(Metric::BucketTransferredBytes, labels(), moved as f64);
        }
        result
    }

    fn labels(&self, op: Op) -> LabelPairs {
        vec![("bucket", self.name.to_string()), ("operation", op.as_str().to_owned())]
    }
}

/// Does directory work on a thread that may block.
async fn local<T: Send + 'static>(
    directory: &Directory,
    op: Op,
    key: &str,
    work: impl FnOnce(&Directory, &str) -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let (directory, owned) = (directory.clone(), key.to_owned());
    let done = spawn_blocking(move || work(&directory, &owned)).await;
    done.map_err(io::Error::other).flatten().map_err(|e| Error::local(op, key, e))
}

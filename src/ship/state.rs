//! What is known to be in the bucket: `thanos.shipper.json`, one beside the blocks of a tenant.
//!
//! ## Format
//! ```text
//! { "version": 1,
//!   "uploaded": ["01H...", ...],                 local blocks that are in the bucket
//!   "tidegate_copies": { "01H...": "01J..." },   local block -> its ULID in the bucket, where
//!                                                they differ: noted before the first object
//!   "tidegate_bucket": "S3 host/bucket/prefix" } which bucket it speaks of
//! ```
//! The first two keys are Thanos' own, and Thanos skips the others: a tenant's directory moves
//! between the two without a second upload. A state that names no bucket is taken to be of the one
//! in use. One of another bucket says nothing of what is in this one: each block is looked for.
//!
//! ## Crash
//! Written to a second file, synced, renamed, directory synced: the old state or the new one. The
//! file saves requests, it does not decide: a block that it does not name is looked for in the
//! bucket first. So a lost or damaged file costs a request per block, and at worst a second copy
//! that readers drop (see [`meta`](super) on sources).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Name of the file.
pub const STATE_FILE: &str = "thanos.shipper.json";

/// What is done without a state.
const ANEW: &str =
    "the list of uploaded blocks is begun anew, the bucket is asked for each of them";

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    version: u32,
    #[serde(default)]
    uploaded: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tidegate_copies: BTreeMap<String, String>,
    #[serde(default)]
    tidegate_bucket: Option<String>,
}

/// The state of one tenant's blocks.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    /// [`Bucket::place`](crate::bucket::Bucket::place).
    bucket: String,
    uploaded: BTreeSet<Ulid>,
    copies: BTreeMap<Ulid, Ulid>,
}

impl State {
    /// Reads the state beside the blocks in `dir`, for the bucket at a place. A missing file is an
    /// empty state; so is one that is damaged or cannot be read, which is said. Blocks the thread,
    /// like all that is not a question.
    pub(super) fn load(dir: &Path, bucket: &str) -> Self {
        let (path, bucket) = (dir.join(STATE_FILE), bucket.to_owned());
        let (uploaded, copies) = (BTreeSet::new(), BTreeMap::new());
        let mut state = Self { path, bucket, uploaded, copies };
        let bytes = match fs::read(&state.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %state.path.display(), %error, "{ANEW}: cannot be read");
                }
                return state;
            }
        };
        let ulid = |text: &String| Ulid::from_string(text).ok();
        match serde_json::from_slice::<Written>(&bytes) {
            Ok(written) if written.version == 1 => {
                let copies = written.tidegate_copies.iter();
                state.copies = copies.filter_map(|(l, c)| Some((ulid(l)?, ulid(c)?))).collect();
                let was = written.tidegate_bucket;
                if let Some(was) = was.as_ref().filter(|was| **was != state.bucket) {
                    let (path, now) = (&state.path, &state.bucket);
                    tracing::info!(?path, was, now, "another bucket: blocks are looked for there");
                    return state;
                }
                state.uploaded = written.uploaded.iter().flatten().filter_map(ulid).collect();
                if was.is_none()
                    && let Err(error) = state.store()
                {
                    tracing::warn!(path = ?state.path, %error, "cannot note the bucket");
                }
            }
            Ok(written) => {
                let version = written.version;
                tracing::warn!(path = %state.path.display(), version, "{ANEW}: unknown version");
            }
            Err(error) => {
                tracing::warn!(path = %state.path.display(), %error, "{ANEW}: damaged");
            }
        }
        state
    }

    /// Whether a local block is known to be in the bucket.
    pub(super) fn is_uploaded(&self, block: Ulid) -> bool {
        self.uploaded.contains(&block)
    }

    /// The ULID a local block has, or will have, in the bucket.
    pub(super) fn copy_of(&self, block: Ulid) -> Ulid {
        self.copies.get(&block).copied().unwrap_or(block)
    }

    /// Notes, durably, under which ULID a block will be uploaded from now on.
    pub(super) fn assign(&mut self, block: Ulid, copy: Ulid) -> io::Result<()> {
        self.copies.insert(block, copy);
        self.store()
    }

    /// Notes, durably, that a block is in the bucket.
    pub(super) fn record(&mut self, block: Ulid) -> io::Result<()> {
        self.uploaded.insert(block);
        self.store()
    }

    /// Forgets a block that is gone from the local disk.
    pub(super) fn forget(&mut self, block: Ulid) -> io::Result<()> {
        let known = self.uploaded.remove(&block);
        if self.copies.remove(&block).is_some() || known { self.store() } else { Ok(()) }
    }

    fn store(&self) -> io::Result<()> {
        let text = Ulid::to_string;
        let written = Written {
            version: 1,
            uploaded: Some(self.uploaded.iter().map(text).collect()),
            tidegate_copies: self.copies.iter().map(|(l, c)| (text(l), text(c))).collect(),
            tidegate_bucket: Some(self.bucket.clone()),
        };
        let mut bytes = serde_json::to_vec_pretty(&written)?;
        bytes.push(b'\n');
        let unfinished = self.path.with_extension("json.tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ulid = Ulid::from_parts(1, 1);
    const B: Ulid = Ulid::from_parts(2, 2);
    const C: Ulid = Ulid::from_parts(3, 3);
    const HERE: &str = "S3 localhost/blocks/";

    #[test]
    fn a_state_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::load(dir.path(), HERE);
        assert_eq!((state.is_uploaded(A), state.copy_of(A)), (false, A));
        state.assign(A, C).expect("assign");
        state.record(A).expect("record");
        state.record(B).expect("record");
        state.forget(B).expect("forget");
        let state = State::load(dir.path(), HERE);
        assert_eq!((state.is_uploaded(A), state.copy_of(A)), (true, C));
        assert_eq!((state.is_uploaded(B), state.copy_of(B)), (false, B));
    }

    #[test]
    fn the_file_is_what_thanos_writes_and_reads() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(STATE_FILE);
        let by_thanos = format!("{{\n\t\"version\": 1,\n\t\"uploaded\": [\n\t\t\"{A}\"\n\t]\n}}");
        fs::write(&path, by_thanos).expect("a file");
        let mut state = State::load(dir.path(), HERE);
        assert!(state.is_uploaded(A) && !state.is_uploaded(B));
        state.record(B).expect("record");
        let text = fs::read_to_string(&path).expect("the file");
        let want = format!(
            "{{\n  \"version\": 1,\n  \"uploaded\": [\n    \"{A}\",\n    \"{B}\"\n  ],\n  \
             \"tidegate_bucket\": \"{HERE}\"\n}}\n"
        );
        assert_eq!(text, want);
    }

    #[test]
    fn what_is_in_one_bucket_is_not_in_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let by_thanos = format!("{{\"version\":1,\"uploaded\":[\"{A}\"]}}");
        fs::write(dir.path().join(STATE_FILE), by_thanos).expect("a file");
        let mut state = State::load(dir.path(), HERE);
        assert!(state.is_uploaded(A), "no bucket is named");
        state.assign(B, C).expect("assign");
        let there = || State::load(dir.path(), "FILESYSTEM /data/bucket");
        assert_eq!((there().is_uploaded(A), there().copy_of(B)), (false, C));
        assert!(State::load(dir.path(), HERE).is_uploaded(A), "nothing was shipped elsewhere");
        there().record(B).expect("record");
        assert!(there().is_uploaded(B) && !there().is_uploaded(A));
        let here = State::load(dir.path(), HERE);
        assert!(!here.is_uploaded(A) && !here.is_uploaded(B));
    }

    #[test]
    fn thanos_with_no_upload_and_damaged_files_are_an_empty_state() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["{\"version\":1,\"uploaded\":null}", "{\"version\":2}", "", "{\"versi", "[]"] {
            fs::write(dir.path().join(STATE_FILE), text).expect("a file");
            let state = State::load(dir.path(), HERE);
            assert!(!state.is_uploaded(A), "{text:?}");
        }
    }
}

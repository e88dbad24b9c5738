//! The data directory: who it is, its secret, and how its slots were dealt.
//!
//! ## Format
//! `tidegate.json`: `{"format":1,"node":hex 16 bytes,"secret":hex 32 bytes,
//! "generations":[{"number":1,"shards":2},..]}`. The secret keys the hash of series, so it never
//! changes; a generation is added when the number of shards does, and its number is never given
//! twice: a log that was written under one this file does not know ends the start. `lock` is locked
//! by the process that uses the directory: two would also share the ports without noticing.
//! `scratch` is 64 KiB that the start measures the device with; it holds nothing.
//!
//! ## Crash
//! The file is replaced whole. Without it there is no directory yet: nothing is written to shards
//! before it is durable.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{KeySecret, SECRET_BYTES};
use crate::rt::{control, files};
use crate::shard::Generation;
use crate::shard::recover::shard_number;
use crate::shard::wal::format::{FIRST_BLOCK, SegmentHeader};
use crate::shard::wal::writer::{segment_name, segment_number};
use crate::stdx::hex;

/// The one version of the layout.
const FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The file system refuses.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Io {
        /// What was looked at.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another tidegate uses the data directory {} (its lock is held)", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// `tidegate.json` is not what it should be.
    #[error(
        "{} is damaged ({what}); it holds the secret of all series, so take it from a backup, or \
         move the whole directory away and start anew", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It was written by a later version.
    #[error(
        "{} has format {got}, this version knows {FORMAT}: use a newer tidegate", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        got: u32,
    },
    /// `tidegate.json` is older than a log.
    #[error(
        "{} was written under generation {generation}, of which {} does not know: put the later \
         tidegate.json back, or move this file out of the data directory",
        segment.display(), path.display()
    )]
    Outdated {
        /// `tidegate.json`.
        path: PathBuf,
        /// A segment of a log or a series file.
        segment: PathBuf,
        /// What it was written under.
        generation: u64,
    },
    /// There are shards but no `tidegate.json`.
    #[error(
        "{} has shards but no tidegate.json, which holds the secret of all series; put it back \
         from a backup, or move the directory away and start anew", path.display()
    )]
    Headless {
        /// The directory.
        path: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    node: String,
    secret: String,
    generations: Vec<Dealt>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dealt {
    number: u64,
    shards: u16,
}

/// An open data directory. It stays locked while this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its number.
    pub(crate) node: [u8; 16],
    /// What keys are derived from.
    pub(crate) secret: KeySecret,
    /// How the slots were dealt, the present way last.
    pub(crate) generations: Vec<Generation>,
    _lock: files::Lock,
}

impl DataDir {
    /// Opens the directory for `shards` shards; makes it if it is new.
    pub(crate) fn open(path: &Path, shards: u16) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io { path: path.to_owned(), source };
        files::create_dir(path).map_err(io)?;
        let lock = files::lock(&path.join("lock")).map_err(io)?;
        let lock = lock.ok_or_else(|| DataDirError::InUse { path: path.to_owned() })?;
        let file = path.join("tidegate.json");
        let old = files::read(&file).map_err(io)?;
        let is_new = old.is_none();
        let mut content = match old {
            Some(bytes) => parse(&file, &bytes)?,
            None if has_shards(path).map_err(io)? => {
                return Err(DataDirError::Headless { path: path.to_owned() });
            }
            None => Content {
                format: FORMAT,
                node: hex::encode(&control::random::<16>().map_err(io)?),
                secret: hex::encode(&control::random::<SECRET_BYTES>().map_err(io)?),
                generations: Vec::new(),
            },
        };
        let damaged = |what: &str| DataDirError::Damaged { path: file.clone(), what: what.into() };
        let node = hex::decode(&content.node).ok_or_else(|| damaged("node is not 16 bytes"))?;
        let secret =
            hex::decode(&content.secret).ok_or_else(|| damaged("secret is not 32 bytes"))?;
        if content.generations.last().is_none_or(|last| last.shards != shards) {
            let last = content.generations.last().map_or(0, |last| last.number);
            if let Some((segment, generation)) = newer_segment(path, last).map_err(io)? {
                return Err(DataDirError::Outdated { path: file, segment, generation });
            }
            let number = last + 1;
            content.generations.push(Dealt { number, shards });
        } else if !is_new {
            return Ok(Self::of(path, node, secret, &content, lock));
        }
        let text = serde_json::to_vec_pretty(&content).map_err(|e| io(e.into()))?;
        files::replace(&file, &text).map_err(io)?;
        Ok(Self::of(path, node, secret, &content, lock))
    }

    fn of(
        path: &Path,
        node: [u8; 16],
        secret: [u8; SECRET_BYTES],
        content: &Content,
        lock: files::Lock,
    ) -> Self {
        let dealt = |d: &Dealt| Generation { number: d.number, shards: d.shards };
        Self {
            path: path.to_owned(),
            node,
            secret: KeySecret::new(secret),
            generations: content.generations.iter().map(dealt).collect(),
            _lock: lock,
        }
    }
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Content, DataDirError> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = |error: serde_json::Error| DataDirError::Damaged {
        path: file.to_owned(),
        what: error.to_string(),
    };
    let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
    if version.format != FORMAT {
        return Err(DataDirError::Newer { path: file.to_owned(), got: version.format });
    }
    let content: Content = serde_json::from_slice(bytes).map_err(damaged)?;
    let ascending = content.generations.windows(2).all(|p| p[0].number < p[1].number);
    if !ascending || content.generations.iter().any(|g| g.shards == 0) {
        let what = "the generations are not in order".into();
        return Err(DataDirError::Damaged { path: file.to_owned(), what });
    }
    Ok(content)
}

/// A segment below `path` that was written under a later generation than `last`, and under which.
/// The cores look for one, too, but only after the next number was given, and it may be that one's.
fn newer_segment(path: &Path, last: u64) -> io::Result<Option<(PathBuf, u64)>> {
    for shard in files::list(path)?.iter().filter(|name| shard_number(name).is_some()) {
        for dir in ["log", "series"].map(|dir| path.join(shard).join(dir)) {
            for number in files::list(&dir)?.iter().filter_map(|name| segment_number(name)) {
                let segment = dir.join(segment_name(number));
                let header = SegmentHeader::decode(&files::read_start(&segment, FIRST_BLOCK)?);
                // Under another number the header is of an earlier life of the file.
                let header = header.filter(|h| h.number == number && h.generation > last);
                if let Some(header) = header {
                    return Ok(Some((segment, header.generation)));
                }
            }
        }
    }
    Ok(None)
}

fn has_shards(path: &Path) -> io::Result<bool> {
    Ok(files::list(path)?.iter().any(|name| name.starts_with("shard-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_number_of_shards_is_another_generation() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let open = |shards| DataDir::open(&path, shards).expect("a data directory");
        let first = open(2);
        let again = DataDir::open(&path, 2).expect_err("locked");
        assert!(matches!(again, DataDirError::InUse { .. }), "{again}");
        let node = first.node;
        drop(first);
        let numbers = |d: &DataDir| -> Vec<(u64, u16)> {
            d.generations.iter().map(|g| (g.number, g.shards)).collect()
        };
        assert_eq!(numbers(&open(2)), [(1, 2)]);
        assert_eq!(numbers(&open(3)), [(1, 2), (2, 3)]);
        let last = open(2);
        assert_eq!((numbers(&last), last.node), (vec![(1, 2), (2, 3), (3, 2)], node));
    }

    #[test]
    fn a_generation_is_not_given_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, file) = (dir.path(), dir.path().join("tidegate.json"));
        let node = DataDir::open(path, 2).expect("a data directory").node;
        let old = std::fs::read(&file).expect("read");
        drop(DataDir::open(path, 3).expect("another generation"));
        let header = SegmentHeader {
            shard: 0,
            generation: 2,
            number: 1,
            epoch: 7,
            node,
            first_seq: 1,
            size: 1 << 20,
        };
        let segment = path.join("shard-0/log").join(segment_name(1));
        files::create_dir(segment.parent().expect("a directory")).expect("made");
        std::fs::write(&segment, header.encode()).expect("written");
        std::fs::write(&file, &old).expect("put back");
        let error = DataDir::open(path, 4).expect_err("refused").to_string();
        let (what, known) = (segment.display().to_string(), file.display().to_string());
        assert!(error.starts_with(&what) && error.contains(&known), "{error}");
        assert!(error.contains("generation 2") && error.contains("put the later"), "{error}");
        assert_eq!(std::fs::read(&file).expect("read"), old, "as it was");
        std::fs::remove_file(&segment).expect("moved away");
        let last = DataDir::open(path, 4).expect("a data directory").generations;
        assert_eq!(last.last(), Some(&Generation { number: 2, shards: 4 }));
    }

    #[test]
    fn a_damaged_directory_is_not_written_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        drop(DataDir::open(path, 1).expect("a data directory"));
        let file = path.join("tidegate.json");
        for (text, want) in [
            ("{", "damaged"),
            (r#"{"format":2}"#, "format 2"),
            (r#"{"format":1,"node":"00","secret":"00","generations":[]}"#, "node is not"),
        ] {
            std::fs::write(&file, text).expect("written");
            let error = DataDir::open(path, 1).expect_err("refused").to_string();
            assert!(error.contains(want), "{error}");
            assert_eq!(std::fs::read_to_string(&file).expect("read"), text);
        }
        std::fs::remove_file(&file).expect("removed");
        std::fs::create_dir(path.join("shard-0")).expect("made");
        let error = DataDir::open(path, 1).expect_err("refused");
        assert!(matches!(error, DataDirError::Headless { .. }), "{error}");
    }
}

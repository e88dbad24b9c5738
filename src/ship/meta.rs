//! A finished block directory as the shipper sees it, and the `meta.json` it gets in the bucket.
//!
//! ## Format
//! The bucket's `meta.json` is the local one with four things set: `ulid` (the name of this copy),
//! `thanos.files` (what was uploaded, with sizes, with SHA-256 on `--hash-func=SHA256`),
//! `thanos.segment_files` and `thanos.upload_time`. All else passes through untouched, also keys
//! of a newer writer: the file is edited as JSON, not read into a struct and written back.
//!
//! ## Why `compaction.sources` stays
//! A block that is uploaded again under a new ULID keeps its sources, so a copy's `ulid` need not
//! be among them. Sources say which *data* a block holds, the ULID which *copy* it is. Thanos hides
//! and collects a block whose sources are all in another block. Should the first copy turn up
//! after all (its last request was only slow, or the record of a finished upload was lost and the
//! data is by now inside a compacted block), equal sources make the second copy an exact duplicate
//! that every reader drops; sources of its own would make it an overlapping block, which halts a
//! compactor. Nothing else can have these sources, for a ULID is made once, at the flush.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;
use ulid::Ulid;

/// Name of the file that makes a block visible.
pub(super) const META_FILE: &str = "meta.json";
/// Largest `meta.json` that is read.
pub(super) const META_BYTES_MAX: u64 = 16 << 20;

/// Why a directory is not a block that can be shipped.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `meta.json` is no JSON object.
    #[error("{} is not JSON: {source}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// The block contradicts itself or what a bucket asks of it.
    #[error("block {}: {problem}", dir.display())]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A file of the block that is uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockFile {
    /// Below the block: `chunks/000001` or `index`.
    pub(super) rel_path: String,
    pub(super) size_bytes: u64,
}

/// A finished block on the local disk. Never changes.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) dir: PathBuf,
    pub(super) ulid: Ulid,
    pub(super) min_time_ms: i64,
    pub(super) samples: u64,
    pub(super) sources: Vec<String>,
    /// In upload order: chunks files, then the index.
    pub(super) files: Vec<BlockFile>,
    meta: Map<String, Value>,
}

impl Block {
    /// Reads and checks a block directory. Blocks the thread.
    pub(super) fn read(dir: &Path) -> Result<Self, BlockError> {
        let damaged =
            |problem: &str| BlockError::Damaged { dir: dir.into(), problem: problem.into() };
        let path = dir.join(META_FILE);
        let bytes = fs::read(&path).map_err(|e| io_at(&path, e))?;
        let meta: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|source| BlockError::NotJson { path: path.clone(), source })?;
        let at = |pointer: &[&str]| at(&meta, pointer);
        let ulid = at(&["ulid"]).and_then(Value::as_str).and_then(|s| Ulid::from_string(s).ok());
        let ulid = ulid.ok_or_else(|| damaged("meta.json has no ulid"))?;
        if dir.file_name().and_then(|n| n.to_str()) != Some(ulid.to_string().as_str()) {
            return Err(damaged("meta.json has another ulid than the directory"));
        }
        if at(&["version"]).and_then(Value::as_u64) != Some(1) {
            return Err(damaged("meta.json is not of version 1"));
        }
        let labels = at(&["thanos", "labels"]).and_then(Value::as_object);
        if labels.is_none_or(Map::is_empty) {
            return Err(damaged("no external labels; a bucket needs at least one"));
        }
        let sources = strings(at(&["compaction", "sources"]));
        if sources.is_empty() {
            return Err(damaged(
                "no compaction.sources; it would pass for a duplicate of any block",
            ));
        }
        if at(&["stats", "numTombstones"]).and_then(Value::as_u64).unwrap_or(0) != 0 {
            return Err(damaged("has tombstones, which a bucket does not keep"));
        }
        let min_time_ms = at(&["minTime"]).and_then(Value::as_i64);
        let block = Self {
            dir: dir.to_owned(),
            ulid,
            min_time_ms: min_time_ms.ok_or_else(|| damaged("meta.json has no minTime"))?,
            samples: at(&["stats", "numSamples"]).and_then(Value::as_u64).unwrap_or(0),
            sources,
            files: block_files(dir)?,
            meta,
        };
        block.check_files().map_err(|problem| damaged(&problem))?;
        Ok(block)
    }

    /// Whether the files are those that `meta.json` tells of, without holes.
    fn check_files(&self) -> Result<(), String> {
        for (i, file) in self.files.iter().enumerate() {
            let want = format!("chunks/{:06}", i + 1);
            if file.rel_path != "index" && file.rel_path != want {
                return Err(format!("has {} where {want} should be", file.rel_path));
            }
            if file.size_bytes == 0 {
                return Err(format!("{} is empty", file.rel_path));
            }
        }
        let segments: Vec<&str> =
            self.files.iter().filter_map(|f| f.rel_path.strip_prefix("chunks/")).collect();
        let told = strings(at(&self.meta, &["thanos", "segment_files"]));
        if !told.is_empty() && told != segments {
            return Err(format!("chunks files are {segments:?}, segment_files says {told:?}"));
        }
        if segments.is_empty() && self.samples > 0 {
            return Err("has samples but no chunks file".into());
        }
        for file in &self.files {
            let told = self.told(&file.rel_path).and_then(|f| f.get("size_bytes"));
            if let Some(told) = told.and_then(Value::as_u64).filter(|t| *t != file.size_bytes) {
                let BlockFile { rel_path, size_bytes } = file;
                return Err(format!("{rel_path} has {size_bytes} bytes, meta.json says {told}"));
            }
        }
        Ok(())
    }

    /// What the local `thanos.files` says of a file.
    fn told(&self, rel_path: &str) -> Option<&Value> {
        let files = at(&self.meta, &["thanos", "files"])?.as_array()?;
        files.iter().find(|f| f.get("rel_path").and_then(Value::as_str) == Some(rel_path))
    }

    /// Hashes every file, and checks the hashes the local `meta.json` has. Blocks the thread for
    /// as long as reading the block takes.
    pub(super) fn hashes(&self) -> Result<Vec<String>, BlockError> {
        let mut hashes = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let path = self.dir.join(&file.rel_path);
            let hash = sha256(&path).map_err(|e| io_at(&path, e))?;
            let told = self.told(&file.rel_path).and_then(|f| f.pointer("/hash/value"));
            if let Some(told) = told.and_then(Value::as_str).filter(|t| *t != hash) {
                let problem =
                    format!("{} has SHA-256 {hash}, meta.json says {told}", file.rel_path);
                return Err(BlockError::Damaged { dir: self.dir.clone(), problem });
            }
            hashes.push(hash);
        }
        Ok(hashes)
    }

    /// The `meta.json` of a copy. `hashes` are empty or those of [`Block::hashes`]. `files` is
    /// sorted by path and ends with `meta.json` itself, without a size, as Thanos writes it.
    pub(super) fn published(&self, copy: Ulid, hashes: &[String], upload_time: &str) -> Vec<u8> {
        let mut files: Vec<Value> = Vec::with_capacity(self.files.len() + 1);
        for (i, file) in self.files.iter().enumerate() {
            let mut entry = json!({ "rel_path": file.rel_path, "size_bytes": file.size_bytes });
            if let (Some(hash), Some(entry)) = (hashes.get(i), entry.as_object_mut()) {
                entry.insert("hash".into(), json!({ "hashFunc": "SHA256", "value": hash }));
            }
            files.push(entry);
        }
        files.push(json!({ "rel_path": META_FILE }));
        let segments: Vec<&str> =
            self.files.iter().filter_map(|f| f.rel_path.strip_prefix("chunks/")).collect();
        let mut meta = self.meta.clone();
        meta.insert("ulid".into(), Value::String(copy.to_string()));
        if let Some(thanos) = meta.get_mut("thanos").and_then(Value::as_object_mut) {
            thanos.insert("files".into(), Value::Array(files));
            thanos.insert("segment_files".into(), json!(segments));
            thanos.insert("upload_time".into(), Value::String(upload_time.into()));
        }
        let mut bytes = Vec::new();
        let formatter = PrettyFormatter::with_indent(b"\t");
        let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
        let written = meta.serialize(&mut serializer);
        debug_assert!(written.is_ok(), "a map of JSON values serializes into memory");
        bytes.push(b'\n');
        bytes
    }

    /// Bytes of all files.
    pub(super) fn size_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size_bytes).sum()
    }
}

/// What a `meta.json` found in the bucket is to a block that is to be uploaded there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A copy of it.
    Ours,
    /// Not JSON: no reader sees a block, so it may be replaced.
    Broken,
    /// Another block under this ULID.
    Foreign,
}

/// Judges a `meta.json` of the bucket.
pub(super) fn judge(bytes: &[u8], block: &Block, copy: Ulid) -> Found {
    let Ok(meta) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
        return Found::Broken;
    };
    let same_ulid = at(&meta, &["ulid"]).and_then(Value::as_str) == Some(&copy.to_string());
    let same_data = strings(at(&meta, &["compaction", "sources"])) == block.sources;
    if same_ulid && same_data { Found::Ours } else { Found::Foreign }
}

fn at<'a>(meta: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(meta.get(*first)?, |value, key| value.get(key))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn io_at(path: &Path, source: io::Error) -> BlockError {
    BlockError::Io { path: path.to_owned(), source }
}

/// The files to upload, sorted by path: chunks files, then the index.
fn block_files(dir: &Path) -> Result<Vec<BlockFile>, BlockError> {
    let chunks = dir.join("chunks");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&chunks).map_err(|e| io_at(&chunks, e))? {
        let name = entry.map_err(|e| io_at(&chunks, e))?.file_name();
        paths.push(format!("chunks/{}", name.to_string_lossy()));
    }
    paths.sort();
    paths.push("index".into());
    let mut files = Vec::with_capacity(paths.len());
    for rel_path in paths {
        let path = dir.join(&rel_path);
        let size_bytes = fs::metadata(&path).map_err(|e| io_at(&path, e))?.len();
        files.push(BlockFile { rel_path, size_bytes });
    }
    Ok(files)
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => digest.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    let mut hex = String::with_capacity(64);
    for byte in digest.finalize() {
        write!(hex, "{byte:02x}").map_err(io::Error::other)?;
    }
    Ok(hex)
}

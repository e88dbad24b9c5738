//! Which segments a shard has to read.
//!
//! Its own log and series file, whole. Of another directory only what was written under an earlier
//! number of shards, and the series file that tells its labels. What another shard writes now is
//! in slots of its own: nothing here waits for it, or is led astray by a block half written.

use std::io;
use std::path::{Path, PathBuf};

use crate::rt::storage::{BLOCK_BYTES, Storage, StorageFile};
use crate::shard::Settings;
use crate::shard::recover::numbers::Numbers;
use crate::shard::recover::replay::Found;
use crate::shard::recover::shard_dir;
use crate::shard::wal::format::SegmentHeader;
use crate::shard::wal::reader::Position;
use crate::shard::wal::writer::{segment_name, segment_number};
use crate::stdx::hex;

/// The segments in one directory, read one by one.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) path: PathBuf,
    /// Number and generation of each, in order. A segment whose header is lost is taken to be of
    /// the generation of the one before.
    pub(super) segments: Vec<(u64, u64)>,
    /// Where the reading has come to.
    pub(super) at: Position,
    /// What was read.
    pub(super) found: Vec<Found>,
}

impl Files {
    /// Lists what shard `shard` of the data directory `node` has written at `path`.
    async fn list<S: Storage>(
        storage: &S,
        path: PathBuf,
        (shard, node): (u16, [u8; 16]),
    ) -> io::Result<Self> {
        let mut segments = Vec::new();
        let mut generation = 0;
        for number in storage.list(&path).await?.iter().filter_map(|name| segment_number(name)) {
            let name = path.join(segment_name(number));
            let file = storage.open(&name).await?;
            let head = file.read_at(0, 2 * BLOCK_BYTES).await?;
            file.close().await?;
            if let Some(header) = SegmentHeader::decode(&head) {
                if (header.shard, header.node) != (shard, node) {
                    return Err(is_strange(&name, &header, (shard, node)));
                }
                generation = header.generation;
            }
            segments.push((number, generation));
        }
        Ok(Self { path, segments, at: Position::default(), found: Vec::new() })
    }

    /// Makes a segment durable as it is and reads it into `bytes`, a piece at a time.
    ///
    /// Through the page cache, what a failed sync did not cover is still read, and the next sync
    /// says that all is well. A log ends with the first that fails, so its last segment alone can
    /// hold such bytes: they are written once more.
    pub(super) async fn load<S: Storage>(
        &self,
        storage: &S,
        number: u64,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        /// Bytes read at a time: a copy of about 100 us.
        const PIECE: u64 = 1 << 20;
        let file = storage.open(&self.path.join(segment_name(number))).await?;
        file.sync().await?;
        let is_last = self.segments.last().is_some_and(|(last, _)| *last == number);
        let again = is_last && !storage.is_direct();
        let size = file.size().await?;
        bytes.clear();
        bytes.reserve_exact(size as usize);
        while (bytes.len() as u64) < size {
            let at = bytes.len() as u64;
            let piece = file.read_at(at, PIECE.min(size - at) as usize).await?;
            if piece.is_empty() {
                break;
            }
            if again {
                file.write_at(at, &piece[..piece.len() / BLOCK_BYTES * BLOCK_BYTES]).await?;
            }
            bytes.extend_from_slice(&piece);
            storage.pause().await;
        }
        if again {
            file.sync().await?;
        }
        file.close().await
    }
}

/// To take it for ours would give our numbers to its samples.
fn is_strange(path: &Path, header: &SegmentHeader, (shard, node): (u16, [u8; 16])) -> io::Error {
    let text = format!(
        "{} was written by shard {} of node {}, and this is shard {shard} of node {}: move it out \
         of the data directory, or put the tidegate.json back that it was written under",
        path.display(),
        header.shard,
        hex::encode(&header.node),
        hex::encode(&node),
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The directory of one shard, of this generation or an earlier one.
#[derive(Debug)]
pub(super) struct Dir {
    /// The shard that writes here or did.
    pub(super) shard: u16,
    /// Whether it is the shard that reads.
    pub(super) own: bool,
    /// Whether the shard that reads tells of what is wrong here: the one that lives here does, and
    /// shard 0 where nobody does.
    pub(super) tells: bool,
    pub(super) log: Files,
    pub(super) series: Files,
    pub(super) numbers: Numbers,
}

/// The directories with something to read for shard `settings.shard`, its own among them.
pub(super) async fn discover<S: Storage>(
    storage: &S,
    root: &Path,
    settings: &Settings,
) -> io::Result<Vec<Dir>> {
    let current = settings.current()?;
    let mut dirs = Vec::new();
    for shard in 0..settings.generations.iter().map(|g| g.shards).max().unwrap_or(0) {
        let (dir, own) = (shard_dir(root, shard), shard == settings.shard);
        let who = (shard, settings.node);
        let mut log = Files::list(storage, dir.join("log"), who).await?;
        if !own {
            log.segments.retain(|(_, generation)| *generation != current.number);
        }
        if !own && log.segments.is_empty() {
            continue;
        }
        let series = Files::list(storage, dir.join("series"), who).await?;
        let tells = own || (settings.shard == 0 && shard >= current.shards);
        dirs.push(Dir { shard, own, tells, log, series, numbers: Numbers::default() });
    }
    Ok(dirs)
}

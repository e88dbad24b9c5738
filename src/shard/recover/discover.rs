//! Which segments a shard has to read.
//!
//! Its own log and series file, whole. Of another directory only what was written under an earlier
//! number of shards, and the series file that tells its labels. What another shard writes now is
//! in slots of its own.
//!
//! All shards look before any of them serves: a segment that is just begun has no header yet, or
//! that of an earlier life, and would pass for an old one. Segments that are newer than the slot
//! table end the start: nobody knows whose slots are in them.

use std::io;
use std::path::{Path, PathBuf};

use crate::rt::storage::{BLOCK_BYTES, Storage, StorageFile};
use crate::shard::Settings;
use crate::shard::recover::numbers::Numbers;
use crate::shard::recover::replay::Found;
use crate::shard::recover::{shard_dir, shard_number};
use crate::shard::wal::format::SegmentHeader;
use crate::shard::wal::reader::{EndSearch, Position};
use crate::shard::wal::writer::{segment_name, segment_number};
use crate::stdx::hex;

/// A segment that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) generation: u64,
    /// First block of the segment after it, if that has a header.
    next_seq: Option<u64>,
}

/// The segments in one directory, read one by one.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) path: PathBuf,
    /// In order.
    pub(super) segments: Vec<Segment>,
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
        shard: u16,
        settings: &Settings,
    ) -> io::Result<Self> {
        let (node, last) = (settings.node, settings.current()?.number);
        let mut told = Vec::new();
        for number in storage.list(&path).await?.iter().filter_map(|name| segment_number(name)) {
            let name = path.join(segment_name(number));
            let file = storage.open(&name).await?;
            let head = file.read_at(0, 2 * BLOCK_BYTES).await?;
            file.close().await?;
            let header = SegmentHeader::decode(&head);
            if let Some(header) = &header
                && (header.shard, header.node) != (shard, node)
            {
                return Err(is_strange(&name, header, (shard, node)));
            }
            // Under another number the header is of an earlier life of the file.
            let header = header.filter(|h| h.number == number);
            let header = header.map(|h| (h.generation, h.first_seq));
            if let Some((newer, _)) = header.filter(|&(generation, _)| generation > last) {
                return Err(is_newer(&name, &format!("generation {newer}")));
            }
            told.push((number, header));
        }
        let lived = settings.generations.iter().rfind(|generation| generation.shards > shard);
        let segments = dated(&told, lived.map_or(0, |generation| generation.number));
        Ok(Self { path, segments, at: Position::default(), found: Vec::new() })
    }

    /// Makes a segment durable as it is and reads it into `bytes`, a piece at a time, as far as
    /// there may be blocks. Returns its size.
    ///
    /// Through the page cache, what a failed sync did not cover is still read, and the next sync
    /// says that all is well. A log ends with the first that fails, so its last segment alone can
    /// hold such bytes: they are written once more.
    pub(super) async fn load<S: Storage>(
        &self,
        storage: &S,
        segment: &Segment,
        bytes: &mut Vec<u8>,
    ) -> io::Result<u64> {
        /// Bytes read first: what a segment that is almost empty needs.
        const FIRST_PIECE: u64 = 4 * BLOCK_BYTES as u64;
        /// Most bytes read at a time: a copy of about 100 us.
        const PIECE: u64 = 1 << 20;
        let &Segment { number, next_seq, .. } = segment;
        let file = storage.open(&self.path.join(segment_name(number))).await?;
        file.sync().await?;
        let again = self.segments.last() == Some(segment) && !storage.is_direct();
        let size = file.size().await?;
        bytes.clear();
        bytes.reserve_exact(size as usize);
        let mut end = EndSearch::new(number, next_seq);
        while (bytes.len() as u64) < size && !end.is_over(bytes) {
            let at = bytes.len() as u64;
            let piece = at.clamp(FIRST_PIECE, PIECE).min(size - at);
            let piece = file.read_at(at, piece as usize).await?;
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
        file.close().await?;
        Ok(size)
    }
}

/// The segments, by what was told: the number of each, and from its header the generation and the
/// first block. One without a header is of the generation of the one before, the first of that of
/// the next that tells; if none tells, of the last one in which its shard `lived`.
fn dated(told: &[(u64, Option<(u64, u64)>)], lived: u64) -> Vec<Segment> {
    let mut generation = told.iter().find_map(|&(_, told)| Some(told?.0)).unwrap_or(lived);
    let next_seqs = told.iter().skip(1).map(|&(_, told)| Some(told?.1)).chain([None]);
    let dated = |(&(number, told), next_seq): (&(u64, Option<(u64, u64)>), _)| {
        generation = told.map_or(generation, |(told, _)| told);
        Segment { number, generation, next_seq }
    };
    told.iter().zip(next_seqs).map(dated).collect()
}

/// To leave it out would lose its samples without a word.
fn is_newer(path: &Path, of: &str) -> io::Error {
    let text = format!(
        "{} was written under {of}, of which tidegate.json does not know: put the later \
         tidegate.json back, or move this file out of the data directory",
        path.display(),
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
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
    let known = settings.generations.iter().map(|g| g.shards).max().unwrap_or(0);
    let there = storage.list(root).await?;
    let strangers = there.iter().filter_map(|name| shard_number(name)).filter(|n| *n >= known);
    let mut dirs = Vec::new();
    for shard in (0..known).chain(strangers) {
        let (dir, own) = (shard_dir(root, shard), shard == settings.shard);
        let mut log = Files::list(storage, dir.join("log"), shard, settings).await?;
        if let Some(first) = log.segments.first().filter(|_| shard >= known) {
            let path = log.path.join(segment_name(first.number));
            return Err(is_newer(&path, "another slot table"));
        }
        if !own {
            log.segments.retain(|segment| segment.generation != current.number);
        }
        if !own && log.segments.is_empty() {
            continue;
        }
        let series = Files::list(storage, dir.join("series"), shard, settings).await?;
        let tells = own || (settings.shard == 0 && shard >= current.shards);
        dirs.push(Dir { shard, own, tells, log, series, numbers: Numbers::default() });
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_header_is_as_old_as_its_neighbours() {
        let generations = |told: &[Option<u64>]| -> Vec<u64> {
            let told: Vec<_> = (1..).zip(told.iter().map(|told| Some(((*told)?, 1)))).collect();
            dated(&told, 7).iter().map(|segment| segment.generation).collect()
        };
        assert_eq!(generations(&[None, Some(2), None, Some(3), None]), [2, 2, 2, 3, 3]);
        assert_eq!(generations(&[None, None]), [7, 7]);
    }
}

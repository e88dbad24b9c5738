//! Appends commit blocks to segments, one write at a time.
//!
//! ## Order
//! 1. A segment is zero-written and synced under the name of a spare.
//! 2. To begin it: rename to its number, write both headers, sync file and directory. Then blocks.
//! 3. A block is written, then synced. Only then is its number durable.
//! 4. A segment that is full joins the [`Backlog`]. The writer does not look back.
//!
//! ## Crash
//! At any step: spares hold nothing; a segment whose header tells another number than its name
//! was not begun; a block that is not whole was not acknowledged.
//!
//! ## Limits
//! Two spares are kept beyond the segment in use, so that running out of space is met when a
//! spare is made, which can wait, and not when a block is written, which cannot.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::rt::storage::{Storage, StorageFile, no_room};
use crate::shard::wal::backlog::{Backlog, Closed};
use crate::shard::wal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, FIRST_BLOCK, PAYLOAD_BYTES_MAX, SegmentHeader, block_len,
};
use crate::shard::wal::reader::{Position, SegmentEnd};
use crate::shard::wal::record::{Group, Newest};
use crate::shard::wal::spare::Spares;
use crate::stdx::crc32c;

/// Size of a segment in bytes.
pub(crate) const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Who writes a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Number of the shard.
    pub(crate) shard: u16,
    /// Generation of the slot table.
    pub(crate) generation: u64,
    /// The data directory.
    pub(crate) node: [u8; 16],
}

/// Why a block was not made durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The device refused the write, and refused it again in a fresh segment.
    #[error("cannot write the log {}: {source}", path.display())]
    Write {
        /// The segment of the last try.
        path: PathBuf,
        /// What the device said.
        source: io::Error,
    },
}

impl LogError {
    /// Whether the block can be written when there is room again: nothing of it was promised, and
    /// nothing is broken.
    pub(crate) fn waits_for_room(&self) -> bool {
        let Self::Write { source, .. } = self;
        no_room(source)
    }
}

#[derive(Debug)]
struct Current<F> {
    file: F,
    number: u64,
    epoch: u64,
    end: u64,
    newest: Newest,
}

/// A block on its way: payload behind room for its header.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    block: Vec<u8>,
    payload_len: usize,
    newest: Newest,
}

impl Sealed {
    /// Takes what the group gathered. `newest` tells the newest sample per tenant among it.
    pub(crate) fn fill(&mut self, group: &mut Group, newest: &mut Newest) {
        self.block.clear();
        self.block.resize(BLOCK_HEADER_BYTES, 0);
        group.seal(&mut self.block);
        self.payload_len = self.block.len() - BLOCK_HEADER_BYTES;
        self.block.resize(block_len(self.payload_len), 0);
        self.newest.clear();
        std::mem::swap(&mut self.newest, newest);
    }
}

/// Figures of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogStats {
    /// Blocks made durable.
    pub(crate) commits: u64,
    /// Bytes written, padding included.
    pub(crate) bytes: u64,
    /// Writes or syncs the device refused.
    pub(crate) io_errors: u64,
    /// Segments in use or waiting for their samples to be cut.
    pub(crate) segments: u64,
    /// Number of the segment in use: no later block is in one before it.
    pub(crate) segment: u64,
}

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogOptions {
    /// Size of a segment in bytes.
    pub(crate) segment_bytes: u64,
    /// Source of epochs: random numbers nobody can guess.
    pub(crate) epochs: fn() -> u64,
    /// Whether the last segment found may be written on. Not when it is of another generation.
    pub(crate) append_to_last: bool,
    /// Number of the next segment: higher than any in the directory.
    pub(crate) next_number: u64,
}

/// The log of one shard, open for writing.
#[derive(Debug)]
pub(crate) struct Log<S: Storage> {
    storage: S,
    dir: PathBuf,
    identity: Identity,
    options: LogOptions,
    current: Option<Current<S::File>>,
    backlog: Rc<Backlog<S>>,
    spares: Rc<Spares<S>>,
    next_number: u64,
    seq: u64,
    previous_crc: u32,
    stats: LogStats,
}

/// Name of a segment in use.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016}.log")
}

/// Number of a segment by its name; `None` for any other name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".log").filter(|digits| digits.len() == 16)?.parse().ok()
}

impl<S: Storage> Log<S> {
    /// Opens a log for writing after it was read to `position`. `found` are its segments in order;
    /// writing goes on behind the last one, if that is of this log's generation and not damaged.
    ///
    /// The caller has synced what it read, so nothing is built on bytes that are not durable.
    pub(crate) async fn open(
        (storage, dir): (S, &Path),
        identity: Identity,
        options: LogOptions,
        spares: Rc<Spares<S>>,
        position: &Position,
        found: Vec<(Closed, SegmentEnd)>,
    ) -> io::Result<Self> {
        let backlog = Backlog::new(storage.clone(), dir.to_owned(), spares.clone());
        let mut log = Self {
            storage,
            dir: dir.to_owned(),
            identity,
            options,
            current: None,
            backlog: Rc::new(backlog),
            spares,
            next_number: options.next_number,
            seq: position.seq,
            previous_crc: position.payload_crc.unwrap_or(0),
            stats: LogStats::default(),
        };
        let last = found.len();
        for (i, (segment, end)) in found.into_iter().enumerate() {
            let go_on = i + 1 == last
                && options.append_to_last
                && !segment.damaged
                && end.blocks > 0
                && segment.size == log.options.segment_bytes;
            if go_on {
                let path = log.dir.join(segment_name(segment.number));
                log.current = Some(Current {
                    file: log.storage.open(&path).await?,
                    number: segment.number,
                    epoch: end.epoch,
                    end: end.end,
                    newest: segment.newest,
                });
            } else {
                log.backlog.push(segment);
            }
        }
        Ok(log)
    }

    /// The segments behind the one in use.
    pub(crate) fn backlog(&self) -> Rc<Backlog<S>> {
        self.backlog.clone()
    }

    /// Number the next block will get.
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq + 1
    }

    /// Figures so far.
    pub(crate) fn stats(&self) -> LogStats {
        let segments = self.backlog.len() + u64::from(self.current.is_some());
        let segment = self.current.as_ref().map_or(self.next_number, |current| current.number);
        LogStats { segments, segment, ..self.stats }
    }

    /// Writes a block and makes it durable; returns its number. On an error from the device the
    /// block is written once more, into a fresh segment. An error from here is the end of the log.
    /// `written` hears the number when the block is written and not yet flushed.
    ///
    /// Without direct I/O there is no second try: the kernel forgets what it failed to write, and
    /// the next sync says all is well.
    pub(crate) async fn commit(
        &mut self,
        sealed: &mut Sealed,
        wall_ms: i64,
        written: impl Fn(u64),
    ) -> Result<u64, LogError> {
        let mut done = self.write(sealed, wall_ms, false, &written).await;
        if done.is_err() && self.storage.is_direct() {
            self.stats.io_errors += 1;
            done = self.write(sealed, wall_ms, true, &written).await;
        }
        if let Err(source) = done {
            self.stats.io_errors += 1;
            let path = match &self.current {
                Some(current) => self.dir.join(segment_name(current.number)),
                None => self.dir.clone(),
            };
            return Err(LogError::Write { path, source });
        }
        self.seq += 1;
        self.stats.commits += 1;
        self.stats.bytes += sealed.block.len() as u64;
        Ok(self.seq)
    }

    async fn write(
        &mut self,
        sealed: &mut Sealed,
        wall_ms: i64,
        fresh: bool,
        written: impl Fn(u64),
    ) -> io::Result<()> {
        if sealed.payload_len > PAYLOAD_BYTES_MAX {
            // A reader would take it for garbage. The shard keeps groups far below.
            let text = format!("a group of {} bytes is too large to read", sealed.payload_len);
            return Err(io::Error::other(text));
        }
        let len = sealed.block.len() as u64;
        let fits = |c: &Current<S::File>, size: u64| c.end + len <= size;
        if fresh || !self.current.as_ref().is_some_and(|c| fits(c, self.options.segment_bytes)) {
            self.begin_segment(len).await?;
        }
        let payload = &sealed.block[BLOCK_HEADER_BYTES..][..sealed.payload_len];
        let header = BlockHeader {
            epoch: self.current.as_ref().map_or(0, |c| c.epoch),
            seq: self.seq + 1,
            wall_ms,
            payload_len: sealed.payload_len as u32,
            payload_crc: crc32c(payload),
            previous_crc: self.previous_crc,
        };
        header.encode(&mut sealed.block);
        let Some(current) = &mut self.current else {
            return Err(io::Error::other("no segment is open"));
        };
        current.file.write_at(current.end, &sealed.block).await?;
        written(header.seq);
        // What a flush says is final, whatever it says.
        current.file.sync().await.map_err(|error| io::Error::other(error.to_string()))?;
        current.end += len;
        self.previous_crc = header.payload_crc;
        for (&tenant, &t) in &sealed.newest {
            let newest = current.newest.entry(tenant).or_insert(t);
            *newest = t.max(*newest);
        }
        Ok(())
    }

    /// Closes the segment in use. The next block begins another, of at least the number returned.
    pub(crate) async fn close_segment(&mut self) -> u64 {
        if let Some(old) = self.current.take() {
            old.file.close().await.ok();
            let Current { number, newest, .. } = old;
            let size = self.options.segment_bytes;
            self.backlog.push(Closed { number, newest, damaged: false, size });
        }
        self.next_number
    }

    /// Closes the segment in use and begins another that has room for `len` bytes of blocks.
    async fn begin_segment(&mut self, len: u64) -> io::Result<()> {
        self.close_segment().await;
        let size = self.options.segment_bytes.max(FIRST_BLOCK + len);
        let spare = self.spares.take(size).await?;
        let number = self.next_number;
        let path = self.dir.join(segment_name(number));
        let file = match self.rename_open(&spare, &path).await {
            Ok(file) => file,
            Err(error) => {
                self.spares.put_back(spare, size);
                return Err(error);
            }
        };
        self.next_number += 1;
        let begun = self.write_header(&file, number, size).await;
        let Ok(epoch) = begun else {
            // It holds nothing, and nobody will look for it.
            self.storage.remove(&path).await.ok();
            return begun.map(drop);
        };
        let newest = Newest::new();
        self.current = Some(Current { file, number, epoch, end: FIRST_BLOCK, newest });
        Ok(())
    }

    /// Opens a spare and gives it its name as a segment.
    async fn rename_open(&self, spare: &str, path: &Path) -> io::Result<S::File> {
        let spare = self.dir.join(spare);
        let file = self.storage.open(&spare).await?;
        self.storage.rename(&spare, path).await?;
        Ok(file)
    }

    /// Writes the header of a segment and makes it durable with its name; returns its epoch.
    async fn write_header(&self, file: &S::File, number: u64, size: u64) -> io::Result<u64> {
        let epoch = (self.options.epochs)();
        let header = SegmentHeader {
            shard: self.identity.shard,
            generation: self.identity.generation,
            number,
            epoch,
            node: self.identity.node,
            first_seq: self.seq + 1,
            size,
        };
        file.write_at(0, &header.encode()).await?;
        file.sync().await?;
        self.storage.sync_dir(&self.dir).await?;
        Ok(epoch)
    }
}

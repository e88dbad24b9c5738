//! Writes a block: chunks as they come, the index at the end.
//!
//! ## Order
//!
//! `chunks/000001`, further chunk files, `index`, `tombstones`, `meta.json`; then the sink
//! publishes. One file is open at a time, as the index needs to know all series first.
//!
//! ## Promises
//!
//! - Chunk payloads are copied verbatim and not held: at most [`STAGE_BYTES`] wait for the sink.
//!   What is held is what the index will need, see [`Draft`].
//! - A series that is refused changes nothing: the writer goes on without it.
//! - After a failed write, or when it is dropped before the end, nothing is published.
//! - [`Writer::add`] works in proportion to its input. [`Writer::finish`] awaits the sink after
//!   each step of tens of microseconds, with no bytes if there are none: there a core yields.

use crate::chunk::{Chunk, Encoding, sample_count};
use crate::index::{self, ChunkMeta, Draft, Step};
use crate::rt::Sink;

use super::chunk_file::{FILE_BYTES_MAX, HEADER, Layout, Place, put_record, record_len};
use super::meta::{IndexStats, Meta, MetaDraft, MetaFile, Stats};
use super::{Error, filenames, tombstones};

/// Records that wait for the sink, so that it is not called for each small chunk.
const STAGE_BYTES: usize = 64 << 10;

/// Writes a block into a sink. See the module.
#[derive(Debug)]
pub struct Writer<S> {
    sink: S,
    meta: MetaDraft,
    draft: Draft,
    layout: Layout,
    stage: Vec<u8>,
    /// What was written, the open file last.
    files: Vec<MetaFile>,
    stats: Stats,
    chunk_size_bytes_max: u64,
    /// Of the series being added.
    chunks: Vec<ChunkMeta>,
    places: Vec<Place>,
}

impl<S: Sink> Writer<S> {
    /// A writer of the block `meta`.
    pub fn new(sink: S, meta: MetaDraft) -> Self {
        Self::with_file_bytes_max(sink, meta, FILE_BYTES_MAX)
    }

    /// A writer whose chunk files are shorter, for tests of what happens between two.
    pub(super) fn with_file_bytes_max(sink: S, meta: MetaDraft, file_bytes_max: u64) -> Self {
        Self {
            sink,
            meta,
            draft: Draft::new(),
            layout: Layout::new(file_bytes_max),
            stage: Vec::with_capacity(STAGE_BYTES),
            files: Vec::new(),
            stats: Stats::default(),
            chunk_size_bytes_max: 0,
            chunks: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Adds the series that comes next in label order, with its chunks in time order, none of
    /// them overlapping and all of them inside the block's range.
    ///
    /// An [`Error::Io`] and a full index end the block: the writer must not be used after.
    pub async fn add(
        &mut self,
        labels: &[(&str, &str)],
        chunks: &[Chunk<'_>],
    ) -> Result<(), Error> {
        let stats = self.checked(chunks)?;
        let mut layout = self.layout;
        self.chunks.clear();
        self.places.clear();
        for chunk in chunks {
            let place = layout.place(chunk.bytes.len());
            let (min_t, max_t) = (chunk.min_t, chunk.max_t);
            self.chunks.push(ChunkMeta { min_t, max_t, reference: place.reference });
            self.places.push(place);
        }
        self.draft.add(labels, &self.chunks)?;
        (self.layout, self.stats) = (layout, stats);
        for (i, chunk) in chunks.iter().enumerate() {
            if self.places[i].begins_file {
                self.begin_chunk_file().await?;
            }
            let size = record_len(chunk.bytes.len());
            self.chunk_size_bytes_max = self.chunk_size_bytes_max.max(size);
            put_record(&mut self.stage, chunk.encoding, chunk.bytes);
            if self.stage.len() >= STAGE_BYTES {
                self.write_stage().await?;
            }
        }
        Ok(())
    }

    /// Checks what the draft does not know of, and counts.
    fn checked(&self, chunks: &[Chunk<'_>]) -> Result<Stats, Error> {
        let range = self.meta.range;
        let mut stats = self.stats;
        stats.num_series += 1;
        for chunk in chunks {
            let (min_t, max_t) = (chunk.min_t, chunk.max_t);
            if !range.contains(min_t) || !range.contains(max_t) {
                return Err(Error::ChunkOutOfRange { min_t, max_t, range });
            }
            let len = chunk.bytes.len();
            if record_len(len) + HEADER.len() as u64 > FILE_BYTES_MAX {
                return Err(Error::ChunkTooLong { len });
            }
            let count = u64::from(sample_count(chunk.bytes)?);
            if count == 0 {
                return Err(Error::ChunkEmpty { min_t, max_t });
            }
            stats.num_chunks += 1;
            stats.num_samples += count;
            match chunk.encoding {
                Encoding::Xor => stats.num_float_samples += count,
                Encoding::Histogram | Encoding::FloatHistogram => {
                    stats.num_histogram_samples += count;
                }
            }
        }
        Ok(stats)
    }

    async fn begin_chunk_file(&mut self) -> Result<(), Error> {
        if !self.files.is_empty() {
            self.end_file().await?;
        }
        let position = self.files.len() as u32;
        let name = format!("{}/{}", filenames::CHUNKS, filenames::chunk_file(position));
        self.begin_file(name).await?;
        self.stage.extend_from_slice(&HEADER);
        Ok(())
    }

    /// Writes the index and what else belongs to a block, and publishes it.
    pub async fn finish(mut self) -> Result<(Meta, S), Error> {
        if self.draft.series_count() == 0 {
            return Err(Error::NoSeries);
        }
        self.end_file().await?;
        let segment_files = (0..self.files.len() as u32).map(filenames::chunk_file).collect();
        let series_max_size = self.write_index().await?;
        let index_stats = IndexStats { series_max_size, chunk_max_size: self.chunk_size_bytes_max };
        let shipped = |rel_path: &str| MetaFile { rel_path: rel_path.into(), ..Default::default() };
        let mut files = std::mem::take(&mut self.files);
        files.push(shipped(filenames::META));

        self.begin_file(filenames::TOMBSTONES.into()).await?;
        self.stage.extend_from_slice(&tombstones::EMPTY);
        self.end_file().await?;

        let meta = self.meta.clone().complete(self.stats, segment_files, files, index_stats);
        let path = || filenames::META.to_owned();
        let text = meta.encode().map_err(|source| Error::Meta { path: path(), source })?;
        self.begin_file(path()).await?;
        self.stage.extend_from_slice(&text);
        self.end_file().await?;
        let published = self.sink.publish().await;
        published.map_err(io("publish", &format!("block {}", meta.ulid)))?;
        Ok((meta, self.sink))
    }

    /// The size of the longest series entry.
    async fn write_index(&mut self) -> Result<u64, Error> {
        self.begin_file(filenames::INDEX.into()).await?;
        let mut index = index::Writer::new(std::mem::take(&mut self.draft));
        loop {
            let step = index.step(&mut self.stage)?;
            self.write_stage().await?;
            if let Step::Done(summary) = step {
                self.end_file().await?;
                return Ok(summary.series_size_bytes_max);
            }
        }
    }

    async fn begin_file(&mut self, name: String) -> Result<(), Error> {
        self.sink.begin(&name).await.map_err(io("begin", &name))?;
        self.files.push(MetaFile { rel_path: name, size_bytes: 0, hash: None });
        Ok(())
    }

    async fn write_stage(&mut self) -> Result<(), Error> {
        let Some(file) = self.files.last_mut() else { return Ok(()) };
        self.sink.write(&self.stage).await.map_err(io("write", &file.rel_path))?;
        file.size_bytes += self.stage.len() as u64;
        self.stage.clear();
        Ok(())
    }

    async fn end_file(&mut self) -> Result<(), Error> {
        self.write_stage().await?;
        let Some(file) = self.files.last() else { return Ok(()) };
        self.sink.end().await.map_err(io("end", &file.rel_path))
    }
}

/// Names what was tried when the sink fails.
fn io(action: &'static str, path: &str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

//! Opens a finished block for queries. For the control side only: it maps files.
//!
//! ## Promises
//!
//! No byte of a block can make it panic. An answer lies under a checksum that was compared; a
//! damaged part gives an error and the rest still answers.

use std::fs;
use std::path::Path;

use crate::chunk::Encoding;
use crate::index::{self, ChunkMeta, Series, SeriesRef};
use crate::rt::Map;

use super::chunk_file::{HEADER, record};
use super::meta::Meta;
use super::{Error, filenames};

/// An open block.
#[derive(Debug)]
pub struct Reader {
    meta: Meta,
    pub(super) index: index::Reader<Map>,
    /// The chunk files, by position.
    chunks: Vec<Map>,
}

impl Reader {
    /// Opens the block in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let meta = read_meta(dir)?;
        let path = dir.join(filenames::INDEX);
        let index = index::Reader::open(Map::open(&path).map_err(|e| io("open", &path, e))?)?;
        let chunks = open_chunk_files(&dir.join(filenames::CHUNKS))?;
        Ok(Self { meta, index, chunks })
    }

    /// What the block is.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How many maps of files it holds.
    pub fn maps(&self) -> usize {
        1 + self.chunks.len()
    }

    /// All label names, in order.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.index.label_names()
    }

    /// All values of a label, in order; none for a name that does not occur.
    pub fn label_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.index.label_values(name)
    }

    /// A series: its labels and where its chunks are.
    pub fn series(&self, series: SeriesRef) -> Result<Series<'_>, Error> {
        Ok(self.index.series(series)?)
    }

    /// As [`Reader::series`], into vectors that are used again.
    pub fn series_into<'a>(&'a self, at: SeriesRef, into: &mut Series<'a>) -> Result<(), Error> {
        Ok(self.index.series_into(at, into)?)
    }

    /// The encoding and the payload of a chunk, its checksum compared.
    pub fn chunk(&self, chunk: &ChunkMeta) -> Result<(Encoding, &[u8]), Error> {
        let at = chunk.reference;
        let file = self.chunks.get(at.file() as usize).ok_or(Error::ChunkDamaged {
            file: at.file(),
            offset: at.offset(),
            fact: "lies in a file that is missing",
        })?;
        record(file.as_ref(), at)
    }
}

/// What the block in `dir` is, without opening it.
pub fn read_meta(dir: &Path) -> Result<Meta, Error> {
    let path = dir.join(filenames::META);
    let bytes = fs::read(&path).map_err(|e| io("read", &path, e))?;
    Meta::decode(&bytes).map_err(|source| Error::Meta { path: path.display().to_string(), source })
}

/// Maps the chunk files. As in Prometheus, those with a purely numeric name count, in the order of
/// their names and whatever the first number is.
fn open_chunk_files(dir: &Path) -> Result<Vec<Map>, Error> {
    let entries = fs::read_dir(dir).map_err(|e| io("list", dir, e))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| io("list", dir, e))?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse::<u64>().ok()) {
            names.push((number, name));
        }
    }
    names.sort();
    let open = |(_, name): (u64, std::ffi::OsString)| {
        let path = dir.join(name);
        let map = Map::open(&path).map_err(|e| io("open", &path, e))?;
        // The three zeros are not looked at, as nobody does.
        if map.as_ref().get(..5) != Some(&HEADER[..5]) || map.as_ref().len() < HEADER.len() {
            return Err(Error::NotAChunkFile { path: path.display().to_string() });
        }
        Ok(map)
    };
    names.into_iter().map(open).collect()
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.display().to_string(), source }
}

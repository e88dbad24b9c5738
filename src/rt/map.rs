//! Files that never change, read as memory.
#![expect(unsafe_code, reason = "mapping a file is unsafe by its nature; see `Map::open`")]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A read-only map of an immutable file: the index or a chunk file of a finished block.
///
/// For the control side only: a page that is not in memory is read by the kernel while the thread
/// stands still, and on a core that would be every connection of it.
#[derive(Debug)]
pub struct Map(Option<Mmap>);

impl Map {
    /// Maps a file that nobody will write to or cut short any more.
    ///
    /// A finished block keeps that promise: its files are written under another name, published by
    /// a rename, and later only removed, which leaves existing maps whole. Should somebody else
    /// truncate the file in place, the process ends by SIGBUS; should somebody overwrite it,
    /// readers find checksums that do not match.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is only ever read, as bytes, for which every content is valid. The file
        // is immutable by the contract above, so the bytes do not change under a reader.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(Some(map)))
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_the_files_bytes_even_after_its_removal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        for bytes in [&b""[..], b"tide", &vec![7; 100_000]] {
            std::fs::write(&path, bytes).expect("a file");
            let map = Map::open(&path).expect("a map");
            std::fs::remove_file(&path).expect("removed");
            assert_eq!(map.as_ref(), bytes);
        }
        assert_eq!(Map::open(&path).expect_err("no file").kind(), io::ErrorKind::NotFound);
    }
}

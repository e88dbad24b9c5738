//! The cores' sink: a block's files through [`Storage`], read back before they get their name.
//!
//! ## Order
//! 1. All files go into `<target>.tmp-for-creation`: whole blocks of [`BLOCK_BYTES`] at a time, the
//!    padding of the last one cut off again, then synced.
//! 2. [`Sink::publish`] reads every file back and compares it with the checksum of what was given.
//! 3. The directories are synced, the temporary one gets the final name, its parent is synced.
//!
//! So a block that is found under its final name is whole, and was once read as it should be. With
//! direct I/O it was the device that answered; without, it may have been the page cache.
//!
//! ## Crash
//! What is left is at most the temporary directory; nobody reads it and the next start removes it.
//!
//! ## Yielding
//! Every call ends with a pause, and a file is read back in small pieces with pauses between. What
//! goes to the device and comes from it keeps to a rate ([`Storage::pace`]).

use std::io;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, Digest};

use crate::rt::sink::{Sink, UNFINISHED_SUFFIX};
use crate::rt::step::{self, Step};
use crate::rt::storage::{BLOCK_BYTES, Storage, StorageFile};

/// Bytes gathered for one write.
const BUFFER_BYTES: usize = 256 * 1024;
/// Bytes read back and checked between two pauses: some ten microseconds of work.
const CHECK_BYTES: usize = 128 * 1024;

const _: () = assert!(BUFFER_BYTES.is_multiple_of(BLOCK_BYTES));

/// A sink into a directory of a [`Storage`]. See the module.
#[derive(Debug)]
pub struct StorageSink<S: Storage> {
    storage: S,
    target: PathBuf,
    unfinished: PathBuf,
    buffer: Vec<u8>,
    open: Option<Open<S::File>>,
    written: Vec<Written>,
    dirs: Vec<PathBuf>,
}

#[derive(Debug)]
struct Open<F> {
    file: F,
    path: PathBuf,
    /// Bytes written so far; the buffer comes behind.
    size: u64,
    crc: Digest,
}

/// A file that was ended.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    size: u64,
    crc: u64,
}

/// Where a block lies until it is published.
fn unfinished(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(UNFINISHED_SUFFIX);
    name.into()
}

fn digest() -> Digest {
    Digest::new(CrcAlgorithm::Crc32Iscsi)
}

impl<S: Storage> StorageSink<S> {
    /// A sink that will publish to `target`. Leftovers of an earlier try are removed.
    pub async fn create(storage: S, target: &Path) -> io::Result<Self> {
        let unfinished = unfinished(target);
        storage.remove_dir(&unfinished).await?;
        storage.create_dir(&unfinished).await?;
        let target = target.to_owned();
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        let (open, written, dirs) = (None, Vec::new(), Vec::new());
        Ok(Self { storage, target, unfinished, buffer, open, written, dirs })
    }

    /// Removes what a sink to `target` has left after an error, wherever it was. A block that has
    /// its name already loses the name first: half of one is never seen, not even after a crash.
    pub async fn abandon(storage: &S, target: &Path) -> io::Result<()> {
        let unfinished = unfinished(target);
        if let (Some(parent), Some(name)) = (target.parent(), target.file_name()) {
            let names = storage.list(parent).await?;
            if names.iter().any(|n| name == n.as_str()) {
                storage.rename(target, &unfinished).await?;
                storage.sync_dir(parent).await?;
            }
        }
        storage.remove_dir(&unfinished).await
    }

    fn open_file(open: &mut Option<Open<S::File>>) -> io::Result<&mut Open<S::File>> {
        open.as_mut().ok_or_else(|| io::Error::other("no file was begun in this sink"))
    }

    /// Writes the buffer, which is full or the last of the file and then padded.
    async fn write_buffer(&mut self) -> io::Result<()> {
        let open = Self::open_file(&mut self.open)?;
        let len = self.buffer.len();
        self.buffer.resize(len.next_multiple_of(BLOCK_BYTES), 0);
        open.file.write_at(open.size, &self.buffer).await?;
        self.storage.pace(self.buffer.len()).await;
        open.size += len as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Reads a file back and compares.
    async fn check(&self, written: &Written) -> io::Result<()> {
        let path = &written.path;
        let file = self.storage.open(path).await?;
        let mut crc = digest();
        let mut at = 0;
        loop {
            let bytes = file.read_at(at, CHECK_BYTES).await?;
            if bytes.is_empty() {
                break;
            }
            crc.update(&bytes);
            at += bytes.len() as u64;
            self.storage.pace(bytes.len()).await;
        }
        file.close().await?;
        let (size, want, got) = (written.size, written.crc, crc.finalize());
        if (at, got) == (size, want) {
            return Ok(());
        }
        let path = path.display();
        let text = format!(
            "{path} was written with {size} bytes and CRC {want:08x}, \
             and is read back with {at} bytes and CRC {got:08x}"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl<S: Storage> Sink for StorageSink<S> {
    async fn begin(&mut self, name: &str) -> io::Result<()> {
        let path = self.unfinished.join(name);
        if let Some(dir) = path.parent()
            && dir != self.unfinished
            && !self.dirs.iter().any(|known| known == dir)
        {
            self.storage.create_dir(dir).await?;
            self.dirs.push(dir.to_owned());
        }
        let file = self.storage.create(&path).await?;
        self.buffer.clear();
        self.open = Some(Open { file, path, size: 0, crc: digest() });
        Ok(())
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        Self::open_file(&mut self.open)?.crc.update(bytes);
        while !bytes.is_empty() {
            let room = BUFFER_BYTES - self.buffer.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == BUFFER_BYTES {
                self.write_buffer().await?;
            }
        }
        self.storage.pause().await;
        Ok(())
    }

    async fn end(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.write_buffer().await?;
        }
        let Some(Open { file, path, size, crc }) = self.open.take() else {
            return Err(io::Error::other("no file was begun in this sink"));
        };
        if !size.is_multiple_of(BLOCK_BYTES as u64) {
            file.set_size(size).await?;
        }
        file.sync().await?;
        file.close().await?;
        self.written.push(Written { path, size, crc: crc.finalize() });
        Ok(())
    }

    async fn publish(&mut self) -> io::Result<()> {
        for written in &self.written {
            self.check(written).await?;
        }
        for dir in &self.dirs {
            self.storage.sync_dir(dir).await?;
        }
        self.storage.sync_dir(&self.unfinished).await?;
        step::done(Step::BlockReadBack);
        self.storage.rename(&self.unfinished, &self.target).await?;
        step::done(Step::BlockNamed);
        match self.target.parent() {
            Some(parent) => self.storage.sync_dir(parent).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::storage::read_file;
    use crate::rt::twin::Twin;
    use futures_lite::future::block_on;

    const TARGET: &str = "/d/block";

    async fn fill(twin: &Twin, lens: &[usize]) -> io::Result<StorageSink<Twin>> {
        let mut sink = StorageSink::create(twin.clone(), Path::new(TARGET)).await?;
        for (i, &len) in lens.iter().enumerate() {
            sink.begin(&format!("chunks/{i}")).await?;
            let bytes: Vec<u8> = (0..len).map(|b| b as u8).collect();
            for piece in bytes.chunks(100_000) {
                sink.write(piece).await?;
            }
            sink.write(&[]).await?;
            sink.end().await?;
        }
        Ok(sink)
    }

    #[test]
    fn files_are_what_was_written_also_after_a_power_cut() {
        let lens = [0, 1, 4095, 4096, 4097, BUFFER_BYTES, BUFFER_BYTES + 1, 700_001];
        let twin = Twin::new(7);
        block_on(async {
            let mut sink = fill(&twin, &lens).await.expect("a filled sink");
            assert!(read_file(&twin, &Path::new(TARGET).join("chunks/0"), 9).await.is_err());
            sink.publish().await.expect("a published block");
            let after = twin.after_cut();
            for (i, &len) in lens.iter().enumerate() {
                let path = Path::new(TARGET).join(format!("chunks/{i}"));
                let bytes = read_file(&after, &path, 1 << 20).await.expect("a file");
                assert!(bytes.iter().enumerate().all(|(at, &b)| b == at as u8), "file {i}");
                assert_eq!(bytes.len(), len);
            }
            assert_eq!(after.list(Path::new("/d")).await.expect("a list"), ["block"]);
        });
    }

    #[test]
    fn what_is_not_read_back_as_written_is_not_published() {
        let twin = Twin::new(7);
        block_on(async {
            let mut sink = fill(&twin, &[5000]).await.expect("a filled sink");
            twin.damage(&unfinished(Path::new(TARGET)).join("chunks/0"), 4999);
            let error = sink.publish().await.expect_err("a damaged file");
            assert!(error.to_string().contains("is read back with 5000 bytes"), "{error}");
            StorageSink::abandon(&twin, Path::new(TARGET)).await.expect("a removal");
            assert!(twin.list(Path::new("/d")).await.expect("a list").is_empty());
        });
    }

    #[test]
    fn half_of_an_abandoned_block_is_never_seen() {
        for ops in 0..20 {
            let twin = Twin::new(ops);
            block_on(async {
                let mut sink = fill(&twin, &[5000, 5000]).await.expect("a filled sink");
                sink.publish().await.expect("a published block");
                twin.cut_after(ops);
                let off = async {
                    while !twin.is_off() {
                        futures_lite::future::yield_now().await;
                    }
                    Ok(())
                };
                let abandoned = StorageSink::abandon(&twin, Path::new(TARGET));
                futures_lite::future::or(off, abandoned).await.expect("a removal");
                let after = twin.after_cut();
                let names = after.list(Path::new("/d")).await.expect("a list");
                if names.iter().any(|name| name == "block") {
                    let files = after.list(&Path::new(TARGET).join("chunks")).await;
                    assert_eq!(files.expect("a list"), ["0", "1"], "after {ops} operations");
                }
            });
        }
    }
}

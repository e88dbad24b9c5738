//! Files as the shards see them: a small trait with two implementations.
//!
//! [`crate::rt::core::Disk`] is the kernel through a core's ring; the twin (tests only) is a
//! device in memory whose power can be cut at any operation. All that must survive a power cut is
//! written through this trait, so that the same code runs on both.
//!
//! ## What is promised
//! A write is on the device once a [`StorageFile::sync`] that began after the write had ended has
//! returned. A new name, a rename or a removal is, once [`Storage::sync_dir`] of its directory
//! has. Nothing else is. Writes may be torn at 512 bytes.

use std::future::Future;
use std::io;
use std::path::Path;

/// Alignment of every position and length that is written, in bytes. It suits every device with
/// logical blocks of up to 4 KiB, which is all of them.
pub const BLOCK_BYTES: usize = 4096;

/// A place for files. Cheap to clone; used on one core only.
pub trait Storage: Clone + std::fmt::Debug + 'static {
    /// An open file.
    type File: StorageFile;

    /// Whether writes go past the page cache, so that the device itself answers for each of them.
    fn is_direct(&self) -> bool;
    /// Creates a directory in one that is there. There already is not an error.
    fn make_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Creates a directory and those above it. Durable when it returns.
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>> {
        async move {
            let mut wanted = vec![path];
            while let Some(dir) = wanted.last().copied() {
                let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
                match (self.make_dir(dir).await, above) {
                    (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => {
                        wanted.push(above);
                    }
                    (made, above) => {
                        made?;
                        // Also of one that is there: a crash may have come before this.
                        self.sync_dir(above.unwrap_or(Path::new("."))).await?;
                        wanted.pop();
                    }
                }
            }
            Ok(())
        }
    }
    /// Names inside a directory, sorted. A directory that is missing has none.
    fn list(&self, path: &Path) -> impl Future<Output = io::Result<Vec<String>>>;
    /// Creates an empty file for writing and reading; an older one of that name is emptied.
    fn create(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>>;
    /// Opens a file for writing and reading.
    fn open(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>>;
    /// Renames a file or a directory over what was there.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes a file. Not there is not an error.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes a directory with all in it. Not there is not an error.
    fn remove_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Lets others on this core run, if it is their turn. Long work calls it every 50 to 100 us.
    fn pause(&self) -> impl Future<Output = ()>;
    /// Comes after each piece of writing or reading in the background, of so many bytes: waits as
    /// long as keeps that work below its rate, so that the device is there for the log.
    fn pace(&self, bytes: usize) -> impl Future<Output = ()>;
    /// Waits about a second: until trying again may be worth it.
    fn rest(&self) -> impl Future<Output = ()>;
}

/// An open file. Positions and lengths written are multiples of [`BLOCK_BYTES`].
pub trait StorageFile: std::fmt::Debug + 'static {
    /// Writes all of `bytes` at `at`.
    fn write_at(&self, at: u64, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Has the file system set `size` bytes aside, where it can: a lack of room then shows before
    /// anything is written.
    fn allocate(&self, size: u64) -> impl Future<Output = io::Result<()>>;
    /// Makes every write that has returned durable.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;
    /// Reads up to `len` bytes at `at`; fewer only at the end of the file.
    fn read_at(&self, at: u64, len: usize) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Size in bytes.
    fn size(&self) -> impl Future<Output = io::Result<u64>>;
    /// Cuts or extends the file to a size.
    fn set_size(&self, size: u64) -> impl Future<Output = io::Result<()>>;
    /// Closes the file. Dropping closes it as well, but a core may then only do so later.
    fn close(self) -> impl Future<Output = io::Result<()>>;
}

/// An error of the operating system with its number, and in more words than the number has.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct NumberedError {
    pub(crate) number: i32,
    pub(crate) text: String,
}

/// Whether an error says that something is used up which others may free: space on the device, a
/// quota, file descriptors, memory.
pub fn no_room(error: &io::Error) -> bool {
    let numbered = || Some(error.get_ref()?.downcast_ref::<NumberedError>()?.number);
    let number = error.raw_os_error().or_else(numbered);
    let used_up = [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    number.is_some_and(|number| used_up.contains(&number))
}

/// Reads a whole file of at most `limit` bytes.
pub async fn read_file<S: Storage>(storage: &S, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = storage.open(path).await?;
    let size = file.size().await?;
    if size > limit {
        let text = format!("{} has {size} bytes, at most {limit} were expected", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let bytes = file.read_at(0, size as usize).await?;
    file.close().await?;
    Ok(bytes)
}

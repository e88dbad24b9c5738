//! The kernel's storage through a core's ring.
//!
//! Files are written past the page cache (O_DIRECT), so that the device itself answers for each
//! write. Where the file system cannot, they are written through it, and said so at start.
//! Names are changed by blocking calls on the core's helper thread: they are rare, and a journal
//! may take milliseconds.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaFile, OpenOptions};

use crate::rt::clock::Moment;
use crate::rt::core::blocking;
use crate::rt::files;
use crate::rt::storage::{BLOCK_BYTES, NumberedError, Storage, StorageFile};

/// `O_DSYNC`: a write returns when it is durable.
const O_DSYNC: i32 = 0o10000;
/// Bytes of one write of the measurement: a full commit group.
const MEASURED_BYTES: usize = 64 * 1024;
/// Most that a flush writes or reads back in a second: a small part of what a fast device takes,
/// and half of what a slow one does.
const BACKGROUND_BYTES_PER_SECOND: u64 = 100 << 20;
/// How long a rest is.
const REST: Duration = Duration::from_secs(1);
/// Writes measured per way and round.
const MEASURED_WRITES: usize = 8;
/// Rounds of the measurement.
const MEASURED_ROUNDS: usize = 5;

/// Times of the writes measured in one way, sorted, in microseconds.
#[derive(Debug, Default)]
struct Times(Vec<u64>);

impl Times {
    fn p50_us(&self) -> u64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    fn max_us(&self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }
}

/// The disk below a directory. Used on one core only.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    direct: bool,
    dsync: bool,
}

/// What a flush costs on a device, and which way is the cheaper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Whether writes go past the page cache.
    pub direct: bool,
    /// Whether one synchronous write is cheaper than a write and a flush.
    pub dsync: bool,
    /// Median time of 64 KiB written and flushed, in microseconds.
    pub p50_us: u64,
    /// The slowest of the measurement, in microseconds.
    pub max_us: u64,
}

impl Disk {
    /// The way of writing that was measured to be right.
    pub fn new(measured: Measured) -> Self {
        Self { direct: measured.direct, dsync: measured.dsync }
    }

    /// Opens a file that was written, before any other: by the first file a core opens, glommio
    /// decides whether to poll the device, and an empty one misleads it.
    pub async fn open_first(&self, written: &Path) -> io::Result<()> {
        if self.direct {
            let file = OpenOptions::new().read(true).write(true).dma_open(written).await;
            file.map_err(io_error)?.close().await.map_err(io_error)?;
        }
        Ok(())
    }

    /// Measures both ways of making a write durable on the file `scratch`, which must be written.
    pub async fn measure(scratch: &Path) -> io::Result<Measured> {
        let direct = OpenOptions::new().read(true).write(true).dma_open(scratch).await;
        let Ok(first) = direct else {
            let mut times = Times::default();
            Self { direct: false, dsync: false }.time(scratch, &mut times).await?;
            let (p50_us, max_us) = (times.p50_us(), times.max_us());
            return Ok(Measured { direct: false, dsync: false, p50_us, max_us });
        };
        first.close().await.map_err(io_error)?;
        let ways = [false, true].map(|dsync| Self { direct: true, dsync });
        // In turns, so that whatever else the machine does falls on both.
        let (mut flushed, mut synchronous) = (Times::default(), Times::default());
        for _ in 0..MEASURED_ROUNDS {
            ways[0].time(scratch, &mut flushed).await?;
            ways[1].time(scratch, &mut synchronous).await?;
        }
        // One operation costs less of the processor than two, of which the kernel hands the second
        // to a thread of its own; so it may take a little longer.
        let dsync = synchronous.p50_us() <= flushed.p50_us() * 5 / 4;
        let times = if dsync { synchronous } else { flushed };
        Ok(Measured { direct: true, dsync, p50_us: times.p50_us(), max_us: times.max_us() })
    }

    async fn time(self, scratch: &Path, times: &mut Times) -> io::Result<()> {
        let file = self.open(scratch).await?;
        let bytes = vec![0; MEASURED_BYTES];
        for _ in 0..MEASURED_WRITES {
            let begun = Moment::now();
            file.write_at(0, &bytes).await?;
            file.sync().await?;
            times.0.push(begun.elapsed().as_micros() as u64);
        }
        times.0.sort_unstable();
        file.close().await
    }

    async fn open_with(self, path: &Path, create: bool) -> io::Result<DiskFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if create {
            options.create(true).truncate(true);
        }
        let dsync = self.dsync && !create;
        if dsync {
            options.custom_flags(O_DSYNC);
        }
        let file = if self.direct {
            Opened::Direct(options.dma_open(path).await.map_err(io_error)?)
        } else {
            Opened::Buffered(options.buffered_open(path).await.map_err(io_error)?)
        };
        Ok(DiskFile { file: Rc::new(file), dsync, wrote: Cell::new(false) })
    }
}

#[derive(Debug)]
enum Opened {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

/// An open file of the disk.
#[derive(Debug)]
pub struct DiskFile {
    file: Rc<Opened>,
    /// Every write is durable when it returns.
    dsync: bool,
    wrote: Cell<bool>,
}

impl Storage for Disk {
    type File = DiskFile;

    fn is_direct(&self) -> bool {
        self.direct
    }

    async fn make_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made.map_err(|error| files::named(error, &path)),
        })
        .await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = path.to_owned();
        blocking(move || files::list(&path)).await
    }

    async fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.open_with(path, true).await
    }

    async fn open(&self, path: &Path) -> io::Result<DiskFile> {
        self.open_with(path, false).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || fs::rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || not_there_is_fine(fs::remove_file(path))).await
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || not_there_is_fine(fs::remove_dir_all(path))).await
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::File::open(path)?.sync_all()).await
    }

    async fn pause(&self) {
        glommio::yield_if_needed().await;
    }

    async fn pace(&self, bytes: usize) {
        let nanos = bytes as u64 * 1_000_000_000 / BACKGROUND_BYTES_PER_SECOND;
        glommio::timer::sleep(Duration::from_nanos(nanos)).await;
    }

    async fn rest(&self) {
        glommio::timer::sleep(REST).await;
    }
}

impl StorageFile for DiskFile {
    async fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert_eq!((at as usize % BLOCK_BYTES, bytes.len() % BLOCK_BYTES), (0, 0));
        let written = match &*self.file {
            Opened::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(bytes.len());
                buffer.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
                file.write_at(buffer, at).await
            }
            Opened::Buffered(file) => file.write_at(bytes.to_vec(), at).await,
        };
        self.wrote.set(true);
        let written = written.map_err(io_error)?;
        if written != bytes.len() {
            // The rest found no room; nothing else makes a write to a file short.
            let text = format!("{written} of {} bytes were written", bytes.len());
            let error = NumberedError { number: libc::ENOSPC, text };
            return Err(io::Error::new(io::ErrorKind::StorageFull, error));
        }
        Ok(())
    }

    async fn allocate(&self, size: u64) -> io::Result<()> {
        let done = match &*self.file {
            Opened::Direct(file) => file.pre_allocate(size, false).await,
            Opened::Buffered(file) => file.pre_allocate(size, false).await,
        };
        match done {
            // Not every file system can.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            done => done.map_err(io_error),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        // What another handle wrote before this one was opened is not covered by its O_DSYNC.
        if self.dsync && self.wrote.get() {
            return Ok(());
        }
        let synced = match &*self.file {
            Opened::Direct(file) => file.fdatasync().await,
            Opened::Buffered(file) => file.fdatasync().await,
        };
        synced.map_err(io_error)
    }

    async fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        // A direct read at or over the end of a file gives bytes of the last sector once more:
        // glommio aligns the position down and then cuts the front off only in part.
        let size = self.size().await?;
        let len = len.min(size.saturating_sub(at) as usize);
        if len == 0 {
            return Ok(Vec::new());
        }
        let read = match &*self.file {
            Opened::Direct(file) => file.read_at(at, len).await,
            Opened::Buffered(file) => file.read_at(at, len).await,
        };
        Ok(read.map_err(io_error)?.to_vec())
    }

    async fn size(&self) -> io::Result<u64> {
        let size = match &*self.file {
            Opened::Direct(file) => file.file_size().await,
            Opened::Buffered(file) => file.file_size().await,
        };
        size.map_err(io_error)
    }

    async fn set_size(&self, size: u64) -> io::Result<()> {
        let done = match &*self.file {
            Opened::Direct(file) => file.truncate(size).await,
            Opened::Buffered(file) => file.truncate(size).await,
        };
        done.map_err(io_error)
    }

    async fn close(self) -> io::Result<()> {
        let closed = match Rc::try_unwrap(self.file) {
            Ok(Opened::Direct(file)) => file.close().await,
            Ok(Opened::Buffered(file)) => file.close().await,
            Err(_) => Ok(()),
        };
        closed.map_err(io_error)
    }
}

/// Keeps the number that the operating system gave, which glommio's own conversion loses.
fn io_error(error: GlommioError<()>) -> io::Error {
    match error.raw_os_error() {
        None => error.into(),
        Some(number) => {
            let kind = io::Error::from_raw_os_error(number).kind();
            io::Error::new(kind, NumberedError { number, text: error.to_string() })
        }
    }
}

fn not_there_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::path::PathBuf;

    use super::*;
    use crate::rt::core::{Core, io_memory};

    /// Runs on a core, on a disk that is written directly where the file system can.
    fn on_a_core<F: Future<Output = ()> + 'static>(
        test: impl FnOnce(Disk, PathBuf) -> F + Send + 'static,
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_owned();
        fs::write(path.join("scratch"), vec![1; MEASURED_BYTES]).expect("written");
        let root = move || async move {
            let measured = Disk::measure(&path.join("scratch")).await.expect("measured");
            test(Disk::new(measured), path).await;
        };
        let core = Core::start("test", 0, io_memory(1), root).expect("a core");
        core.join().expect("no panic");
    }

    #[test]
    fn a_read_ends_where_the_file_ends() {
        on_a_core(|disk, dir| async move {
            let file = disk.create(&dir.join("file")).await.expect("created");
            let bytes: Vec<u8> = (0..12_288_u32).map(|i| (i / 7) as u8).collect();
            file.write_at(0, &bytes).await.expect("written");
            for size in [12_288_u64, 12_287, 10_001, 8_192, 513, 1, 0] {
                file.set_size(size).await.expect("cut");
                for (at, len) in [(0, 20_000), (4096, 4096), (size, 10), (size / 2, 20_000)] {
                    let want = at.min(size) as usize..(at + len).min(size) as usize;
                    let want = bytes.get(want).unwrap_or_default();
                    let got = file.read_at(at, len as usize).await.expect("read");
                    assert_eq!(got, want, "size {size}, at {at}, len {len}");
                }
            }
            file.close().await.expect("closed");
        });
    }

    #[test]
    fn a_file_that_is_in_the_way_is_named() {
        on_a_core(|disk, dir| async move {
            let file = dir.join("shard-0");
            fs::write(&file, "").expect("written");
            let want = format!("{} is a file where a directory belongs", file.display());
            let below = file.join("log");
            for refused in [
                disk.list(&below).await.expect_err("a file above"),
                disk.list(&file).await.expect_err("a file"),
                disk.make_dir(&below).await.expect_err("a file above"),
                disk.make_dir(&file).await.expect_err("a file"),
                files::list(&below).expect_err("a file above"),
                files::create_dir(&below).expect_err("a file above"),
            ] {
                let text = refused.to_string();
                assert!(text.contains(&want) && text.contains("move it away"), "{text}");
            }
        });
    }

    #[test]
    fn names_change_durably_and_missing_ones_are_no_error() {
        on_a_core(|disk, dir| async move {
            let deep = dir.join("a/b/c");
            disk.create_dir(&deep).await.expect("made");
            disk.create_dir(&deep).await.expect("made again");
            disk.create(&deep.join("x")).await.expect("created").close().await.expect("closed");
            disk.rename(&deep.join("x"), &deep.join("y")).await.expect("renamed");
            disk.sync_dir(&deep).await.expect("synced");
            assert_eq!(disk.list(&deep).await.expect("listed"), ["y"]);
            assert_eq!(disk.list(&dir.join("none")).await.expect("listed"), Vec::<String>::new());
            disk.remove(&deep.join("x")).await.expect("nothing to remove");
            disk.remove_dir(&dir.join("a")).await.expect("removed");
            disk.remove_dir(&dir.join("a")).await.expect("nothing to remove");
            assert!(!dir.join("a").exists());
        });
    }
}

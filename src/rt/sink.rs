//! Where the files of a block go.
//!
//! A block writer produces bytes in order, file by file; it does not know whether a core writes
//! them through its ring or a control-side thread through the kernel's page cache.

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An ordered receiver of files. One file is open at a time.
///
/// Nothing is promised to be on the device before [`Sink::publish`] has returned; after it, all
/// of it is, under its final name. A crash before leaves at most a temporary directory.
pub trait Sink {
    /// Begins the file `name`, relative to the block, with at most one directory before it.
    fn begin(&mut self, name: &str) -> impl Future<Output = io::Result<()>>;
    /// Appends bytes to the open file. This is also where a writer on a core yields: after a step
    /// of work that made no bytes it comes with none.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Ends the open file and syncs it.
    fn end(&mut self) -> impl Future<Output = io::Result<()>>;
    /// Makes the block visible under its final name, directories synced.
    fn publish(&mut self) -> impl Future<Output = io::Result<()>>;
}

/// Suffix of a block directory that is still being written, as Prometheus names it.
pub const UNFINISHED_SUFFIX: &str = ".tmp-for-creation";

/// The control side's sink: blocking writes into `<dir>.tmp-for-creation`, renamed at the end.
/// For pool threads and tests, never for a core.
#[derive(Debug)]
pub struct DirSink {
    target: PathBuf,
    unfinished: PathBuf,
    open: Option<File>,
}

impl DirSink {
    /// A sink that will publish to `target`. Leftovers of an earlier try are removed.
    pub fn create(target: &Path) -> io::Result<Self> {
        let mut name = target.as_os_str().to_owned();
        name.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(name);
        match fs::remove_dir_all(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir_all(&unfinished)?,
        }
        Ok(Self { target: target.to_owned(), unfinished, open: None })
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.open.as_mut().ok_or_else(|| io::Error::other("no file was begun in this sink"))
    }
}

impl Sink for DirSink {
    async fn begin(&mut self, name: &str) -> io::Result<()> {
        let path = self.unfinished.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        self.open = Some(File::create_new(path)?);
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all(bytes)
    }

    async fn end(&mut self) -> io::Result<()> {
        self.file()?.sync_all()?;
        self.open = None;
        Ok(())
    }

    async fn publish(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.unfinished)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        File::open(&self.unfinished)?.sync_all()?;
        fs::rename(&self.unfinished, &self.target)?;
        match self.target.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

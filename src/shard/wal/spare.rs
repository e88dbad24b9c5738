//! Spare segments: files of the right size, written with zeros, waiting to be begun.
//!
//! Writing zeros first costs once what every commit would cost later: a file that grows, or whose
//! extents were never written, makes each flush wait for the journal of the file system. A spare
//! is made beside the commits, a mebibyte at a time.
//!
//! ## Crash
//! A spare holds nothing. An unfinished one (`.tmp`) or one of another size is removed at start.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};

use crate::rt::storage::{Storage, StorageFile};

/// Bytes of zeros written at a time.
const ZERO_WRITE_BYTES: usize = 1024 * 1024;

/// The spare segments in one directory.
#[derive(Debug)]
pub(crate) struct Spares<S: Storage> {
    storage: S,
    dir: PathBuf,
    segment_bytes: u64,
    /// How many are kept ready.
    wanted: usize,
    ready: RefCell<Vec<String>>,
    next: Cell<u64>,
}

impl<S: Storage> Spares<S> {
    /// Takes over the spares that lie in a directory, which is made if it is missing.
    pub(crate) async fn open(
        storage: S,
        dir: &Path,
        segment_bytes: u64,
        wanted: usize,
    ) -> io::Result<Self> {
        storage.create_dir(dir).await?;
        let mut ready = Vec::new();
        let mut next = 0;
        for name in storage.list(dir).await? {
            let Some(number) = name.strip_prefix("spare-") else { continue };
            let path = dir.join(&name);
            let file = storage.open(&path).await?;
            let whole =
                number.bytes().all(|b| b.is_ascii_digit()) && file.size().await? == segment_bytes;
            file.close().await?;
            if whole {
                next = next.max(number.parse().unwrap_or(0) + 1);
                ready.push(name);
            } else {
                storage.remove(&path).await?;
            }
        }
        let dir = dir.to_owned();
        let (ready, next) = (RefCell::new(ready), Cell::new(next));
        Ok(Self { storage, dir, segment_bytes, wanted, ready, next })
    }

    /// Whether another one should be made ready.
    fn wanted(&self) -> bool {
        self.ready.borrow().len() < self.wanted
    }

    /// Whether a segment of this size would be of use as one.
    pub(crate) fn wants(&self, size: u64) -> bool {
        self.wanted() && size == self.segment_bytes
    }

    /// Makes spares until enough are ready. For quiet moments, beside the commits.
    pub(crate) async fn prepare(&self) -> io::Result<()> {
        while self.wanted() {
            let name = self.make(self.segment_bytes).await?;
            self.ready.borrow_mut().push(name);
        }
        Ok(())
    }

    /// Takes a spare of at least `size` bytes; makes it if none is ready.
    pub(crate) async fn take(&self, size: u64) -> io::Result<String> {
        if size <= self.segment_bytes
            && let Some(name) = self.ready.borrow_mut().pop()
        {
            return Ok(name);
        }
        self.make(size).await
    }

    /// Takes back a spare of `size` bytes that was taken and not begun.
    pub(crate) fn put_back(&self, name: String, size: u64) {
        // One of another size is removed at the next start.
        if size == self.segment_bytes {
            self.ready.borrow_mut().push(name);
        }
    }

    /// Turns a segment nobody needs any more into a spare. Its old blocks stay in it; the next
    /// epoch makes them void.
    pub(crate) async fn recycle(&self, segment: &Path) -> io::Result<()> {
        let name = self.next_name();
        self.storage.rename(segment, &self.dir.join(&name)).await?;
        self.storage.sync_dir(&self.dir).await?;
        self.ready.borrow_mut().push(name);
        Ok(())
    }

    fn next_name(&self) -> String {
        let number = self.next.get();
        self.next.set(number + 1);
        format!("spare-{number}")
    }

    async fn make(&self, size: u64) -> io::Result<String> {
        let name = self.next_name();
        let unfinished = self.dir.join(format!("{name}.tmp"));
        if let Err(error) = self.write_zeros(&unfinished, size).await {
            // Whoever is out of room must not lose more of it to what was begun.
            self.storage.remove(&unfinished).await.ok();
            return Err(error);
        }
        self.storage.rename(&unfinished, &self.dir.join(&name)).await?;
        self.storage.sync_dir(&self.dir).await?;
        Ok(name)
    }

    async fn write_zeros(&self, path: &Path, size: u64) -> io::Result<()> {
        let file = self.storage.create(path).await?;
        file.allocate(size).await?;
        let zeros = vec![0; ZERO_WRITE_BYTES.min(size as usize)];
        let mut at = 0;
        while at < size {
            let len = zeros.len().min((size - at) as usize);
            file.write_at(at, &zeros[..len]).await?;
            at += len as u64;
        }
        file.sync().await?;
        file.close().await
    }
}

//! A bucket that is a directory: Thanos' `FILESYSTEM`, and the bucket of who has none.
//!
//! ## Promises
//! A key is a path below the directory and nothing else: a key with `..`, an empty element or a
//! zero byte is refused. An object appears whole and synced under its name or not at all; a
//! second `put` replaces the first in one step. Each return means: on the device.
//!
//! ## Crash
//! Unfinished objects lie in [`UNFINISHED`] under a name made from their key, where no reader of
//! Thanos' layout looks (it is not a ULID); the next try of the same key overwrites them.
//!
//! ## Why
//! `object_store` has a local store, but it does not sync. A file on the same filesystem is
//! linked, not copied: blocks never change, and the default bucket would otherwise need their
//! space twice.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ulid::Ulid;

use crate::bucket::{Object, Stored};

/// Directory of unfinished objects, in the root of the bucket.
pub(super) const UNFINISHED: &str = ".tidegate-unfinished";

/// Name of the object that is written to see whether it can be; gone at once.
const TRIED: &str = ".tidegate-tried";

/// A directory used as a bucket. Its methods block: for tokio's blocking threads.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Opens it, making it if need be, and tries whether an object can be written: better now than
    /// when the first block is finished.
    pub fn open(root: &Path) -> io::Result<Self> {
        let unfinished = root.join(UNFINISHED);
        fs::create_dir_all(&unfinished)?;
        let (tried, published) = (unfinished.join(TRIED), root.join(TRIED));
        File::create(&tried)?;
        fs::rename(&tried, &published)?;
        fs::remove_file(&published)?;
        sync_dir(root)?;
        if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes an object.
    pub fn put(&self, key: &str, bytes: &[u8]) -> io::Result<Stored> {
        let target = self.path(key)?;
        let unfinished = self.unfinished(key);
        remove_if_there(&unfinished)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.publish(&unfinished, &target)?;
        Ok(Stored { size_bytes: bytes.len() as u64, tag: None })
    }

    /// Makes a file an object: links it, or copies it where linking is not possible.
    pub fn put_file(&self, key: &str, source: &Path) -> io::Result<Stored> {
        let target = self.path(key)?;
        let unfinished = self.unfinished(key);
        remove_if_there(&unfinished)?;
        if fs::hard_link(source, &unfinished).is_err() {
            let mut from = File::open(source)?;
            let mut to = OpenOptions::new().write(true).create_new(true).open(&unfinished)?;
            io::copy(&mut from, &mut to)?;
        }
        let file = File::open(&unfinished)?;
        file.sync_all()?;
        let size_bytes = file.metadata()?.len();
        self.publish(&unfinished, &target)?;
        Ok(Stored { size_bytes, tag: None })
    }

    fn publish(&self, unfinished: &Path, target: &Path) -> io::Result<()> {
        let parent = target.parent().unwrap_or(&self.root);
        self.make_dirs(parent)?;
        fs::rename(unfinished, target)?;
        // Renaming a link over another link to the same file does nothing, as POSIX has it.
        remove_if_there(unfinished)?;
        sync_dir(parent)
    }

    /// Makes a directory below the root and what lies between, each entry synced.
    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        if dir == self.root || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(&self.root);
        self.make_dirs(parent)?;
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        sync_dir(parent)
    }

    /// Reads `len_max` bytes of an object from `offset`, fewer at its end.
    pub fn get(&self, key: &str, offset: u64, len_max: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(key)?)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// What is known of an object; nothing if there is none.
    pub fn head(&self, key: &str) -> io::Result<Option<Stored>> {
        match fs::metadata(self.path(key)?) {
            Ok(meta) if meta.is_file() => Ok(Some(Stored { size_bytes: meta.len(), tag: None })),
            Ok(_) => Ok(None),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The block directories.
    pub fn blocks(&self) -> io::Result<BTreeSet<Ulid>> {
        let mut blocks = BTreeSet::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if let Some(ulid) = entry.file_name().to_str().and_then(|n| Ulid::from_string(n).ok())
                && entry.file_type()?.is_dir()
            {
                blocks.insert(ulid);
            }
        }
        Ok(blocks)
    }

    /// The objects below a block, in any order.
    pub fn objects(&self, block: Ulid) -> io::Result<Vec<Object>> {
        let mut objects = Vec::new();
        let mut open = vec![block.to_string()];
        while let Some(dir) = open.pop() {
            let entries = match fs::read_dir(self.path(&dir)?) {
                Err(e) if is_absent(&e) => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let Some(name) = entry.file_name().to_str().map(|n| format!("{dir}/{n}")) else {
                    continue;
                };
                if entry.file_type()?.is_dir() {
                    open.push(name);
                } else {
                    objects.push(Object { key: name, size_bytes: entry.metadata()?.len() });
                }
            }
        }
        Ok(objects)
    }

    /// Deletes an object, and the directories it leaves empty. One that is not there is deleted.
    pub fn delete(&self, key: &str) -> io::Result<()> {
        let path = self.path(key)?;
        remove_if_there(&path)?;
        let mut dir = path.parent();
        while let Some(at) = dir.filter(|d| *d != self.root) {
            match fs::remove_dir(at) {
                Ok(()) => dir = at.parent(),
                Err(e) if is_absent(&e) => dir = at.parent(),
                Err(_) => break,
            }
        }
        sync_dir(dir.unwrap_or(&self.root))
    }

    /// Deletes what is unfinished since long: the leftovers of blocks that `is_abandoned`.
    pub fn sweep(&self, is_abandoned: impl Fn(Ulid) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(UNFINISHED))? {
            let entry = entry?;
            let name = entry.file_name();
            let block = name.to_str().and_then(|n| n.get(..26));
            if block.and_then(|b| Ulid::from_string(b).ok()).is_some_and(&is_abandoned) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> io::Result<PathBuf> {
        let harmless = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !key.split('/').all(harmless) || key.starts_with(UNFINISHED) {
            let text = format!("{key:?} is not the key of an object");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(self.root.join(key))
    }

    /// Where an object grows. `%` first, so that no two keys share a name.
    fn unfinished(&self, key: &str) -> PathBuf {
        let name = key.replace('%', "%25").replace('/', "%2F");
        self.root.join(UNFINISHED).join(name)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if !is_absent(&e) => Err(e),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const BLOCK: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn leftovers(directory: &Directory) -> usize {
        fs::read_dir(directory.root.join(UNFINISHED)).expect("the directory").count()
    }

    #[test]
    fn an_object_is_written_replaced_read_and_deleted() {
        let tmp = tempfile::tempdir().expect("a directory");
        let bucket = Directory::open(&tmp.path().join("a/bucket")).expect("a bucket");
        let key = format!("{BLOCK}/chunks/000001");
        assert_eq!(bucket.head(&key).expect("head"), None);
        bucket.put(&key, b"one").expect("put");
        bucket.put(&key, b"three").expect("put");
        assert_eq!(bucket.head(&key).expect("head").map(|s| s.size_bytes), Some(5));
        assert_eq!(bucket.get(&key, 0, 99).expect("get"), b"three");
        assert_eq!(bucket.get(&key, 1, 3).expect("get"), b"hre");
        assert_eq!(bucket.get(&key, 9, 3).expect("get"), b"");
        assert_eq!(bucket.head(&format!("{BLOCK}/chunks")).expect("head"), None);
        assert_eq!(bucket.head(&format!("{key}/x")).expect("head"), None);
        let block = Ulid::from_string(BLOCK).expect("a ulid");
        assert_eq!(bucket.blocks().expect("blocks"), BTreeSet::from([block]));
        let objects = bucket.objects(block).expect("objects");
        assert_eq!(objects, [Object { key: key.clone(), size_bytes: 5 }]);
        bucket.delete(&key).expect("delete");
        bucket.delete(&key).expect("delete again");
        assert_eq!(bucket.blocks().expect("blocks"), BTreeSet::new());
        assert_eq!(bucket.objects(block).expect("objects"), []);
        assert_eq!(leftovers(&bucket), 0);
    }

    #[test]
    fn a_file_on_the_same_filesystem_is_linked_again_and_again() {
        let tmp = tempfile::tempdir().expect("a directory");
        let bucket = Directory::open(&tmp.path().join("bucket")).expect("a bucket");
        let source = tmp.path().join("index");
        fs::write(&source, b"bytes").expect("a file");
        for _ in 0..2 {
            let stored = bucket.put_file("b/index", &source).expect("put");
            assert_eq!(stored.size_bytes, 5);
        }
        assert_eq!(fs::metadata(&source).expect("the file").nlink(), 2);
        assert_eq!(leftovers(&bucket), 0);
        // Replaced by a put, the source must keep its bytes.
        bucket.put("b/index", b"other").expect("put");
        assert_eq!(fs::read(&source).expect("the file"), b"bytes");
    }

    #[test]
    fn one_that_cannot_be_written_to_is_told_when_it_is_opened() {
        let tmp = tempfile::tempdir().expect("a directory");
        let file = tmp.path().join("file");
        fs::write(&file, b"in the way").expect("a file");
        Directory::open(&file.join("bucket")).expect_err("a file is in the way");
        // Root may write where others may not, so it is a name that is taken.
        let root = tmp.path().join("bucket");
        fs::create_dir_all(root.join(UNFINISHED).join(TRIED)).expect("a directory");
        Directory::open(&root).expect_err("an object could not be written");
        fs::remove_dir(root.join(UNFINISHED).join(TRIED)).expect("removed");
        let bucket = Directory::open(&root).expect("a bucket");
        assert_eq!(leftovers(&bucket), 0);
        assert_eq!(fs::read_dir(&root).expect("ours").count(), 1, "nothing but the unfinished");
    }

    #[test]
    fn leftovers_of_a_crash_are_overwritten() {
        let tmp = tempfile::tempdir().expect("a directory");
        let bucket = Directory::open(tmp.path()).expect("a bucket");
        let key = format!("{BLOCK}/index");
        fs::write(bucket.unfinished(&key), b"half").expect("a leftover");
        let bucket = Directory::open(tmp.path()).expect("a bucket");
        bucket.put(&key, b"whole").expect("put");
        assert_eq!(bucket.get(&key, 0, 99).expect("get"), b"whole");
        assert_eq!(leftovers(&bucket), 0);
        fs::write(bucket.unfinished(&key), b"half").expect("a leftover");
        bucket.sweep(|_| false).expect("a sweep");
        assert_eq!(leftovers(&bucket), 1);
        bucket.sweep(|block| block.to_string() == BLOCK).expect("a sweep");
        assert_eq!(leftovers(&bucket), 0);
    }

    #[test]
    fn keys_that_could_leave_the_directory_are_refused() {
        let tmp = tempfile::tempdir().expect("a directory");
        let bucket = Directory::open(tmp.path()).expect("a bucket");
        for key in ["", "/", "a/", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a\0b", UNFINISHED]
        {
            let kind = bucket.put(key, b"x").map_err(|e| e.kind());
            assert_eq!(kind, Err(io::ErrorKind::InvalidInput), "{key:?}");
            assert!(bucket.delete(key).is_err(), "{key:?}");
            assert!(bucket.get(key, 0, 1).is_err(), "{key:?}");
        }
    }
}

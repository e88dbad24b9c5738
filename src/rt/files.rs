//! Small files and locks, by blocking calls: for the start and the control side, never for a core.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::rt::storage::NumberedError;

/// A whole small file; `None` if it is not there.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    }
}

/// The first `len` bytes of a file, or all of a shorter one.
pub fn read_start(path: &Path, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a small file so that after a crash either the old or the new content is there, whole.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a directory and those above it, each new name durable in the one above.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(above) = above {
        create_dir(above)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => {
            return Err(named(error, path));
        }
        _ => {}
    }
    File::open(above.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// The names in a directory, sorted; none if it is not there. No name of ours is anything but
/// ASCII; others are none of our business. An error names the path.
pub fn list(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| named(error, path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// An error about a directory, with its path, or with that of the file that is in its place.
pub(super) fn named(error: io::Error, path: &Path) -> io::Error {
    let Some(number) = error.raw_os_error() else { return error };
    let in_the_way = [libc::ENOTDIR, libc::EEXIST].contains(&number);
    let file = path.ancestors().find(|above| in_the_way && above.is_file());
    let text = match file {
        Some(file) => {
            format!("{} is a file where a directory belongs: move it away", file.display())
        }
        None => format!("{}: {error}", path.display()),
    };
    io::Error::new(error.kind(), NumberedError { number, text })
}

/// Suffix of a directory that is being deleted, as Prometheus names it.
pub const DOOMED_SUFFIX: &str = ".tmp-for-deletion";

/// Removes a directory with all in it; not there is not an error. It first gets a name that says
/// so, so that a crash never leaves half of it under its own. After an error it may be asked again.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    let mut doomed = path.as_os_str().to_owned();
    if !path.to_string_lossy().ends_with(DOOMED_SUFFIX) {
        doomed.push(DOOMED_SUFFIX);
    }
    match fs::rename(path, &doomed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::remove_dir_all(&doomed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A lock on a file, held for as long as this lives; the kernel lets it go with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

/// Locks a file that is made if it is missing. `None` when somebody else holds it.
pub fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let first = lock(&path).expect("a lock").expect("nobody else");
        assert!(lock(&path).expect("an answer").is_none());
        drop(first);
        assert!(lock(&path).expect("an answer").is_some());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b/file.json");
        create_dir(path.parent().expect("a parent")).expect("directories");
        assert_eq!(read(&path).expect("an answer"), None);
        replace(&path, b"1").expect("written");
        replace(&path, b"22").expect("written again");
        assert_eq!(read(&path).expect("an answer").as_deref(), Some(&b"22"[..]));
        assert_eq!(list(path.parent().expect("a parent")).expect("names"), ["file.json"]);
    }
}

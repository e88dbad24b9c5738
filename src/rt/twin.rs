//! A device in memory whose power can be cut: the twin of the kernel's storage, for tests.
//!
//! It keeps, apart from what a running program sees, what would be found after a power cut. At
//! the cut each write that no sync covers is kept, dropped, or torn at 512 bytes; of the changes
//! of names that no directory sync covers a prefix is kept, as a journalling file system does it.
//! One seed decides all of it, so a seed is a whole history.
//!
//! A buffered twin is a device behind a page cache. What a failed sync should have covered it
//! drops, keeps or tears at once, and the next sync says that all is well: so does Linux.
//!
//! Every operation first yields, sometimes more than once, so that tasks interleave by seed too.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::rt::storage::{BLOCK_BYTES, Storage, StorageFile};
use crate::stdx::splitmix64;

const SECTOR_BYTES: usize = 512;

/// Small generator: good enough to spread faults, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }
}

#[derive(Debug, Default, Clone)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order: position and bytes, or a new size.
    pending: Vec<(u64, Option<Vec<u8>>)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    MakeDir(PathBuf),
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveDir(PathBuf),
}

/// The names at some moment.
#[derive(Debug, Default, Clone)]
struct Names {
    files: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct World {
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    durable_names: Names,
    /// Changes of names since the last directory sync, in order.
    changes: Vec<NameChange>,
    dice: Dice,
    ops_left: u64,
    buffered: bool,
    fail_writes: u64,
    fail_syncs: u64,
    fail_removals: u64,
    no_room: u64,
    /// How many more descriptors there are, and how many then are not.
    fds: (u64, u64),
    syncs_work: bool,
    held: bool,
    read: u64,
}

/// The twin. Clones are the same device.
#[derive(Debug, Clone)]
pub(crate) struct Twin(Rc<RefCell<World>>);

/// An open file of the twin.
#[derive(Debug)]
pub(crate) struct TwinFile {
    twin: Twin,
    inode: u64,
}

impl Twin {
    pub(crate) fn new(seed: u64) -> Self {
        let names = Names { dirs: BTreeSet::from(["/".into()]), ..Names::default() };
        Self(Rc::new(RefCell::new(World {
            inodes: BTreeMap::new(),
            names: names.clone(),
            durable_names: names,
            changes: Vec::new(),
            dice: Dice(seed),
            ops_left: u64::MAX,
            buffered: false,
            fail_writes: 0,
            fail_syncs: 0,
            fail_removals: 0,
            no_room: 0,
            fds: (0, 0),
            syncs_work: true,
            held: false,
            read: 0,
        })))
    }

    /// A device behind a page cache.
    pub(crate) fn buffered(seed: u64) -> Self {
        let twin = Self::new(seed);
        twin.0.borrow_mut().buffered = true;
        twin
    }

    /// Cuts the power before the operation after the next `ops`: from there nothing ever ends.
    pub(crate) fn cut_after(&self, ops: u64) {
        self.0.borrow_mut().ops_left = ops;
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.borrow().ops_left == 0
    }

    /// The next `n` writes answer an I/O error; some of their bytes may land all the same.
    pub(crate) fn fail_writes(&self, n: u64) {
        self.0.borrow_mut().fail_writes = n;
    }

    /// The next `n` syncs, of files or directories, answer an I/O error.
    pub(crate) fn fail_syncs(&self, n: u64) {
        self.0.borrow_mut().fail_syncs = n;
    }

    /// The next `n` times that a file is removed, or a log segment renamed, answer an I/O error.
    pub(crate) fn fail_removals(&self, n: u64) {
        self.0.borrow_mut().fail_removals = n;
    }

    /// The next `n` times that something asks for room, there is none.
    pub(crate) fn run_out_of_room(&self, n: u64) {
        self.0.borrow_mut().no_room = n;
    }

    /// The next `after` times that a descriptor is asked for there is one, then `n` times none.
    pub(crate) fn run_out_of_fds(&self, after: u64, n: u64) {
        self.0.borrow_mut().fds = (after, n);
    }

    fn ask_for_fd(&self) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let (after, n) = &mut world.fds;
        match (*after, *n) {
            (0, 0) => Ok(()),
            (0, _) => {
                *n -= 1;
                Err(io::Error::from_raw_os_error(libc::EMFILE))
            }
            _ => {
                *after -= 1;
                Ok(())
            }
        }
    }

    fn ask_for_room(&self) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        if world.no_room == 0 {
            return Ok(());
        }
        world.no_room -= 1;
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    /// Makes syncs lie: they return, and make nothing durable. The negative control.
    pub(crate) fn break_syncs(&self) {
        self.0.borrow_mut().syncs_work = false;
    }

    /// Holds every sync back until released.
    pub(crate) fn hold_syncs(&self, hold: bool) {
        self.0.borrow_mut().held = hold;
    }

    /// Flips a byte of a file, on the device and for readers.
    pub(crate) fn damage(&self, path: &Path, at: usize) {
        let mut world = self.0.borrow_mut();
        let inode = world.names.files[path];
        let inode = world.inodes.get_mut(&inode).expect("a named inode");
        for image in [&mut inode.live, &mut inode.durable] {
            if let Some(byte) = image.get_mut(at) {
                *byte ^= 0x5a;
            }
        }
    }

    /// Bytes that were read of all files.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.0.borrow().read
    }

    /// The files below a directory and what is in them, by their names in it.
    pub(crate) fn files_below(&self, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let world = self.0.borrow();
        let inside = world.names.files.iter().filter_map(|(path, inode)| {
            let name = path.strip_prefix(dir).ok()?;
            Some((name.to_owned(), world.inodes[inode].live.clone()))
        });
        inside.collect()
    }

    /// What is found after the power cut: a new device, running again.
    pub(crate) fn after_cut(&self) -> Self {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        let mut dice = Dice(world.dice.roll());
        let mut names = world.durable_names.clone();
        let keep = dice.below(world.changes.len() as u64 + 1) as usize;
        for change in &world.changes[..keep] {
            names.apply(change);
        }
        let inodes: BTreeMap<u64, Inode> = names
            .files
            .values()
            .map(|&id| {
                let image = torn(&world.inodes[&id], &mut dice);
                let inode = Inode { live: image.clone(), durable: image, pending: Vec::new() };
                (id, inode)
            })
            .collect();
        let after = Self::new(dice.roll());
        {
            let mut fresh = after.0.borrow_mut();
            fresh.durable_names.clone_from(&names);
            fresh.names = names;
            fresh.inodes = inodes;
            fresh.syncs_work = world.syncs_work;
            fresh.buffered = world.buffered;
        }
        after
    }

    /// What is found after the process was killed: kernel and device have all that was done.
    pub(crate) fn after_kill(&self) -> Self {
        let mut world = self.0.borrow_mut();
        let after = Self::new(world.dice.roll());
        {
            let mut fresh = after.0.borrow_mut();
            fresh.inodes.clone_from(&world.inodes);
            fresh.names.clone_from(&world.names);
            fresh.durable_names.clone_from(&world.durable_names);
            fresh.changes.clone_from(&world.changes);
            fresh.buffered = world.buffered;
        }
        after
    }

    /// Yields a few times, then counts the operation or never returns.
    async fn enter(&self) {
        let turns = self.0.borrow_mut().dice.below(3);
        for _ in 0..turns {
            futures_lite::future::yield_now().await;
        }
        let off = {
            let mut world = self.0.borrow_mut();
            let off = world.ops_left == 0;
            world.ops_left = world.ops_left.saturating_sub(1);
            off || world.ops_left == 0
        };
        if off {
            futures_lite::future::pending::<()>().await;
        }
    }
}

/// A durable image with a seed's choice of the writes that no sync covered.
fn torn(inode: &Inode, dice: &mut Dice) -> Vec<u8> {
    let mut image = inode.durable.clone();
    land_some(&inode.pending, &mut image, dice);
    image
}

fn land_some(writes: &[(u64, Option<Vec<u8>>)], image: &mut Vec<u8>, dice: &mut Dice) {
    for (at, bytes) in writes {
        let choice = dice.below(4);
        match bytes {
            None if choice < 2 => image.resize(*at as usize, 0),
            None => {}
            Some(bytes) => {
                for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let lands = match choice {
                        0 => false,
                        1 => true,
                        _ => dice.below(2) == 0,
                    };
                    if lands {
                        put(image, *at as usize + i * SECTOR_BYTES, sector);
                    }
                }
            }
        }
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() == at {
        image.extend_from_slice(bytes);
        return;
    }
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
            NameChange::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
            NameChange::RemoveDir(path) => self.dirs.retain(|dir| !dir.starts_with(path)),
            NameChange::Rename(from, to) => {
                let renamed = |old: &Path| {
                    let rest = old.strip_prefix(from).ok()?;
                    Some(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) })
                };
                let moved: Vec<_> =
                    self.files.iter().filter_map(|(p, &i)| Some((renamed(p)?, i))).collect();
                self.files.retain(|path, _| !path.starts_with(from));
                self.files.extend(moved);
                let moved: Vec<_> = self.dirs.iter().filter_map(|p| renamed(p)).collect();
                self.dirs.retain(|path| !path.starts_with(from));
                self.dirs.extend(moved);
            }
        }
    }
}

impl World {
    fn change(&mut self, change: NameChange) {
        self.names.apply(&change);
        self.changes.push(change);
    }

    /// Whether this sync is one that fails.
    fn removal_fails(&mut self) -> io::Result<()> {
        if self.fail_removals == 0 {
            return Ok(());
        }
        self.fail_removals -= 1;
        Err(io::Error::from_raw_os_error(libc::EROFS))
    }

    fn sync_fails(&mut self) -> io::Result<()> {
        if self.fail_syncs == 0 {
            return Ok(());
        }
        self.fail_syncs -= 1;
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    /// Does a sync of the first `covered` pending writes of a file, or fails to.
    fn sync(&mut self, inode: u64, covered: usize) -> io::Result<()> {
        let failed = self.sync_fails();
        let inode = self.inodes.get_mut(&inode).expect("an open inode");
        let covered = covered.min(inode.pending.len());
        if failed.is_err() {
            if self.buffered {
                let lost: Vec<_> = inode.pending.drain(..covered).collect();
                land_some(&lost, &mut inode.durable, &mut self.dice);
            }
        } else if self.syncs_work {
            for (at, bytes) in inode.pending.drain(..covered) {
                match bytes {
                    Some(bytes) => put(&mut inode.durable, at as usize, &bytes),
                    None => inode.durable.resize(at as usize, 0),
                }
            }
        }
        failed
    }
}

impl Storage for Twin {
    type File = TwinFile;

    fn is_direct(&self) -> bool {
        !self.0.borrow().buffered
    }

    async fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.enter().await;
        let mut world = self.0.borrow_mut();
        if !path.parent().is_none_or(|above| world.names.dirs.contains(above)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !world.names.dirs.contains(path) {
            world.change(NameChange::MakeDir(path.to_owned()));
        }
        Ok(())
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.enter().await;
        self.ask_for_fd()?;
        let world = self.0.borrow();
        let inside = world.names.files.keys().chain(&world.names.dirs).filter_map(|p| {
            let rest = p.strip_prefix(path).ok()?;
            Some(rest.components().next()?.as_os_str().to_string_lossy().into_owned())
        });
        Ok(inside.collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn create(&self, path: &Path) -> io::Result<TwinFile> {
        self.enter().await;
        self.ask_for_fd()?;
        self.ask_for_room()?;
        let mut world = self.0.borrow_mut();
        if !path.parent().is_some_and(|dir| world.names.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = world.dice.roll();
        world.inodes.insert(inode, Inode::default());
        world.change(NameChange::Link(path.to_owned(), inode));
        Ok(TwinFile { twin: self.clone(), inode })
    }

    async fn open(&self, path: &Path) -> io::Result<TwinFile> {
        self.enter().await;
        self.ask_for_fd()?;
        let inode = self.0.borrow().names.files.get(path).copied();
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(TwinFile { twin: self.clone(), inode })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter().await;
        let mut world = self.0.borrow_mut();
        if from.extension().is_some_and(|ending| ending == "log") {
            world.removal_fails()?;
        }
        let names = &world.names;
        if !names.files.keys().chain(&names.dirs).any(|name| name.starts_with(from)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.enter().await;
        let mut world = self.0.borrow_mut();
        world.removal_fails()?;
        world.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.enter().await;
        let mut world = self.0.borrow_mut();
        let files = world.names.files.keys().filter(|p| p.starts_with(path));
        let gone: Vec<PathBuf> = files.cloned().collect();
        for name in gone {
            world.change(NameChange::Unlink(name));
        }
        world.change(NameChange::RemoveDir(path.to_owned()));
        Ok(())
    }

    async fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        self.enter().await;
        self.ask_for_fd()?;
        let mut world = self.0.borrow_mut();
        world.sync_fails()?;
        if world.syncs_work {
            world.durable_names = world.names.clone();
            world.changes.clear();
        }
        Ok(())
    }

    async fn pause(&self) {
        futures_lite::future::yield_now().await;
    }

    async fn pace(&self, _bytes: usize) {
        self.pause().await;
    }

    async fn rest(&self) {
        for _ in 0..10 {
            futures_lite::future::yield_now().await;
        }
    }
}

impl StorageFile for TwinFile {
    async fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        assert_eq!((at as usize % BLOCK_BYTES, bytes.len() % BLOCK_BYTES), (0, 0), "unaligned");
        // The write is under way before it ends: a cut during it may leave any part of it.
        {
            let mut world = self.twin.0.borrow_mut();
            let off = world.ops_left == 0;
            let inode = world.inodes.get_mut(&self.inode).expect("an open inode");
            if !off {
                inode.pending.push((at, Some(bytes.to_vec())));
            }
        }
        self.twin.enter().await;
        let mut world = self.twin.0.borrow_mut();
        if world.fail_writes > 0 {
            world.fail_writes -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let inode = world.inodes.get_mut(&self.inode).expect("an open inode");
        put(&mut inode.live, at as usize, bytes);
        Ok(())
    }

    async fn allocate(&self, _size: u64) -> io::Result<()> {
        self.twin.enter().await;
        self.twin.ask_for_room()
    }

    async fn sync(&self) -> io::Result<()> {
        let covered = self.twin.0.borrow().inodes[&self.inode].pending.len();
        self.twin.enter().await;
        while self.twin.0.borrow().held {
            futures_lite::future::yield_now().await;
        }
        self.twin.0.borrow_mut().sync(self.inode, covered)
    }

    async fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.twin.enter().await;
        let mut world = self.twin.0.borrow_mut();
        let live = &world.inodes[&self.inode].live;
        let start = (at as usize).min(live.len());
        let read = live[start..(start + len).min(live.len())].to_vec();
        world.read += read.len() as u64;
        Ok(read)
    }

    async fn size(&self) -> io::Result<u64> {
        self.twin.enter().await;
        Ok(self.twin.0.borrow().inodes[&self.inode].live.len() as u64)
    }

    async fn set_size(&self, size: u64) -> io::Result<()> {
        self.twin.enter().await;
        let mut world = self.twin.0.borrow_mut();
        let inode = world.inodes.get_mut(&self.inode).expect("an open inode");
        inode.live.resize(size as usize, 0);
        inode.pending.push((size, None));
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        Ok(())
    }
}

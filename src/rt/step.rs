//! The named steps on the way from the head to the bucket, and a way to die at each of them.
//!
//! In a build with debug assertions `TIDEGATE_DIE_AT` names a file. Whenever a step is done the
//! process looks there, and if the file names that step (`CutLogged`, or `CutLogged 2` for the
//! second time) it kills itself with SIGKILL: no destructor runs and nothing is said to anybody. A
//! test then asks what is left. With the word `hang` behind the number it is not the process that
//! ends, but its thread that never does anything again: a core that hangs. Other builds have
//! neither the list nor the question.
//!
//! ## Why one list
//! A test walks all of it and fails for a step that is never reached, so a step that is added here
//! is tried, and one whose code is gone is noticed.

/// Declares the steps and the list of all of them.
macro_rules! steps {
    ($($(#[$what:meta])* $step:ident,)*) => {
        /// A step that is done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step { $($(#[$what])* $step,)* }

        #[cfg(debug_assertions)]
        impl Step {
            /// All steps, in the order in which a sample meets them.
            pub const ALL: &[Self] = &[$(Self::$step,)*];
        }
    };
}

steps! {
    /// A shard refuses a tenant's samples of a range that is over. Nothing is on disk.
    RangeCut,
    /// The directory of an unfinished block is there.
    BlockBegun,
    /// All chunks were given to the block; it has no index yet.
    BlockFilled,
    /// All files of the block are synced and read back; it has no name yet.
    BlockReadBack,
    /// The block has its name; no log knows of it.
    BlockNamed,
    /// The cut is durable in the log; the head has not heard of it.
    CutLogged,
    /// The block is in the list of the readers and offered to the shipper.
    BlockListed,
    /// The head has let go of what the block holds; the log has not.
    HeadTruncated,
    /// All series that only the log told are in the series file.
    SeriesTold,
    /// All cuts are told once more at the end of the log.
    CutsTold,
    /// A segment of the log is let go.
    SegmentGone,
    /// All living series are told again in fresh segments of the series file.
    SeriesToldAgain,
    /// An older segment of the series file is let go.
    SeriesSegmentGone,
    /// A segment of an earlier generation is removed.
    OldSegmentGone,
    /// The bucket was asked for a copy of the block.
    ShipProbed,
    /// The copy got a new ULID because the old one is too old.
    ShipAssigned,
    /// A file is in the bucket.
    ShipPut,
    /// A file was seen in the bucket.
    ShipChecked,
    /// `meta.json` is in the bucket: the block is visible there.
    ShipPublished,
    /// `meta.json` was read back.
    ShipPublishedChecked,
    /// A file was seen once more.
    ShipCheckedAgain,
    /// The block is noted as shipped.
    ShipRecorded,
}

/// Says that a step is done.
#[cfg(not(debug_assertions))]
pub fn done(_: Step) {}

/// Says that a step is done. Does not return if this is where to die.
#[cfg(debug_assertions)]
pub fn done(step: Step) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    /// How often the step in the file was done.
    static TIMES: AtomicU32 = AtomicU32::new(0);
    static FILE: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("TIDEGATE_DIE_AT").map(Into::into));
    let Some(text) = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()) else {
        return;
    };
    let mut words = text.split_whitespace();
    if words.next() != Some(format!("{step:?}").as_str()) {
        return;
    }
    let wanted = words.next().and_then(|number| number.parse().ok()).unwrap_or(1);
    if TIMES.fetch_add(1, Ordering::Relaxed) + 1 == wanted {
        match words.next() {
            Some("hang") => hang(step),
            _ => die(step),
        }
    }
}

#[cfg(debug_assertions)]
fn die(step: Step) -> ! {
    use rustix::process::{Signal, getpid, kill_process};
    use std::io::Write;
    writeln!(std::io::stderr(), "killed by itself at {step:?}").ok();
    kill_process(getpid(), Signal::KILL).ok();
    // The signal is on its way to every thread of the process.
    hang(step)
}

#[cfg(debug_assertions)]
fn hang(step: Step) -> ! {
    use std::io::Write;
    writeln!(std::io::stderr(), "this thread hangs at {step:?}").ok();
    loop {
        std::thread::park();
    }
}

//! What the kernel says of this process. Blocking reads of `/proc`, which does not wait for a disk.

use std::fs;
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::rt::clock::Clock;

/// Ticks per second of the times in `/proc`: the same on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far and holds now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Processor time, user and system, in seconds.
    pub cpu_s: f64,
    /// When it started, in seconds since the epoch.
    pub started_s: f64,
    /// Memory that is in memory, in bytes.
    pub resident_bytes: u64,
    /// Address space in bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub fds: u64,
    /// Most that may be open; none for no limit.
    pub fds_max: Option<u64>,
}

/// Lets this process open as many files as it may raise its own limit to; how many that are, `None`
/// for no limit. As programs in Go do: the lower limit is for programs that call `select(2)`.
pub fn raise_fd_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is forbidden, the old one holds.
    setrlimit(Resource::Nofile, limit).ok();
    getrlimit(Resource::Nofile).current
}

/// What this process has used. `None` where `/proc` cannot be read, for example when no descriptor
/// is left to read it with.
pub fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered from 1 in proc(5), of which two are cut off.
    let ticks = |number: usize| -> Option<f64> { fields.get(number - 3)?.parse().ok() };
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Usage {
        cpu_s: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        started_s: started_s(ticks(22)? / TICKS_PER_SECOND),
        resident_bytes: kib("VmRSS:")? * 1024,
        virtual_bytes: kib("VmSize:")? * 1024,
        // The one that lists them is among them.
        fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        fds_max: getrlimit(Resource::Nofile).current,
    })
}

/// When the process started, `after_boot_s` after the machine. Told once, for who reads it takes
/// another number for another start.
fn started_s(after_boot_s: f64) -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let since_boot = clock_gettime(ClockId::Boottime);
        let since_boot_s = since_boot.tv_sec as f64 + since_boot.tv_nsec as f64 / 1e9;
        Clock::system().wall_ms() as f64 / 1e3 - since_boot_s + after_boot_s
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let before = usage().expect("proc");
        let file = fs::File::open("/proc/self/stat").expect("a file");
        let memory = vec![1_u8; 64 << 20];
        let after = usage().expect("proc");
        drop(file);
        assert!(memory.iter().all(|&byte| byte == 1));
        assert!(after.resident_bytes >= 64 << 20, "{after:?}");
        assert!(after.resident_bytes < after.virtual_bytes, "{after:?}");
        assert!(after.cpu_s >= before.cpu_s && after.fds > 3, "{after:?}");
        let now_s = Clock::system().wall_ms() as f64 / 1000.0;
        let age_s = now_s - after.started_s;
        assert!((-2.0..3600.0).contains(&age_s), "{age_s} s old");
        assert_eq!(after.started_s.to_bits(), before.started_s.to_bits());
    }
}

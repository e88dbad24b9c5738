//! What the kernel says of this process. Blocking reads of `/proc`, which does not wait for a disk.

use std::fs;

use rustix::process::{Resource, getrlimit};

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

/// What this process has used. `None` where `/proc` cannot be read, for example when no descriptor
/// is left to read it with.
pub fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered from 1 in proc(5), of which two are cut off.
    let ticks = |number: usize| -> Option<f64> { fields.get(number - 3)?.parse().ok() };
    let all = fs::read_to_string("/proc/stat").ok()?;
    let boot_s: f64 = all.lines().find_map(|l| l.strip_prefix("btime "))?.parse().ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Usage {
        cpu_s: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        started_s: boot_s + ticks(22)? / TICKS_PER_SECOND,
        resident_bytes: kib("VmRSS:")? * 1024,
        virtual_bytes: kib("VmSize:")? * 1024,
        // The one that lists them is among them.
        fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        fds_max: getrlimit(Resource::Nofile).current,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::clock::Clock;

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
    }
}

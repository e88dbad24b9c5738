//! Keeps cores from sleeping over work.
//!
//! glommio 0.9.0 (and glommio-ng 0.12.0) may put a core to sleep while tasks are ready: if the
//! preempt timer fires before a round has run its first task, the round counts as idle
//! (glommio/glommio#53). On a machine with more threads than processors that happens every few
//! starts, and a core that is only waiting for itself then sleeps for ever. So:
//!
//! - From its first task on, a core is woken from outside at a steady pace, by a thread that does
//!   nothing else. It costs a core some microseconds each time.
//! - Before that nothing of it can be woken, so whoever starts it sends its thread a signal that
//!   does nothing but end the sleep, until the first task has run.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::rt::thread::spawn_named;

/// The longest sleep over work.
pub(super) const PACE: Duration = Duration::from_millis(20);
/// Wakes a core may owe: glommio counts those under way in 16 bits.
const OWED_MAX: u32 = 100;
/// Ignored by default, and sent by nobody else.
const SIGNAL: libc::c_int = libc::SIGURG;

/// What a core and the thread that wakes it know of each other.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    /// Wakes sent since the core last ran its root task.
    owed: AtomicU32,
    over: AtomicBool,
}

impl Sleep {
    /// The core runs.
    pub(super) fn is_awake(&self) {
        self.owed.store(0, Relaxed);
    }
}

/// Ends the waking when a core's root task is gone, however it ended.
pub(super) struct Ending(pub(super) Arc<Sleep>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.over.store(true, Relaxed);
    }
}

/// A core that is woken.
type Woken = (Waker, Arc<Sleep>);

/// Has a core woken until it ends. `waker` is that of its root task.
pub(super) fn keep_awake(waker: Waker, sleep: Arc<Sleep>) -> io::Result<()> {
    static CORES: OnceLock<Sender<Woken>> = OnceLock::new();
    let cores = CORES.get_or_init(|| {
        let (to, from) = mpsc::channel();
        // Without the thread nobody receives, and every send says so.
        drop(spawn_named("tidegate-pulse", move || wake_all(&from)));
        to
    });
    cores
        .send((waker, sleep))
        .map_err(|_| io::Error::other("the thread that wakes cores has ended"))
}

fn wake_all(new: &Receiver<Woken>) {
    let mut cores: Vec<Woken> = Vec::new();
    loop {
        match new.recv_timeout(PACE) {
            Ok(core) => cores.push(core),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        cores.retain(|(_, sleep)| !sleep.over.load(Relaxed));
        for (waker, sleep) in &cores {
            wake(waker, sleep);
        }
    }
}

fn wake(waker: &Waker, sleep: &Sleep) {
    if sleep.owed.load(Relaxed) < OWED_MAX {
        sleep.owed.fetch_add(1, Relaxed);
        waker.wake_by_ref();
    }
}

/// Makes the signal end a system call and do nothing else.
#[expect(unsafe_code, reason = "a signal handler is set by the C library only")]
pub(super) fn take_signal() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros is a sigaction with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is whole, its handler touches nothing, and the old one is not asked for.
    match unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the sleep of a core's thread. A thread that does not sleep is not disturbed.
#[expect(unsafe_code, reason = "a thread gets a signal by the C library only")]
pub(super) fn signal<T>(thread: &JoinHandle<T>) {
    // SAFETY: the thread was not joined, for its handle is here, so its name is valid.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_core_that_does_not_run_is_not_buried() {
        let wakes = Arc::new(Wakes::default());
        let (waker, sleep) = (Waker::from(wakes.clone()), Sleep::default());
        for _ in 0..1000 {
            wake(&waker, &sleep);
        }
        assert_eq!(wakes.0.load(Relaxed), OWED_MAX);
        sleep.is_awake();
        wake(&waker, &sleep);
        assert_eq!(wakes.0.load(Relaxed), OWED_MAX + 1);
    }
}

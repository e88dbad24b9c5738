//! A core: one pinned thread with its io_uring, and the tasks that run on it. This is glommio, and
//! the only place that knows it.
//!
//! ## Traps, each handled here, and its test
//! - Without sysfs glommio panics when it places a core: [`probe`] looks for it first.
//!   `rt::core::tests::a_root_without_sysfs_is_told`
//! - Without io_uring glommio panics in the new thread: [`probe`] asks the kernel first.
//!   `live::traps::without_io_uring_it_says_so`
//! - Registered buffers count against memlock three times per core: [`io_memory`] divides it.
//!   `live::traps::it_starts_with_little_locked_memory_as_nobody`
//! - Whether files are polled is decided by the first file a core opens, and an empty one decides
//!   it wrongly (43 times slower): every core opens a written file first, see [`Disk::open_first`].
//!   `tests::a_device_without_poll_queues_is_not_polled`
//! - A busy core looks at its other queues only when a timer says so, 100 ms by default: 2 ms here,
//!   and a queue whose latency matters for questions from outside.
//!   `tests::a_busy_core_hears_a_question_soon`
//! - A core may sleep over ready tasks: it is woken from outside at a steady pace, see `pulse`.
//!   `tests::a_core_begins_on_a_crowded_processor`
//! - More than 32,767 wakes under way are a panic: a core owes at most a hundred.
//!   `pulse::tests::a_core_that_does_not_run_is_not_buried`
//! - A panic in any task ends the core's thread: tasks are caught, or they abort the process.
//!   `tests::a_panic_costs_its_task_or_the_process`
//! - A panic in a blocking call hangs who waits for it: it is caught, and an error.
//!   `tests::a_panic_in_a_blocking_call_is_an_error`
//! - An accepted socket that is dropped unbound leaks: [`Accepted`] closes itself.
//!   `net::tests::a_connection_nobody_takes_is_closed`
//! - The kernel deals few connections out unevenly: cores hand them on.
//!   `net::tests::connections_are_spread_over_cores`
//! - Who waits for room in a channel between cores may panic: a full one gives the message back.
//!   `mesh::tests::a_full_channel_gives_the_message_back`
//! - `SO_REUSEPORT` lets a second process share the port in silence: the server asks before.
//!   `live::traps::a_second_process_is_refused`
//! - Placement ignores the affinity the process was started with: cores come from [`cpus`].
//!   `live::traps::cores_stay_where_the_process_was_put`
//! - A direct read over the end of a file repeats bytes: lengths are cut to the file's.
//!   `disk::tests::a_read_ends_where_the_file_ends`
//! - Signals end system calls: they are made again. `live::traps::signals_disturb_nobody`

use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_lite::FutureExt as _;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use crate::rt::thread::spawn_named;
use crate::telemetry::panics;

mod disk;
mod mesh;
mod net;
mod pulse;
#[cfg(test)]
mod tests;

pub use disk::{Disk, DiskFile, Measured};
pub use mesh::{Mesh, Port, mesh};
pub use net::{Accepted, Doors, Stream};

/// How long a task may run before another queue is looked at.
const PREEMPT: Duration = Duration::from_millis(2);
/// Depth of the submission ring; more gains nothing.
const RING_DEPTH: usize = 256;
/// Most registered memory per core.
const IO_MEMORY_MAX: usize = 10 << 20;
/// Least registered memory per core with which glommio starts.
const IO_MEMORY_MIN: usize = 64 << 10;
/// Rings per core that the same memory is registered with.
const RINGS: u64 = 3;

/// Why this machine cannot run cores.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel or a filter refuses io_uring.
    #[error(
        "this process may not use io_uring ({0}): kernel 5.8 or newer is needed, \
         kernel.io_uring_disabled must be 0, and a seccomp filter (container, systemd \
         SystemCallFilter) must allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Refused(io::Error),
    /// Nothing tells which processors there are.
    #[error(
        "{} cannot be read ({source}): mount sysfs on /sys, also in a container or a chroot",
        path.display()
    )]
    NoSysfs {
        /// What was looked for.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The memory this user may lock is used up by its other processes.
    #[error(
        "this user's processes have locked all memory they may ({limit} bytes): raise \
         LimitMEMLOCK in the unit, or ulimit -l"
    )]
    LockedMemoryUsed {
        /// The limit in bytes.
        limit: u64,
    },
    /// Too little memory may be locked.
    #[error(
        "only {got} bytes of memory may be locked and {want} are needed: raise LimitMEMLOCK in \
         the unit, or ulimit -l"
    )]
    LockedMemory {
        /// The limit in bytes.
        got: u64,
        /// What glommio asks for at least.
        want: u64,
    },
}

/// The processors this process may run on, as it was started (`taskset`, `CPUAffinity=`).
pub fn cpus() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().map(|id| id.id).collect()
}

/// Asks the kernel whether cores can run at all, before any is started.
pub fn probe() -> Result<(), RingError> {
    sysfs_is_there(Path::new("/sys/devices/system/cpu/online"))?;
    let want = 512 * 1024;
    let limit = memlock();
    // First, for a ring is locked memory too, and the kernel would say no more than "no memory".
    if let Some(got) = limit.filter(|&got| got < want) {
        return Err(RingError::LockedMemory { got, want });
    }
    match (io_uring::IoUring::new(8), limit) {
        (Ok(_), _) => Ok(()),
        (Err(error), Some(limit)) if error.kind() == io::ErrorKind::OutOfMemory => {
            Err(RingError::LockedMemoryUsed { limit })
        }
        (Err(error), _) => Err(RingError::Refused(error)),
    }
}

/// Without it glommio panics when it looks for the processors.
fn sysfs_is_there(online: &Path) -> Result<(), RingError> {
    match std::fs::metadata(online) {
        Ok(_) => Ok(()),
        Err(source) => Err(RingError::NoSysfs { path: online.to_owned(), source }),
    }
}

fn memlock() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// Registered memory per core in bytes, so that all cores together stay within memlock. Root is
/// exempt from the limit, and gets the same.
pub fn io_memory(cores: usize) -> usize {
    let share = memlock().map_or(u64::MAX, |limit| limit / (RINGS * cores.max(1) as u64));
    (share as usize).clamp(IO_MEMORY_MIN, IO_MEMORY_MAX) / 4096 * 4096
}

/// A running core.
#[derive(Debug)]
pub struct Core<T: Send + 'static> {
    /// Gives nothing if the core could not be made.
    thread: JoinHandle<Option<T>>,
}

/// A core's thread ended without an answer.
#[derive(Debug, thiserror::Error)]
#[error("a core ended early: {0}")]
pub struct CoreDied(String);

/// What a core's thread says of its beginning.
enum Beginning {
    /// It can run.
    Made,
    /// Its root task runs.
    Runs,
    /// It cannot run, and ends.
    Failed(io::Error),
}

impl<T: Send + 'static> Core<T> {
    /// Starts a core on a processor; returns when it runs. Its root future ends the core, and all
    /// its tasks with it.
    pub fn start<F: Future<Output = T> + 'static>(
        name: &str,
        cpu: usize,
        io_memory: usize,
        root: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self> {
        pulse::take_signal()?;
        let (tell, beginning) = mpsc::channel();
        let thread = spawn_named(name, move || {
            let builder = LocalExecutorBuilder::new(Placement::Fixed(cpu))
                .io_memory(io_memory)
                .ring_depth(RING_DEPTH)
                .preempt_timer(PREEMPT);
            match builder.make() {
                Ok(executor) => {
                    drop(tell.send(Beginning::Made));
                    Some(executor.run(rooted(root, tell)))
                }
                Err(error) => {
                    drop(tell.send(Beginning::Failed(error.into())));
                    None
                }
            }
        })?;
        let mut made = false;
        loop {
            match beginning.recv_timeout(pulse::PACE) {
                Ok(Beginning::Made) => made = true,
                Ok(Beginning::Runs) => return Ok(Self { thread }),
                Ok(Beginning::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) if made => pulse::signal(&thread),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the core's thread ended before it ran"));
                }
            }
        }
    }

    /// Whether its thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the core's end.
    pub fn join(self) -> Result<T, CoreDied> {
        match self.thread.join() {
            Ok(Some(out)) => Ok(out),
            Ok(None) => Err(CoreDied("it could not be made".into())),
            Err(panic) => Err(CoreDied(match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(other) => (*other.downcast_ref().unwrap_or(&"its thread panicked")).to_owned(),
            })),
        }
    }
}

/// The root task of a core: has itself woken, says that it runs, and runs.
async fn rooted<T, F: Future<Output = T>>(
    root: impl FnOnce() -> F,
    tell: mpsc::Sender<Beginning>,
) -> T {
    let sleep = Arc::new(pulse::Sleep::default());
    let _ending = pulse::Ending(sleep.clone());
    let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let begun = match pulse::keep_awake(waker, sleep.clone()) {
        Ok(()) => Beginning::Runs,
        Err(error) => Beginning::Failed(error),
    };
    // Who started the core waits for this word.
    drop(tell.send(begun));
    let mut root = pin!(abort_on_panic(root()));
    poll_fn(|context| {
        sleep.is_awake();
        root.as_mut().poll(context)
    })
    .await
}

/// The queues of a core. Ingest runs in the default one.
#[derive(Debug, Clone, Copy)]
pub struct Queues {
    select: TaskQueueHandle,
    flush: TaskQueueHandle,
}

impl Queues {
    /// Makes them; on a core.
    pub fn new() -> Self {
        let executor = glommio::executor();
        let soon = Latency::Matters(Duration::from_millis(2));
        Self {
            select: executor.create_task_queue(Shares::Static(150), soon, "select"),
            flush: executor.create_task_queue(Shares::Static(50), Latency::NotImportant, "flush"),
        }
    }

    /// Runs a question from outside. A panic in it is caught and costs only its answer.
    pub fn select(&self, task: impl Future<Output = ()> + 'static) {
        let caught = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!("a select panicked; its asker gets no answer");
            }
        };
        spawn_into(caught, self.select);
    }

    /// Runs work of a flush. A panic in it aborts the process.
    pub fn flush(&self, task: impl Future<Output = ()> + 'static) {
        spawn_into(abort_on_panic(task), self.flush);
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self::new()
    }
}

fn spawn_into(task: impl Future<Output = ()> + 'static, queue: TaskQueueHandle) {
    match glommio::spawn_local_into(task, queue) {
        Ok(task) => drop(task.detach()),
        Err(error) => tracing::error!(%error, "cannot start a task"),
    }
}

/// Runs a task whose panic costs only itself.
pub fn spawn_caught(task: impl Future<Output = ()> + 'static) {
    let caught = async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("a connection's task panicked; the connection is closed");
        }
    };
    drop(glommio::spawn_local(caught).detach());
}

/// Runs a task without which the core cannot be trusted: its panic aborts the process.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(glommio::spawn_local(abort_on_panic(task)).detach());
}

async fn abort_on_panic<T>(task: impl Future<Output = T>) -> T {
    if let Ok(out) = AssertUnwindSafe(task).catch_unwind().await {
        return out;
    }
    // The panic hook has logged what happened. Restart and replay are the tested path.
    panics::last_words();
    std::process::abort()
}

/// Does work that must not be half done: its panic aborts the process, also inside of a task whose
/// panics are caught.
pub fn or_abort<T>(work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(out) => out,
        Err(_) => std::process::abort(),
    }
}

/// Waits. Obeys the preempt timer: up to 2 ms late on a busy core.
pub async fn sleep(time: Duration) {
    glommio::timer::sleep(time).await;
}

/// Lets others run if it is their turn. Cheap: a few nanoseconds when it is not.
pub async fn pause() {
    glommio::yield_if_needed().await;
}

/// Runs a blocking call on the core's own helper thread. A panic in it is an error, not a hang.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let caught = move || std::panic::catch_unwind(AssertUnwindSafe(call));
    match glommio::executor().spawn_blocking(caught).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::other("a blocking call panicked")),
    }
}

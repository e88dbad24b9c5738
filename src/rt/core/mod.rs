//! A core: one pinned thread with its io_uring, and the tasks that run on it. This is glommio, and
//! the only place that knows it.
//!
//! ## Traps, each handled here and tested
//! - Without io_uring glommio panics in the new thread: [`probe`] asks the kernel first.
//! - Whether files are polled is decided by the first file a core opens, and an empty one decides
//!   it wrongly (43 times slower): every core opens a written file first, see [`Disk::open_first`].
//! - A busy core looks at its other queues only when a timer says so, 100 ms by default: 2 ms here,
//!   and a queue whose latency matters for questions from outside.
//! - Registered buffers count against memlock three times per core: [`io_memory`] divides it.
//! - A panic in any task ends the core's thread: tasks are caught, or they abort the process.
//! - An accepted socket that is dropped unbound leaks: [`Accepted`] closes itself.
//! - A core may sleep over ready tasks: it is woken from outside at a steady pace, see `pulse`.
//! - Placement ignores the affinity the process was started with: cores come from [`cpus`].

use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_lite::FutureExt as _;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use crate::rt::thread::spawn_named;

mod disk;
mod mesh;
mod net;
mod pulse;

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
    io_uring::IoUring::new(8).map_err(RingError::Refused)?;
    let want = 512 * 1024;
    match memlock() {
        Some(got) if got < want => Err(RingError::LockedMemory { got, want }),
        _ => Ok(()),
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
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(out) => out,
        // The panic hook has told what happened. Restart and replay are the tested path.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::rt::clock::Moment;

    /// Threads that take all of the processor the test's cores are on.
    struct Crowd(Arc<AtomicBool>);

    impl Crowd {
        fn on(cpu: usize, threads: usize) -> Self {
            let over = Arc::new(AtomicBool::new(false));
            for _ in 0..threads {
                let over = over.clone();
                let spin = move || {
                    core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                };
                drop(spawn_named("crowd", spin).expect("a thread"));
            }
            Self(over)
        }
    }

    impl Drop for Crowd {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_core_begins_on_a_crowded_processor() {
        let cpu = cpus().first().copied().unwrap_or(0);
        let _crowd = Crowd::on(cpu, 3);
        for round in 0..200 {
            // Nobody else wakes it: without the pulse it may sleep for ever at each of these.
            let core = Core::start("crowded", cpu, io_memory(1), || async {
                for _ in 0..20 {
                    sleep(Duration::from_millis(1)).await;
                }
            })
            .expect("a core");
            let begun = Moment::now();
            while !core.is_finished() {
                assert!(begun.elapsed() < Duration::from_secs(20), "round {round} sleeps");
                std::thread::sleep(Duration::from_millis(1));
            }
            core.join().expect("no panic");
        }
    }
}

//! The control thread: a tokio runtime of one thread, with a small pool beside it.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::rt::beside::POOL_THREADS;

/// A reactor that has what it needs of the system and waits for something to run.
#[derive(Debug)]
pub struct Reactor(Runtime);

impl Reactor {
    /// Takes its file descriptors. What is to run on a thread of its own gets its reactor before
    /// the thread begins, where a failure still has somebody to tell.
    pub fn new() -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(POOL_THREADS).thread_name("tidegate-pool");
        builder.build().map(Self)
    }

    /// Runs a future on this thread until it ends. Steps on the pool that still run then are not
    /// waited for: what must end is waited for by the future.
    pub fn run<T>(self, root: impl Future<Output = T>) -> T {
        let ended = self.0.block_on(root);
        self.0.shutdown_background();
        ended
    }
}

/// Runs a future on this thread as the control plane until it ends.
pub fn run<T>(root: impl Future<Output = T>) -> io::Result<T> {
    Reactor::new().map(|reactor| reactor.run(root))
}

/// SIGTERM and SIGINT, from when this is made; until then they end the process.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Begins to listen.
    pub fn new() -> io::Result<Self> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { term, int })
    }

    /// Waits for the next one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// This machine's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Bytes nobody can guess.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// A number nobody can guess. Without a source of randomness the process cannot go on.
pub fn random_u64() -> u64 {
    match random::<8>() {
        Ok(bytes) => u64::from_ne_bytes(bytes),
        Err(error) => {
            tracing::error!(%error, "the kernel gives no random numbers");
            std::process::abort()
        }
    }
}

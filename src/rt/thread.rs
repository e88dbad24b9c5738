//! Named threads beside the cores and the control thread.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a name, which debuggers and `top -H` show (15 bytes of it). For work that
/// blocks for its whole life, like writing log lines; steps of work go to [`crate::rt::beside`].
pub fn spawn_named<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name() {
        let name = || std::thread::current().name().map(str::to_string);
        let thread = spawn_named("log-writer", name).expect("a thread");
        assert_eq!(thread.join().expect("no panic").as_deref(), Some("log-writer"));
    }
}

//! The door of the data port: HTTP/1.1 for remote write, one listener per core.
//!
//! Bytes of strangers come in here, and what leaves is a checked head, a tenant, a version, and a
//! body that is contiguous, bounded and in a pooled buffer. What comes back is an outcome, which
//! the table in `answer` turns into a status. Nothing below this floor knows HTTP.
//!
//! ```text
//!   socket --conn--> head (http) --> admit (remote_write: path, tenant, negotiate, intake)
//!                    body (pool, chunked) --> intake --> outcome --answer--> socket
//! ```
//!
//! | file | is |
//! |---|---|
//! | `conn` | the life of a connection, all its waits |
//! | `http`, `chunked` | heads and chunked bodies as bytes; no I/O |
//! | `pool` | body buffers of a core |
//! | `limits` | what a connection may cost |
//! | `remote_write`, `negotiate`, `tenant` | what must be right before a body is read |
//! | `answer`, `tally`, `refusal`, `retry` | the table of answers and its words |
//! | `requests`, `probe` | counters: of requests, of connections |
//!
//! ## Promises
//!
//! - Bytes that one peer sends change nothing for another, whatever they are: see `http` for what
//!   is refused, `limits` for what is bounded.
//! - A request in progress costs one buffer, a connection at rest none.
//! - Draining lets every request in progress finish and tells its sender `Connection: close`.
//!
//! ## Why our own loop
//!
//! hyper costs 1.0 to 1.3 times the CPU, keeps its buffer on idle connections, hands bodies out in
//! pieces, and leaves some of our answers to its own judgement. The surface here is small: POST
//! with a body. hyper judges this loop in tests instead.

mod answer;
mod chunked;
mod conn;
mod http;
mod limits;
mod negotiate;
mod pool;
mod probe;
mod refusal;
mod remote_write;
mod requests;
mod retry;
mod tally;
mod tenant;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_lite::future::{FutureExt as _, poll_once};
use futures_lite::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

pub use crate::listener::answer::{Answer, Endpoint, Outcome, Reply, Status, Version};
pub use crate::listener::conn::{End, Service, Timer};
pub use crate::listener::http::{Fault, Framing, Head, HttpVersion};
pub use crate::listener::limits::Limits;
pub use crate::listener::pool::Body;
pub use crate::listener::probe::{Counter, Probe};
pub use crate::listener::refusal::Refusal;
pub use crate::listener::remote_write::{Admission, Intake, RemoteWrite};
pub use crate::listener::requests::Requests;
pub use crate::listener::retry::Pauses;
pub use crate::listener::tally::{Fact, Load, Reason, Tally, Written};
pub use crate::listener::tenant::{THANOS_TENANT, TenantSource};

use crate::listener::conn::Connection;
use crate::listener::limits::Slots;
use crate::listener::pool::{Buffer, Pool};
use crate::rt::channel::watch;
use crate::rt::clock::Moment;

/// What all connections of one core share.
#[derive(Debug)]
pub struct Listener<T, V> {
    limits: Limits,
    timer: T,
    service: V,
    drain: watch::Receiver<bool>,
    pool: Rc<Pool>,
    slots: Rc<Slots>,
    probe: Probe,
}

impl<T: Timer, V: Service> Listener<T, V> {
    /// A listener of one core. When `drain` becomes true, or loses its sender, connections at rest
    /// close and the others do so after their current request.
    pub fn new(limits: Limits, timer: T, service: V, drain: watch::Receiver<bool>) -> Self {
        let pool = Pool::new(&limits);
        let slots = Slots::new(limits.connections_max);
        Self { limits, timer, service, drain, pool, slots, probe: Probe::default() }
    }

    /// Serves one accepted connection to its end. Never panics: a panic inside is caught and
    /// counted. One connection too many is answered 503 at once.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> End {
        let serve = AssertUnwindSafe(self.serve_or_refuse(stream)).catch_unwind();
        let end = serve.await.unwrap_or(End::Panicked);
        match end {
            End::Panicked => self.probe.panics.add(1),
            End::Refused => self.probe.connections_refused.add(1),
            End::Idle => self.probe.connections_idle.add(1),
            End::ReaderTooSlow => self.probe.readers_too_slow.add(1),
            End::Failed(_) => self.probe.connections_failed.add(1),
            End::Peer | End::Drained | End::Answered => {}
        }
        end
    }

    async fn serve_or_refuse<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> End {
        let Some(_slot) = self.slots.take() else {
            // Only what fits into the socket at once: a refused connection may not wait.
            let refusal = Refusal::Overloaded { what: "the table of connections".into() };
            let answer = self.service.refuse(None, Moment::now(), &refusal);
            let mut bytes = Vec::new();
            answer.encode(false, false, &mut bytes);
            let farewell = async {
                stream.write_all(&bytes).await?;
                stream.close().await
            };
            drop(poll_once(farewell).await);
            return End::Refused;
        };
        self.probe.connections.add(1);
        let shared = (&self.limits, &self.timer, &self.service, &self.probe);
        Connection::new(stream, Buffer::new(&self.pool), shared, self.drain.clone()).run().await
    }

    /// What answers the requests.
    pub fn service(&self) -> &V {
        &self.service
    }

    /// The counters.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.slots.taken()
    }

    /// Bytes of body buffers in use now, and kept for reuse.
    pub fn buffer_bytes(&self) -> (usize, usize) {
        self.pool.bytes()
    }
}

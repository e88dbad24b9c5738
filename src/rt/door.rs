//! Doors of the control side: readers' connections, so many and no more.
//!
//! ## Promises
//! - All sockets of one [`Places`] hold no more connections than it has places. One too many is
//!   closed at once, with a word where the protocol has one; it is counted, and told once a minute.
//!   So no number of readers takes the descriptors with which the log is written.
//! - When no descriptor is left at all, connections wait in the kernel's queue, and nothing spins.
//! - Who connects and says nothing leaves its place after [`SILENCE_MAX`], and so does, counted,
//!   who takes nothing of what is written to it for [`STALLED_AFTER`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::rt::clock::Moment;
use crate::telemetry::log::Sampled;
use crate::telemetry::{Metric, Snapshot};

/// Longest silence after a connection is taken.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// Longest time in which a reader takes nothing of its answer. Long enough for a Querier that waits
/// for a slower store, and a quarter of its usual timeout of two minutes, so those that wait in
/// line still get their turn.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often it is told that a connection was not taken.
const TELL_EVERY_MS: i64 = 60_000;

/// The places behind one kind of door. Clones are the same places.
#[derive(Debug, Clone)]
pub struct Places {
    name: &'static str,
    /// What one too many is told.
    farewell: &'static [u8],
    max: usize,
    free: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
    stalled: Arc<AtomicU64>,
    stalled_after: Duration,
}

impl Places {
    /// `max` places behind the door of this name. `farewell` is what one too many is told.
    pub fn new(name: &'static str, max: usize, farewell: &'static [u8]) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self {
            name,
            farewell,
            max,
            free: Arc::new(Semaphore::new(max)),
            refused: Arc::default(),
            stalled: Arc::default(),
            stalled_after: STALLED_AFTER,
        }
    }

    /// The same places for readers who must be quicker.
    #[cfg(test)]
    pub(crate) fn stalled_after(self, stalled_after: Duration) -> Self {
        Self { stalled_after, ..self }
    }

    /// Adds what is taken, and how many were refused and lost, to a scrape.
    pub fn sample(&self, out: &mut Snapshot) {
        let door = || vec![("door", self.name.to_owned())];
        let taken = self.max.saturating_sub(self.free.available_permits());
        out.gauge(Metric::ReaderConnections, door(), taken as f64);
        out.count(Metric::ReaderConnectionsRefused, door(), self.refused.load(Relaxed));
        let stalled = [door(), vec![("reason", "stalled".to_owned())]].concat();
        out.count(Metric::ReaderConnectionsLost, stalled, self.stalled.load(Relaxed));
    }
}

/// A socket that readers connect to.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    places: Places,
    begun: Moment,
    told_full: Sampled,
    told_error: Sampled,
}

impl Door {
    /// A door at `listener` to `places`.
    pub fn new(listener: TcpListener, places: Places) -> Self {
        let told = Sampled::every_ms(TELL_EVERY_MS);
        Self { listener, places, begun: Moment::now(), told_full: told.clone(), told_error: told }
    }

    /// The next connection that has a place. Dropping the future loses no connection.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let accepted = self.listener.accept().await;
            let now_ms = self.begun.elapsed().as_millis() as i64;
            let (door, max) = (self.places.name, self.places.max);
            match accepted {
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&self.places.free).try_acquire_owned() {
                        return Connection::new(stream, place, &self.places);
                    }
                    self.places.refused.fetch_add(1, Relaxed);
                    // Only what fits into the socket at once: it may not wait.
                    stream.try_write(self.places.farewell).ok();
                    if let Some(more) = self.told_full.pass(now_ms) {
                        let what = "too many connections of readers: one more is closed";
                        tracing::warn!(door, max, more, "{what}");
                    }
                }
                // Out of descriptors, most likely.
                Err(error) => {
                    if let Some(more) = self.told_error.pass(now_ms) {
                        tracing::warn!(door, %error, more, "cannot accept connections");
                    }
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// A connection and its place.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    /// Runs until something was said.
    silence: Option<Pin<Box<Sleep>>>,
    /// Runs while what is written is not taken.
    stall: Option<Pin<Box<Sleep>>>,
    stalled_after: Duration,
    stalled: Arc<AtomicU64>,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, places: &Places) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        Self {
            stream,
            _place: place,
            silence: Some(Box::pin(sleep(SILENCE_MAX))),
            stall: None,
            stalled_after: places.stalled_after,
            stalled: Arc::clone(&places.stalled),
        }
    }

    /// What came of a write, or an error if none has come of it for too long.
    fn in_time(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let after = self.stalled_after;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(after)));
        ready!(stall.as_mut().poll(context));
        self.stall = None;
        self.stalled.fetch_add(1, Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_ready() {
            this.silence = None;
        } else if let Some(silence) = &mut this.silence {
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.in_time(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::rt::beside::timeout;

    const SOON: Duration = Duration::from_secs(10);

    fn counts(places: &Places) -> (u64, u64) {
        let mut out = Snapshot::default();
        places.sample(&mut out);
        let of = |metric| out.total(metric, &[("door", "http")]) as u64;
        (of(Metric::ReaderConnections), of(Metric::ReaderConnectionsRefused))
    }

    #[test]
    fn one_too_many_is_told_and_closed_and_a_place_comes_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let places = Places::new("http", 2, b"full");
            let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let (one, two) = (listen().await, listen().await);
            let (to_one, to_two) = (one.local_addr(), two.local_addr());
            let (to_one, to_two) = (to_one.expect("bound"), to_two.expect("bound"));
            // Two sockets share the places.
            let mut one = Door::new(one, places.clone());
            let mut two = Door::new(two, places.clone());
            let connect = async |to| TcpStream::connect(to).await.expect("a connection");
            let (_first, _second) = (connect(to_one).await, connect(to_two).await);
            let (held, other) = (one.accept().await, two.accept().await);
            assert_eq!(counts(&places), (2, 0));

            let mut third = connect(to_one).await;
            let mut heard = Vec::new();
            tokio::select! {
                _ = one.accept() => panic!("there is no place"),
                ended = timeout(SOON, third.read_to_end(&mut heard)) => {
                    ended.expect("in time").expect("closed without an error");
                }
            }
            assert_eq!((heard.as_slice(), counts(&places)), (&b"full"[..], (2, 1)));

            drop(held);
            let _fourth = connect(to_two).await;
            let again = timeout(SOON, two.accept()).await.expect("there is a place again");
            assert_eq!(counts(&places), (2, 1));
            drop((again, other));
            assert_eq!(counts(&places), (0, 1));
        });
    }
}

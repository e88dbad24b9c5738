//! One connection: requests in, answers out, in order, until one side ends it.
//!
//! ```text
//!   rest --first byte--> head --ok--> admit --ok--> body --> call --> answer --> rest
//!    |                    |            |             |                  |
//!    | idle, drain, EOF   | fault      | refusal     | fault            | close asked,
//!    v                    v            v             v                  v drain, panic
//!  close              answer + linger  answer, then discard the       linger
//!                                      body and rest, or linger
//! ```
//!
//! ## Promises
//!
//! - A request is answered before the next one of its connection is looked at.
//! - What can be refused by the head alone is refused before any of the body is waited for, and
//!   `100 Continue` goes out only when the body will be read.
//! - A refused sender gets to read its answer: before a connection is closed with input
//!   outstanding, our side is shut and the input is read and thrown away for a while. Otherwise the
//!   kernel answers the unread bytes with a reset that can overtake the answer, and the sender
//!   would repeat for ever what was a 413.
//! - No wait is without an end, and a connection that always has input gives way to the others.
//! - A panic of the service is answered 500 and costs that connection only.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::{FutureExt as _, or, yield_now};
use futures_lite::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::listener::answer::Answer;
use crate::listener::chunked::{Dechunk, Piece};
use crate::listener::http::{Fault, Framing, Head, HeadScan};
use crate::listener::limits::Limits;
use crate::listener::pool::{BUFFER_BYTES_MIN, Body, Buffer, Fill};
use crate::listener::probe::Probe;
use crate::listener::refusal::Refusal;
use crate::rt::channel::watch;
use crate::rt::clock::Moment;

/// After reading so many bytes without a pause, others get their turn.
const TURN_BYTES: usize = 256 << 10;
/// Bytes thrown away per read; the room is on the stack and only while reading.
const SCRATCH_BYTES: usize = 8 << 10;

/// The clock of a connection: all it needs is to be woken later.
pub trait Timer {
    /// Ends after `time`.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

/// What answers the requests.
pub trait Service {
    /// What is reserved for a request from its head to its answer.
    type Admission;

    /// Decides by the head alone, before the body is read.
    fn admit(&self, head: &Head<'_>) -> Result<Self::Admission, Refusal>;

    /// Answers an admitted request with its whole body. It began with its first byte, at `begun`.
    fn call(
        &self,
        head: &Head<'_>,
        begun: Moment,
        admission: Self::Admission,
        body: Body<'_>,
    ) -> impl Future<Output = Answer>;

    /// The answer to a refused request; `head` is missing if it could not be read.
    fn refuse(&self, head: Option<&Head<'_>>, begun: Moment, refusal: &Refusal) -> Answer;
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed it between two requests.
    Peer,
    /// It rested too long.
    Idle,
    /// It was at rest when the process began to stop.
    Drained,
    /// It was closed after an answer.
    Answered,
    /// The peer did not read its answer in time.
    ReaderTooSlow,
    /// There were too many connections.
    Refused,
    /// The socket failed.
    Failed(io::ErrorKind),
    /// Our own code panicked.
    Panicked,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.kind())
    }
}

/// What a wait for bytes brought.
enum Got<L> {
    Bytes(usize),
    End,
    Full,
    /// The other future came first.
    Late(L),
}

/// How a rest between requests ended.
enum Rested {
    /// A request has begun.
    Begun,
    /// A request has begun, but there is no memory to read it; its first byte is lost.
    Full,
    Over(End),
}

/// Whether another request may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Rest,
    Linger,
}

/// Where in the waiting bytes a body is, and how many bytes it took in all.
type BodyAt = (Range<usize>, usize);

/// The socket and what was read from it.
struct Wire<'a, S> {
    stream: S,
    buffer: Buffer,
    probe: &'a Probe,
    /// Bytes read since others had their turn.
    turn_bytes: usize,
}

/// A connection and what it works with.
pub(crate) struct Connection<'a, S, T, V> {
    wire: Wire<'a, S>,
    limits: &'a Limits,
    timer: &'a T,
    service: &'a V,
    drain: watch::Receiver<bool>,
    /// When the first byte of the present request came.
    begun: Moment,
}

impl<'a, S, T, V> Connection<'a, S, T, V>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Timer,
    V: Service,
{
    pub(crate) fn new(
        stream: S,
        buffer: Buffer,
        (limits, timer, service, probe): (&'a Limits, &'a T, &'a V, &'a Probe),
        drain: watch::Receiver<bool>,
    ) -> Self {
        let wire = Wire { stream, buffer, probe, turn_bytes: 0 };
        Self { wire, limits, timer, service, drain, begun: Moment::now() }
    }

    /// Serves the connection to its end.
    pub(crate) async fn run(mut self) -> End {
        match self.serve().await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn serve(&mut self) -> Result<End, End> {
        loop {
            let rested = self.rest().await?;
            self.begun = Moment::now();
            let after = match rested {
                Rested::Begun => self.request().await?,
                Rested::Full => self.refuse(None, &BUFFERS_FULL).await?,
                Rested::Over(end) => {
                    self.wire.stream.close().await?;
                    return Ok(end);
                }
            };
            if after == After::Linger {
                self.linger().await?;
                return Ok(End::Answered);
            }
            yield_now().await;
        }
    }

    /// Waits for the first byte of a request. Empty lines before it are skipped (RFC 9112, 2.2),
    /// and do not count as a byte of it.
    async fn rest(&mut self) -> Result<Rested, End> {
        let Self { wire, limits, timer, drain, .. } = self;
        let idle = async {
            timer.sleep(limits.idle_time).await;
            End::Idle
        };
        let drained = async {
            // A signal whose sender is gone is a process that stops.
            drop(drain.wait_for(|&on| on).await);
            End::Drained
        };
        let mut over = pin!(or(idle, drained));
        loop {
            while wire.buffer.pending().starts_with(b"\r\n") {
                wire.buffer.consume(2);
            }
            if !wire.buffer.pending().is_empty() && wire.buffer.pending() != b"\r" {
                return Ok(Rested::Begun);
            }
            match wire.fill(limits.head_bytes_max, over.as_mut()).await? {
                Got::Bytes(_) => {}
                Got::End => return Ok(Rested::Over(End::Peer)),
                Got::Full => return Ok(Rested::Full),
                Got::Late(end) => return Ok(Rested::Over(end)),
            }
        }
    }

    async fn request(&mut self) -> Result<After, End> {
        match self.head().await? {
            Ok(bytes) => match Head::parse(&bytes) {
                Ok(head) => self.exchange(&head).await,
                Err(fault) => self.refuse(None, &fault.into()).await,
            },
            Err(refusal) => self.refuse(None, &refusal).await,
        }
    }

    /// Reads a head. It is copied, so that the buffer is the body's alone.
    async fn head(&mut self) -> Result<Result<Vec<u8>, Refusal>, End> {
        let Self { wire, limits, timer, .. } = self;
        let mut late = pin!(timer.sleep(limits.head_time));
        let mut scan = HeadScan::default();
        loop {
            match scan.end(wire.buffer.pending(), limits) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    let head = wire.buffer.pending().get(..end).unwrap_or_default().to_vec();
                    wire.buffer.consume(end);
                    return Ok(Ok(head));
                }
                Err(fault) => return Ok(Err(fault.into())),
            }
            match wire.fill(limits.head_bytes_max, late.as_mut()).await? {
                Got::Bytes(_) => {}
                Got::End => return Ok(Err(Fault::Truncated.into())),
                Got::Full => return Ok(Err(BUFFERS_FULL)),
                Got::Late(()) => return Ok(Err(Fault::HeadTooSlow.into())),
            }
        }
    }

    /// One request, from its checked head to its answer.
    async fn exchange(&mut self, head: &Head<'_>) -> Result<After, End> {
        let max = self.limits.body_bytes_max;
        if head.content_length().is_some_and(|bytes| bytes > max as u64) {
            return self.refuse(Some(head), &Fault::BodyTooLong { max }.into()).await;
        }
        let service = self.service;
        let admission = match catch_unwind(AssertUnwindSafe(|| service.admit(head))) {
            Ok(Ok(admission)) => admission,
            Ok(Err(refusal)) => return self.refuse_unread(head, &refusal).await,
            Err(_) => return self.refuse_panicked(head).await,
        };
        let (range, taken) = match self.body(head).await? {
            Ok(at) => at,
            Err(refusal) => return self.refuse(Some(head), &refusal).await,
        };
        let body = Body::new(&mut self.wire.buffer, range, taken);
        let call = async { service.call(head, self.begun, admission, body).await };
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(answer) => {
                let keep = head.keep_alive && !answer.close && !self.draining();
                self.send(&answer, keep, head.method == "HEAD").await
            }
            Err(_) => self.refuse_panicked(head).await,
        }
    }

    /// Reads a body until it is whole and contiguous.
    async fn body(&mut self, head: &Head<'_>) -> Result<Result<BodyAt, Refusal>, End> {
        let waits = head.framing != Framing::Length(0) && self.wire.buffer.pending().is_empty();
        if head.expects_continue && waits {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let Self { wire, limits, timer, .. } = self;
        let mut late = pin!(timer.sleep(limits.body_grace_time));
        let mut pace = Pace::default();
        let mut chunks = Dechunk::new();
        loop {
            let wanted = match head.framing {
                Framing::Length(bytes) => {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    if wire.buffer.pending().len() >= bytes {
                        return Ok(Ok((0..bytes, bytes)));
                    }
                    bytes
                }
                Framing::Chunked => match chunks.advance(wire.buffer.pending_mut(), limits) {
                    Ok(Piece::Done { body, taken }) => return Ok(Ok((body, taken))),
                    Ok(Piece::More { kept }) => {
                        wire.buffer.keep(kept);
                        limits.body_bytes_max.saturating_add(BUFFER_BYTES_MIN)
                    }
                    Err(fault) => return Ok(Err(fault.into())),
                },
            };
            match wire.fill(wanted, late.as_mut()).await? {
                Got::Bytes(count) => pace.count(count),
                Got::End => return Ok(Err(Fault::Truncated.into())),
                Got::Full => return Ok(Err(BUFFERS_FULL)),
                Got::Late(()) if pace.too_slow(limits) => {
                    return Ok(Err(Fault::BodyTooSlow.into()));
                }
                Got::Late(()) => late.set(timer.sleep(limits.body_window_time)),
            }
        }
    }

    /// Refuses a request of which nothing more is read as a request.
    async fn refuse(&mut self, head: Option<&Head<'_>>, refusal: &Refusal) -> Result<After, End> {
        let answer = self.service.refuse(head, self.begun, refusal);
        self.send(&answer, false, head.is_some_and(|h| h.method == "HEAD")).await
    }

    async fn refuse_panicked(&mut self, head: &Head<'_>) -> Result<After, End> {
        self.wire.probe.panics.add(1);
        self.refuse(Some(head), &Refusal::Panicked).await
    }

    /// Refuses a request whose body was not read. A short body is thrown away to keep the
    /// connection, unless its sender still waits for a `100 Continue` and may not send it at all.
    async fn refuse_unread(&mut self, head: &Head<'_>, refusal: &Refusal) -> Result<After, End> {
        let answer = self.service.refuse(Some(head), self.begun, refusal);
        let short = match head.framing {
            Framing::Length(0) => true,
            Framing::Length(bytes) => {
                bytes <= self.limits.discard_bytes_max && !head.expects_continue
            }
            Framing::Chunked => false,
        };
        let keep = head.keep_alive && short && !answer.close && !self.draining();
        let after = self.send(&answer, keep, head.method == "HEAD").await?;
        if after == After::Rest && !self.discard(head.content_length().unwrap_or(0)).await? {
            return Ok(After::Linger);
        }
        Ok(after)
    }

    /// Reads and forgets the next `left` bytes; whether they came in time.
    async fn discard(&mut self, mut left: u64) -> Result<bool, End> {
        let Self { wire, limits, timer, .. } = self;
        let there = usize::try_from(left).unwrap_or(usize::MAX).min(wire.buffer.pending().len());
        wire.buffer.consume(there);
        left -= there as u64;
        let mut late = pin!(timer.sleep(limits.body_grace_time));
        let mut pace = Pace::default();
        while left > 0 {
            match wire.skip(left, late.as_mut()).await? {
                Got::Bytes(count) => {
                    pace.count(count);
                    left -= count as u64;
                }
                Got::Late(()) if !pace.too_slow(limits) => {
                    late.set(timer.sleep(limits.body_window_time));
                }
                Got::End | Got::Full | Got::Late(()) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Shuts our side, then reads on for a while so that the peer can read its answer.
    async fn linger(&mut self) -> Result<(), End> {
        let Self { wire, limits, timer, .. } = self;
        wire.buffer.consume(usize::MAX);
        wire.stream.close().await?;
        let mut over = pin!(timer.sleep(limits.linger_time));
        let mut left = limits.linger_bytes_max;
        while left > 0 {
            match wire.skip(left, over.as_mut()).await? {
                Got::Bytes(count) => left -= count as u64,
                Got::End | Got::Full | Got::Late(()) => break,
            }
        }
        Ok(())
    }

    fn draining(&self) -> bool {
        *self.drain.borrow() || self.drain.has_changed().is_err()
    }

    async fn send(&mut self, answer: &Answer, keep: bool, to_head: bool) -> Result<After, End> {
        let mut bytes = Vec::with_capacity(512);
        answer.encode(keep, to_head, &mut bytes);
        self.write(&bytes).await?;
        Ok(if keep { After::Rest } else { After::Linger })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let stream = &mut self.wire.stream;
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await?;
            Ok(())
        };
        let late = async {
            self.timer.sleep(self.limits.write_time).await;
            Err(End::ReaderTooSlow)
        };
        or(write, late).await
    }
}

const BUFFERS_FULL: Refusal = Refusal::Overloaded { what: Cow::Borrowed("the memory for bodies") };

impl<S: AsyncRead + Unpin> Wire<'_, S> {
    /// Reads once into the buffer, unless `late` ends first.
    async fn fill<L>(
        &mut self,
        wanted: usize,
        mut late: Pin<&mut impl Future<Output = L>>,
    ) -> Result<Got<L>, End> {
        let Self { stream, buffer, .. } = self;
        let got = poll_fn(|cx| match buffer.poll_fill(stream, wanted, cx) {
            Poll::Ready(fill) => Poll::Ready(fill.map(|fill| match fill {
                Fill::Bytes(count) => Got::Bytes(count),
                Fill::End => Got::End,
                Fill::Full => Got::Full,
            })),
            Poll::Pending => late.as_mut().poll(cx).map(|late| Ok(Got::Late(late))),
        })
        .await?;
        self.account(&got).await;
        Ok(got)
    }

    /// Reads once and forgets at most `max` bytes, unless `late` ends first.
    async fn skip(
        &mut self,
        max: u64,
        mut late: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Got<()>, End> {
        let stream = &mut self.stream;
        let got = poll_fn(|cx| {
            let mut scratch = [0; SCRATCH_BYTES];
            let room = usize::try_from(max).unwrap_or(usize::MAX).min(SCRATCH_BYTES);
            let room = scratch.get_mut(..room).unwrap_or_default();
            match Pin::new(&mut *stream).poll_read(cx, room) {
                Poll::Ready(Ok(0)) => Poll::Ready(Ok(Got::End)),
                Poll::Ready(read) => Poll::Ready(read.map(Got::Bytes)),
                Poll::Pending => late.as_mut().poll(cx).map(|()| Ok(Got::Late(()))),
            }
        })
        .await?;
        if let Got::Bytes(count) = got {
            self.probe.bytes_discarded.add(count as u64);
        }
        self.account(&got).await;
        Ok(got)
    }

    /// Counts what was read, and gives way to other connections after a turn's worth.
    async fn account<L>(&mut self, got: &Got<L>) {
        if let Got::Bytes(count) = got {
            self.probe.bytes_received.add(*count as u64);
            self.turn_bytes += count;
            if self.turn_bytes >= TURN_BYTES {
                self.turn_bytes = 0;
                yield_now().await;
            }
        }
    }
}

/// How fast a body comes: not measured by a clock, but by what each window brought.
#[derive(Default)]
struct Pace {
    /// How long the body has been coming, as of the last time it was asked.
    time: Duration,
    window_bytes: u64,
}

impl Pace {
    fn count(&mut self, bytes: usize) {
        self.window_bytes += bytes as u64;
    }

    /// To be asked at the end of the grace and of each window.
    fn too_slow(&mut self, limits: &Limits) -> bool {
        let past_grace = !self.time.is_zero();
        self.time += if past_grace { limits.body_window_time } else { limits.body_grace_time };
        let slow = past_grace && self.window_bytes < limits.window_bytes_min();
        self.window_bytes = 0;
        slow || self.time >= limits.body_time_max
    }
}

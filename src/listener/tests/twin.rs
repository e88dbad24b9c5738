//! Twins of the world around a connection: a pipe for the socket, a clock in hand, an intake that
//! writes down what it gets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_lite::future::yield_now;
use futures_lite::io::{AsyncRead, AsyncWrite};

use crate::listener::{
    Body, End, Fact, Intake, Limits, Listener, Load, Outcome, Pauses, Refusal, RemoteWrite, Tally,
    TenantSource, Timer, Version, Written,
};
use crate::model::TenantId;
use crate::rt::channel::watch;
use crate::telemetry::{Metric, Snapshot};

/// One direction of a pipe.
#[derive(Debug, Default)]
struct Lane {
    bytes: VecDeque<u8>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    room: usize,
}

/// The server's end of a pipe.
#[derive(Debug)]
pub(super) struct Socket {
    incoming: Rc<RefCell<Lane>>,
    outgoing: Rc<RefCell<Lane>>,
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut lane = self.incoming.borrow_mut();
        if lane.bytes.is_empty() && !lane.ended {
            lane.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = out.len().min(lane.bytes.len());
        for (to, from) in out.iter_mut().zip(lane.bytes.drain(..count)) {
            *to = from;
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut lane = self.outgoing.borrow_mut();
        assert!(!lane.ended, "written after close");
        let count = bytes.len().min(lane.room - lane.bytes.len());
        if count == 0 {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        lane.bytes.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.borrow_mut().ended = true;
        Poll::Ready(Ok(()))
    }
}

/// The peer's end of a pipe.
#[derive(Debug)]
pub(super) struct Peer {
    to_server: Rc<RefCell<Lane>>,
    to_peer: Rc<RefCell<Lane>>,
}

/// A pipe whose direction to the peer holds `room` bytes.
pub(super) fn pipe(room: usize) -> (Peer, Socket) {
    let to_server = Rc::new(RefCell::new(Lane::default()));
    let to_peer = Rc::new(RefCell::new(Lane { room, ..Lane::default() }));
    let socket = Socket { incoming: Rc::clone(&to_server), outgoing: Rc::clone(&to_peer) };
    (Peer { to_server, to_peer }, socket)
}

impl Peer {
    pub(super) fn send(&self, bytes: &[u8]) {
        let mut lane = self.to_server.borrow_mut();
        lane.bytes.extend(bytes);
        lane.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn end(&self) {
        let mut lane = self.to_server.borrow_mut();
        lane.ended = true;
        lane.reader.take().into_iter().for_each(Waker::wake);
    }

    /// What the server has written and was not received before.
    pub(super) fn receive(&self) -> String {
        let mut lane = self.to_peer.borrow_mut();
        lane.writer.take().into_iter().for_each(Waker::wake);
        String::from_utf8(lane.bytes.drain(..).collect()).expect("answers are text")
    }

    /// Whether the server has shut its side.
    pub(super) fn is_closed(&self) -> bool {
        self.to_peer.borrow().ended
    }

    /// Bytes the server has not read yet.
    pub(super) fn unread(&self) -> usize {
        self.to_server.borrow().bytes.len()
    }
}

/// A clock in hand.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Rc<RefCell<ClockState>>);

#[derive(Debug, Default)]
struct ClockState {
    now: Duration,
    sleepers: Vec<Waker>,
}

impl Clock {
    pub(super) fn advance(&self, time: Duration) {
        let mut state = self.0.borrow_mut();
        state.now += time;
        state.sleepers.drain(..).for_each(Waker::wake);
    }
}

impl Timer for Clock {
    async fn sleep(&self, time: Duration) {
        let end = self.0.borrow().now + time;
        std::future::poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.now >= end {
                return Poll::Ready(());
            }
            state.sleepers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// An intake that writes down `tenant:body` and answers by what the body says.
#[derive(Debug, Default, Clone)]
pub(super) struct Notes {
    pub(super) seen: Rc<RefCell<Vec<String>>>,
    pub(super) not_ready: Rc<Cell<bool>>,
    /// Bodies that are being written now.
    pub(super) under_way: Rc<Cell<usize>>,
    /// How often a `slow` request gives way before it answers.
    pub(super) slowness: Rc<Cell<usize>>,
}

struct UnderWay(Rc<Cell<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Intake for Notes {
    fn admit(&self, tenant: &TenantId, _: Option<u64>) -> Result<(), Refusal> {
        assert_ne!(tenant.as_str(), "panic-early", "asked for");
        if self.not_ready.get() {
            return Err(Refusal::NotReady { what: "the log is being replayed" });
        }
        Ok(())
    }

    async fn write(&self, tenant: TenantId, version: Version, body: Body<'_>) -> Outcome {
        assert_eq!(version, Version::V1);
        self.under_way.set(self.under_way.get() + 1);
        let _under_way = UnderWay(Rc::clone(&self.under_way));
        let text = String::from_utf8_lossy(&body).into_owned();
        drop(body);
        self.seen.borrow_mut().push(format!("{tenant}:{text}"));
        assert_ne!(text, "panic", "asked for");
        if text == "slow" {
            while self.slowness.get() > 0 {
                yield_now().await;
            }
        }
        let mut tally =
            Tally::of(Load { series: 1, samples: 1 }, Written { samples: 1, ..Written::default() });
        if text == "conflict" {
            tally.refuse(Fact::SampleConflict { t: 7 }, 1, || r#"{__name__="up"}"#.to_owned());
        }
        Outcome::Applied(tally)
    }
}

/// A listener with its clock, its intake and the signal to stop.
pub(super) struct Stage {
    pub(super) listener: Rc<Listener<Clock, RemoteWrite<Notes>>>,
    pub(super) clock: Clock,
    pub(super) notes: Notes,
    pub(super) drain: watch::Sender<bool>,
}

impl Stage {
    /// All that was counted of requests.
    pub(super) fn numbers(&self) -> Snapshot {
        let mut out = Snapshot::default();
        let requests = self.listener.service().requests();
        futures_lite::future::block_on(requests.sample(&mut out, async || {}));
        out
    }

    /// How often something was counted.
    pub(super) fn counted(&self, metric: Metric, labels: &[(&str, &str)]) -> u64 {
        self.numbers().total(metric, labels) as u64
    }

    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        let (clock, notes) = (Clock::default(), Notes::default());
        let (drain, drained) = watch::channel(false);
        let default = TenantId::new("default-tenant").expect("a tenant");
        let tenants = TenantSource { header: "X-Scope-OrgID".to_owned(), default };
        let service = RemoteWrite::new(notes.clone(), tenants, Pauses::new(7));
        let listener = Rc::new(Listener::new(limits, clock.clone(), service, drained));
        Self { listener, clock, notes, drain }
    }

    pub(super) fn connect(&self) -> Client {
        self.connect_with(1 << 20)
    }

    /// A client that leaves at most `room` bytes of answers unread.
    pub(super) fn connect_with(&self, room: usize) -> Client {
        let (peer, socket) = pipe(room);
        let listener = Rc::clone(&self.listener);
        let task = Task::new(async move { listener.serve(socket).await });
        let mut client = Client { peer, task };
        client.settle();
        client
    }
}

/// A peer and the task that serves it.
pub(super) struct Client {
    pub(super) peer: Peer,
    task: Task<End>,
}

impl Client {
    /// Sends, and lets the server work until it waits.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.peer.send(bytes.as_ref());
        self.settle()
    }

    pub(super) fn settle(&mut self) -> &mut Self {
        self.task.settle();
        self
    }

    pub(super) fn receive(&mut self) -> String {
        let text = self.peer.receive();
        self.settle();
        text
    }

    /// Closes the peer's side; how the connection ended.
    pub(super) fn end(&mut self) -> Option<End> {
        self.peer.end();
        self.settle();
        self.task.result
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.task.result
    }
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A future that runs only when told to.
pub(super) struct Task<R> {
    future: Option<Pin<Box<dyn Future<Output = R>>>>,
    flag: Arc<Flag>,
    pub(super) result: Option<R>,
}

impl<R> Task<R> {
    pub(super) fn new(future: impl Future<Output = R> + 'static) -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        Self { future: Some(Box::pin(future)), flag, result: None }
    }

    /// Polls once, if anything has woken it. Whether it did.
    pub(super) fn turn(&mut self) -> bool {
        let Some(future) = self.future.as_mut() else { return false };
        if !self.flag.0.swap(false, Ordering::Relaxed) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.flag));
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.result = Some(result);
            self.future = None;
        }
        true
    }

    /// Polls until it waits for something outside, at most some thousand times.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() {
                return;
            }
        }
    }
}

/// The statuses of a sequence of answers.
pub(super) fn statuses(answers: &str) -> Vec<u16> {
    let lines = answers.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    lines.map(|line| line.get(..3).and_then(|code| code.parse().ok()).expect("a status")).collect()
}

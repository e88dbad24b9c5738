//! In the steady state nothing is allocated per sample or known series: how often a request
//! allocates is the same for any number of either. Tests only.
//!
//! The whole write path runs, from a body to its answer, on a core, with the log on the twin of
//! storage. Only the listener is not there, and a second shard.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use prost::Message as _;
use tidegate_proto::prometheus::WriteRequest;

use self::requests::{Fleet, ROUNDS_PER_CHUNK};
use crate::decode::{self, Scan, Version};
use crate::route::deal::BATCH_COST_MAX;
use crate::route::node::{self, Node, settings, tenant};
use crate::route::{RequestLimits, Router};
use crate::rt::allocations::counted;
use crate::rt::channel::mpsc;

#[path = "../../benches/requests.rs"]
pub(super) mod requests;

/// Bytes of a page of closed chunks.
const PAGE_BYTES: usize = 1 << 20;

/// How often a request allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allocations {
    /// From the body to the open group of the log.
    applying: u64,
    /// From there to the answer: a block is sealed, written to the twin, flushed, answered.
    committing: u64,
}

/// Runs on a core that has the only shard.
fn on_a_core<T: Send + 'static>(work: impl FnOnce(Node) -> T + Send + 'static) -> T {
    node::on_a_core(async move |mesh| work(Node::new(mesh).await))
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl Node {
    /// Writes a body; the answer is there, all of it stored.
    fn count(&mut self, version: Version, body: &[u8]) -> Allocations {
        let mut writing =
            pin!(self.router.write(tenant(), version, body, RequestLimits::default()));
        let (applying, early) = counted(|| poll(writing.as_mut()));
        assert!(early.is_pending(), "an answer waits for the log");
        let (committing, routed) = counted(|| {
            loop {
                assert!(poll(self.commits.as_mut()).is_pending(), "the twin refuses nothing");
                if let Poll::Ready(routed) = poll(writing.as_mut()) {
                    return routed;
                }
            }
        });
        let written = routed.expect("a request").written;
        assert!(written.is_clean() && written.floats.duplicates == 0, "{written:?}");
        Allocations { applying, committing }
    }

    /// Pages that closed chunks have taken.
    fn pages(&self) -> u64 {
        let (part, bytes) = self.shard.memory()[4];
        assert_eq!(part, "closed_chunks");
        (bytes / PAGE_BYTES) as u64
    }
}

/// Requests over two chunks of every series, after two others to warm up.
#[derive(Debug)]
struct Steady {
    /// What each request allocated.
    requests: Vec<Allocations>,
    /// Requests from one that closes a chunk to the next.
    per_chunk: usize,
    /// Pages taken meanwhile for closed chunks.
    pages: u64,
}

impl Steady {
    /// With so many series and samples of each in a request.
    fn of(version: Version, series: usize, samples: usize) -> Self {
        let per_chunk = ROUNDS_PER_CHUNK / samples;
        on_a_core(move |mut node| {
            let fleet = Fleet::new(0..series);
            let write = |node: &mut Node, request: usize| {
                let rounds = request * samples..(request + 1) * samples;
                let message = match version {
                    Version::V1 => fleet.message(rounds),
                    Version::V2 => fleet.message_v2(rounds),
                };
                node.count(version, &requests::body(&message))
            };
            let warm = 2 * per_chunk;
            for request in 0..warm {
                write(&mut node, request);
            }
            let before = node.pages();
            let requests = (warm..2 * warm).map(|request| write(&mut node, request)).collect();
            Self { requests, per_chunk, pages: node.pages() - before }
        })
    }

    /// What every request cost that closed no chunk. Those that did cost as much, and the pages.
    fn check(&self) -> Allocations {
        let usual = self.requests[1];
        let mut above = 0;
        for (at, cost) in self.requests.iter().enumerate() {
            if at % self.per_chunk == 0 {
                above += cost.applying - usual.applying;
            } else {
                assert_eq!(*cost, usual, "request {at}");
            }
        }
        assert_eq!(above, self.pages, "closed chunks take pages and nothing else");
        usual
    }
}

/// Allocations of dealing a request out among three shards, and how many batches it made.
fn dealing(series: usize, samples: usize) -> (u64, usize) {
    on_a_core(move |node| {
        let router = Router::new(settings(3), node.shard, node.router.mesh.clone());
        let mut scan = Scan::default();
        let mut message = Fleet::new(0..series).message(0..samples);
        decode::write_request_v1(&mut message, &mut scan).expect("a request");
        let loan = router.decoded.home().lend(message);
        let (reply, _answers) = mpsc::unbounded_channel();
        let tenant = tenant();
        let deal = || {
            counted(|| {
                let mut dealing = pin!(router.deal(&tenant, &loan, &scan, &reply));
                loop {
                    if let Poll::Ready(batches) = poll(dealing.as_mut()) {
                        return batches;
                    }
                }
            })
        };
        drop(deal()); // The keys of the tenant are made once.
        let (count, batches) = deal();
        (count, batches.len())
    })
}

#[test]
fn samples_and_known_series_cost_no_allocation() {
    for version in [Version::V1, Version::V2] {
        let of = |series, samples| Steady::of(version, series, samples).check();
        let ten = of(10, 1);
        assert_eq!(ten, Allocations { applying: 9, committing: 1 }, "{version:?}");
        assert_eq!(of(1_000, 1), ten, "a hundred times the series");
        assert_eq!(of(100, 10), ten, "ten times the samples of a series");
    }
}

#[test]
fn a_batch_costs_two_allocations() {
    for (series, samples) in [(10, 1), (1_000, 1), (4_000, 1), (10, 100), (500, 10)] {
        let (count, batches) = dealing(series, samples);
        assert_eq!((count, batches), (2 + 2 * 3, 3), "{series} series, {samples} samples each");
    }
    // Beyond a bounded amount of work there are more of them, and the list of them grows.
    let (count, batches) = dealing(50_000, 1);
    let bytes = 50_000 * 300;
    assert!(batches > bytes / BATCH_COST_MAX && count <= 2 * (batches as u64 + 3) + 10, "{count}");
}

/// The negative control: what does allocate per label, and what does per new series.
#[test]
fn the_count_sees_what_is_allocated_per_series() {
    let message = Fleet::new(0..1_000).message(0..1);
    let (built, decoded) = counted(|| WriteRequest::decode(&message[..]));
    assert_eq!(decoded.expect("a request").timeseries.len(), 1_000);
    assert!(built >= 20 * 1_000, "{built}: prost makes two strings of a label");
    let new = on_a_core(move |mut node| node.count(Version::V1, &requests::body(&message)));
    assert!(new.applying >= 1_000, "{new:?}: a new series is kept");
}

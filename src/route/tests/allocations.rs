//! In the steady state nothing is allocated per sample or known series: how often a request
//! allocates is the same for any number of either.

use prost::Message as _;
use tidegate_proto::prometheus::WriteRequest;

use super::requests::{self, Fleet, ROUNDS_PER_CHUNK};
use super::{Allocations, Node, settings, tenant};
use crate::decode::{self, Scan};
use crate::route::Router;
use crate::rt::allocations::counted;
use crate::rt::channel::mpsc;

/// Bytes of a page of closed chunks.
const PAGE_BYTES: usize = 1 << 20;

/// Writes requests of `series` with `samples` each over four chunks of every series. Half of them
/// warm up. Of the others, those that close no chunk must all cost the same: that is returned.
/// Those that do may take a page now and then above that.
fn steady(series: usize, samples: usize) -> Allocations {
    let mut node = Node::start();
    let fleet = Fleet::new(0..series);
    let write = |node: &mut Node, request: usize| {
        let rounds = request * samples..(request + 1) * samples;
        node.write(&requests::body(&fleet.message(rounds)))
    };
    let pages = |node: &Node| {
        let (part, bytes) = node.shard.memory()[4];
        assert_eq!(part, "closed_chunks");
        (bytes / PAGE_BYTES) as u64
    };
    let per_chunk = ROUNDS_PER_CHUNK / samples;
    let warm = 2 * per_chunk;
    for request in 0..warm {
        write(&mut node, request);
    }
    let before = pages(&node);
    let costs: Vec<Allocations> = (warm..2 * warm).map(|r| write(&mut node, r)).collect();
    let taken = pages(&node) - before;
    let usual = costs[1];
    let mut above = 0;
    for (request, cost) in costs.into_iter().enumerate() {
        if request % per_chunk == 0 {
            above += cost.applying - usual.applying;
        } else {
            assert_eq!(cost, usual, "request {request}");
        }
    }
    assert_eq!(above, taken, "closing {} chunks takes {taken} pages and no more", 2 * series);
    usual
}

/// What dealing a request out among three shards allocates.
fn dealing(series: usize, samples: usize) -> u64 {
    let node = Node::start();
    let router = Router::new(settings(3), node.shard, node.router.mesh.clone());
    let mut scan = Scan::default();
    let mut message = Fleet::new(0..series).message(0..samples);
    decode::write_request_v1(&mut message, &mut scan).expect("a request");
    let loan = router.decoded.home().lend(message);
    let (reply, _answers) = mpsc::unbounded_channel();
    let tenant = tenant();
    let deal = || counted(|| router.deal(&tenant, &loan, &scan, &reply));
    drop(deal()); // The keys of the tenant are made once.
    let (count, batches) = deal();
    assert_eq!(batches.iter().map(|(_, b)| b.samples.len()).sum::<usize>(), series * samples);
    count
}

#[test]
fn samples_and_known_series_cost_no_allocation() {
    let ten = steady(10, 1);
    assert_eq!(ten, Allocations { applying: 7, committing: 1 });
    assert_eq!(steady(1_000, 1), ten, "a hundred times the series");
    assert_eq!(steady(100, 10), ten, "ten times the samples of a series");
}

#[test]
fn a_batch_for_a_shard_costs_two_allocations() {
    for (series, samples) in [(10, 1), (1_000, 1), (5_000, 1), (10, 100), (1_000, 10)] {
        assert_eq!(dealing(series, samples), 1 + 2 * 3, "{series} series, {samples} samples each");
    }
}

/// The negative control: what does allocate per label, and what does per new series.
#[test]
fn the_count_sees_what_is_allocated_per_series() {
    let message = Fleet::new(0..1_000).message(0..1);
    let (built, decoded) = counted(|| WriteRequest::decode(&message[..]));
    assert_eq!(decoded.expect("a request").timeseries.len(), 1_000);
    assert!(built >= 20 * 1_000, "{built}: prost makes two strings of a label");
    let new = Node::start().write(&requests::body(&message));
    assert!(new.applying >= 1_000, "{new:?}: a new series is kept");
}

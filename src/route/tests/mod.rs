//! The write path of one core without the core: bodies go in, samples lie in the head, blocks in
//! the log on the twin of storage.

use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::future::block_on;

use crate::decode::LabelLimits;
use crate::model::{KeySecret, TenantId};
use crate::route::{Message, Router, Settings};
use crate::rt::allocations::counted;
use crate::rt::clock::Clock;
use crate::rt::core::mesh;
use crate::rt::twin::Twin;
use crate::shard::recover::{Recovered, recover};
use crate::shard::{self, Generation, Shard};

mod allocations;
#[path = "../../../benches/requests.rs"]
mod requests;

const SECRET: [u8; 32] = [5; 32];
const DECODED_BYTES_MAX: usize = 32 << 20;

/// A core's router and shard, and what writes the log.
struct Node {
    router: Router<Twin>,
    shard: Rc<Shard<Twin>>,
    commits: Pin<Box<dyn Future<Output = ()>>>,
}

/// How often a request allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allocations {
    /// From the body to the open group of the log.
    applying: u64,
    /// From there to the answer: a block is sealed, written to the twin, flushed, answered.
    committing: u64,
}

fn tenant() -> TenantId {
    TenantId::new("gate").expect("a tenant")
}

/// A router that takes itself for the first of `shards`.
fn settings(shards: u16) -> Settings {
    Settings {
        shards,
        own: 0,
        secret: KeySecret::new(SECRET),
        decoded_bytes_max: DECODED_BYTES_MAX,
        future_ms: None,
        clock: Clock::twin(0),
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl Node {
    fn start() -> Self {
        let settings_of_shard = shard::Settings {
            shard: 0,
            generations: vec![Generation { number: 1, shards: 1 }],
            node: [9; 16],
            secret: KeySecret::new(SECRET),
            limits: LabelLimits::default(),
            answers_wait: true,
            segment_bytes: 16 << 20,
            spare_segments: 0,
            epochs: || 1,
        };
        block_on(async {
            let mesh = mesh::<Message>(1, 1).pop().expect("a port").connect(drop).await;
            let recovered = recover(Twin::new(1), Path::new("/data"), &settings_of_shard).await;
            let Recovered { shard, log, series, .. } = recovered.expect("an empty log");
            let shard = Rc::new(shard);
            let committing = shard.clone();
            let commits = Box::pin(async move {
                let error = committing.commit_loop(log, series, &Clock::twin(0)).await;
                panic!("the twin refuses nothing: {error}");
            });
            Self { router: Router::new(settings(1), shard.clone(), Rc::new(mesh)), shard, commits }
        })
    }

    /// Writes a body; the answer is there, all of it stored.
    fn write(&mut self, body: &[u8]) -> Allocations {
        let mut writing = pin!(self.router.write(tenant(), body));
        let (applying, early) = counted(|| poll(writing.as_mut()));
        assert!(early.is_pending(), "an answer waits for the log");
        let (committing, routed) = counted(|| {
            loop {
                assert!(poll(self.commits.as_mut()).is_pending());
                if let Poll::Ready(routed) = poll(writing.as_mut()) {
                    return routed;
                }
            }
        });
        let written = routed.expect("a request").written;
        assert!(written.is_clean() && written.duplicates == 0, "{written:?}");
        Allocations { applying, committing }
    }
}

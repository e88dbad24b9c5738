//! A router over one shard, its log on the twin of storage. Tests only.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use futures_lite::future;

use crate::decode::{LabelLimits, Version};
use crate::model::{KeySecret, TenantId};
use crate::route::{Error, Message, RequestLimits, Routed, Router, Settings};
use crate::rt::clock::Clock;
use crate::rt::core::{Core, Mesh, io_memory, mesh};
use crate::rt::quota::Quotas;
use crate::rt::twin::Twin;
use crate::shard::recover::{Recovered, find, recover};
use crate::shard::{self, Generation, Shard};

const SECRET: [u8; 32] = [5; 32];

/// A router, its shard, and what writes the shard's log.
pub(super) struct Node {
    pub(super) router: Router<Twin>,
    pub(super) shard: Rc<Shard<Twin>>,
    pub(super) commits: Pin<Box<dyn Future<Output = ()>>>,
}

pub(super) fn tenant() -> TenantId {
    TenantId::new("gate").expect("a tenant")
}

pub(super) fn settings(shards: u16) -> Settings {
    Settings {
        shards,
        own: 0,
        secret: KeySecret::new(SECRET),
        decoded_bytes_max: 32 << 20,
        lent_bytes_max: 256 << 20,
        future_ms: None,
        keep_ms: None,
        out_of_order_ms: None,
        clock: Clock::twin(0),
    }
}

/// Runs on a core that is alone.
pub(super) fn on_a_core<T: Send + 'static>(
    work: impl AsyncFnOnce(Rc<Mesh<Message>>) -> T + Send + 'static,
) -> T {
    let port = mesh::<Message>(1, 1).remove(0);
    let core = Core::start("gate", 0, io_memory(1), move || async move {
        work(Rc::new(port.connect(drop).await)).await
    });
    core.expect("a core").join().expect("no panic")
}

impl Node {
    /// A node that holds nothing.
    pub(super) async fn new(mesh: Rc<Mesh<Message>>) -> Self {
        let settings_of_shard = shard::Settings {
            shard: 0,
            generations: vec![Generation { number: 1, shards: 1 }],
            node: [9; 16],
            secret: KeySecret::new(SECRET),
            limits: LabelLimits::default(),
            out_of_order_cap: shard::OUT_OF_ORDER_CAP,
            quotas: Quotas::unlimited(1),
            answers_wait: true,
            segment_bytes: 16 << 20,
            spare_segments: 0,
            epochs: || 1,
        };
        let (twin, root) = (Twin::new(1), Path::new("/data"));
        let logs = find(&twin, root, &settings_of_shard).await.expect("no logs");
        let recovered = recover(twin, root, &settings_of_shard, logs).await;
        let Recovered { shard, log, series, .. } = recovered.expect("an empty log");
        let shard = Rc::new(shard);
        let committing = shard.clone();
        let commits = Box::pin(async move {
            committing.commit_loop(log, series, &Clock::twin(0)).await;
        });
        Self { router: Router::new(settings(1), shard.clone(), mesh), shard, commits }
    }

    /// Writes a body, log included.
    pub(super) async fn write(&mut self, version: Version, body: &[u8]) -> Result<Routed, Error> {
        let commits = async {
            self.commits.as_mut().await;
            future::pending().await
        };
        future::or(self.router.write(tenant(), version, body, RequestLimits::default()), commits)
            .await
    }
}

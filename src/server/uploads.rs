//! The shipper on a thread of its own, away from the control reactor: signing hashes every part.

use std::path::Path;

use crate::bucket::{self, Bucket};
use crate::config;
use crate::rt::channel::{mpsc, watch};
use crate::rt::clock::Clock;
use crate::rt::{control, thread};
use crate::server::{Error, start_error};
use crate::ship::{self, HashFunc, Shipper, Terms};
use crate::telemetry::Counters;

/// Blocks offered and not yet looked at.
const OFFERS: usize = 1024;
/// Uploads at once, each of another tenant.
const UPLOADS_AT_ONCE: usize = 2;

/// The way to the shipper and back.
pub(super) struct Uploads {
    pub(super) to_ship: mpsc::Sender<ship::Ask>,
    pub(super) shipped: mpsc::UnboundedReceiver<ship::Shipped>,
    thread: std::thread::JoinHandle<()>,
}

impl Uploads {
    /// Starts to ship.
    pub(super) fn start(
        config: &config::Receive,
        bucket: Bucket,
        counters: Counters,
        clock: Clock,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let hash = if config.file_hashes { HashFunc::Sha256 } else { HashFunc::None };
        let copy_age_ms_max = ship::COPY_AGE_MS_MAX;
        let terms = Terms { hash, copy_age_ms_max, clock };
        let seed = control::random_u64();
        let settings = ship::Settings { uploads_at_once: UPLOADS_AT_ONCE, terms, seed, counters };
        let (to_ship, offers) = mpsc::channel(OFFERS);
        // Without a bound: the keeper waits for the shipper, so the shipper must not wait for it.
        let (tell, shipped) = mpsc::unbounded_channel();
        let failed = start_error("cannot start the shipper");
        let reactor = control::Reactor::new().map_err(&failed)?;
        let work = move || {
            reactor.run(async { Shipper::new(bucket, settings, tell).run(offers, stop).await });
        };
        let thread = thread::spawn_named("tidegate-ship", work).map_err(failed)?;
        Ok(Self { to_ship, shipped, thread })
    }

    /// The way there and back, and what to wait for at the end.
    pub(super) fn split(
        self,
    ) -> (mpsc::Sender<ship::Ask>, mpsc::UnboundedReceiver<ship::Shipped>, Uploading) {
        (self.to_ship, self.shipped, Uploading(self.thread))
    }
}

/// The shipper at work.
pub(super) struct Uploading(std::thread::JoinHandle<()>);

impl Uploading {
    /// Waits for its end.
    pub(super) fn join(self) {
        drop(self.0.join());
    }
}

/// The default bucket, if there is one, also when another is in use by now: nobody else prunes it.
pub(super) fn default_bucket(config: &config::Receive) -> Option<ship::Pruner> {
    let default: &Path = &config.data.path.join("bucket");
    let chosen = match &config.bucket {
        config::Bucket::Filesystem { directory, prefix } => Some(directory.join(prefix)),
        config::Bucket::S3(_) => None,
    };
    let is_default = chosen.as_deref() == Some(default);
    // Somebody's own bucket is not pruned, though by another name it is the same directory.
    let same = |chosen: &Path| chosen.canonicalize().ok() == default.canonicalize().ok();
    if !default.is_dir() || (!is_default && chosen.is_some_and(|chosen| same(&chosen))) {
        return None;
    }
    bucket::Directory::open(default).ok().map(ship::Pruner::new)
}

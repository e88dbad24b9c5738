//! The composition: builds everything, starts it in order, stops it in order.
//!
//! ```text
//! main thread = control: signals, StoreAPI, HTTP API, readiness, watchdog
//! core 0..n-1: door, router, shard                    one thread each, pinned
//! shipper: uploads, with a runtime of its own
//! pulse: wakes cores that sleep              log writer: lines to standard error
//! ```
//!
//! ## Order
//! Start: io_uring is probed; the directory is locked; the device is measured; doors are bound (so
//! that a port in use is an error before anything runs); cores start and replay; the StoreAPI and
//! the HTTP API answer "not ready" meanwhile; when all cores are ready, so is the process.
//! Stop: not ready; then at the same time the doors of writers and of readers let requests in
//! progress end, cores commit, uploads break off; cores end last and together, for reads need them
//! and so does a request in progress at another core. Each part
//! has a bound and [`STOP`] bounds them all, so no client and no device holds the process back.
//!
//! A signal acts from the first moment: before it is ready the process has promised nothing and
//! just ends. A second signal ends it at once; the log is there for that.

mod core;
mod cores;
mod data_dir;
mod doors;
mod intake;
mod limits;
mod keeper;
mod probe;
mod uploads;
mod watchdog;
mod words;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::bucket::{self, Bucket};
use crate::config;
use crate::model::{External, LabelError};
use crate::query::{self, Blocks, KnownStats, NotReady, View};
use crate::rt::channel::watch;
use crate::rt::clock::{Clock, Moment};
use crate::rt::control::{self, Signals};
use crate::rt::{beside, core as rt_core};
use crate::server::cores::{Cores, first_end};
use crate::server::data_dir::{DataDir, DataDirError};
use crate::server::doors::ReadDoors;
use crate::server::keeper::Keeper;
use crate::server::limits::Limits;
use crate::server::uploads::{Uploading, Uploads};
use crate::shard::cut_plan;
use crate::telemetry::Counters;
use crate::telemetry::log::Counts;

/// Longest stop, whatever does not end by itself; ten seconds are promised.
const STOP: Duration = Duration::from_secs(8);
/// Longest wait at a stop for uploads to break off.
const UPLOADS_STOP: Duration = Duration::from_secs(4);

/// Why the start failed, or the run ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The kernel does not let cores run.
    #[error(transparent)]
    Ring(#[from] rt_core::RingError),
    /// The labels of this node contradict each other.
    #[error("--label, --receive.tenant-label-name, --tsdb.shard-label: {0}")]
    Labels(LabelError),
    /// The bucket's settings cannot be.
    #[error("--objstore.config: {0}")]
    Bucket(bucket::SettingsError),
    /// More shards than there are slots.
    #[error("--shards {0} is too many: at most 256")]
    TooManyShards(u16),
    /// Too few files may be open.
    #[error(
        "only {limit} files may be open and {want} are needed: raise LimitNOFILE in the unit, or \
         ulimit -n"
    )]
    Files {
        /// The limit.
        limit: u64,
        /// With one sender for each core.
        want: u64,
    },
    /// A door cannot be opened.
    #[error("cannot listen on {address} ({flag}): {source}")]
    Listen {
        /// Which flag names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Something the operating system refused at the start.
    #[error("{what}: {source}")]
    Start {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A core ended.
    #[error("a core ended: {0}")]
    Core(String),
    /// A part of the control thread panicked: without it no block is cut or shipped, or nobody
    /// knows how the shards are.
    #[error("{0} on the control thread has panicked; start again, what was flushed is replayed")]
    Control(&'static str),
    /// Told twice to stop; the second signal.
    #[error("ended by a second {0}; what was flushed is replayed at the next start")]
    Interrupted(&'static str),
    /// Something held the stop back.
    #[error(
        "the stop was cut off after {} s: a core or the device does not answer; what was flushed \
         is replayed at the next start",
        STOP.as_secs()
    )]
    StopTooLong,
}

fn start_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Start { what, source }
}

/// Runs the receiver until it is told to stop. `lines` counts what is logged.
pub fn receive(config: &config::Receive, lines: Counts) -> Result<(), Error> {
    rt_core::probe()?;
    control::run(serve(config, lines)).map_err(start_error("cannot start the control thread"))?
}

async fn serve(config: &config::Receive, lines: Counts) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(start_error("cannot handle signals"))?;
    let mut running = tokio::select! {
        started = Running::start(config, lines) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before it was ready");
            watchdog::notify(sd_notify::NotifyState::Stopping);
            return Ok(());
        }
    };
    let why = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping: requests in progress are finished");
            Ok(())
        }
        error = first_end(&mut running.cores.running) => {
            tracing::error!(%error, "stopping: a core ended");
            Err(Error::Core(error))
        }
        part = first_panic(&mut running.beside) => {
            tracing::error!(part, "stopping: a part of the control thread has panicked");
            Err(Error::Control(part))
        }
    };
    tokio::select! {
        stopped = beside::timeout(STOP, running.stop()) => {
            stopped.map_err(|_| Error::StopTooLong).and(why)
        }
        signal = signals.next() => Err(Error::Interrupted(signal)),
    }
}

/// All that runs while the process is ready.
struct Running {
    dir: DataDir,
    cores: Cores,
    doors: ReadDoors,
    set_ready: watch::Sender<Result<(), NotReady>>,
    stop_uploads: watch::Sender<bool>,
    uploads: Uploading,
    /// Follows the shards' numbers, keeps the blocks, feeds the watchdog.
    beside: Vec<Part>,
}

/// A part of the control thread that runs as long as the process, by what it is called.
type Part = (&'static str, beside::JoinHandle<()>);

impl Running {
    /// Starts all of it. What has begun ends with the process when this future is dropped.
    async fn start(config: &config::Receive, lines: Counts) -> Result<Self, Error> {
        let cpus = rt_core::cpus();
        let shards = cores::count(config, cpus.len())?;
        let dir = DataDir::open(&config.data.path, shards)?;
        let bucket = Bucket::open(&config.bucket).map_err(Error::Bucket)?;
        let measured = cores::measure(&dir.path, &cpus, config.write.ack).await?;
        words::say_start(config, &cpus, shards, measured);
        let connections = cores::connections(&config.write.limits, shards)?;
        let places = doors::places(connections.of_readers_each);
        let grpc = doors::listen("--grpc-address", &config.read.grpc_addresses).await?;
        let http = doors::listen("--http-address", &config.read.http_addresses).await?;
        doors::nobody_listens("--remote-write.address", &config.write.addresses)?;
        let counters = Counters::default();
        let (of_tenants, follower) =
            Limits::start(&config.write.tenant_limits, shards, counters.clone());
        let found = (measured, connections, of_tenants.clone());
        let mut cores = Cores::start(config, &dir, (&cpus, shards), found)?;
        words::say_addresses(&cores.write_addresses, &grpc, &http);

        let external = external(&config.external)?;
        let (set_ready, ready) = watch::channel(Ok(()));
        say(&set_ready, Err("the logs are being replayed"));
        let (known, stats) = watch::channel::<KnownStats>(vec![None; usize::from(shards)].into());
        let blocks = Blocks::default();
        let limits = query::Limits::default();
        let shown = (blocks.clone(), Arc::clone(&external));
        let view = View::new(cores.asks.clone(), shown.0, shown.1, ready, stats, limits);
        let following = beside::spawn(query::follow(cores.asks.clone(), Arc::new(known)));
        let mut shown = doors::exposition(&view, &cores.snapshots, [&counters, bucket.counters()]);
        let ack = config.write.ack;
        shown.source(move |all| probe::sample_process(ack, &lines, all));
        shown.source(move |all| of_tenants.sample(all));
        let behind = places.clone();
        shown.source(move |all| behind.iter().for_each(|places| places.sample(all)));
        let doors = ReadDoors::open(config, &view, (grpc, http), &places, (shown, &counters));

        let asking = beside::spawn(watchdog::ask_for_time());
        cores.wait_until_ready().await?;
        say(&set_ready, Err("the finished blocks are being listed"));
        let (stop_uploads, uploads_stop) = watch::channel(false);
        let clock = Clock::system();
        let uploads = Uploads::start(config, bucket, counters.clone(), clock, uploads_stop)?;
        let (to_ship, shipped, uploads) = uploads.split();
        let keeper = Keeper::take_over(keeper::Parts {
            root: dir.path.clone(),
            shards: cores.asks.clone(),
            external,
            blocks,
            to_ship,
            shipped,
            grace: cut_plan::grace(config.data.out_of_order_window),
            retention: config.data.retention,
            pruner: uploads::default_bucket(config),
            clock: Clock::system(),
            counters,
        });
        let keeping = beside::spawn(keeper.await.run());
        say(&set_ready, Ok(()));
        asking.abort();
        tracing::info!("ready: writes and reads are taken");
        watchdog::notify(sd_notify::NotifyState::Ready);
        let feeding = beside::spawn(watchdog::feed(cores.asks.clone()));
        let mut parts = vec![
            ("the follower of the shards", following),
            ("the keeper of the blocks", keeping),
            ("the feeder of the watchdog", feeding),
        ];
        if let Some(follower) = follower {
            parts.push(("the follower of the limits file", beside::spawn(follower.run())));
        }
        Ok(Self { dir, cores, doors, set_ready, stop_uploads, uploads, beside: parts })
    }

    /// Ends all of it in order. The parts that wait for others do so at the same time.
    async fn stop(self) {
        watchdog::notify(sd_notify::NotifyState::Stopping);
        say(&self.set_ready, Err("the process is stopping"));
        let begun = Moment::now();
        for (_, task) in &self.beside {
            task.abort();
        }
        self.stop_uploads.send_replace(true);
        let uploads = beside::timeout(UPLOADS_STOP, beside::blocking(move || self.uploads.join()));
        let uploads = beside::spawn(async move { drop(uploads.await) });
        self.cores.drain();
        self.doors.close().await;
        self.cores.join().await;
        drop(uploads.await);
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "stopped");
        drop(self.dir);
    }
}

/// Resolves when one of the parts panics. One that just ends has lost the cores, who say more of
/// why.
async fn first_panic(parts: &mut Vec<Part>) -> &'static str {
    let first = |context: &mut Context<'_>| {
        let mut panicked = Poll::Pending;
        parts.retain_mut(|(name, task)| match Pin::new(task).poll(context) {
            Poll::Pending => true,
            Poll::Ready(ended) => {
                if ended.is_err() {
                    panicked = Poll::Ready(*name);
                }
                false
            }
        });
        panicked
    };
    poll_fn(first).await
}

/// Tells all who ask whether the process is ready, or what is waited for.
fn say(set_ready: &watch::Sender<Result<(), NotReady>>, ready: Result<(), &str>) {
    set_ready.send_modify(|known| *known = ready.map_err(|why| NotReady { why: why.into() }));
}

fn external(config: &config::External) -> Result<Arc<External>, Error> {
    let config::External { labels, tenant_label, shard_label } = config.clone();
    External::new(labels, tenant_label, shard_label).map(Arc::new).map_err(Error::Labels)
}

/// Resolves when the flag is raised, or when nobody is left to raise it.
async fn raised(mut flag: watch::Receiver<bool>) {
    while !*flag.borrow_and_update() {
        if flag.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_panics_is_named() {
        let named = control::run(async {
            let endless = beside::spawn(std::future::pending());
            let mut parts = vec![
                ("endless", endless),
                ("ended", beside::spawn(async {})),
                ("broken", beside::spawn(async { panic!("as the test wants it") })),
            ];
            beside::timeout(Duration::from_mins(1), first_panic(&mut parts)).await
        });
        assert_eq!(named.expect("a control thread"), Ok("broken"));
    }
}

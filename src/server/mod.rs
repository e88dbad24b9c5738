//! The composition: builds everything, starts it in order, stops it in order.
//!
//! ```text
//! main thread = control: signals, StoreAPI, HTTP API, readiness, watchdog
//! core 0..n-1: door, router, shard                    one thread each, pinned
//! log writer: lines to standard error
//! ```
//!
//! ## Order
//! Start: io_uring is probed; the directory is locked; the device is measured; doors are bound (so
//! that a port in use is an error before anything runs); cores start and replay; the StoreAPI and
//! the HTTP API answer "not ready" meanwhile; when all cores are ready, so is the process.
//! Stop: not ready; cores drain and commit; then the readers' doors close.

mod core;
mod data_dir;
mod intake;
mod keeper;
mod probe;
mod uploads;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::bucket::Bucket;
use crate::config::{self, Ack};
use crate::listener::{Limits, TenantSource};
use crate::model::{External, LabelError};
use crate::query::{self, Blocks, KnownStats, NotReady, View};
use crate::rt::channel::{mpsc, oneshot, watch};
use crate::rt::clock::{Clock, Moment};
use crate::rt::core::{self as rt_core, Core, Disk, Doors, Measured};
use crate::rt::{beside, control, files, process};
use crate::server::data_dir::{DataDir, DataDirError};
use crate::server::keeper::Keeper;
use crate::server::uploads::Uploads;
use crate::shard::message::{Ask, Stats};
use crate::shard::recover::Report;
use crate::telemetry::log::Counts;
use crate::telemetry::{Counters, Exposition, Snapshot};
use crate::{api, bucket, decode, route, shard, store_api};

/// Questions waiting at a shard.
const ASKS: usize = 256;
/// File descriptors kept for all but senders: those of the process, and those of each core, for its
/// rings, its log and the block it writes.
const FDS_KEPT: u64 = 24;
const FDS_KEPT_PER_CORE: u64 = 8;
/// Announced bytes of requests in progress on one core.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;
/// Longest time without an answer from a core before the watchdog is left unfed.
const PULSE: Duration = Duration::from_secs(5);

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
}

fn start_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Start { what, source }
}

/// Runs the receiver until it is told to stop. `lines` counts what is logged.
pub fn receive(config: &config::Receive, lines: Counts) -> Result<(), Error> {
    rt_core::probe()?;
    control::run(serve(config, lines)).map_err(start_error("cannot start the control thread"))?
}

/// The cores, as the control thread holds them.
struct Cores {
    running: Vec<Core<Result<(), String>>>,
    asks: Vec<mpsc::Sender<Ask>>,
    ready: Vec<oneshot::Receiver<Report>>,
    snapshots: Vec<watch::Receiver<Snapshot>>,
    drain: watch::Sender<bool>,
    write_addresses: Vec<SocketAddr>,
}

async fn serve(config: &config::Receive, lines: Counts) -> Result<(), Error> {
    let stop = control::stop_signal().map_err(start_error("cannot handle signals"))?;
    let cpus = rt_core::cpus();
    let shards = shard_count(config, cpus.len())?;
    let dir = DataDir::open(&config.data.path, shards)?;
    let bucket = Bucket::open(&config.bucket).map_err(Error::Bucket)?;
    let measured = measure(&dir.path, &cpus, config.write.ack).await?;
    say_start(config, &cpus, shards, measured);
    let grpc = listen("--grpc-address", &config.read.grpc_addresses).await?;
    let http = listen("--http-address", &config.read.http_addresses).await?;
    nobody_listens("--remote-write.address", &config.write.addresses)?;
    let mut cores = start_cores(config, &dir, (&cpus, shards), measured)?;
    say_addresses(&cores.write_addresses, &grpc, &http);

    let external = external(&config.external)?;
    let replaying = NotReady { why: "the logs are being replayed".into() };
    let (set_ready, ready) = watch::channel(Err(replaying));
    let (known, stats) = watch::channel::<KnownStats>(vec![None; usize::from(shards)].into());
    let blocks = Blocks::default();
    let limits = query::Limits::default();
    let shown = (blocks.clone(), Arc::clone(&external));
    let view = View::new(cores.asks.clone(), shown.0, shown.1, ready, stats.clone(), limits);
    let following = beside::spawn(query::follow(cores.asks.clone(), Arc::new(known)));
    let (close, closing) = watch::channel(false);
    let counters = Counters::default();
    let mut shown = exposition(&view, &cores.snapshots, [&counters, bucket.counters()]);
    let ack = config.write.ack;
    shown.source(move |all| probe::sample_process(ack, &lines, all));
    let doors = open_doors(config, &view, (grpc, http), (shown, &counters), &closing);

    wait_until_ready(&mut cores).await?;
    let (stop_uploads, uploads_stop) = watch::channel(false);
    let uploads = Uploads::start(config, bucket, counters.clone(), Clock::system(), uploads_stop)?;
    let (to_ship, shipped, uploads_end) = uploads.split();
    let keeper = Keeper::take_over(keeper::Parts {
        root: dir.path.clone(),
        shards: cores.asks.clone(),
        external,
        blocks,
        to_ship,
        shipped,
        retention: config.data.retention,
        pruner: uploads::default_bucket(config),
        clock: Clock::system(),
        counters,
    });
    let keeping = beside::spawn(keeper.await.run());
    set_ready.send_modify(|ready| *ready = Ok(()));
    tracing::info!("ready: writes and reads are taken");
    notify(sd_notify::NotifyState::Ready);
    let feeding = beside::spawn(feed_watchdog(cores.asks.clone()));
    let why = why_to_stop(stop, &mut cores.running).await;
    notify(sd_notify::NotifyState::Stopping);
    let stopping = NotReady { why: "the process is stopping".into() };
    set_ready.send_modify(|ready| *ready = Err(stopping));
    let begun = Moment::now();
    keeping.abort();
    stop_uploads.send_replace(true);
    cores.drain.send_replace(true);
    join_all(cores.running).await;
    close.send_replace(true);
    for door in doors {
        drop(beside::timeout(config.read.grpc_grace.max(config.read.http_grace), door).await);
    }
    drop(beside::timeout(UPLOADS_STOP, beside::blocking(uploads_end)).await);
    following.abort();
    feeding.abort();
    tracing::info!(seconds = begun.elapsed().as_secs_f64(), "stopped");
    drop(dir);
    why.map_err(Error::Core)
}

fn external(config: &config::External) -> Result<Arc<External>, Error> {
    let config::External { labels, tenant_label, shard_label } = config.clone();
    External::new(labels, tenant_label, shard_label).map(Arc::new).map_err(Error::Labels)
}

/// Waits for a signal, or for a core that ends by itself.
async fn why_to_stop(
    stop: impl Future<Output = &'static str>,
    cores: &mut Vec<Core<Result<(), String>>>,
) -> Result<(), String> {
    tokio::select! {
        signal = stop => {
            tracing::info!(signal, "stopping: requests in progress are finished");
            Ok(())
        }
        error = first_end(cores) => {
            tracing::error!(%error, "stopping: a core ended");
            Err(error)
        }
    }
}

async fn join_all(cores: Vec<Core<Result<(), String>>>) {
    for core in cores {
        let joined = beside::blocking(move || core.join()).await;
        if let Ok(Ok(Err(error))) = joined {
            tracing::error!(%error, "a core ended badly");
        }
    }
}

fn shard_count(config: &config::Receive, cpus: usize) -> Result<u16, Error> {
    let shards = match config.write.shards {
        Some(shards) => shards.get(),
        // From four processors up one is left to the control thread.
        None => (if cpus >= 4 { cpus - 1 } else { cpus.max(1) }).min(256) as u16,
    };
    if usize::from(shards) > shard::slots::SLOTS {
        return Err(Error::TooManyShards(shards));
    }
    Ok(shards)
}

/// A file with something in it, for cores to open first and for the measurement. One that is there
/// already serves as well: a full disk is no reason not to start.
fn written_file(dir: &Path) -> io::Result<std::path::PathBuf> {
    const BYTES: usize = 64 * 1024;
    let path = dir.join("scratch");
    if files::read(&path)?.is_none_or(|there| there.len() != BYTES) {
        files::replace(&path, &vec![0; BYTES])?;
    }
    Ok(path)
}

async fn measure(dir: &Path, cpus: &[usize], ack: Ack) -> Result<Measured, Error> {
    let cpu = cpus.first().copied().unwrap_or(0);
    let scratch = written_file(dir).map_err(start_error("cannot write the data directory"))?;
    let begin = move || async move { Disk::measure(&scratch).await };
    let core = Core::start("measure", cpu, rt_core::io_memory(1), begin)
        .map_err(start_error("cannot start a core"))?;
    let measured = beside::blocking(move || core.join()).await;
    match measured {
        Ok(Ok(measured)) => {
            let measured = measured.map_err(start_error("cannot measure the device"))?;
            // A write that is its own flush cannot be answered before it.
            Ok(Measured { dsync: measured.dsync && ack == Ack::Durable, ..measured })
        }
        Ok(Err(died)) => Err(Error::Core(died.to_string())),
        Err(broken) => Err(Error::Core(broken.to_string())),
    }
}

fn start_cores(
    config: &config::Receive,
    dir: &DataDir,
    (cpus, shards): (&[usize], u16),
    measured: Measured,
) -> Result<Cores, Error> {
    let count = usize::from(shards);
    let addresses = &config.write.addresses;
    let listen = |source| Error::Listen {
        flag: "--remote-write.address",
        address: addresses.first().copied().unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
        source,
    };
    let limits = listener_limits(&config.write.limits, shards)?;
    let doors = Doors::open(addresses, count, limits.connections_max).map_err(listen)?;
    let (doors, write_addresses) = doors;
    let (drain, draining) = watch::channel(false);
    let ports = rt_core::mesh(count, route::MESH_CAPACITY);
    let io_memory = rt_core::io_memory(count);
    let (mut running, mut asks, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    let mut snapshots = Vec::new();
    for ((number, doors), port) in (0..shards).zip(doors).zip(ports) {
        let (ask, asked) = mpsc::channel(ASKS);
        let (report, reported) = oneshot::channel();
        let (snapshot, shown) = watch::channel(Snapshot::default());
        let start = core::Start {
            shard: shard_settings(config, dir, number),
            route: route_settings(config, dir, number, shards),
            root: dir.path.clone(),
            measured,
            written: dir.path.join("scratch"),
            doors,
            limits: limits.clone(),
            tenants: TenantSource {
                header: config.write.tenant_header.clone(),
                default: config.write.default_tenant.clone(),
            },
            pause_seed: control::random_u64(),
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            port,
            asks: asked,
            drain: draining.clone(),
            clock: Clock::system(),
            ready: report,
            snapshot,
        };
        let cpu = cpus.get(usize::from(number) % cpus.len().max(1)).copied().unwrap_or(0);
        let core = Core::start("tidegate-core", cpu, io_memory, move || core::run(start));
        running.push(core.map_err(start_error("cannot start a core"))?);
        asks.push(ask);
        ready.push(reported);
        snapshots.push(shown);
    }
    Ok(Cores { running, asks, ready, snapshots, drain, write_addresses })
}

fn shard_settings(config: &config::Receive, dir: &DataDir, number: u16) -> shard::Settings {
    let limits = &config.write.limits;
    shard::Settings {
        shard: number,
        generations: dir.generations.clone(),
        node: dir.node,
        secret: dir.secret.clone(),
        limits: decode::region::LabelLimits {
            names_max: limits.labels_per_series_max as usize,
            name_bytes_max: limits.label_name_bytes_max as usize,
            value_bytes_max: limits.label_value_bytes_max as usize,
            region_bytes_max: limits.label_set_bytes_max as usize,
        },
        answers_wait: config.write.ack == Ack::Durable,
        segment_bytes: shard::SEGMENT_BYTES,
        spare_segments: 2,
        epochs: control::random_u64,
    }
}

fn route_settings(
    config: &config::Receive,
    dir: &DataDir,
    number: u16,
    shards: u16,
) -> route::Settings {
    route::Settings {
        shards,
        own: number,
        secret: dir.secret.clone(),
        decoded_bytes_max: config.write.limits.decoded_bytes_max as usize,
        future_ms: config.data.future_window.map(|window| window.as_millis() as i64),
        clock: Clock::system(),
    }
}

fn listener_limits(limits: &config::Limits, shards: u16) -> Result<Limits, Error> {
    let wanted = limits.connections_per_core_max;
    let connections = connections_max(wanted, process::raise_fd_limit(), shards)?;
    if connections < wanted {
        tracing::info!(connections, "a core takes fewer, for few files may be open (ulimit -n)");
    }
    Ok(Limits {
        body_bytes_max: limits.body_bytes_max as usize,
        connections_max: connections as usize,
        ..Limits::default()
    })
}

/// Connections of senders on one core, so that no number of senders takes the descriptors with
/// which the log is written.
fn connections_max(wanted: u64, fds: Option<u64>, shards: u16) -> Result<u64, Error> {
    let Some(limit) = fds else { return Ok(wanted) };
    let cores = u64::from(shards);
    let kept = FDS_KEPT + FDS_KEPT_PER_CORE * cores;
    let each = limit.saturating_sub(kept.max(limit / 4)) / cores.max(1);
    if each == 0 {
        return Err(Error::Files { limit, want: kept + cores });
    }
    Ok(wanted.min(each))
}

/// Refuses an address on which somebody listens. The doors of the cores share theirs, so they
/// would share it with another process of this user as well, and neither would notice.
fn nobody_listens(flag: &'static str, addresses: &[SocketAddr]) -> Result<(), Error> {
    for &address in addresses.iter().filter(|address| address.port() != 0) {
        let tried = || {
            let socket = match address {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)
        };
        tried().map_err(|source| Error::Listen { flag, address, source })?;
    }
    Ok(())
}

type Listening = Vec<(SocketAddr, tokio::net::TcpListener)>;

async fn listen(flag: &'static str, addresses: &[SocketAddr]) -> Result<Listening, Error> {
    let mut open = Vec::new();
    for &address in addresses {
        let error = |source| Error::Listen { flag, address, source };
        let listener = tokio::net::TcpListener::bind(address).await.map_err(error)?;
        open.push((listener.local_addr().map_err(error)?, listener));
    }
    Ok(open)
}

/// Opens the readers' doors; each is a task that ends after `closing`.
fn open_doors(
    config: &config::Receive,
    view: &View,
    (grpc, http): (Listening, Listening),
    (exposition, counters): (Exposition, &Counters),
    closing: &watch::Receiver<bool>,
) -> Vec<beside::JoinHandle<()>> {
    let mut doors = Vec::new();
    let mut connections = store_api::Connections::default();
    if let Some(age) = config.read.grpc_connection_age_max {
        connections.age_max = age;
    }
    for (_, listener) in grpc {
        let stop = closed(closing.clone());
        let counters = counters.clone();
        let serving = store_api::serve(view.clone(), listener, connections, counters, stop);
        doors.push(beside::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the StoreAPI ended");
            }
        }));
    }
    let routes = api::routes(view.clone(), exposition, counters.clone());
    for (_, listener) in http {
        let stop = closed(closing.clone());
        let serving = api::serve(routes.clone(), listener, stop);
        doors.push(beside::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTP API ended");
            }
        }));
    }
    doors
}

/// What `/metrics` shows: the cores' last numbers, what the view knows, and what is counted beside.
fn exposition(
    view: &View,
    snapshots: &[watch::Receiver<Snapshot>],
    counters: [&Counters; 2],
) -> Exposition {
    let mut exposition = Exposition::default();
    for core in snapshots {
        let core = core.clone();
        exposition.source(move |all| all.merge(&core.borrow()));
    }
    let view = view.clone();
    exposition.source(move |all| view.sample(all));
    for counters in counters {
        let counters = counters.clone();
        exposition.source(move |all| counters.sample(all));
    }
    exposition
}

async fn closed(mut closing: watch::Receiver<bool>) {
    while !*closing.borrow_and_update() {
        if closing.changed().await.is_err() {
            return;
        }
    }
}

async fn wait_until_ready(cores: &mut Cores) -> Result<(), Error> {
    let begun = Moment::now();
    for (shard, ready) in cores.ready.drain(..).enumerate() {
        let report = tokio::select! {
            report = ready => report.map_err(|_| ()),
            _ = first_end(&mut cores.running) => Err(()),
        };
        match report {
            Ok(report) => say_report(shard, &report),
            Err(()) => return Err(Error::Core(first_end(&mut cores.running).await)),
        }
    }
    tracing::info!(seconds = begun.elapsed().as_secs_f64(), "all logs are replayed");
    Ok(())
}

/// Resolves when a core ends by itself; what it said.
async fn first_end(cores: &mut Vec<Core<Result<(), String>>>) -> String {
    loop {
        if let Some(at) = cores.iter().position(Core::is_finished) {
            return match cores.swap_remove(at).join() {
                Ok(Ok(())) => format!("core {at} ended without being told to"),
                Ok(Err(error)) => error,
                Err(died) => died.to_string(),
            };
        }
        beside::sleep(Duration::from_millis(100)).await;
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Feeds systemd's watchdog for as long as every core answers.
async fn feed_watchdog(shards: Vec<mpsc::Sender<Ask>>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    loop {
        if all_answer(&shards).await {
            notify(sd_notify::NotifyState::Watchdog);
        } else {
            tracing::error!("a core does not answer; the watchdog is not fed");
        }
        beside::sleep(timeout / 3).await;
    }
}

async fn all_answer(shards: &[mpsc::Sender<Ask>]) -> bool {
    for shard in shards {
        let (reply, answer) = oneshot::channel::<Stats>();
        let asked = beside::timeout(PULSE, shard.send(Ask::Stats(reply))).await;
        if !matches!(asked, Ok(Ok(()))) {
            return false;
        }
        if !matches!(beside::timeout(PULSE, answer).await, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

fn say_start(config: &config::Receive, cpus: &[usize], shards: u16, measured: Measured) {
    for line in config.to_string().lines() {
        tracing::info!("{line}");
    }
    let way = match (measured.direct, measured.dsync) {
        (true, true) => "direct, one synchronous write per commit",
        (true, false) => "direct, write and flush per commit",
        (false, _) => "through the page cache (this file system has no direct I/O)",
    };
    tracing::info!(
        shards,
        processors = ?cpus,
        flush_p50_us = measured.p50_us,
        flush_max_us = measured.max_us,
        log = way,
        "cores"
    );
}

fn say_addresses(write: &[SocketAddr], grpc: &Listening, http: &Listening) {
    let addresses = |all: &Listening| -> Vec<SocketAddr> { all.iter().map(|(a, _)| *a).collect() };
    tracing::info!(
        remote_write = ?write,
        grpc = ?addresses(grpc),
        http = ?addresses(http),
        "listening"
    );
}

fn say_report(shard: usize, report: &Report) {
    tracing::info!(
        shard,
        segments = report.segments,
        blocks = report.blocks,
        samples = report.samples,
        in_blocks = report.covered,
        "log replayed"
    );
    for (dir, damage) in &report.damage {
        tracing::error!(shard = dir, %damage, "the log is damaged; the segment is kept");
    }
    if report.orphaned > 0 {
        tracing::error!(shard, samples = report.orphaned, "samples whose series is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_for_the_log() {
        let max = |wanted, fds, shards| connections_max(wanted, fds, shards).ok();
        assert_eq!(max(1024, None, 8), Some(1024));
        assert_eq!(max(1024, Some(131_072), 64), Some(1024));
        assert_eq!(max(1024, Some(1024), 2), Some(384), "a quarter is kept");
        assert_eq!(max(100, Some(1024), 2), Some(100));
        assert_eq!(max(1024, Some(64), 2), Some(12));
        assert_eq!(max(1024, Some(42), 2), Some(1));
        let error = connections_max(1024, Some(41), 2).expect_err("too few");
        assert!(matches!(error, Error::Files { limit: 41, want: 42 }), "{error}");
    }
}

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
mod pulse;
mod uploads;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::listener::{Limits, TenantSource};
use crate::model::{External, LabelError};
use crate::query::{self, Blocks, KnownStats, NotReady, View};
use crate::rt::channel::{mpsc, oneshot, watch};
use crate::rt::clock::{Clock, Moment};
use crate::rt::core::{self as rt_core, Core, Disk, Doors, Measured};
use crate::rt::{beside, control, files};
use crate::server::data_dir::{DataDir, DataDirError};
use crate::server::keeper::Keeper;
use crate::server::pulse::Pulse;
use crate::server::uploads::Uploads;
use crate::shard::message::{Ask, Stats};
use crate::shard::recover::Report;
use crate::telemetry::{Exposition, Snapshot};
use crate::{api, bucket, decode, route, shard, store_api};

/// Questions waiting at a shard.
const ASKS: usize = 256;
/// Announced bytes of requests in progress on one core.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;
/// Longest time without an answer from a core before the watchdog is left unfed.
const PULSE: Duration = Duration::from_secs(5);

/// Time that systemd is asked for again and again while the logs are replayed.
const START_TIME: Duration = Duration::from_mins(1);
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

/// Runs the receiver until it is told to stop.
pub fn receive(config: &config::Receive) -> Result<(), Error> {
    rt_core::probe()?;
    control::run(serve(config)).map_err(start_error("cannot start the control thread"))?
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

async fn serve(config: &config::Receive) -> Result<(), Error> {
    let stop = control::stop_signal().map_err(start_error("cannot handle signals"))?;
    let cpus = rt_core::cpus();
    let shards = shard_count(config, cpus.len())?;
    let dir = DataDir::open(&config.data.path, shards)?;
    let pulse = Pulse::begin();
    let measured = measure(&dir.path, cpus.first().copied().unwrap_or(0), &pulse).await?;
    say_start(config, &cpus, shards, measured);
    let grpc = listen("--grpc-address", &config.read.grpc_addresses).await?;
    let http = listen("--http-address", &config.read.http_addresses).await?;
    nobody_listens("--remote-write.address", &config.write.addresses)?;
    let mut cores = start_cores(config, &dir, (&cpus, shards), measured, &pulse)?;
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
    let doors = open_doors(config, &view, (grpc, http), &cores.snapshots, &closing);

    let asking = beside::spawn(ask_for_time());
    wait_until_ready(&mut cores).await?;
    let (stop_uploads, uploads_stop) = watch::channel(false);
    let uploads = Uploads::start(config, Clock::system(), uploads_stop)?;
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
    });
    let keeping = beside::spawn(keeper.await.run());
    set_ready.send_modify(|ready| *ready = Ok(()));
    asking.abort();
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

/// A file with something in it, for cores to open first and for the measurement.
fn written_file(dir: &Path) -> io::Result<std::path::PathBuf> {
    let path = dir.join("scratch");
    files::replace(&path, &vec![0; 64 * 1024])?;
    Ok(path)
}

async fn measure(dir: &Path, cpu: usize, pulse: &Pulse) -> Result<Measured, Error> {
    let scratch = written_file(dir).map_err(start_error("cannot write the data directory"))?;
    let pulse = pulse.clone();
    let begin = move || async move {
        pulse.keep_awake();
        Disk::measure(&scratch).await
    };
    let core = Core::start("measure", cpu, rt_core::io_memory(1), begin)
        .map_err(start_error("cannot start a core"))?;
    let measured = beside::blocking(move || core.join()).await;
    match measured {
        Ok(Ok(measured)) => measured.map_err(start_error("cannot measure the device")),
        Ok(Err(died)) => Err(Error::Core(died.to_string())),
        Err(broken) => Err(Error::Core(broken.to_string())),
    }
}

fn start_cores(
    config: &config::Receive,
    dir: &DataDir,
    (cpus, shards): (&[usize], u16),
    measured: Measured,
    pulse: &Pulse,
) -> Result<Cores, Error> {
    let count = usize::from(shards);
    let addresses = &config.write.addresses;
    let listen = |source| Error::Listen {
        flag: "--remote-write.address",
        address: addresses.first().copied().unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
        source,
    };
    let (doors, write_addresses) = Doors::open(addresses, count).map_err(listen)?;
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
            limits: listener_limits(&config.write.limits),
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
            pulse: pulse.clone(),
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
        answers_wait: intake::answers_wait(config.write.ack),
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
        keep_ms: config.data.retention.map(|keep| keep.as_millis() as i64),
        clock: Clock::system(),
    }
}

fn listener_limits(limits: &config::Limits) -> Limits {
    Limits {
        body_bytes_max: limits.body_bytes_max as usize,
        connections_max: limits.connections_per_core_max as usize,
        ..Limits::default()
    }
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
    snapshots: &[watch::Receiver<Snapshot>],
    closing: &watch::Receiver<bool>,
) -> Vec<beside::JoinHandle<()>> {
    let mut doors = Vec::new();
    let mut connections = store_api::Connections::default();
    if let Some(age) = config.read.grpc_connection_age_max {
        connections.age_max = age;
    }
    let mut exposition = exposition(snapshots);
    let calls = store_api::Calls::new(&mut exposition);
    for (_, listener) in grpc {
        let stop = closed(closing.clone());
        let serving = store_api::serve(view.clone(), listener, connections, calls.clone(), stop);
        doors.push(beside::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the StoreAPI ended");
            }
        }));
    }
    let routes = api::routes(view.clone(), exposition);
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

fn exposition(snapshots: &[watch::Receiver<Snapshot>]) -> Exposition {
    let mut exposition = Exposition::default();
    for core in snapshots {
        let core = core.clone();
        exposition.source(move |all| all.merge(&core.borrow()));
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

/// Asks systemd for more time to start: how much there is to replay is not for a unit to know.
async fn ask_for_time() {
    loop {
        notify(sd_notify::NotifyState::ExtendTimeoutUsec(START_TIME.as_micros() as u32));
        beside::sleep(START_TIME / 3).await;
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

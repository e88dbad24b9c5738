//! All cores, as the control thread holds them: measured for, started, waited for, joined.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Ack};
use crate::listener::{Limits, TenantSource};
use crate::rt::channel::{Barrier, mpsc, oneshot, watch};
use crate::rt::clock::{Clock, Moment};
use crate::rt::core::{self as rt_core, Core, Disk, Doors, Measured};
use crate::rt::quota::Quotas;
use crate::rt::{beside, control, files, process};
use crate::server::data_dir::DataDir;
use crate::server::{Error, core, limits, start_error, words};
use crate::shard::message::Ask;
use crate::shard::recover::Report;
use crate::telemetry::Snapshot;
use crate::{decode, route, shard};

/// Questions waiting at a shard.
const ASKS: usize = 256;
/// File descriptors kept for all but senders: those of the process, and those of each core, for its
/// rings, its log and the block it writes.
const FDS_KEPT: u64 = 24;
const FDS_KEPT_PER_CORE: u64 = 8;
/// Connections at each kind of readers' door: a quarter of what there are descriptors for goes to
/// both together, but neither less nor more than this to each.
const READERS_MIN: u64 = 4;
const READERS_MAX: u64 = 512;

/// The cores, by shard.
pub(super) struct Cores {
    pub(super) running: Vec<Core<Result<(), String>>>,
    pub(super) asks: Vec<mpsc::Sender<Ask>>,
    ready: Vec<oneshot::Receiver<Report>>,
    pub(super) snapshots: Vec<watch::Receiver<Snapshot>>,
    drain: watch::Sender<bool>,
    /// Each ends when its core is drained, or gone.
    drained: Vec<oneshot::Receiver<()>>,
    leave: watch::Sender<bool>,
    /// Where they take writes.
    pub(super) write_addresses: Vec<SocketAddr>,
}

impl Cores {
    /// Starts them. Their doors open at once and answer 503 until all is replayed.
    pub(super) fn start(
        config: &config::Receive,
        dir: &DataDir,
        (cpus, shards): (&[usize], u16),
        (measured, connections, of_tenants): (Measured, Connections, limits::Limits),
    ) -> Result<Self, Error> {
        let count = usize::from(shards);
        let addresses = &config.write.addresses;
        let listen = |source| Error::Listen {
            flag: "--remote-write.address",
            address: addresses.first().copied().unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
            source,
        };
        let limits = listener_limits(&config.write.limits, connections);
        let doors = Doors::open(addresses, count, limits.connections_max).map_err(listen)?;
        let (doors, write_addresses) = doors;
        let (drain, draining) = watch::channel(false);
        let (leave, leaving) = watch::channel(false);
        let ports = rt_core::mesh(count, route::MESH_CAPACITY);
        let io_memory = rt_core::io_memory(count);
        let found = Arc::new(Barrier::new(count));
        let (mut running, mut asks, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        let (mut snapshots, mut all_drained) = (Vec::new(), Vec::new());
        for ((number, doors), port) in (0..shards).zip(doors).zip(ports) {
            let (ask, asked) = mpsc::channel(ASKS);
            let (report, reported) = oneshot::channel();
            let (drained, is_drained) = oneshot::channel();
            let (snapshot, shown) = watch::channel(Snapshot::default());
            let start = core::Start {
                shard: shard_settings(config, dir, number, of_tenants.quotas.clone()),
                route: route_settings(config, dir, number, shards),
                root: dir.path.clone(),
                measured,
                written: dir.path.join("scratch"),
                doors,
                limits: limits.clone(),
                of_tenants: of_tenants.table.clone(),
                tenants: TenantSource {
                    header: config.write.tenant_header.clone(),
                    default: config.write.default_tenant.clone(),
                },
                pause_seed: control::random_u64(),
                port,
                asks: asked,
                drain: draining.clone(),
                drained,
                leave: leaving.clone(),
                clock: Clock::system(),
                found: found.clone(),
                ready: report,
                snapshot,
            };
            let cpu = cpus.get(usize::from(number) % cpus.len().max(1)).copied().unwrap_or(0);
            let core = Core::start("tidegate-core", cpu, io_memory, move || core::run(start));
            running.push(core.map_err(start_error("cannot start a core"))?);
            asks.push(ask);
            ready.push(reported);
            snapshots.push(shown);
            all_drained.push(is_drained);
        }
        let drained = all_drained;
        Ok(Self { running, asks, ready, snapshots, drain, drained, leave, write_addresses })
    }

    /// Waits until each has replayed its log.
    pub(super) async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let begun = Moment::now();
        for (shard, ready) in self.ready.drain(..).enumerate() {
            let report = tokio::select! {
                Ok(report) = ready => report,
                error = first_end(&mut self.running) => return Err(Error::Core(error)),
            };
            words::say_report(shard, &report);
        }
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "all logs are replayed");
        Ok(())
    }

    /// Has them take no more requests, and end those in progress.
    pub(super) fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Waits until they are drained and gone. None goes before all are drained: a request in
    /// progress at one may have parts for any other.
    pub(super) async fn join(self) {
        for drained in self.drained {
            // Nothing is ever sent: it ends.
            drop(drained.await);
        }
        self.leave.send_replace(true);
        for core in self.running {
            let joined = beside::blocking(move || core.join()).await;
            if let Ok(Ok(Err(error))) = joined {
                tracing::error!(%error, "a core ended badly");
            }
        }
    }
}

/// How many there are to be.
pub(super) fn count(config: &config::Receive, cpus: usize) -> Result<u16, Error> {
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
fn written_file(dir: &Path) -> io::Result<PathBuf> {
    const BYTES: usize = 64 * 1024;
    let path = dir.join("scratch");
    if files::read(&path)?.is_none_or(|there| there.len() != BYTES) {
        files::replace(&path, &vec![0; BYTES])?;
    }
    Ok(path)
}

/// What the device under `dir` can do, measured on a core of its own.
pub(super) async fn measure(dir: &Path, cpus: &[usize], ack: Ack) -> Result<Measured, Error> {
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

fn shard_settings(
    config: &config::Receive,
    dir: &DataDir,
    number: u16,
    quotas: Quotas,
) -> shard::Settings {
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
        quotas,
        out_of_order_cap: config.data.out_of_order_cap.unwrap_or(shard::OUT_OF_ORDER_CAP),
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
        lent_bytes_max: config::DECODED_BYTES_MAX,
        future_ms: config.data.future_window.map(|window| window.as_millis() as i64),
        keep_ms: config.data.retention.map(|keep| keep.as_millis() as i64),
        out_of_order_ms: config.data.out_of_order_window.map(|window| window.as_millis() as i64),
        clock: Clock::system(),
    }
}

fn listener_limits(limits: &config::Limits, connections: Connections) -> Limits {
    Limits {
        body_bytes_max: limits.body_bytes_max as usize,
        connections_max: connections.of_senders_per_core,
        lent_bytes_max: config::BODIES_BYTES_MAX as usize,
        ..Limits::default()
    }
}

/// How many connections there may be, so that no number of senders or readers takes the descriptors
/// with which the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) of_senders_per_core: usize,
    /// At each of the two kinds of doors.
    pub(super) of_readers_each: usize,
}

/// What the flags want, as far as this process may open files. Tells if that is less.
pub(super) fn connections(limits: &config::Limits, shards: u16) -> Result<Connections, Error> {
    let wanted = limits.connections_per_core_max;
    let connections = connections_max(wanted, process::raise_fd_limit(), shards)?;
    let Connections { of_senders_per_core, of_readers_each } = connections;
    if (of_senders_per_core as u64) < wanted || of_readers_each < READERS_MAX as usize {
        tracing::info!(
            of_senders_per_core,
            of_readers_each,
            "fewer connections are taken, for few files may be open (ulimit -n)"
        );
    }
    Ok(connections)
}

fn connections_max(wanted: u64, fds: Option<u64>, shards: u16) -> Result<Connections, Error> {
    let cores = u64::from(shards).max(1);
    let (mut senders, mut readers) = (wanted, READERS_MAX);
    if let Some(limit) = fds {
        let kept = FDS_KEPT + FDS_KEPT_PER_CORE * cores;
        let free = limit.saturating_sub(kept.max(limit / 4));
        readers = (free / 8).clamp(READERS_MIN, READERS_MAX);
        senders = wanted.min(free.saturating_sub(2 * readers) / cores);
        if senders == 0 {
            return Err(Error::Files { limit, want: kept + 2 * READERS_MIN + cores });
        }
    }
    let (of_senders_per_core, of_readers_each) = (senders as usize, readers as usize);
    Ok(Connections { of_senders_per_core, of_readers_each })
}

/// Resolves when a core ends by itself; what it said.
pub(super) async fn first_end(cores: &mut Vec<Core<Result<(), String>>>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_for_the_log() {
        let max = |wanted, fds, shards| {
            let most = connections_max(wanted, fds, shards).ok()?;
            Some((most.of_senders_per_core, most.of_readers_each))
        };
        assert_eq!(max(1024, None, 8), Some((1024, 512)));
        assert_eq!(max(1024, Some(131_072), 64), Some((1024, 512)));
        assert_eq!(max(1024, Some(1024), 2), Some((288, 96)), "a quarter is kept");
        assert_eq!(max(100, Some(1024), 2), Some((100, 96)));
        assert_eq!(max(1024, Some(64), 2), Some((8, 4)));
        assert_eq!(max(1024, Some(50), 2), Some((1, 4)));
        let error = connections_max(1024, Some(49), 2).expect_err("too few");
        assert!(matches!(error, Error::Files { limit: 49, want: 50 }), "{error}");
    }
}

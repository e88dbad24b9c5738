//! A core's numbers, and those of the process, under the names users know.

use crate::config::Ack;
use crate::rt::core as rt_core;
use crate::rt::core::Disk;
use crate::rt::process;
use crate::server::core::CoreListener;
use crate::server::intake::CoreIntake;
use crate::shard::Shard;
use crate::telemetry::log::Counts;
use crate::telemetry::{LabelPairs, Metric, Snapshot, panics};

/// The numbers of one core now. Those of tenants are taken in slices, between which others run.
pub(super) async fn snapshot(
    rounds: u64,
    intake: &CoreIntake,
    listener: &CoreListener,
    shard: &Shard<Disk>,
) -> Snapshot {
    let mut out = Snapshot::default();
    let shard_label = || vec![("shard", shard.number().to_string())];
    out.count(Metric::CoreSnapshots, shard_label(), rounds);
    sample_intake(intake, &mut out);
    sample_connections(listener, &shard_label, &mut out);
    let log = shard.log_stats();
    out.count(Metric::LogCommits, shard_label(), log.commits);
    out.count(Metric::LogBytes, shard_label(), log.bytes);
    out.count(Metric::LogIoErrors, shard_label(), log.io_errors);
    let writable = if shard.log_is_writable() { 1.0 } else { 0.0 };
    out.gauge(Metric::LogWritable, shard_label(), writable);
    out.gauge(Metric::LogSegments, shard_label(), log.segments as f64);
    out.count(Metric::HeadOutOfOrder, shard_label(), shard.out_of_order_samples());
    for (part, bytes) in shard.memory() {
        let labels = vec![("shard", shard.number().to_string()), ("part", part.to_owned())];
        out.gauge(Metric::HeadBytes, labels, bytes as f64);
    }
    listener.service().requests().sample(&mut out, rt_core::pause).await;
    out
}

fn sample_intake(intake: &CoreIntake, out: &mut Snapshot) {
    let counts = intake.counts();
    out.count(Metric::ReceivedSeries, vec![], counts.series.get());
    out.count(Metric::DuplicateSamples, vec![], counts.duplicates.get());
    out.count(Metric::ReceivedMetadata, vec![], counts.metadata.get());
    out.count(Metric::ReceivedStartTimestamps, vec![], counts.start_timestamps.get());
    out.count(Metric::RepairedSeries, vec![], counts.repaired.get());
    out.count(Metric::RejectedSeries, vec![], counts.bad_series.get());
}

fn sample_connections(listener: &CoreListener, shard: &dyn Fn() -> LabelPairs, out: &mut Snapshot) {
    let probe = listener.probe();
    out.count(Metric::AcceptedConnections, shard(), probe.connections.value());
    for (reason, count) in [
        ("too-many", &probe.connections_refused),
        ("idle", &probe.connections_idle),
        ("reader-too-slow", &probe.readers_too_slow),
        ("failed", &probe.connections_failed),
        ("panicked", &probe.panics),
    ] {
        let labels = vec![("reason", reason.to_owned())];
        out.count(Metric::LostConnections, labels, count.value());
    }
    out.gauge(Metric::ListenerConnections, shard(), listener.connections() as f64);
    out.count(Metric::ListenerReceivedBytes, shard(), probe.bytes_received.value());
    let (lent, kept) = listener.buffer_bytes();
    out.gauge(Metric::ListenerBufferBytes, shard(), (lent + kept) as f64);
}

/// The numbers of the process as a whole.
pub(super) fn sample_process(ack: Ack, lines: &Counts, out: &mut Snapshot) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    out.gauge(Metric::BuildInfo, version, 1.0);
    out.gauge(Metric::LogAck, vec![("ack", ack.to_string())], 1.0);
    panics::sample(out);
    lines.sample(out);
    let Some(usage) = process::usage() else { return };
    out.count_real(Metric::ProcessCpu, vec![], usage.cpu_s);
    out.gauge(Metric::ProcessStart, vec![], usage.started_s);
    out.gauge(Metric::ProcessResident, vec![], usage.resident_bytes as f64);
    out.gauge(Metric::ProcessVirtual, vec![], usage.virtual_bytes as f64);
    out.gauge(Metric::ProcessFds, vec![], usage.fds as f64);
    out.gauge(Metric::ProcessFdsMax, vec![], usage.fds_max.map_or(f64::INFINITY, |n| n as f64));
}

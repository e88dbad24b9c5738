//! What the log says at the start: what was understood, where it listens, what was replayed.

use std::net::SocketAddr;

use crate::config;
use crate::rt::core::Measured;
use crate::server::doors::Listening;
use crate::shard::recover::Report;

/// What was understood, and what the device said.
pub(super) fn say_start(config: &config::Receive, cpus: &[usize], shards: u16, measured: Measured) {
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

/// Where it listens; tests and scripts read this line.
pub(super) fn say_addresses(write: &[SocketAddr], grpc: &Listening, http: &Listening) {
    let addresses = |all: &Listening| -> Vec<SocketAddr> { all.iter().map(|(a, _)| *a).collect() };
    tracing::info!(
        remote_write = ?write,
        grpc = ?addresses(grpc),
        http = ?addresses(http),
        "listening"
    );
}

/// What a shard found in its log.
pub(super) fn say_report(shard: usize, report: &Report) {
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
    if report.refused > 0 {
        let what = "samples that the log has and the head refuses";
        tracing::warn!(shard, samples = report.refused, "{what}");
    }
    if report.orphaned > 0 {
        tracing::error!(shard, samples = report.orphaned, "samples whose series is lost");
    }
}

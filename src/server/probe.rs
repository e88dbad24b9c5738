//! A core's numbers, under the names users know.

use crate::listener::Status;
use crate::rt::core::Disk;
use crate::server::core::CoreListener;
use crate::server::intake::CoreIntake;
use crate::shard::Shard;
use crate::shard::write::Refusal;
use crate::telemetry::{Metric, Snapshot};

/// The numbers of one core now.
pub(super) fn snapshot(
    rounds: u64,
    intake: &CoreIntake,
    listener: &CoreListener,
    shard: &Shard<Disk>,
) -> Snapshot {
    let mut out = Snapshot::default();
    let shard_label = || vec![("shard", shard.number().to_string())];
    out.count(Metric::CoreSnapshots, shard_label(), rounds);
    let counts = intake.counts();
    out.count(Metric::ReceivedSeries, vec![], counts.series.get());
    out.count(Metric::DuplicateSamples, vec![], counts.duplicates.get());
    out.count(Metric::ReceivedMetadata, vec![], counts.metadata.get());
    out.count(Metric::RepairedSeries, vec![], counts.repaired.get());
    out.count(Metric::TurnedAwayRequests, vec![], counts.turned_away.get());
    let listened = listener.probe();
    for (status, answers) in Status::ALL.map(|status| (status, listened.answers(status))) {
        if answers > 0 {
            let code = vec![("code", status.code().to_string())];
            out.count(Metric::ListenerAnswers, code, answers);
        }
    }
    let reason = |reason: &str| vec![("reason", reason.to_owned())];
    for (why, count) in listened.refused() {
        out.count(Metric::RefusedRequests, reason(why), count);
    }
    for (why, count) in Refusal::ALL.into_iter().zip(&counts.refused) {
        out.count(Metric::RejectedSamples, reason(why.reason()), count.get());
    }
    let histograms = counts.histograms_refused.get();
    out.count(Metric::RejectedSamples, reason("histogram_not_stored"), histograms);
    let exemplars = counts.exemplars_refused.get();
    out.count(Metric::RejectedSamples, reason("exemplar_not_stored"), exemplars);
    out.count(Metric::RejectedSeries, vec![], counts.bad_series.get());
    out.gauge(Metric::ListenerConnections, shard_label(), listener.connections() as f64);
    let (lent, kept) = listener.buffer_bytes();
    out.gauge(Metric::ListenerBufferBytes, shard_label(), (lent + kept) as f64);
    let log = shard.log_stats();
    out.count(Metric::LogCommits, shard_label(), log.commits);
    out.count(Metric::LogBytes, shard_label(), log.bytes);
    out.count(Metric::LogIoErrors, shard_label(), log.io_errors);
    out.gauge(Metric::LogSegments, shard_label(), log.segments as f64);
    for tenant in shard.tenant_stats() {
        let name = || vec![("tenant", tenant.tenant.to_string())];
        out.gauge(Metric::HeadSeries, name(), tenant.series as f64);
        let floats = vec![("tenant", tenant.tenant.to_string()), ("type", "float".to_owned())];
        out.count(Metric::HeadSamplesAppended, floats, tenant.samples_appended);
    }
    for (part, bytes) in shard.memory() {
        let labels = vec![("shard", shard.number().to_string()), ("part", part.to_owned())];
        out.gauge(Metric::HeadBytes, labels, bytes as f64);
    }
    out
}

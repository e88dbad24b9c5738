//! The list of metrics, both text formats, and log lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tracing::Level;

use crate::telemetry::log::{Form, lines, subscriber, write_lines};
use crate::telemetry::{
    Buckets, Counters, Exposition, Format, Kind, LabelPairs, Metric, Snapshot, panics,
};

/// Renaming or removing one of these breaks somebody's dashboard: do it knowingly.
const METRICS: &[&str] = &[
    "Gauge tidegate_build_info",
    "Gauge thanos_status",
    "Gauge tidegate_log_ack",
    "Counter tidegate_panics",
    "Counter tidegate_core_snapshots",
    "Counter tidegate_log_lines",
    "Counter tidegate_log_lines_dropped",
    "Counter process_cpu_seconds",
    "Gauge process_start_time_seconds",
    "Gauge process_resident_memory_bytes",
    "Gauge process_virtual_memory_bytes",
    "Gauge process_open_fds",
    "Gauge process_max_fds",
    "Gauge prometheus_tsdb_head_series",
    "Gauge prometheus_tsdb_head_chunks",
    "Gauge prometheus_tsdb_head_min_time",
    "Gauge prometheus_tsdb_head_max_time",
    "Counter prometheus_tsdb_head_samples_appended",
    "Counter prometheus_tsdb_head_out_of_order_samples_appended",
    "Gauge thanos_receive_head_series_limit",
    "Counter thanos_receive_limits_config_reload",
    "Counter thanos_receive_limits_config_reload_err",
    "Gauge tidegate_head_bytes",
    "Histogram thanos_receive_write_timeseries",
    "Histogram thanos_receive_write_samples",
    "Counter tidegate_received_series",
    "Counter tidegate_received_metadata",
    "Counter tidegate_received_start_timestamps",
    "Counter tidegate_duplicate_samples",
    "Counter tidegate_rejected_samples",
    "Counter tidegate_rejected_series",
    "Counter tidegate_repaired_series",
    "Counter tidegate_turned_away_requests",
    "Counter tidegate_refused_requests",
    "Counter tidegate_listener_accepted_connections",
    "Counter tidegate_listener_lost_connections",
    "Gauge tidegate_listener_connections",
    "Gauge tidegate_reader_connections",
    "Counter tidegate_reader_connections_refused",
    "Counter tidegate_reader_connections_lost",
    "Counter tidegate_listener_received_bytes",
    "Gauge tidegate_listener_buffer_bytes",
    "Counter tidegate_log_commits",
    "Counter tidegate_log_bytes",
    "Counter tidegate_log_io_errors",
    "Gauge tidegate_log_writable",
    "Gauge tidegate_log_segments",
    "Gauge prometheus_tsdb_blocks_loaded",
    "Counter prometheus_tsdb_compactions",
    "Counter prometheus_tsdb_compactions_failed",
    "Counter thanos_shipper_uploads",
    "Counter thanos_shipper_upload_failures",
    "Counter thanos_shipper_corrupted_blocks",
    "Gauge tidegate_ship_backlog_blocks",
    "Gauge tidegate_ship_backlog_bytes",
    "Counter thanos_objstore_bucket_operations",
    "Counter thanos_objstore_bucket_operation_failures",
    "Histogram thanos_objstore_bucket_operation_duration_seconds",
    "Histogram thanos_objstore_bucket_operation_transferred_bytes",
    "Gauge thanos_objstore_bucket_last_successful_upload_time",
    "Counter grpc_server_started",
    "Counter grpc_server_handled",
    "Histogram grpc_server_handling_seconds",
    "Counter http_requests",
    "Histogram http_request_duration_seconds",
    "Histogram http_request_size_bytes",
    "Gauge http_inflight_requests",
    "Counter tidegate_query_failures",
];

#[test]
fn the_list_of_metrics() {
    let list: Vec<String> =
        Metric::ALL.iter().map(|m| format!("{:?} {}", m.kind(), m.name())).collect();
    assert_eq!(list, METRICS);
}

#[test]
fn every_metric_is_well_named() {
    let mut names: Vec<&str> = Metric::ALL.iter().map(|m| m.name()).collect();
    for metric in Metric::ALL {
        let name = metric.name();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(!name.ends_with("_total"), "{name}: the encoder adds _total");
        let ours = name.starts_with("tidegate_");
        assert!(
            ours || ["thanos_", "prometheus_", "grpc_", "http_", "process_"]
                .iter()
                .any(|p| name.starts_with(p)),
            "{name}: whose is it?"
        );
        assert!(metric.help().ends_with('.') && !metric.help().contains('\n'), "{name}");
        assert_eq!(metric.kind() == Kind::Histogram, !metric.bounds().is_empty(), "{name}");
        assert!(metric.bounds().is_sorted() && metric.bounds().iter().all(|b| b.is_finite()));
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Metric::ALL.len(), "each name once");
}

fn tenant(name: &str) -> LabelPairs {
    vec![("tenant", name.into())]
}

/// Two cores, one of them seen twice by different sources, and the control side.
fn exposition() -> Exposition {
    let mut core = Snapshot::default();
    core.gauge(Metric::HeadSeries, tenant("a"), 3.0);
    core.count(Metric::CoreSnapshots, vec![], 1);
    let mut sizes = Buckets::of(Metric::HttpRequestBytes);
    for bytes in [100.0, 1024.0, 1e9] {
        sizes.observe(bytes);
    }
    core.buckets(Metric::HttpRequestBytes, vec![], sizes);
    let mut other = core.clone();
    other.gauge(Metric::HeadSeries, tenant("b\"\n\\"), 1.0);
    let mut all = Snapshot::default();
    all.merge(&core);
    let mut exposition = Exposition::default();
    exposition.source(move |out| out.merge(&all));
    exposition.source(move |out| out.merge(&other));
    let control = Counters::default();
    control.count(Metric::CoreSnapshots, vec![], 5);
    control.set(Metric::HeadSeries, tenant("c"), 9.0);
    control.set(Metric::HeadSeries, tenant("c"), 0.5);
    control.observe(Metric::HttpRequestBytes, vec![], 20_000.0);
    assert_eq!(control.total(Metric::HttpRequestBytes, &[]) as u64, 1);
    assert_eq!(control.total(Metric::HeadSeries, &[("tenant", "b")]) as u64, 0);
    exposition.source(move |out| control.sample(out));
    exposition.source(|out| out.count_real(Metric::ProcessCpu, vec![], 1.25));
    exposition
}

#[test]
fn both_formats() {
    let open = "\
# HELP tidegate_core_snapshots Snapshots of its counters that a core has published; \
stands still if the core does.
# TYPE tidegate_core_snapshots counter
tidegate_core_snapshots_total 7
# HELP process_cpu_seconds Processor time of the process, user and system.
# TYPE process_cpu_seconds counter
process_cpu_seconds_total 1.25
# HELP prometheus_tsdb_head_series Series in the heads.
# TYPE prometheus_tsdb_head_series gauge
prometheus_tsdb_head_series{tenant=\"a\"} 6.0
prometheus_tsdb_head_series{tenant=\"b\\\"\\n\\\\\"} 1.0
prometheus_tsdb_head_series{tenant=\"c\"} 0.5
# HELP http_request_size_bytes Size of the body of a write request as sent, compressed.
# TYPE http_request_size_bytes histogram
http_request_size_bytes_sum 2000022248.0
http_request_size_bytes_count 7
http_request_size_bytes_bucket{le=\"1024.0\"} 4
http_request_size_bytes_bucket{le=\"16384.0\"} 4
http_request_size_bytes_bucket{le=\"262144.0\"} 5
http_request_size_bytes_bucket{le=\"4194304.0\"} 5
http_request_size_bytes_bucket{le=\"67108864.0\"} 5
http_request_size_bytes_bucket{le=\"+Inf\"} 7
# EOF
";
    let exposition = exposition();
    assert_eq!(exposition.render(Format::OpenMetrics).expect("text"), open);
    let older = open
        .replace("HELP tidegate_core_snapshots ", "HELP tidegate_core_snapshots_total ")
        .replace("TYPE tidegate_core_snapshots ", "TYPE tidegate_core_snapshots_total ")
        .replace("HELP process_cpu_seconds ", "HELP process_cpu_seconds_total ")
        .replace("TYPE process_cpu_seconds ", "TYPE process_cpu_seconds_total ")
        .replace("# EOF\n", "");
    assert_eq!(exposition.render(Format::Text).expect("text"), older);
}

#[test]
fn a_panic_is_counted_and_logged_before_it_is_caught() {
    let so_far = || {
        let mut out = Snapshot::default();
        panics::sample(&mut out);
        out.total(Metric::Panics, &[]) as u64
    };
    // Other tests of this process may fail meanwhile, and theirs are told as ever.
    let (of_std, me) = (std::panic::take_hook(), std::thread::current().id());
    let on_purpose = Arc::new(AtomicBool::new(true));
    let is_ours = Arc::clone(&on_purpose);
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == me && is_ours.load(Relaxed) {
            panics::heard(panic);
        } else {
            of_std(panic);
        }
    }));
    let before = so_far();
    let said = logged(Form::Logfmt, || {
        std::panic::catch_unwind(|| panic!("on purpose")).expect_err("it panics");
    });
    on_purpose.store(false, Relaxed);
    // Other tests of this process may panic on purpose as well.
    assert!(so_far() > before);
    assert!(
        said.starts_with("ts=T level=error component=telemetry msg=\"panicked at src"),
        "{said}"
    );
    assert!(said.contains(": on purpose\" thread="), "{said}");
}

#[test]
fn the_format_is_what_the_client_takes() {
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    assert_eq!(Format::of(prometheus), Format::OpenMetrics);
    for other in ["", "*/*", "text/plain", "text/html,application/xhtml+xml"] {
        assert_eq!(Format::of(other), Format::Text, "{other}");
    }
}

/// What `log` writes, with the time cut out.
fn logged(form: Form, log: impl FnOnce()) -> String {
    let (lines, waiting) = lines();
    tracing::subscriber::with_default(subscriber(lines, Level::INFO, form), log);
    let mut out = Vec::new();
    write_lines(&waiting, form, &mut out);
    let text = String::from_utf8(out).expect("text");
    let mut cut = String::new();
    for line in text.lines() {
        let (before, after) = line.split_once("20").expect("a year");
        let (_, after) = after.split_once('Z').expect("UTC");
        cut.extend([before, "T", after, "\n"]);
    }
    cut
}

#[test]
fn lines_hold_what_strangers_say() {
    let log = || {
        tracing::info!(tenant = "a b", tries = 3, "upload \"x\" failed");
        tracing::debug!("too fine");
        tracing::warn!(target: "tidegate::ship::job", error = %"a\nts=forged level=info", "");
        tracing::error!(target: "h2", value = ?Some(1.5), plain = "x-1_y/z", "e");
    };
    assert_eq!(
        logged(Form::Logfmt, log),
        "ts=T level=info component=telemetry msg=\"upload \\\"x\\\" failed\" \
         tenant=\"a b\" tries=3\n\
         ts=T level=warn component=ship msg=\"\" error=\"a\\nts=forged level=info\"\n\
         ts=T level=error component=h2 msg=e value=Some(1.5) plain=x-1_y/z\n"
    );
    let json = logged(Form::Json, log);
    let rows: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1]["error"], "a\nts=forged level=info");
    assert_eq!(rows[0]["msg"], "upload \"x\" failed");
    assert_eq!((&rows[2]["level"], &rows[2]["component"]), (&"error".into(), &"h2".into()));
    let journald = logged(Form::Journald, log);
    let begins: Vec<&str> = journald.lines().map(|line| &line[..12]).collect();
    assert_eq!(begins, ["<6>ts=T leve", "<4>ts=T leve", "<3>ts=T leve"]);
}

#[test]
fn a_value_in_a_line_is_bounded() {
    let long = "é".repeat(1 << 20);
    let said = logged(Form::Logfmt, || tracing::info!(long, "{long}"));
    assert!((8 << 10..9 << 10).contains(&said.len()), "{} bytes", said.len());
}

#[test]
fn a_full_channel_drops_counts_and_says_so() {
    let (lines, waiting) = lines();
    let counts = lines.counts();
    let subscriber = subscriber(lines, Level::INFO, Form::Logfmt);
    tracing::subscriber::with_default(subscriber, || {
        for i in 0..5_000 {
            tracing::info!(i, "line");
        }
    });
    let mut out = Vec::new();
    write_lines(&waiting, Form::Json, &mut out);
    let text = String::from_utf8(out).expect("text");
    assert_eq!(text.lines().count(), 4096 + 1);
    let last: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON as well");
    assert_eq!((&last["msg"], &last["lines"]), (&"log lines dropped".into(), &"904".into()));
    let mut snapshot = Snapshot::default();
    counts.sample(&mut snapshot);
    let mut exposition = Exposition::default();
    exposition.source(move |out| out.merge(&snapshot));
    let text = exposition.render(Format::Text).expect("text");
    assert!(text.contains("tidegate_log_lines_total{level=\"info\"} 5000\n"), "{text}");
    assert!(text.contains("tidegate_log_lines_dropped_total 904\n"), "{text}");
}

/// Says what is written, when it is.
struct Sink(std::sync::mpsc::Sender<Vec<u8>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).expect("the test listens");
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_flush_waits_for_the_writer() {
    let (lines, waiting) = lines();
    let last = lines.clone();
    let (out, written) = std::sync::mpsc::channel();
    let writer =
        std::thread::Builder::new().spawn(move || write_lines(&waiting, Form::Logfmt, Sink(out)));
    tracing::subscriber::with_default(subscriber(lines, Level::INFO, Form::Logfmt), || {
        tracing::info!("last words");
    });
    assert!(last.flush());
    let text = written.try_recv().expect("it is written when flush returns");
    assert!(text.ends_with(b"msg=\"last words\"\n"));
    drop(last);
    writer.expect("a thread").join().expect("no panic");
    assert!(
        !crate::telemetry::log::lines().0.flush(),
        "without a writer there is nothing to wait for"
    );
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_back() {
    const ALL: u64 = 20_000;
    let (lines, waiting) = lines();
    let (last, counts) = (lines.clone(), lines.counts());
    let (mut unread, pipe) = std::io::pipe().expect("a pipe");
    let writer =
        std::thread::Builder::new().spawn(move || write_lines(&waiting, Form::Logfmt, pipe));
    tracing::subscriber::with_default(subscriber(lines, Level::INFO, Form::Logfmt), || {
        for i in 0..ALL {
            tracing::info!(i, "line");
        }
    });
    assert!(!last.flush(), "the writer is stuck");
    drop(last);
    let mut snapshot = Snapshot::default();
    counts.sample(&mut snapshot);
    let dropped = snapshot.total(Metric::LogLinesDropped, &[]) as u64;
    assert!(dropped > ALL / 2, "{dropped} dropped");
    // Somebody reads after all.
    let text = std::io::read_to_string(&mut unread).expect("text");
    writer.expect("a thread").join().expect("no panic");
    let told = text.lines().filter(|line| line.contains("log lines dropped"));
    let told = told.filter_map(|line| line.rsplit_once("lines=")?.1.parse::<u64>().ok());
    assert_eq!(told.sum::<u64>(), dropped);
    let written = text.lines().filter(|line| line.contains(" msg=line ")).count();
    assert_eq!(written as u64 + dropped, ALL, "each line is written or counted");
}

/// A disk that is full for a while.
struct Full {
    refuses: usize,
    out: Vec<u8>,
}

impl std::io::Write for &mut Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_written_is_counted_and_said_later() {
    let (lines, waiting) = lines();
    tracing::subscriber::with_default(subscriber(lines, Level::INFO, Form::Logfmt), || {
        for i in 0..5 {
            tracing::info!(i, "line");
        }
    });
    let mut disk = Full { refuses: 3, out: Vec::new() };
    write_lines(&waiting, Form::Logfmt, &mut disk);
    let text = String::from_utf8(disk.out).expect("text");
    assert_eq!(text.matches("msg=line").count(), 2, "{text}");
    assert!(text.ends_with("msg=\"log lines dropped\" lines=3\n"), "{text}");
}

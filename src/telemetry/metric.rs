//! The closed list of all metrics.
//!
//! Names are those of Thanos or Prometheus where they have one for the same thing, since dashboards
//! and alerts read them; else `tidegate_<stage>_<noun>_<unit>`. To add a metric is to add a line
//! here and one to the snapshot in the tests: a visible act, like renaming one.

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows. Its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// Builds the enum and its table from one list.
macro_rules! metrics {
    ($($variant:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// A metric.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// All of them, in the order of a scrape.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its family name: without `_total`, which samples of counters carry.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence on what it counts.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// Its kind.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
        }
    };
}

metrics! {
    BuildInfo, Gauge, "tidegate_build_info",
        "Always 1; the labels say which build runs.";
    Status, Gauge, "thanos_status",
        "Whether the component passes the check: 1 or 0.";
    CoreSnapshots, Counter, "tidegate_core_snapshots",
        "Snapshots of its counters that a core has published; stands still if the core does.";
    LogLines, Counter, "tidegate_log_lines",
        "Log lines by level.";
    LogLinesDropped, Counter, "tidegate_log_lines_dropped",
        "Log lines thrown away because the writer could not keep up.";
    HeadSeries, Gauge, "prometheus_tsdb_head_series",
        "Series in the heads.";
    HeadChunks, Gauge, "prometheus_tsdb_head_chunks",
        "Chunks in the heads.";
    HeadMinTime, Gauge, "prometheus_tsdb_head_min_time",
        "Oldest time in the heads, in milliseconds.";
    HeadMaxTime, Gauge, "prometheus_tsdb_head_max_time",
        "Newest time in the heads, in milliseconds.";
    HeadSamplesAppended, Counter, "prometheus_tsdb_head_samples_appended",
        "Samples appended to the heads.";
    HeadBytes, Gauge, "tidegate_head_bytes",
        "Memory of the heads by part.";
    ReceivedSeries, Counter, "tidegate_received_series",
        "Series in write requests, each time they come.";
    ReceivedMetadata, Counter, "tidegate_received_metadata",
        "Metadata entries in write requests.";
    DuplicateSamples, Counter, "tidegate_duplicate_samples",
        "Samples that were stored before, exactly; they count as written.";
    RejectedSamples, Counter, "tidegate_rejected_samples",
        "Samples, histograms and exemplars that were refused, by reason.";
    RejectedSeries, Counter, "tidegate_rejected_series",
        "Series whose labels are no label set.";
    RepairedSeries, Counter, "tidegate_repaired_series",
        "New spellings of series whose labels were sorted or lost empty values.";
    TurnedAwayRequests, Counter, "tidegate_turned_away_requests",
        "Write requests answered 503: not ready, draining, or no room.";
    ListenerAnswers, Counter, "tidegate_listener_answers",
        "Answers to senders, by code.";
    RefusedRequests, Counter, "tidegate_refused_requests",
        "Write requests refused as a whole, by reason.";
    ListenerConnections, Gauge, "tidegate_listener_connections",
        "Open connections of senders.";
    ListenerBufferBytes, Gauge, "tidegate_listener_buffer_bytes",
        "Bytes of body buffers, in use and kept.";
    LogCommits, Counter, "tidegate_log_commits",
        "Blocks of the log made durable.";
    LogBytes, Counter, "tidegate_log_bytes",
        "Bytes of the log written, padding included.";
    LogIoErrors, Counter, "tidegate_log_io_errors",
        "Writes and flushes of the log that the device refused.";
    LogSegments, Gauge, "tidegate_log_segments",
        "Segments of the log that hold something.";
    BlocksLoaded, Gauge, "prometheus_tsdb_blocks_loaded",
        "Finished blocks open for reading.";
    GrpcStarted, Counter, "grpc_server_started",
        "Calls started.";
    GrpcHandled, Counter, "grpc_server_handled",
        "Calls ended, by code.";
    GrpcHandlingSeconds, Histogram, "grpc_server_handling_seconds",
        "Time from the start of a call to its end.";
    HttpRequests, Counter, "http_requests",
        "HTTP requests answered on the control side, by code, handler and method.";
    HttpRequestDuration, Histogram, "http_request_duration_seconds",
        "Time from the start of an HTTP request on the control side to its answer.";
    QueryFailures, Counter, "tidegate_query_failures",
        "Parts of queries that failed, by reason.";
}

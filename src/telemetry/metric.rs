//! The closed list of all metrics.
//!
//! Names are those of Thanos or Prometheus where they have one for just the same thing, since
//! dashboards and alerts read them; else `tidegate_<stage>_<noun>_<unit>`. To add a metric is to
//! add a line here and one to the snapshot in the tests: a visible act, like renaming one.

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
        "Always 1; the label says which version runs.";
    Status, Gauge, "thanos_status",
        "Whether the component passes the check: 1 or 0.";
    LogAck, Gauge, "tidegate_log_ack",
        "Always 1; the label is --log.ack, which says what a 2xx is worth.";
    Panics, Counter, "tidegate_panics",
        "Panics that were caught: each cost one connection or one query.";
    CoreSnapshots, Counter, "tidegate_core_snapshots",
        "Snapshots of its counters that a core has published; stands still if the core does.";
    LogLines, Counter, "tidegate_log_lines",
        "Log lines by level.";
    LogLinesDropped, Counter, "tidegate_log_lines_dropped",
        "Log lines thrown away because the writer could not keep up.";
    ProcessCpu, Counter, "process_cpu_seconds",
        "Processor time of the process, user and system.";
    ProcessStart, Gauge, "process_start_time_seconds",
        "When the process started, in seconds since the epoch.";
    ProcessResident, Gauge, "process_resident_memory_bytes",
        "Memory of the process that is in memory now.";
    ProcessVirtual, Gauge, "process_virtual_memory_bytes",
        "Address space of the process.";
    ProcessFds, Gauge, "process_open_fds",
        "Open file descriptors.";
    ProcessFdsMax, Gauge, "process_max_fds",
        "Most file descriptors that may be open.";
    HeadSeries, Gauge, "prometheus_tsdb_head_series",
        "Series in the heads.";
    HeadChunks, Gauge, "prometheus_tsdb_head_chunks",
        "Chunks in the heads, without those of samples out of order.";
    HeadMinTime, Gauge, "prometheus_tsdb_head_min_time",
        "Oldest time in the heads, in milliseconds.";
    HeadMaxTime, Gauge, "prometheus_tsdb_head_max_time",
        "Newest time in the heads, in milliseconds.";
    HeadSamplesAppended, Counter, "prometheus_tsdb_head_samples_appended",
        "Samples appended to the heads.";
    HeadOutOfOrder, Counter, "prometheus_tsdb_head_out_of_order_samples_appended",
        "Samples and histograms older than the newest of their series that were appended to the \
         heads.";
    HeadSeriesLimit, Gauge, "thanos_receive_head_series_limit",
        "Series that tenants may have in the heads, by the limits file; whom it does not name has \
         that of the empty name.";
    LimitsReloads, Counter, "thanos_receive_limits_config_reload",
        "New limits of tenants that were taken from the limits file.";
    LimitsReloadErrors, Counter, "thanos_receive_limits_config_reload_err",
        "Limits files that could not be used.";
    HeadBytes, Gauge, "tidegate_head_bytes",
        "Memory of the heads by part.";
    WriteSeries, Histogram, "thanos_receive_write_timeseries",
        "Series of the write requests that were read, by the code of the answer.";
    WriteSamples, Histogram, "thanos_receive_write_samples",
        "Samples of the write requests that were read, by the code of the answer.";
    ReceivedSeries, Counter, "tidegate_received_series",
        "Series in write requests, each time they come.";
    ReceivedMetadata, Counter, "tidegate_received_metadata",
        "Metadata entries in write requests.";
    ReceivedStartTimestamps, Counter, "tidegate_received_start_timestamps",
        "Times in write requests at which a counter began; they are not stored.";
    DuplicateSamples, Counter, "tidegate_duplicate_samples",
        "Samples that were stored before, exactly; they count as written.";
    RejectedSamples, Counter, "tidegate_rejected_samples",
        "Samples, histograms and exemplars that were refused, by reason.";
    RejectedSeries, Counter, "tidegate_rejected_series",
        "Series that cannot be stored: labels that are no label set, or nothing to store.";
    RepairedSeries, Counter, "tidegate_repaired_series",
        "New spellings of series whose labels were sorted or lost empty values.";
    TurnedAwayRequests, Counter, "tidegate_turned_away_requests",
        "Write requests answered 503, by reason: not ready, draining, no room, or no log.";
    RefusedRequests, Counter, "tidegate_refused_requests",
        "Write requests refused as a whole, by reason.";
    AcceptedConnections, Counter, "tidegate_listener_accepted_connections",
        "Connections of senders that were served.";
    LostConnections, Counter, "tidegate_listener_lost_connections",
        "Connections of senders that did not end with an answer or by the sender, by reason.";
    ListenerConnections, Gauge, "tidegate_listener_connections",
        "Open connections of senders.";
    ReaderConnections, Gauge, "tidegate_reader_connections",
        "Open connections of readers, by door.";
    ReaderConnectionsRefused, Counter, "tidegate_reader_connections_refused",
        "Connections of readers that were closed because there were too many, by door.";
    ReaderConnectionsLost, Counter, "tidegate_reader_connections_lost",
        "Connections of readers that were closed because they did not take their answers, by door.";
    ListenerReceivedBytes, Counter, "tidegate_listener_received_bytes",
        "Bytes received from senders, heads and refused bodies included.";
    ListenerBufferBytes, Gauge, "tidegate_listener_buffer_bytes",
        "Bytes of body buffers, in use and kept.";
    LogCommits, Counter, "tidegate_log_commits",
        "Blocks of the log made durable.";
    LogBytes, Counter, "tidegate_log_bytes",
        "Bytes of the log written, padding included.";
    LogIoErrors, Counter, "tidegate_log_io_errors",
        "Writes and flushes of the log that the device refused.";
    LogWritable, Gauge, "tidegate_log_writable",
        "Whether the log takes writes: 1, or 0 while it waits for room or when it is dead.";
    LogSegments, Gauge, "tidegate_log_segments",
        "Segments of the log that hold something.";
    BlocksLoaded, Gauge, "prometheus_tsdb_blocks_loaded",
        "Finished blocks open for reading.";
    Compactions, Counter, "prometheus_tsdb_compactions",
        "Blocks written from the heads.";
    CompactionsFailed, Counter, "prometheus_tsdb_compactions_failed",
        "Flushes of a head to a block that failed; they are tried again.";
    ShipperUploads, Counter, "thanos_shipper_uploads",
        "Blocks brought to the bucket and seen whole there.";
    ShipperUploadFailures, Counter, "thanos_shipper_upload_failures",
        "Attempts to bring a block to the bucket that failed; they are repeated.";
    ShipperCorruptedBlocks, Counter, "thanos_shipper_corrupted_blocks",
        "Attempts that failed because the block is damaged on the local disk.";
    ShipBacklogBlocks, Gauge, "tidegate_ship_backlog_blocks",
        "Blocks that are not in the bucket yet.";
    ShipBacklogBytes, Gauge, "tidegate_ship_backlog_bytes",
        "Bytes of the blocks that are not in the bucket yet.";
    BucketOperations, Counter, "thanos_objstore_bucket_operations",
        "Operations asked of the bucket.";
    BucketOperationFailures, Counter, "thanos_objstore_bucket_operation_failures",
        "Operations of the bucket that failed; an object that is not there is no failure.";
    BucketOperationDuration, Histogram, "thanos_objstore_bucket_operation_duration_seconds",
        "Time of an operation of the bucket.";
    BucketTransferredBytes, Histogram, "thanos_objstore_bucket_operation_transferred_bytes",
        "Bytes of the object that an operation of the bucket moved.";
    BucketLastUpload, Gauge, "thanos_objstore_bucket_last_successful_upload_time",
        "When the last block was seen whole in the bucket, in seconds since the epoch.";
    GrpcStarted, Counter, "grpc_server_started",
        "Calls started.";
    GrpcHandled, Counter, "grpc_server_handled",
        "Calls ended, by code.";
    GrpcHandlingSeconds, Histogram, "grpc_server_handling_seconds",
        "Time from the start of a call to its end.";
    HttpRequests, Counter, "http_requests",
        "HTTP requests answered; handler receive is the data port.";
    HttpRequestDuration, Histogram, "http_request_duration_seconds",
        "Time from the head of an HTTP request to its answer.";
    HttpRequestBytes, Histogram, "http_request_size_bytes",
        "Size of the body of a write request as sent, compressed.";
    HttpInFlight, Gauge, "http_inflight_requests",
        "Write requests that are admitted and not answered.";
    QueryFailures, Counter, "tidegate_query_failures",
        "Parts of queries that failed, by reason.";
}

impl Metric {
    /// Upper bounds of a histogram's buckets but for infinity, as Thanos has them where it has the
    /// metric; none for other kinds.
    pub fn bounds(self) -> &'static [f64] {
        const KIB: f64 = 1024.0;
        match self {
            Self::WriteSeries | Self::WriteSamples => {
                &[10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10_000.0]
            }
            Self::HttpRequestDuration => {
                &[0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 60.0, 120.0]
            }
            Self::GrpcHandlingSeconds => {
                &[0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0]
            }
            Self::BucketOperationDuration => {
                &[0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0]
            }
            Self::HttpRequestBytes | Self::BucketTransferredBytes => {
                const { &[KIB, 16.0 * KIB, 256.0 * KIB, 4096.0 * KIB, 65_536.0 * KIB] }
            }
            _ => &[],
        }
    }
}

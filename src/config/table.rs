//! The table of all flags of `tidegate receive`, and the only place where one is defined.
//!
//! Parser, `--help`, the notes at start and the tests are made from it. It holds every flag of
//! Thanos Receive 0.43 with Thanos' spelling and default, so that a command line that works there
//! says here what it does: the flag *acts*; or it does *nothing* here and the start says why; or it
//! is *refused*, because Tidegate would behave otherwise than asked, and the start ends with the
//! reason and the way out. A refused flag may be given with its default value: that asks nothing.
//!
//! A row is one line of fact, so rows are short and sorted by what an operator looks for.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `--x` or `--no-x`.
    Bool,
    /// Any text.
    Text,
    /// A whole number from 0.
    Count,
    /// A duration in Prometheus' syntax: `1d12h`.
    Duration,
    /// A size: `512`, `64KiB`, `32MiB`. As in Thanos, `MB` means `MiB`.
    Bytes,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Where to listen: `0.0.0.0:10902`, `:10902`, `[::1]:10902`, `localhost:10902`.
    Address,
    /// `name="value"`.
    Label,
}

/// What Tidegate does with a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// As the help says.
    Acts,
    /// Nothing, for this reason. Said at start when the flag is given.
    Nothing(&'static str),
    /// It ends the start, for this reason, when given another value than the default.
    Refused(&'static str),
}

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name without the dashes.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its default as one would write it; empty for none.
    pub default: &'static str,
    /// Whether it may be given several times.
    pub repeatable: bool,
    /// Whether `--help` is silent about it.
    pub hidden: bool,
    /// What it is for; for flags without effect the reason says all.
    pub help: &'static str,
    /// What Tidegate does with it.
    pub does: Does,
}

impl Flag {
    const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    const fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }
}

const fn acts(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, repeatable: false, hidden: false, help, does: Does::Acts }
}

const fn nothing(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    let does = Does::Nothing(why);
    Flag { name, kind, default, repeatable: false, hidden: false, help: "", does }
}

const fn refused(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    let does = Does::Refused(why);
    Flag { name, kind, default, repeatable: false, hidden: false, help: "", does }
}

/// The flag of a name.
pub fn find(name: &str) -> Option<&'static Flag> {
    flags().find(|flag| flag.name == name)
}

/// All flags in the order of the table.
pub fn flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|(_, flags)| flags.iter())
}

/// All flags under the headings of `--help`.
pub const GROUPS: &[(&str, &[Flag])] = &[
    ("Receiving", RECEIVING),
    ("Limits of one request and one tenant", LIMITS),
    ("Reading", READING),
    ("Data", DATA),
    ("Labels and bucket", BUCKET),
    ("Log", LOG),
    ("Accepted from Thanos; do nothing here, and the start says so", NOTHING),
    ("Known, and not done here; another value than the default ends the start", REFUSED),
];

use Kind::{Address, Bool, Bytes, Count, Duration, Label, OneOf, Text};

const RECEIVING: &[Flag] = &[
    acts(
        "remote-write.address",
        Address,
        "0.0.0.0:19291",
        "Where remote write is received: /api/v1/receive and /api/v1/write.",
    ),
    acts(
        "log.ack",
        OneOf(&["durable", "relaxed"]),
        "durable",
        "When 2xx is said: durable, once the device has confirmed a flush after the data; relaxed, \
         once it is written to the log, before that flush (kill -9 loses nothing, a power cut the \
         last moments).",
    ),
    acts(
        "shards",
        Count,
        "",
        "Shards, one core each. Default: all cores it may run on, less one from four cores up. May \
         change between starts.",
    ),
    acts(
        "receive.tenant-header",
        Text,
        "THANOS-TENANT",
        "HTTP header that names the tenant of a request. THANOS-TENANT is read as well.",
    ),
    acts(
        "receive.default-tenant-id",
        Text,
        "default-tenant",
        "Tenant of a request that names none.",
    ),
];

const LIMITS: &[Flag] = &[
    acts(
        "receive.body-bytes-max",
        Bytes,
        "32MiB",
        "Largest body of a request as sent, compressed. Above: 413.",
    ),
    acts(
        "receive.decoded-bytes-max",
        Bytes,
        "32MiB",
        "Largest body after decompression, checked before memory is taken. Above: 413.",
    ),
    acts(
        "receive.connections-per-core-max",
        Count,
        "1024",
        "Most connections of senders at a time on one core. Above: 503.",
    ),
    acts("receive.labels-per-series-max", Count, "128", "Most labels of a series."),
    acts("receive.label-name-bytes-max", Bytes, "1KiB", "Longest name of a label."),
    acts("receive.label-value-bytes-max", Bytes, "16KiB", "Longest value of a label."),
    acts(
        "receive.label-set-bytes-max",
        Bytes,
        "64KiB",
        "Largest label set of a series, names and values together as they are sent.",
    ),
    acts(
        "receive.limits-config-file",
        Text,
        "",
        "YAML file of what each tenant may write: size, series and samples of a request, series in \
         memory. It is read again when it changes; a bad one is told of, and the last good one \
         holds.",
    ),
    acts("receive.limits-config", Text, "", "The same on the command line."),
    acts(
        "receive.limits-config-reload-timer",
        Duration,
        "1s",
        "How often the limits file is looked at.",
    ),
];

const READING: &[Flag] = &[
    acts("grpc-address", Address, "0.0.0.0:10901", "Where the StoreAPI is served."),
    acts(
        "grpc-grace-period",
        Duration,
        "2m",
        "Longest time open gRPC calls get at a stop, but never more than 4s.",
    ),
    acts(
        "grpc-server-max-connection-age",
        Duration,
        "60m",
        "Age at which a gRPC connection is asked to reconnect; 0 for none.",
    ),
    acts(
        "http-address",
        Address,
        "0.0.0.0:10902",
        "Where metrics, health and the API for labels and series are served.",
    ),
    acts(
        "http-grace-period",
        Duration,
        "2m",
        "Longest time open HTTP requests get at a stop, but never more than 4s.",
    ),
];

const DATA: &[Flag] = &[
    acts("tsdb.path", Text, "./data", "Folder of all local data."),
    acts(
        "tsdb.retention",
        Duration,
        "15d",
        "How long blocks stay on local disk, the default bucket included; 0d for ever. Older \
         samples are refused.",
    ),
    acts(
        "tsdb.too-far-in-future.time-window",
        Duration,
        "10m",
        "How far ahead of the clock a sample may be; 0s for no bound. (Thanos: 0s)",
    ),
    acts(
        "tsdb.out-of-order.time-window",
        Duration,
        "0s",
        "How much older than the newest sample of its tenant on the same core a sample may be \
         that is older than the newest of its series; 0s to refuse those, at most 1d. Ranges stay \
         in memory until they are that old, at least an hour.",
    ),
    acts(
        "tsdb.out-of-order.cap-max",
        Count,
        "0",
        "Most samples of a chunk of samples out of order, up to 120; 0 for 32.",
    ),
];

const BUCKET: &[Flag] = &[
    acts(
        "label",
        Label,
        "",
        "External label of all series and blocks, name=\"value\". Default: \
         receive_replica=\"<hostname>\"; with --objstore.config at least one must be given.",
    )
    .repeatable(),
    acts("receive.tenant-label-name", Text, "tenant_id", "External label that carries the tenant."),
    acts(
        "tsdb.shard-label",
        Text,
        "",
        "External label that carries the shard, for a stock Thanos Compactor without vertical \
         compaction. Default: none.",
    ),
    acts(
        "objstore.config-file",
        Text,
        "",
        "File with Thanos' objstore YAML, type S3 or FILESYSTEM. Default: the folder bucket in \
         --tsdb.path.",
    ),
    acts(
        "objstore.config",
        Text,
        "",
        "The same YAML on the command line. Holds secrets: prefer the file.",
    ),
    acts(
        "hash-func",
        OneOf(&["", "SHA256"]),
        "",
        "Hash of each file to write into meta.json: SHA256 or none.",
    ),
];

const LOG: &[Flag] = &[
    acts(
        "log.level",
        OneOf(&["debug", "info", "warn", "error"]),
        "info",
        "Least severe messages that are logged.",
    ),
    acts(
        "log.format",
        OneOf(&["logfmt", "json", "journald"]),
        "logfmt",
        "Form of log lines, on standard error; under systemd the journal takes them from there. \
         journald is logfmt behind the severity as the journal reads it.",
    ),
];

/// Why flags of forwarding do nothing.
const NO_FORWARDING: &str = "Tidegate forwards to no other receiver";
/// Why flags of Go's memory do nothing.
const NO_GO: &str = "there is no Go runtime to tune";
/// Why flags that say how to read hashrings do nothing.
const NO_HASHRING: &str = "there is no hashring here, this node takes what it is sent";
/// Why caches of postings do nothing.
const NO_POSTINGS_CACHE: &str = "postings are not cached, they are in memory or mapped";

const NOTHING: &[Flag] = &[
    nothing("enable-auto-gomemlimit", Bool, "false", NO_GO),
    nothing("auto-gomemlimit.ratio", Text, "0.9", NO_GO),
    nothing("remote-write.client-tls-cert", Text, "", NO_FORWARDING),
    nothing("remote-write.client-tls-key", Text, "", NO_FORWARDING),
    nothing("remote-write.client-tls-ca", Text, "", NO_FORWARDING),
    nothing("remote-write.client-tls-secure", Bool, "false", NO_FORWARDING),
    nothing("remote-write.client-tls-skip-verify", Bool, "false", NO_FORWARDING),
    nothing("remote-write.client-server-name", Text, "", NO_FORWARDING),
    nothing("remote-write.client-tls-min-version", Text, "1.3", NO_FORWARDING),
    nothing("receive.hashrings-algorithm", OneOf(&["hashmod", "ketama"]), "hashmod", NO_HASHRING),
    nothing("receive.hashrings-file-refresh-interval", Duration, "5m", NO_HASHRING),
    nothing("receive.local-endpoint", Text, "", NO_HASHRING),
    nothing(
        "receive.replica-header",
        Text,
        "THANOS-REPLICA",
        "a node that is no router ignores the replica number, in Thanos as well",
    ),
    nothing("receive.forward.async-workers", Count, "5", NO_FORWARDING),
    nothing("receive.grpc-compression", OneOf(&["snappy", "none"]), "snappy", NO_FORWARDING),
    nothing("receive.grpc-service-config", Text, "", NO_FORWARDING),
    nothing(
        "receive.capnproto-address",
        Text,
        "0.0.0.0:19391",
        "Cap'n Proto is not spoken and no port is opened for it",
    ),
    nothing(
        "tsdb.allow-overlapping-blocks",
        Bool,
        "false",
        "blocks may always overlap, in Thanos as well",
    ),
    nothing("tsdb.wal-compression", Bool, "true", "the log has a compact coding of its own"),
    nothing("tsdb.no-lockfile", Bool, "false", "the lock on the data folder is always taken"),
    nothing("tsdb.head.expanded-postings-cache-size", Bytes, "0", NO_POSTINGS_CACHE),
    nothing("tsdb.block.expanded-postings-cache-size", Bytes, "0", NO_POSTINGS_CACHE),
    nothing(
        "tsdb.enable-native-histograms",
        Bool,
        "true",
        "the flag has no effect in Thanos either",
    ),
    nothing(
        "shipper.upload-concurrency",
        Count,
        "0",
        "uploads at once have a fixed bound, so that they never slow intake",
    ),
    nothing("matcher-cache-size", Count, "0", "a matcher is compiled once per query"),
    nothing(
        "enable-feature",
        OneOf(&["", "metric-names-filter"]),
        "",
        "all tenants share one store, none needs a filter of names in front",
    )
    .repeatable(),
    nothing(
        "receive.lazy-retrieval-max-buffered-responses",
        Count,
        "20",
        "answers are bounded in bytes, not in messages",
    ),
    nothing("receive-forward-timeout", Duration, "5s", NO_FORWARDING).hidden(),
    nothing("receive-forward-max-backoff", Duration, "5s", NO_FORWARDING).hidden(),
    nothing("receive.artificial-max-delay", Duration, "0s", NO_FORWARDING).hidden(),
    nothing(
        "tsdb.write-queue-size",
        Count,
        "0",
        "chunks reach the disk through the core's own ring",
    )
    .hidden(),
    nothing(
        "tsdb.memory-snapshot-on-shutdown",
        Bool,
        "false",
        "a start replays the log, there is no snapshot",
    )
    .hidden(),
    nothing(
        "shipper.allow-out-of-order-uploads",
        Bool,
        "false",
        "blocks of a tenant leave oldest first, a failed upload is tried for ever",
    )
    .hidden(),
    nothing(
        "shipper.skip-corrupted-blocks",
        Bool,
        "false",
        "a damaged block always steps aside, is counted, and is looked at again later",
    )
    .hidden(),
    nothing(
        "writer.intern",
        Bool,
        "false",
        "labels are always interned; Thanos has removed the flag",
    )
    .hidden(),
    nothing(
        "shipper.ignore-unequal-block-size",
        Bool,
        "false",
        "all blocks have one size; Thanos has removed the flag",
    )
    .hidden(),
];

/// TLS on a listener, which it does not have yet.
const NO_TLS: &str = "TLS is not served yet; end it in a proxy in front and leave the flag out";
/// More than one node.
const NO_RING: &str = "one Tidegate is one node; to spread load run Thanos Receive as a router in \
                       front and name Tidegate in its hashring";
/// Relabelling.
const NO_RELABEL: &str =
    "relabelling is not done here yet; use write_relabel_configs at the senders";
/// OTLP.
const NO_OTLP: &str = "OTLP is not received yet; convert it in a collector (prometheusremotewrite)";
/// Traces.
const NO_TRACING: &str = "traces are not exported yet; leave the flag out";
/// Log of requests.
const NO_REQUEST_LOG: &str =
    "single requests are not logged yet; leave the flag out and see /metrics";
/// The size of blocks.
const TWO_HOURS: &str = "a block covers 2h, as compactors expect; leave the flag out";
/// Why limits per tenant and per select are refused.
const NO_LIMITS_YET: &str = "this limit is not enforced yet; leave the flag out";

const REFUSED: &[Flag] = &[
    refused("store.limits.request-series", Count, "0", NO_LIMITS_YET),
    refused("store.limits.request-samples", Count, "0", NO_LIMITS_YET),
    refused("tracing.config-file", Text, "", NO_TRACING),
    refused("tracing.config", Text, "", NO_TRACING),
    refused(
        "http.config",
        Text,
        "",
        "TLS and basic auth are not served yet; put a proxy in front and leave the flag out",
    ),
    refused("grpc-server-tls-cert", Text, "", NO_TLS),
    refused("grpc-server-tls-key", Text, "", NO_TLS),
    refused("grpc-server-tls-client-ca", Text, "", NO_TLS),
    refused("grpc-server-tls-min-version", Text, "1.3", NO_TLS),
    refused("grpc-server-tls-ciphers", Text, "", NO_TLS).repeatable(),
    refused("grpc-server-tls-curves", Text, "", NO_TLS).repeatable(),
    refused("remote-write.server-tls-cert", Text, "", NO_TLS),
    refused("remote-write.server-tls-key", Text, "", NO_TLS),
    refused("remote-write.server-tls-client-ca", Text, "", NO_TLS),
    refused("remote-write.server-tls-min-version", Text, "1.3", NO_TLS),
    refused("remote-write.server-tls-ciphers", Text, "", NO_TLS).repeatable(),
    refused("remote-write.server-tls-curves", Text, "", NO_TLS).repeatable(),
    refused("receive.hashrings-file", Text, "", NO_RING),
    refused("receive.hashrings", Text, "", NO_RING),
    refused(
        "receive.tenant-certificate-field",
        Text,
        "",
        "there are no client certificates without TLS; name the tenant in --receive.tenant-header",
    ),
    refused(
        "receive.split-tenant-label-name",
        Text,
        "",
        "a request has one tenant; name it in --receive.tenant-header at the sender",
    ),
    refused(
        "receive.replication-factor",
        Count,
        "1",
        "copies are made in front: by a Thanos router, or by senders that write to two nodes",
    ),
    refused(
        "receive.replication-protocol",
        OneOf(&["protobuf", "capnproto"]),
        "protobuf",
        "Cap'n Proto is not spoken; set protobuf at the routers too",
    ),
    refused("receive.relabel-config-file", Text, "", NO_RELABEL),
    refused("receive.relabel-config", Text, "", NO_RELABEL),
    refused(
        "tsdb.max-retention-bytes",
        Bytes,
        "0",
        "blocks are not kept by size yet; bound the disk with --tsdb.retention",
    ),
    refused(
        "tsdb.max-exemplars",
        Count,
        "0",
        "exemplars are refused and counted, they are not stored yet; leave the flag out",
    ),
    refused("request.logging-config-file", Text, "", NO_REQUEST_LOG),
    refused("request.logging-config", Text, "", NO_REQUEST_LOG),
    refused("receive.otlp-enable-target-info", Bool, "true", NO_OTLP),
    refused("receive.otlp-promote-resource-attributes", Text, "", NO_OTLP).repeatable(),
    refused("tsdb.min-block-duration", Duration, "2h", TWO_HOURS).hidden(),
    refused("tsdb.max-block-duration", Duration, "2h", TWO_HOURS).hidden(),
];

//! What the flags mean: checked, derived, and not changed any more.
//!
//! Values that hold in common are checked here too: one label has one meaning, and a bucket of the
//! operator's choice wants labels of the operator's choice.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::objstore::{self, Bucket};
use crate::config::typed::{Typed, bad};
use crate::config::{Error, LimitsTable, cli, duration, label, size, tenant_limits};
use crate::model::{Labels, TenantId};

/// Longest time readers get at a stop, whatever the flags say: a stop ends below ten seconds.
pub const READS_STOP_MAX: Duration = Duration::from_secs(4);

/// Most bytes of bodies that a core holds at a time.
pub const BODIES_BYTES_MAX: u64 = 256 << 20;
/// Largest body, whatever the flags say: there is room for a second one.
const BODY_BYTES_MAX: u64 = BODIES_BYTES_MAX / 2;
/// Most bytes of decoded requests that a core holds at a time, and so of one.
pub const DECODED_BYTES_MAX: u64 = 256 << 20;
/// Largest label set, whatever the flags say: it is told in one block of the log.
const LABEL_SET_BYTES_MAX: u64 = 1 << 20;

/// All that `tidegate receive` was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// Doors for senders.
    pub write: Write,
    /// Doors for readers.
    pub read: Read,
    /// What is kept, and how long.
    pub data: Data,
    /// Labels of all series and blocks.
    pub external: External,
    /// Where finished blocks go.
    pub bucket: Bucket,
    /// Whether meta.json carries a SHA-256 of each file (`--hash-func=SHA256`).
    pub file_hashes: bool,
    /// What is logged.
    pub log: Log,
    /// What the operator should know: flags that do nothing, values that were filled in.
    pub notes: Vec<String>,
}

/// Receiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// `--remote-write.address`, one socket each.
    pub addresses: Vec<SocketAddr>,
    /// `--receive.tenant-header`, in lower case.
    pub tenant_header: String,
    /// `--receive.default-tenant-id`.
    pub default_tenant: TenantId,
    /// `--log.ack`.
    pub ack: Ack,
    /// `--shards`; `None` for as many as there are cores to use.
    pub shards: Option<NonZeroU16>,
    /// What one request, series and tenant may cost.
    pub limits: Limits,
    /// What each tenant may write.
    pub tenant_limits: TenantLimitsSource,
}

/// Where the limits of tenants come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantLimitsSource {
    /// `--receive.limits-config-file`, if they may change.
    pub path: Option<PathBuf>,
    /// `--receive.limits-config-reload-timer`.
    pub reload_every: Duration,
    /// What they were at the start.
    pub table: LimitsTable,
}

/// When 2xx is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Once the device has confirmed a flush after the data.
    Durable,
    /// Once the data is written to the log; the flush follows at once, but is not waited for.
    Relaxed,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "durable",
            Self::Relaxed => "relaxed",
        })
    }
}

/// Limits of receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body as sent.
    pub body_bytes_max: u64,
    /// Bytes of a body after decompression.
    pub decoded_bytes_max: u64,
    /// Connections of senders at a time on one core.
    pub connections_per_core_max: u64,
    /// Labels of a series.
    pub labels_per_series_max: u64,
    /// Bytes of a label's name.
    pub label_name_bytes_max: u64,
    /// Bytes of a label's value.
    pub label_value_bytes_max: u64,
    /// Bytes of a series' labels as they are sent.
    pub label_set_bytes_max: u64,
}

/// Reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// `--grpc-address`: StoreAPI, one socket each.
    pub grpc_addresses: Vec<SocketAddr>,
    /// `--grpc-grace-period`: longest time open calls get at a stop, never more than
    /// [`READS_STOP_MAX`].
    pub grpc_grace: Duration,
    /// `--grpc-server-max-connection-age`; `None` for no bound.
    pub grpc_connection_age_max: Option<Duration>,
    /// `--http-address`: metrics, status and query API, one socket each.
    pub http_addresses: Vec<SocketAddr>,
    /// `--http-grace-period`: longest time open requests get at a stop, never more than
    /// [`READS_STOP_MAX`].
    pub http_grace: Duration,
}

/// Longest window for samples out of order.
const OUT_OF_ORDER_WINDOW_MAX: Duration = Duration::from_hours(24);
/// Most samples of a chunk of them.
const OUT_OF_ORDER_CAP_MAX: u64 = 120;

/// Data on local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// `--tsdb.path`.
    pub path: PathBuf,
    /// `--tsdb.retention`; `None` for ever.
    pub retention: Option<Duration>,
    /// `--tsdb.too-far-in-future.time-window`; `None` for no bound.
    pub future_window: Option<Duration>,
    /// `--tsdb.out-of-order.time-window`; `None` for none.
    pub out_of_order_window: Option<Duration>,
    /// `--tsdb.out-of-order.cap-max`; `None` for the default.
    pub out_of_order_cap: Option<u16>,
}

/// Labels that every series and block bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// `--label`, or `receive_replica="<hostname>"`.
    pub labels: Labels,
    /// `--receive.tenant-label-name`.
    pub tenant_label: String,
    /// `--tsdb.shard-label`.
    pub shard_label: Option<String>,
}

/// The log of what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// `--log.level`.
    pub level: LogLevel,
    /// `--log.format`.
    pub format: LogFormat,
}

/// Least severe messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// All.
    Debug,
    /// What an operator reads.
    Info,
    /// What could become a fault.
    Warn,
    /// Faults.
    Error,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `ts=... level=info msg="..."`.
    Logfmt,
    /// An object a line.
    Json,
    /// As [`Self::Logfmt`], behind the severity as the journal reads it: `<4>`.
    Journald,
}

impl Receive {
    /// What the flags mean on a machine of this name.
    pub(crate) fn new(typed: &Typed, hostname: &str) -> Result<Self, Error> {
        let mut notes = typed.check()?;
        check_doors(typed)?;
        let data = data(typed)?;
        let bucket = bucket(typed, &data.path, &mut notes)?;
        Ok(Self {
            write: write(typed, &mut notes)?,
            read: read(typed)?,
            external: external(typed, hostname, &mut notes)?,
            data,
            bucket,
            file_hashes: typed.text("hash-func") == "SHA256",
            log: log(typed),
            notes,
        })
    }
}

/// Two doors do not share an address, unless the kernel chooses the port.
fn check_doors(typed: &Typed) -> Result<(), Error> {
    let flags = ["remote-write.address", "grpc-address", "http-address"];
    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    for flag in flags {
        let addresses = typed.address(flag)?;
        for (address, other) in &taken {
            if address.port() != 0 && addresses.contains(address) {
                return Err(bad(flag, typed.text(flag), &format!("is taken by --{other}")));
            }
        }
        taken.extend(addresses.into_iter().map(|address| (address, flag)));
    }
    Ok(())
}

/// Zero as "no bound".
fn bound(value: Duration) -> Option<Duration> {
    (!value.is_zero()).then_some(value)
}

fn write(typed: &Typed, notes: &mut Vec<String>) -> Result<Write, Error> {
    let header = typed.text("receive.tenant-header");
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !header.bytes().all(token) {
        return Err(bad("receive.tenant-header", header, &"is not the name of an HTTP header"));
    }
    let tenant = typed.text("receive.default-tenant-id");
    let shards = typed.text("shards");
    let shards = match shards {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            bad(
                "shards",
                text,
                &"is not a number of shards from 1 to 65535; leave it out for all cores",
            )
        })?),
    };
    Ok(Write {
        addresses: typed.address("remote-write.address")?,
        tenant_header: header.to_ascii_lowercase(),
        default_tenant: TenantId::new(tenant)
            .map_err(|e| bad("receive.default-tenant-id", tenant, &format!("is no tenant: {e}")))?,
        ack: match typed.text("log.ack") {
            "relaxed" => Ack::Relaxed,
            _ => Ack::Durable,
        },
        shards,
        limits: limits(typed)?,
        tenant_limits: tenant_limits(typed, notes)?,
    })
}

fn tenant_limits(typed: &Typed, notes: &mut Vec<String>) -> Result<TenantLimitsSource, Error> {
    let timer = "receive.limits-config-reload-timer";
    let reload_every = typed.duration(timer)?;
    if reload_every.is_zero() {
        return Err(bad(timer, typed.text(timer), &"must be more than nothing"));
    }
    let (inline, file) =
        (typed.text("receive.limits-config"), typed.text("receive.limits-config-file"));
    let (flag, path, yaml) = match (inline, file) {
        (_, "") => ("--receive.limits-config".to_owned(), None, inline.to_owned()),
        ("", file) => {
            let yaml = cli::read(Path::new(file), "limits")?;
            (format!("--receive.limits-config-file={file}"), Some(PathBuf::from(file)), yaml)
        }
        _ => {
            let flag = |name: &str| format!("--receive.{name}");
            return Err(Error::Both {
                flag: flag("limits-config"),
                other: flag("limits-config-file"),
            });
        }
    };
    if path.is_none() && yaml.is_empty() {
        return Ok(TenantLimitsSource { path, reload_every, table: LimitsTable::default() });
    }
    let (table, said) =
        tenant_limits::parse(&yaml).map_err(|source| Error::TenantLimits { flag, source })?;
    notes.extend(said.into_iter().map(|note| format!("limits: {note}")));
    Ok(TenantLimitsSource { path, reload_every, table })
}

fn limits(typed: &Typed) -> Result<Limits, Error> {
    let some = |name, value: u64| match value {
        0 => Err(bad(name, typed.text(name), &"must be 1 or more")),
        value => Ok(value),
    };
    let bytes = |name, most| match typed.bytes(name).and_then(|value| some(name, value))? {
        value if value > most => {
            let problem = format!("is more than {}, the most there can be", size::text(most));
            Err(bad(name, typed.text(name), &problem))
        }
        value => Ok(value),
    };
    let count = |name| typed.count(name).and_then(|value| some(name, value));
    Ok(Limits {
        body_bytes_max: bytes("receive.body-bytes-max", BODY_BYTES_MAX)?,
        decoded_bytes_max: bytes("receive.decoded-bytes-max", DECODED_BYTES_MAX)?,
        connections_per_core_max: count("receive.connections-per-core-max")?,
        labels_per_series_max: count("receive.labels-per-series-max")?,
        label_name_bytes_max: bytes("receive.label-name-bytes-max", LABEL_SET_BYTES_MAX)?,
        label_value_bytes_max: bytes("receive.label-value-bytes-max", LABEL_SET_BYTES_MAX)?,
        label_set_bytes_max: bytes("receive.label-set-bytes-max", LABEL_SET_BYTES_MAX)?,
    })
}

fn read(typed: &Typed) -> Result<Read, Error> {
    Ok(Read {
        grpc_addresses: typed.address("grpc-address")?,
        grpc_grace: typed.duration("grpc-grace-period")?,
        grpc_connection_age_max: bound(typed.duration("grpc-server-max-connection-age")?),
        http_addresses: typed.address("http-address")?,
        http_grace: typed.duration("http-grace-period")?,
    })
}

fn data(typed: &Typed) -> Result<Data, Error> {
    let window = "tsdb.out-of-order.time-window";
    let out_of_order_window = bound(typed.duration(window)?);
    if out_of_order_window > Some(OUT_OF_ORDER_WINDOW_MAX) {
        let most = duration::text(OUT_OF_ORDER_WINDOW_MAX);
        let problem = format!("is more than {most}; all of it is held in memory");
        return Err(bad(window, typed.text(window), &problem));
    }
    let cap = "tsdb.out-of-order.cap-max";
    let out_of_order_cap = match typed.count(cap)? {
        0 => None,
        samples if samples <= OUT_OF_ORDER_CAP_MAX => Some(samples as u16),
        _ => {
            let problem = format!("is more than {OUT_OF_ORDER_CAP_MAX}, which is a full chunk");
            return Err(bad(cap, typed.text(cap), &problem));
        }
    };
    Ok(Data {
        path: typed.text("tsdb.path").into(),
        retention: bound(typed.duration("tsdb.retention")?),
        future_window: bound(typed.duration("tsdb.too-far-in-future.time-window")?),
        out_of_order_window,
        out_of_order_cap,
    })
}

fn external(typed: &Typed, hostname: &str, notes: &mut Vec<String>) -> Result<External, Error> {
    let tenant_label = typed.text("receive.tenant-label-name");
    let shard_label = Some(typed.text("tsdb.shard-label")).filter(|name| !name.is_empty());
    for (flag, name) in
        [("receive.tenant-label-name", Some(tenant_label)), ("tsdb.shard-label", shard_label)]
    {
        if let Some(name) = name {
            label::check_name(name).map_err(|e| bad(flag, name, &e))?;
        }
    }
    if shard_label == Some(tenant_label) {
        return Err(bad("tsdb.shard-label", tenant_label, &"is the tenant's label as well"));
    }
    let labels = labels(typed, hostname, notes)?;
    for (name, use_) in [(Some(tenant_label), "tenant's"), (shard_label, "shard's")] {
        if let Some(value) = name.and_then(|name| labels.get(name)) {
            let text = format!("{}={value:?}", name.unwrap_or_default());
            let problem = format!("is the {use_} label, which Tidegate sets itself");
            return Err(bad("label", &text, &problem));
        }
    }
    Ok(External {
        labels,
        tenant_label: tenant_label.into(),
        shard_label: shard_label.map(str::to_owned),
    })
}

/// The labels given, or the host's name where that may do.
fn labels(typed: &Typed, hostname: &str, notes: &mut Vec<String>) -> Result<Labels, Error> {
    let mut pairs = Vec::new();
    for text in typed.all("label").iter().filter(|text| !text.is_empty()) {
        let (name, value) = label::parse(text).map_err(|e| bad("label", text, &e))?;
        if pairs.iter().any(|(other, _)| *other == name) {
            return Err(bad("label", text, &format!("gives {name} a second value")));
        }
        pairs.push((name, value));
    }
    if pairs.is_empty() {
        let own_bucket = !typed.text("objstore.config").is_empty()
            || !typed.text("objstore.config-file").is_empty();
        if own_bucket {
            return Err(Error::NoLabel);
        }
        if hostname.is_empty() {
            return Err(Error::NoHostname);
        }
        notes
            .push(format!("no --label given: series and blocks bear receive_replica={hostname:?}"));
        pairs.push(("receive_replica".into(), hostname.into()));
    }
    Labels::new(pairs).map_err(|e| bad("label", "", &e))
}

fn bucket(typed: &Typed, data: &Path, notes: &mut Vec<String>) -> Result<Bucket, Error> {
    let (inline, file) = (typed.text("objstore.config"), typed.text("objstore.config-file"));
    let (flag, yaml) = match (inline, file) {
        ("", "") => {
            return Ok(Bucket::Filesystem {
                directory: data.join("bucket"),
                prefix: String::new(),
            });
        }
        (inline, "") => ("--objstore.config".to_owned(), inline.to_owned()),
        ("", file) => {
            (format!("--objstore.config-file={file}"), cli::read(Path::new(file), "bucket")?)
        }
        _ => {
            let flag = |name: &str| format!("--{name}");
            let (flag, other) = (flag("objstore.config"), flag("objstore.config-file"));
            return Err(Error::Both { flag, other });
        }
    };
    let (bucket, bucket_notes) =
        objstore::parse(&yaml).map_err(|source| Error::Objstore { flag, source })?;
    notes.extend(bucket_notes.into_iter().map(|note| format!("objstore: {note}")));
    Ok(bucket)
}

fn log(typed: &Typed) -> Log {
    Log {
        level: match typed.text("log.level") {
            "debug" => LogLevel::Debug,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            _ => LogLevel::Info,
        },
        format: match typed.text("log.format") {
            "json" => LogFormat::Json,
            "journald" => LogFormat::Journald,
            _ => LogFormat::Logfmt,
        },
    }
}

impl fmt::Display for Receive {
    /// A few lines for the log at start; no secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets = |all: &[SocketAddr]| {
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
        };
        let or_never = |d: Option<Duration>, never: &str| d.map_or(never.into(), duration::text);
        let (write, read, data) = (&self.write, &self.read, &self.data);
        let ack = match write.ack {
            Ack::Durable => "durable: 2xx after the device's flush",
            Ack::Relaxed => {
                "RELAXED: 2xx after the write and before its flush, a power cut loses data"
            }
        };
        let shards = write.shards.map_or("one per usable core".into(), |n| n.to_string());
        writeln!(f, "receive  {}, ack {ack}, shards {shards}", sockets(&write.addresses))?;
        let (header, tenant) = (&write.tenant_header, &write.default_tenant);
        writeln!(f, "tenant   from header {header}, else {tenant}")?;
        let limits = write.limits;
        let [body, decoded, name, value, set] = [
            limits.body_bytes_max,
            limits.decoded_bytes_max,
            limits.label_name_bytes_max,
            limits.label_value_bytes_max,
            limits.label_set_bytes_max,
        ]
        .map(size::text);
        let connections = limits.connections_per_core_max;
        writeln!(f, "request  body {body}, decoded {decoded}, {connections} connections a core")?;
        let labels = limits.labels_per_series_max;
        writeln!(f, "series   {labels} labels of {set}, names {name}, values {value}")?;
        let of_tenants = &self.write.tenant_limits;
        let (default, named) = (of_tenants.table.default_limits(), of_tenants.table.tenants());
        writeln!(f, "tenants  {default}; {} with limits of their own", named.count())?;
        let (grpc, http) = (sockets(&read.grpc_addresses), sockets(&read.http_addresses));
        let age = or_never(read.grpc_connection_age_max, "for ever");
        writeln!(f, "read     StoreAPI {grpc} (connections {age}), HTTP {http}")?;
        let (grpc, http) = (duration::text(read.grpc_grace), duration::text(read.http_grace));
        let most = duration::text(READS_STOP_MAX);
        writeln!(f, "stop     gRPC calls get {grpc}, HTTP requests {http}, at most {most}")?;
        let (path, kept) = (data.path.display(), or_never(data.retention, "for ever"));
        writeln!(f, "data     {path}, blocks kept {kept}")?;
        let ahead = or_never(data.future_window, "any time");
        let window = data.out_of_order_window.map(duration::text);
        let order = window.map_or("in order".into(), |window| format!("out of order {window}"));
        let cap = data.out_of_order_cap.map_or(String::new(), |n| format!(" by {n} samples"));
        writeln!(f, "time     ahead of the clock {ahead}, {order}{cap}")?;
        let External { labels, tenant_label, shard_label } = &self.external;
        let shard = shard_label.as_ref().map_or(String::new(), |l| format!(", shard in {l}"));
        writeln!(f, "labels   {labels}, tenant in {tenant_label}{shard}")?;
        let hashes = if self.file_hashes { ", SHA-256 in meta.json" } else { "" };
        writeln!(f, "bucket   {}{hashes}", self.bucket)?;
        for note in &self.notes {
            writeln!(f, "note     {note}")?;
        }
        Ok(())
    }
}

//! Walks every row of the table, in every form, and says every error as the operator reads it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::table::{Does, Flag, Kind, find, flags};
use crate::config::{Ack, Command, Credentials, Error, LogFormat, Receive, parse, typed};
use crate::model::Labels;

/// Values that look like some flag's.
const VALUES: &str =
    "[0-9]{1,3}(d|h|s|MiB|)|[a-z_]{1,6}=\"[a-z\\\\\"]{0,3}\"|[0-9.:\\[\\]]{1,9}|.{0,6}";

/// Flags of Thanos Receive 0.43, from its documentation and source, hidden ones included.
const THANOS: &str = "
    log.level log.format tracing.config-file tracing.config enable-auto-gomemlimit
    auto-gomemlimit.ratio http-address http-grace-period http.config grpc-address
    grpc-server-tls-cert grpc-server-tls-key grpc-server-tls-client-ca grpc-server-tls-min-version
    grpc-server-tls-ciphers grpc-server-tls-curves grpc-server-max-connection-age grpc-grace-period
    store.limits.request-series store.limits.request-samples remote-write.address
    remote-write.server-tls-cert remote-write.server-tls-key remote-write.server-tls-client-ca
    remote-write.server-tls-min-version remote-write.server-tls-ciphers
    remote-write.server-tls-curves remote-write.client-tls-cert remote-write.client-tls-key
    remote-write.client-tls-ca remote-write.client-tls-secure remote-write.client-tls-skip-verify
    remote-write.client-server-name remote-write.client-tls-min-version tsdb.path label
    objstore.config-file objstore.config tsdb.retention receive.hashrings-file receive.hashrings
    receive.hashrings-algorithm receive.hashrings-file-refresh-interval receive.local-endpoint
    receive.tenant-header receive.tenant-certificate-field receive.default-tenant-id
    receive.split-tenant-label-name receive.tenant-label-name receive.replica-header
    receive.forward.async-workers receive.grpc-compression receive.replication-factor
    receive.replication-protocol receive.capnproto-address receive.grpc-service-config
    receive.relabel-config-file receive.relabel-config tsdb.too-far-in-future.time-window
    tsdb.out-of-order.time-window tsdb.out-of-order.cap-max tsdb.allow-overlapping-blocks
    tsdb.max-retention-bytes tsdb.wal-compression tsdb.no-lockfile
    tsdb.head.expanded-postings-cache-size tsdb.block.expanded-postings-cache-size
    tsdb.max-exemplars tsdb.enable-native-histograms hash-func shipper.upload-concurrency
    matcher-cache-size request.logging-config-file request.logging-config
    receive.otlp-enable-target-info receive.otlp-promote-resource-attributes enable-feature
    receive.lazy-retrieval-max-buffered-responses receive-forward-timeout
    receive-forward-max-backoff receive.artificial-max-delay tsdb.min-block-duration
    tsdb.max-block-duration tsdb.write-queue-size tsdb.memory-snapshot-on-shutdown
    shipper.allow-out-of-order-uploads shipper.skip-corrupted-blocks receive.limits-config-file
    receive.limits-config receive.limits-config-reload-timer";

/// Removed from Thanos, and ours.
const OTHERS: &str = "
    writer.intern shipper.ignore-unequal-block-size
    log.ack shards tsdb.shard-label receive.body-bytes-max receive.decoded-bytes-max
    receive.connections-per-core-max receive.labels-per-series-max receive.label-set-bytes-max
    receive.label-name-bytes-max
    receive.label-value-bytes-max";

/// Where our default is another one than Thanos'; the help says so.
const OTHER_DEFAULT: &str = "tsdb.too-far-in-future.time-window";

fn run(args: &[&str]) -> Result<Command, Error> {
    let args = ["tidegate"].iter().chain(args).map(|&arg| arg.into());
    parse(args, "host-1")
}

fn receive(args: &[&str]) -> Receive {
    let all: Vec<&str> = ["receive"].iter().chain(args).copied().collect();
    match run(&all) {
        Ok(Command::Receive(receive)) => *receive,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn error(args: &[&str]) -> String {
    match run(args) {
        Err(error) => error.to_string(),
        Ok(command) => panic!("{args:?} was accepted: {command:?}"),
    }
}

fn print(args: &[&str]) -> String {
    match run(args) {
        Ok(Command::Print(text)) => text,
        other => panic!("{args:?}: {other:?}"),
    }
}

/// A good value that is not the default.
fn other_value(flag: &Flag) -> String {
    let named = match flag.name {
        "objstore.config" => Some("{type: FILESYSTEM, config: {directory: /b}}"),
        "objstore.config-file" => Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        "receive.tenant-label-name" | "tsdb.shard-label" => Some("other_name"),
        "shards" => Some("3"),
        _ => None,
    };
    let value = named.map(str::to_owned);
    value.unwrap_or_else(|| match flag.kind {
        Kind::Bool => panic!("a Bool has forms, not values"),
        Kind::Text => "other".into(),
        Kind::Count => "7".into(),
        Kind::Duration => "7m".into(),
        Kind::Bytes => "7KiB".into(),
        Kind::Address => "127.0.0.7:7".into(),
        Kind::Label => "a=\"b\"".into(),
        Kind::OneOf(words) => {
            let other = words.iter().find(|word| **word != flag.default && !word.is_empty());
            (*other.expect("two words")).into()
        }
    })
}

/// The argument that asks for something else than the default.
fn other_argument(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (Kind::Bool, "true") => format!("--no-{}", flag.name),
        (Kind::Bool, _) => format!("--{}", flag.name),
        _ => format!("--{}={}", flag.name, other_value(flag)),
    }
}

/// The argument that asks for the default.
fn default_argument(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (Kind::Bool, "true") => format!("--{}", flag.name),
        (Kind::Bool, _) => format!("--no-{}", flag.name),
        (_, default) => format!("--{}={default}", flag.name),
    }
}

/// Everything but the notes.
fn deeds(mut receive: Receive) -> Receive {
    receive.notes.clear();
    receive
}

#[test]
fn the_table_holds_all_of_thanos_and_ours() {
    let want: BTreeSet<&str> = THANOS.split_whitespace().chain(OTHERS.split_whitespace()).collect();
    let names: Vec<&str> = flags().map(|flag| flag.name).collect();
    let got: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(got, want);
    assert_eq!(got.len(), names.len(), "a name stands twice");
    for flag in flags() {
        let text = match flag.does {
            Does::Acts => flag.help,
            Does::Nothing(why) => why,
            Does::Refused(reason) => {
                assert!(reason.contains(';') || reason.contains(':'), "{}: no way out", flag.name);
                reason
            }
        };
        assert!(text.len() > 10, "{}: {text:?} says too little", flag.name);
    }
}

#[test]
fn each_row_that_acts_changes_what_is_meant() {
    let plain = deeds(receive(&[]));
    for flag in flags().filter(|flag| flag.does == Does::Acts) {
        let default = default_argument(flag);
        assert_eq!(deeds(receive(&[&default])), plain, "{default} is the default");
        if flag.name.ends_with("config") || flag.name.ends_with("config-file") {
            continue; // These need YAML, or a file: see `a_bucket_comes_from_yaml`.
        }
        let other = other_argument(flag);
        let got = deeds(receive(&[&other]));
        assert_ne!(got, plain, "{other} changes nothing");
        assert!(!flag.repeatable || flag.name == "label", "{}: try it twice here", flag.name);
        let silent =
            ["log.level", "log.format", "receive.limits-config-reload-timer"].contains(&flag.name);
        assert!(silent || got.to_string() != plain.to_string(), "{other} is not printed");
    }
}

#[test]
fn each_row_that_does_nothing_is_reported() {
    let plain = receive(&[]);
    for flag in flags() {
        let Does::Nothing(why) = flag.does else { continue };
        for argument in [other_argument(flag), default_argument(flag)] {
            let got = receive(&[&argument]);
            assert_eq!(deeds(got.clone()), deeds(plain.clone()), "{argument} does something");
            let note = format!("--{} does nothing here: {why}", flag.name);
            assert!(got.notes.contains(&note), "{argument}: {:?}", got.notes);
            assert!(got.to_string().contains(&note), "{argument}: not printed");
        }
    }
}

#[test]
fn each_row_that_is_refused_says_why() {
    let plain = receive(&[]);
    for flag in flags() {
        let Does::Refused(reason) = flag.does else { continue };
        let argument = other_argument(flag);
        let want = format!("--{} is refused: {reason}", flag.name);
        assert_eq!(error(&["receive", &argument]), want);
        let default = default_argument(flag);
        assert_eq!(receive(&[&default]), plain, "{default} asks for nothing");
    }
    assert_eq!(receive(&["--tsdb.min-block-duration=120m"]), plain, "2h in another spelling");
}

#[test]
fn flags_come_in_kingpins_forms() {
    let plain = receive(&[]);
    assert_eq!(receive(&["--tsdb.retention=3d"]), receive(&["--tsdb.retention", "3d"]));
    assert_eq!(receive(&["--tsdb.retention="]), plain, "an empty value says nothing");
    assert_eq!(receive(&["--no-tsdb.no-lockfile"]).notes.len(), plain.notes.len() + 1);
    assert_eq!(receive(&["--tsdb.no-lockfile"]).notes.len(), plain.notes.len() + 1);
    let two = receive(&["--label=b=\"2\"", "--label", "a=\"1\""]);
    let want = Labels::new([("a", "1"), ("b", "2")]).expect("labels");
    assert_eq!(two.external.labels, want);
    let any_port = ["--http-address=:0", "--grpc-address=:0"];
    assert_eq!(receive(&any_port).read.http_addresses.len(), 2, "one in each family");
    let thrice = ["--grpc-server-tls-ciphers=", "--grpc-server-tls-ciphers="];
    assert_eq!(receive(&thrice), plain, "repeatable");
}

#[test]
fn arguments_come_from_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| format!("@{}", folder.path().join(name).display());
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("a file");
    };
    write("inner", "--log.format=json\n");
    write("outer", &format!("# what we run\n\n--tsdb.path\n/data dir\n{}\r\n", at("inner")));
    let got = receive(&[&at("outer"), "--log.ack=relaxed"]);
    assert_eq!(got.data.path.to_str(), Some("/data dir"));
    assert_eq!(got.log.format, LogFormat::Json);
    assert_eq!(receive(&["--log.format=journald"]).log.format, LogFormat::Journald);
    assert_eq!(got.write.ack, Ack::Relaxed);
    write("circle", &at("circle"));
    let text = error(&["receive", &at("circle")]);
    assert!(text.ends_with("too deep; do the files name each other?"), "{text}");
    let text = error(&["receive", &at("none")]);
    assert!(text.starts_with("cannot read arguments from "), "{text}");
    match run(&["inspect", "wal", "--", "--a", &at("none")]) {
        Ok(Command::InspectWal { paths }) => assert_eq!(paths.len(), 2, "no file after --"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bucket_comes_from_yaml() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bucket.yaml");
    let yaml = "type: FILESYSTEM\nconfig: {directory: /b}\nprefix: /p/\n";
    fs::write(&file, yaml).expect("a file");
    let file = file.display().to_string();
    let label = "--label=a=\"1\"";
    let inline = receive(&[label, "--objstore.config", yaml]);
    assert_eq!(inline.bucket.to_string(), "folder /b, below p");
    assert_eq!(receive(&[label, "--objstore.config-file", &file]).bucket, inline.bucket);
    assert_eq!(
        error(&["receive", "--objstore.config", yaml]),
        "--objstore.config needs at least one --label, like --label 'receive_replica=\"a\"': \
         blocks of several nodes are told apart in the bucket by their labels"
    );
    assert_eq!(
        error(&["receive", label, "--objstore.config=a", "--objstore.config-file=b"]),
        "--objstore.config and --objstore.config-file exclude each other; give one"
    );
    fs::write(&file, "# later\n").expect("a file");
    assert_eq!(
        error(&["receive", label, "--objstore.config-file", &file]),
        format!(
            "--objstore.config-file={file}: is empty; leave the flag out for the folder bucket in \
             --tsdb.path"
        )
    );
}

#[test]
fn nothing_at_all_runs() {
    let got = receive(&[]);
    let want = "\
receive  0.0.0.0:19291, ack durable: 2xx after the device's flush, shards one per usable core
tenant   from header thanos-tenant, else default-tenant
request  body 32MiB, decoded 32MiB, 1024 connections a core
series   128 labels of 64KiB, names 1KiB, values 16KiB
tenants  no limits; 0 with limits of their own
read     StoreAPI 0.0.0.0:10901 (connections 1h), HTTP 0.0.0.0:10902
stop     gRPC calls get 2m, HTTP requests 2m, at most 4s
data     ./data, blocks kept 15d
time     ahead of the clock 10m, in order
labels   {receive_replica=\"host-1\"}, tenant in tenant_id
bucket   folder ./data/bucket
note     no --label given: series and blocks bear receive_replica=\"host-1\"
";
    assert_eq!(got.to_string(), want);
    assert_eq!(got.data.future_window, Some(Duration::from_mins(10)));
    let nameless = parse(["tidegate", "receive"].map(Into::into), "").expect_err("no name");
    assert!(nameless.to_string().starts_with("this machine has no host name"));
    let no_bounds = receive(&["--tsdb.retention=0d", "--tsdb.too-far-in-future.time-window=0s"]);
    assert_eq!((no_bounds.data.retention, no_bounds.data.future_window), (None, None));
    let late = receive(&["--tsdb.out-of-order.time-window=1d", "--tsdb.out-of-order.cap-max=120"]);
    assert_eq!(late.data.out_of_order_window, Some(Duration::from_hours(24)));
    assert_eq!(late.data.out_of_order_cap, Some(120));
    assert!(
        late.to_string().contains("ahead of the clock 10m, out of order 1d by 120 samples\n"),
        "{late}"
    );
    assert_eq!((got.data.out_of_order_window, got.data.out_of_order_cap), (None, None));
    let help = find(OTHER_DEFAULT).expect("a flag").help;
    assert!(help.contains("(Thanos: 0s)"));
}

/// As kube-thanos starts an ingestor: the line must work as it is.
#[test]
fn a_command_line_of_thanos_works() {
    let yaml = "type: s3\nconfig:\n  bucket: thanos\n  endpoint: minio:9000\n  insecure: true\n  \
                access_key: a\n  secret_key: s\n";
    let got = receive(&[
        "--log.level=info",
        "--log.format=logfmt",
        "--grpc-address=0.0.0.0:10901",
        "--http-address=0.0.0.0:10902",
        "--remote-write.address=0.0.0.0:19291",
        "--receive.replication-factor=1",
        "--receive.grpc-compression=none",
        "--tsdb.path=/var/thanos/receive",
        "--tsdb.retention=4d",
        "--label=replica=\"receive-0\"",
        "--label=receive=\"true\"",
        &format!("--objstore.config={yaml}"),
        "--receive.local-endpoint=receive-0.receive.monitoring.svc.cluster.local:10901",
        "--receive.hashrings-algorithm=ketama",
        "--no-tsdb.wal-compression",
        "--enable-auto-gomemlimit",
    ]);
    assert_eq!(got.bucket.to_string(), "S3 bucket thanos at http://minio:9000");
    assert_eq!(got.external.labels.get("replica"), Some("receive-0"));
    let silent = |note: &&String| note.contains("does nothing here");
    assert_eq!(got.notes.iter().filter(silent).count(), 5, "{:?}", got.notes);
    // A router's line does not: it would be another thing than what was asked for.
    let ring = error(&["receive", "--receive.hashrings-file=/etc/hashrings.json"]);
    assert!(ring.starts_with("--receive.hashrings-file is refused: one Tidegate is one node;"));
}

#[test]
fn commands_are_known() {
    assert!(print(&[]).starts_with("Tidegate receives"));
    for args in [&["--help"][..], &["-h"], &["inspect"], &["inspect", "wal", "--help"]] {
        assert_eq!(print(args), print(&[]));
    }
    let version = format!("tidegate, version {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(print(&["--version"]), version);
    assert_eq!(print(&["receive", "--version"]), version);
    match run(&["inspect", "wal", "a", "b"]) {
        Ok(Command::InspectWal { paths }) => assert_eq!(paths.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn help_is_as_it_was() {
    let got = print(&["receive", "--help"]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/help.txt");
    let want = fs::read_to_string(path).unwrap_or_default();
    if got != want {
        let new = std::env::temp_dir().join("tidegate-help.txt");
        fs::write(&new, &got).expect("a file");
        panic!("the help is not tests/data/help.txt; if it shall be so, take {}", new.display());
    }
    for flag in flags() {
        let shown = got.contains(&format!("--{}", flag.name))
            || got.contains(&format!("--[no-]{}", flag.name));
        assert_eq!(shown, !flag.hidden, "{}", flag.name);
    }
    assert!(got.lines().all(|line| line.len() <= 100));
}

#[test]
fn secrets_are_never_printed() {
    let yaml = "type: S3\nconfig: {bucket: b, endpoint: e, access_key: a, \
                secret_key: canary-1, session_token: canary-2}";
    let got = receive(&["--label=a=\"1\"", "--objstore.config", yaml]);
    let crate::config::Bucket::S3(s3) = &got.bucket else { panic!("S3") };
    let Credentials::Keys { secret_key, .. } = &s3.credentials else { panic!("keys") };
    assert_eq!(secret_key.reveal(), "canary-1");
    for text in [got.to_string(), format!("{got:?}"), format!("{secret_key}")] {
        assert!(!text.contains("canary"), "{text}");
    }
    for broken in [
        "type: S3\nconfig: {secret_key: canary-1, secret_key: canary-2}",
        "type: S3\nconfig: {secret_key: [canary-1]}",
        "type: S3\nconfig: {secret_key: {canary-1: 2}}",
        "type: S3\nconfig: {secret_key: canary-1, bucket: }}",
        "type: S3\nconfig:\n  secret_key: \"canary-1",
        "type: S3\nconfig:\n\tsecret_key: canary-1",
        "type: S3\nconfig: canary-1",
        "type: S3\nconfig: {secret_key: canary-1, buckett: b}",
        "type: S3\nconfig: {secret_key: canary-1}",
        "type: canary-1 canary: x",
    ] {
        let text = error(&["receive", "--label=a=\"1\"", "--objstore.config", broken]);
        assert!(!text.contains("canary"), "{broken}: {text}");
        assert!(!text.contains('\n'), "one line: {text}");
    }
}

proptest! {
    /// Any flag with any value ends in settings or in one line, and settings print without a break.
    #[test]
    fn no_command_line_breaks_it(
        picks in proptest::collection::vec((0..flags().count(), any::<bool>(), VALUES), 0..4),
    ) {
        let mut args = vec!["receive".to_owned()];
        for (index, negated, value) in picks {
            let flag = flags().nth(index).expect("an index of the table");
            args.push(match (flag.kind, negated) {
                (Kind::Bool, true) => format!("--no-{}", flag.name),
                (Kind::Bool, false) => format!("--{}", flag.name),
                _ => format!("--{}={value}", flag.name),
            });
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match run(&args) {
            Ok(Command::Receive(receive)) => {
                prop_assert!(receive.to_string().lines().count() >= 10);
            }
            Ok(other) => prop_assert!(false, "{args:?}: {other:?}"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn every_value_is_checked_even_where_it_does_nothing() {
    for flag in flags().filter(|flag| !matches!(flag.kind, Kind::Bool | Kind::Text)) {
        let mut said = typed::Typed::default();
        said.say(flag, "?".into());
        let got = said.check().expect_err(flag.name).to_string();
        assert!(got.starts_with(&format!("--{}: \"?\" ", flag.name)), "{got}");
        assert!(!got.contains('\n'), "one line: {got}");
    }
}

/// A command line, and what is said to it.
const BAD: &[(&str, &str)] = &[
    ("recieve", "unknown command \"recieve\", did you mean receive?; tidegate --help lists them"),
    ("zzz", "unknown command \"zzz\"; tidegate --help lists them"),
    ("inspect block", "unknown command \"block\"; tidegate --help lists them"),
    ("inspect wal", "inspect wal needs a path: a segment of the log, or a folder of them"),
    (
        "receive --tsdb.paht=x",
        "unknown flag --tsdb.paht, did you mean --tsdb.path?; tidegate receive --help lists all \
         flags",
    ),
    ("receive --zzz", "unknown flag --zzz; tidegate receive --help lists all flags"),
    ("receive -x", "unknown flag -x; tidegate receive --help lists all flags"),
    (
        "--log.level=debug receive",
        "--log.level is a flag of receive and comes after it: tidegate receive --log.level ...",
    ),
    ("receive stray", "unexpected argument \"stray\"; flags begin with --"),
    ("receive --tsdb.path", "--tsdb.path needs a value"),
    ("receive --tsdb.path --log.level=info", "--tsdb.path needs a value"),
    ("receive --tsdb.path=a --tsdb.path=b", "--tsdb.path was given more than once"),
    ("receive --writer.intern --writer.intern", "--writer.intern was given more than once"),
    (
        "receive --writer.intern --no-writer.intern",
        "--writer.intern and --no-writer.intern exclude each other; give one",
    ),
    (
        "receive --tsdb.wal-compression=true",
        "--tsdb.wal-compression takes no value; say --name or --no-name",
    ),
    ("receive --log.level=trace", "--log.level: \"trace\" is not one of: debug, info, warn, error"),
    ("receive --log.format=xml", "--log.format: \"xml\" is not one of: logfmt, json, journald"),
    ("receive --log.ack=maybe", "--log.ack: \"maybe\" is not one of: durable, relaxed"),
    ("receive --hash-func=MD5", "--hash-func: \"MD5\" is not one of: SHA256"),
    (
        "receive --shards=0",
        "--shards: \"0\" is not a number of shards from 1 to 65535; leave it out for all cores",
    ),
    (
        "receive --shards=70000",
        "--shards: \"70000\" is not a number of shards from 1 to 65535; leave it out for all cores",
    ),
    (
        "receive --shards=two",
        "--shards: \"two\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        "receive --tsdb.retention=15",
        "--tsdb.retention: \"15\" has no unit after 15; units are y w d h m s ms",
    ),
    (
        "receive --tsdb.retention=1.5d",
        "--tsdb.retention: \"1.5d\" has an unknown unit \".\"; units are y w d h m s ms",
    ),
    (
        "receive --tsdb.retention=1h1d",
        "--tsdb.retention: \"1h1d\" has d out of order; units go once each from large to small: y \
         w d h m s ms",
    ),
    (
        "receive --tsdb.out-of-order.time-window=25h",
        "--tsdb.out-of-order.time-window: \"25h\" is more than 1d; all of it is held in memory",
    ),
    (
        "receive --tsdb.out-of-order.cap-max=121",
        "--tsdb.out-of-order.cap-max: \"121\" is more than 120, which is a full chunk",
    ),
    ("receive --tsdb.retention=300y", "--tsdb.retention: \"300y\" is too long; at most 292y"),
    (
        "receive --http-grace-period=-1s",
        "--http-grace-period: \"-1s\" has no number before \"-1s\"; write a duration like 1d12h",
    ),
    (
        "receive --remote-write.address=19291",
        "--remote-write.address: \"19291\" has no port; write host:port or :port",
    ),
    (
        "receive --grpc-address=node:10901",
        "--grpc-address: \"node:10901\" has a host name \"node\"; write an IP address, localhost, \
         or nothing for all",
    ),
    (
        "receive --http-address=:99999",
        "--http-address: \":99999\" has a bad port \"99999\"; a port is a number from 0 to 65535",
    ),
    (
        "receive --http-address=::1",
        "--http-address: \"::1\" has an IPv6 address without brackets; write [::1]:port",
    ),
    (
        "receive --http-address=0.0.0.0:19291",
        "--http-address: \"0.0.0.0:19291\" is taken by --remote-write.address",
    ),
    (
        "receive --grpc-address=:7 --http-address=0.0.0.0:7",
        "--http-address: \"0.0.0.0:7\" is taken by --grpc-address",
    ),
    ("receive --label=a", "--label: \"a\" has no '='; write name=\"value\""),
    (
        "receive --label=a=b",
        "--label: \"a=b\" has a value that is not in double quotes; write a=\"value\", the shell \
         eats one pair",
    ),
    (
        "receive --label=1a=\"b\"",
        "--label: \"1a=\\\"b\\\"\" has a bad label name \"1a\"; a name is [a-zA-Z_][a-zA-Z0-9_]*",
    ),
    (
        "receive --label=__a=\"b\"",
        "--label: \"__a=\\\"b\\\"\" has the reserved label name \"__a\"; names must not begin \
         with __",
    ),
    (
        "receive --label=a=\"\"",
        "--label: \"a=\\\"\\\"\" has an empty value; a label with an empty value does not exist",
    ),
    ("receive --label=a=\"1\" --label=a=\"2\"", "--label: \"a=\\\"2\\\"\" gives a a second value"),
    (
        "receive --label=tenant_id=\"1\"",
        "--label: \"tenant_id=\\\"1\\\"\" is the tenant's label, which Tidegate sets itself",
    ),
    (
        "receive --label=s=\"1\" --tsdb.shard-label=s",
        "--label: \"s=\\\"1\\\"\" is the shard's label, which Tidegate sets itself",
    ),
    (
        "receive --tsdb.shard-label=tenant_id",
        "--tsdb.shard-label: \"tenant_id\" is the tenant's label as well",
    ),
    (
        "receive --receive.tenant-label-name=a-b",
        "--receive.tenant-label-name: \"a-b\" has a bad label name \"a-b\"; a name is \
         [a-zA-Z_][a-zA-Z0-9_]*",
    ),
    (
        "receive --receive.tenant-header=a:b",
        "--receive.tenant-header: \"a:b\" is not the name of an HTTP header",
    ),
    (
        "receive --receive.default-tenant-id=..",
        "--receive.default-tenant-id: \"..\" is no tenant: tenant name must not be '.' or '..'",
    ),
    (
        "receive --receive.body-bytes-max=32M",
        "--receive.body-bytes-max: \"32M\" has an unknown unit \"M\"; units are B KiB MiB GiB TiB",
    ),
    ("receive --receive.body-bytes-max=0", "--receive.body-bytes-max: \"0\" must be 1 or more"),
    (
        "receive --receive.body-bytes-max=99TiB",
        "--receive.body-bytes-max: \"99TiB\" is more than 128MiB, the most there can be",
    ),
    (
        "receive --receive.decoded-bytes-max=257MiB",
        "--receive.decoded-bytes-max: \"257MiB\" is more than 256MiB, the most there can be",
    ),
    (
        "receive --receive.label-set-bytes-max=1GiB",
        "--receive.label-set-bytes-max: \"1GiB\" is more than 1MiB, the most there can be",
    ),
    (
        "receive --receive.connections-per-core-max=0",
        "--receive.connections-per-core-max: \"0\" must be 1 or more",
    ),
    (
        "receive --store.limits.request-samples=1e6",
        "--store.limits.request-samples: \"1e6\" is not a whole number from 0 to \
         18446744073709551615",
    ),
    (
        "receive --store.limits.request-series=+1",
        "--store.limits.request-series: \"+1\" is not a whole number from 0 to \
         18446744073709551615",
    ),
    (
        "receive --tsdb.write-queue-size=much",
        "--tsdb.write-queue-size: \"much\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        "receive --enable-feature=all",
        "--enable-feature: \"all\" is not one of: metric-names-filter",
    ),
    (
        "receive --tsdb.max-block-duration=31d",
        "--tsdb.max-block-duration is refused: a block covers 2h, as compactors expect; leave the \
         flag out",
    ),
    (
        "receive --objstore.config-file=/nowhere",
        "cannot read bucket from /nowhere: No such file or directory (os error 2)",
    ),
    (
        "receive --objstore.config=x",
        "--objstore.config: is no YAML of a bucket: expected mapping start at line 1, column 1; it \
         looks like this: {type: FILESYSTEM, config: {directory: /var/lib/bucket}}, or {type: S3, \
         config: {bucket: NAME, endpoint: HOST}}",
    ),
];

#[test]
fn bad_command_lines_are_told_what_is_wrong() {
    for (line, want) in BAD {
        let args: Vec<&str> = line.split(' ').collect();
        assert_eq!(&error(&args), want, "{line}");
    }
    assert!(BAD.len() >= 40);
}

//! The tutorial of Thanos Receive, with a stock Prometheus as sender: two of them scrape themselves
//! and write here, and what they wrote is read back over the StoreAPI, by our client and by one
//! that was written from the contract alone, in Python.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::live::harness::{Node, home, read, wait_for};
use crate::live::wire::{Labels, Store, fetch, metrics};
use crate::peer;

pub(crate) const PROMETHEUS: &str = "/usr/bin/prometheus";
/// From a sender's first answered write until its series can be read.
const SOON: Duration = Duration::from_secs(5);

/// A running Prometheus; killed when it goes out of scope.
pub(crate) struct Sender {
    child: Child,
    http: SocketAddr,
    log: PathBuf,
}

impl Sender {
    /// Starts one that scrapes `target`, or itself, and writes to `to`.
    pub(crate) fn start(
        home: &Path,
        cluster: &str,
        to: SocketAddr,
        target: Option<SocketAddr>,
    ) -> Self {
        let http = free_address();
        let target = target.unwrap_or(http);
        let config = format!(
            "global:\n  scrape_interval: 1s\n  \
             external_labels: {{cluster: {cluster}, replica: \"0\"}}\n\
             scrape_configs:\n- job_name: prometheus\n  static_configs:\n  \
             - targets: ['{target}']\n\
             remote_write:\n- url: http://{to}/api/v1/receive\n  \
             queue_config: {{batch_send_deadline: 200ms}}\n"
        );
        Self::run(home, cluster, http, &config, &[])
    }

    /// Starts one that scrapes native histograms of `target` and writes them to `to`.
    pub(crate) fn of_histograms(
        home: &Path,
        name: &str,
        to: SocketAddr,
        target: SocketAddr,
    ) -> Self {
        let config = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n\
             scrape_configs:\n- job_name: native\n  static_configs:\n  \
             - targets: ['{target}']\n\
             remote_write:\n- url: http://{to}/api/v1/receive\n  \
             send_native_histograms: true\n  queue_config: {{batch_send_deadline: 200ms}}\n"
        );
        let native = "--enable-feature=native-histograms";
        Self::run(home, name, free_address(), &config, &[native])
    }

    /// Starts one that only reads what lies in its directory.
    pub(crate) fn reading(home: &Path, name: &str) -> Self {
        Self::run(home, name, free_address(), "", &["--enable-feature=native-histograms"])
    }

    fn run(home: &Path, name: &str, http: SocketAddr, config: &str, more: &[&str]) -> Self {
        let path = home.join(format!("{name}.yml"));
        fs::write(&path, config).expect("is written");
        let log = home.join(format!("{name}.log"));
        let child = Command::new(PROMETHEUS)
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", home.join(name).display()))
            .arg(format!("--web.listen-address={http}"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a file for the log"))
            .spawn();
        Self { child: child.expect("starts"), http, log }
    }

    /// Whether it answers queries.
    pub(crate) fn is_ready(&self) -> bool {
        fetch(self.http, "/-/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// The body of its answer to a snappy body. By HTTP/1.0, so that it is not cut in chunks.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: prometheus\r\nContent-Type: \
             application/x-protobuf\r\nContent-Encoding: snappy\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.http).expect("a connection");
        stream.write_all(&[head.as_bytes(), body].concat()).expect("is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
        assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
        answer.split_off(end + 4)
    }

    /// A number of its own about its remote write.
    pub(crate) fn number(&self, name: &str) -> f64 {
        metrics(self.http).sum(&format!("prometheus_remote_storage_{name}_total"))
    }

    /// Whether a write of its was answered 2xx: then it knows the newest time that was sent well.
    fn was_answered(&self) -> bool {
        let answer = fetch(self.http, "/metrics").ok().filter(|answer| answer.status == 200);
        let newest = "prometheus_remote_storage_queue_highest_sent_timestamp_seconds{";
        answer.is_some_and(|answer| {
            let rows = answer.text.lines().filter(|line| line.starts_with(newest));
            let mut numbers = rows.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            numbers.any(|number| number > 0.0)
        })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            println!("log of Prometheus:\n{}", read(&self.log));
        }
    }
}

/// An address that was free a moment ago: Prometheus does not tell which one it chose.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

fn value<'a>(labels: &'a Labels, name: &str) -> Option<&'a str> {
    labels.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
}

/// What there is of `up` once both senders' is there, and that it came soon after their first 2xx.
fn seen_soon(
    store: &Store,
    senders: &[Sender; 2],
    clusters: [&str; 2],
) -> BTreeMap<Labels, Vec<(i64, u64)>> {
    // When each had no answer yet: its first 2xx, which carries the first scrape, came later.
    let mut before = [Instant::now(); 2];
    let mut answered = [false; 2];
    let mut took = [None; 2];
    let up = wait_for("both senders", || {
        for ((sender, before), answered) in senders.iter().zip(&mut before).zip(&mut answered) {
            let asked = Instant::now();
            *answered = *answered || sender.was_answered();
            if !*answered {
                *before = asked;
            }
        }
        let up = store.select(&[("__name__", "up")]);
        for ((cluster, before), took) in clusters.iter().zip(&before).zip(&mut took) {
            let is = |labels: &Labels| value(labels, "cluster") == Some(cluster);
            if took.is_none() && up.keys().any(is) {
                *took = Some(before.elapsed());
            }
        }
        (answered == [true; 2] && took.iter().all(Option::is_some)).then_some(up)
    });
    println!("{took:?} from the first answers");
    assert!(took.iter().flatten().all(|took| *took < SOON), "{took:?}");
    up
}

#[test]
fn the_tutorial_with_a_stock_prometheus() {
    let found = fs::metadata(PROMETHEUS);
    if !peer::is_there(found, "prometheus", "two senders of Prometheus and a foreign reader") {
        return;
    }
    let home = home();
    let labels = ["receive_replica=\"0\"", "receive_cluster=\"wayne-enterprises\""];
    let node =
        Node::start(home.path(), &["--shards", "2", "--label", labels[0], "--label", labels[1]]);
    let clusters = ["batcave", "batcomputer"];
    let senders = clusters.map(|cluster| Sender::start(home.path(), cluster, node.at.write, None));
    let store = Store::connect(node.at.grpc);
    let up = seen_soon(&store, &senders, clusters);
    assert_eq!(up.len(), 2);
    for ((labels, samples), (cluster, sender)) in up.iter().zip(clusters.iter().zip(&senders)) {
        let instance = sender.http.to_string();
        let want: Labels = [
            ("__name__", "up"),
            ("cluster", cluster),
            ("instance", &instance),
            ("job", "prometheus"),
            ("receive_cluster", "wayne-enterprises"),
            ("receive_replica", "0"),
            ("replica", "0"),
            ("tenant_id", "default-tenant"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        assert_eq!(*labels, want);
        assert!(samples.iter().all(|&(_, bits)| f64::from_bits(bits).total_cmp(&1.0).is_eq()));
    }
    // What is told of tenants follows the data at a pace of its own.
    wait_for("the tenant in Info", || {
        let sets = store.info().label_sets;
        let has = |n: &str, v: &str| {
            sets.iter().all(|set| set.labels.iter().any(|l| l.name == n && l.value == v))
        };
        let all = has("receive_replica", "0") && has("receive_cluster", "wayne-enterprises");
        (all && has("tenant_id", "default-tenant")).then_some(())
    });
    // Enough for chunks that grow, scrape after scrape.
    let all = wait_for("five scrapes", || {
        let all = store.select(&[("__name__", ".+")]);
        let up = all.iter().filter(|(labels, _)| value(labels, "__name__") == Some("up"));
        let enough = up.map(|(_, samples)| samples.len()).min() >= Some(5);
        enough.then_some(all)
    });
    let samples: usize = all.values().map(Vec::len).sum();
    println!("{} series, {samples} samples", all.len());
    for sender in &senders {
        assert!(sender.number("samples") > 0.0);
        for lost in ["samples_failed", "samples_dropped", "samples_retried"] {
            assert!(sender.number(lost) < 1.0, "{lost}: {}", sender.number(lost));
        }
    }
    drop(senders);
    foreign_reader(&node, &store);
}

/// A client written from the contract alone reads what ours reads.
fn foreign_reader(node: &Node, store: &Store) {
    // The one in the path may be another than the one Debian's packages belong to.
    let has_grpcio = |python: &&str| {
        let tried = Command::new(python).args(["-c", "import grpc"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_grpcio);
    let found = python.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    if !peer::is_there(found, "python3 with grpcio", "the StoreAPI as read by a foreign client") {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/store_api.py");
    let ran =
        Command::new(python.expect("was found")).arg(script).arg(node.at.grpc.to_string()).output();
    let ran = ran.expect("runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let theirs = String::from_utf8(ran.stdout).expect("text");
    let mut ours = String::new();
    for (labels, samples) in store.select(&[("__name__", ".+")]) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let samples: Vec<String> =
            samples.iter().map(|(t, bits)| format!("{t}:{bits:016x}")).collect();
        ours.extend([&labels.join("\u{1f}"), "|", &samples.join(" "), "\n"]);
    }
    let differs = theirs.lines().zip(ours.lines()).find(|(theirs, ours)| theirs != ours);
    assert_eq!(differs, None);
    assert_eq!(theirs.lines().count(), ours.lines().count());
}

//! The servers under comparison: how each is started, known to be ready, weighed and stopped.
//!
//! Every server runs on loopback, on free ports, with its data in a folder of its own that goes
//! with it. It is killed when its [`Server`] is dropped; and, should the generator itself be
//! killed, by the kernel (`setpriv --pdeathsig`, where there is one).

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, at};
use crate::http::{self, Url};
use crate::throttle::{Clock as _, SystemClock};

/// How long a server may take to start.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Time slices per second in `/proc`: `USER_HZ`, 100 on every Linux there is.
const TICKS_PER_SECOND: u64 = 100;

const SETPRIV: &str = "/usr/bin/setpriv";

/// What can be compared.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Tidegate,
    Prometheus,
    VictoriaMetrics,
    /// The sink of this program: what the generator and the kernel cost.
    Null,
}

/// What a 2xx is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Durability {
    /// Nothing is kept.
    #[serde(rename = "-")]
    None,
    /// In the memory of the process: killing it loses data.
    D0,
    /// Written to the page cache or the device, not flushed: survives the process, not a power cut.
    D1,
    /// The device confirmed a flush: survives power loss.
    D2,
}

impl Kind {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Prometheus => "prometheus",
            Self::VictoriaMetrics => "victoria-metrics",
            Self::Null => "null",
        }
    }

    /// What its 2xx is worth, with these extra arguments.
    pub(crate) fn durability(self, arguments: &[String]) -> Durability {
        match self {
            Self::Tidegate if arguments.iter().any(|flag| flag.contains("relaxed")) => {
                Durability::D1
            }
            Self::Tidegate => Durability::D2,
            Self::Prometheus => Durability::D1,
            Self::VictoriaMetrics => Durability::D0,
            Self::Null => Durability::None,
        }
    }
}

/// A program to compare.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    pub(crate) binary: PathBuf,
    /// Arguments beyond those of [`Program::start`].
    pub(crate) arguments: Vec<String>,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) write: Url,
    /// Base of the HTTP API, and of `/-/ready`.
    pub(crate) http: Url,
    pub(crate) store_api: Option<String>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    addresses: Addresses,
}

/// What a process used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// The most memory it ever had (`VmHWM`).
    pub(crate) rss_size_max: u64,
    /// Bytes it caused to be written to the device.
    pub(crate) written_size: u64,
}

impl Program {
    /// What tells this program from another build of it: path, size, time, arguments.
    pub(crate) fn identity(&self) -> Result<String> {
        let meta = std::fs::metadata(&self.binary).map_err(at(&self.binary))?;
        let modified = meta.modified().ok();
        let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let arguments = self.arguments.join(" ");
        let seconds = since.unwrap_or_default().as_secs();
        Ok(format!("{} {} {seconds} {arguments}", self.binary.display(), meta.len()))
    }

    /// Starts it on an empty folder within `work_dir` and waits until it is ready.
    pub(crate) fn start(&self, work_dir: &Path) -> Result<Server> {
        let folder = tempfile::Builder::new()
            .prefix("loadgen-")
            .tempdir_in(work_dir)
            .map_err(at(work_dir))?;
        let [write, http, grpc] = [free_port()?, free_port()?, free_port()?];
        let url = |port: u16, path: &str| Url {
            host: format!("127.0.0.1:{port}"),
            path: path.to_owned(),
        };
        let data = folder.path().join("data");
        std::fs::create_dir(&data).map_err(at(&data))?;
        let data = data.display();
        let (arguments, addresses) = match self.kind {
            Kind::Tidegate => (
                vec![
                    "receive".to_owned(),
                    format!("--tsdb.path={data}"),
                    "--label=receive_replica=\"0\"".to_owned(),
                    format!("--remote-write.address=127.0.0.1:{write}"),
                    format!("--grpc-address=127.0.0.1:{grpc}"),
                    format!("--http-address=127.0.0.1:{http}"),
                ],
                Addresses {
                    write: url(write, "/api/v1/receive"),
                    http: url(http, "/"),
                    store_api: Some(format!("127.0.0.1:{grpc}")),
                },
            ),
            Kind::Prometheus => {
                let config = folder.path().join("prometheus.yml");
                std::fs::write(&config, "global: {}\n").map_err(at(&config))?;
                let arguments = vec![
                    format!("--config.file={}", config.display()),
                    format!("--storage.tsdb.path={data}"),
                    format!("--web.listen-address=127.0.0.1:{http}"),
                    "--web.enable-remote-write-receiver".to_owned(),
                    "--log.level=warn".to_owned(),
                ];
                (arguments, one_port(&url, http, "/api/v1/write"))
            }
            Kind::VictoriaMetrics => {
                let arguments = vec![
                    format!("-storageDataPath={data}"),
                    format!("-httpListenAddr=127.0.0.1:{http}"),
                    "-retentionPeriod=12".to_owned(),
                    "-loggerLevel=WARN".to_owned(),
                ];
                (arguments, one_port(&url, http, "/api/v1/write"))
            }
            Kind::Null => {
                let arguments = vec!["sink".to_owned(), format!("--listen=127.0.0.1:{http}")];
                (arguments, one_port(&url, http, "/"))
            }
        };
        let child = self.spawn(folder.path(), &arguments)?;
        let mut server = Server { child, folder, addresses };
        self.wait_until_ready(&mut server)?;
        Ok(server)
    }

    fn spawn(&self, folder: &Path, arguments: &[String]) -> Result<Child> {
        let log = folder.join("log");
        let out = File::create(&log).map_err(at(&log))?;
        let err = out.try_clone().map_err(at(&log))?;
        let mut command = if Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            command.args(["--pdeathsig", "KILL", "--"]).arg(&self.binary);
            command
        } else {
            Command::new(&self.binary)
        };
        command.args(arguments).args(&self.arguments).current_dir(folder);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        command.spawn().map_err(at(&self.binary))
    }

    fn wait_until_ready(&self, server: &mut Server) -> Result<()> {
        let ready = match self.kind {
            Kind::Null | Kind::VictoriaMetrics => "/health",
            Kind::Tidegate | Kind::Prometheus => "/-/ready",
        };
        let url = server.addresses.http.at(ready);
        let clock = SystemClock::start();
        loop {
            let exited = server.child.try_wait().map_err(at(&self.binary))?;
            if exited.is_some() || clock.now() > READY_WITHIN {
                let log = std::fs::read_to_string(server.folder.path().join("log"));
                let log = log.unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(5).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                let fact = exited.map_or("not ready in time".to_owned(), |code| code.to_string());
                return Err(Error::Server {
                    target: self.kind.name().to_owned(),
                    reason: format!("{fact}; its last words: {}", tail.join(" | ")),
                });
            }
            if http::fetch(&url, "GET", "", &[]).is_ok_and(|answer| answer.status < 300) {
                return Ok(());
            }
            clock.sleep_until(clock.now() + Duration::from_millis(50));
        }
    }
}

fn one_port(url: &impl Fn(u16, &str) -> Url, port: u16, write: &str) -> Addresses {
    Addresses { write: url(port, write), http: url(port, "/"), store_api: None }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener
        .map(|address| address.port())
        .map_err(|error| Error::Peer { peer: "127.0.0.1".to_owned(), reason: error.to_string() })
}

impl Server {
    /// Where it listens.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What its process used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        usage(self.child.id())
    }

    /// Bytes its data occupies on the device.
    pub(crate) fn disk_size(&self) -> Result<u64> {
        disk_size(&self.folder.path().join("data"))
    }

    /// A folder beside its data that goes with it.
    pub(crate) fn side_folder(&self) -> PathBuf {
        self.folder.path().join("side")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What a process used so far, from `/proc`.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        std::fs::read_to_string(&path).map_err(at(&path))
    };
    let status = read("status")?;
    let io = read("io").unwrap_or_default();
    Ok(Usage {
        cpu: cpu_of(&read("stat")?),
        rss_size_max: number_after(&status, "VmHWM:") * 1024,
        written_size: number_after(&io, "write_bytes:"),
    })
}

/// Time all processors of the machine were busy since it started.
pub(crate) fn machine_busy() -> Result<Duration> {
    let path = Path::new("/proc/stat");
    let text = std::fs::read_to_string(path).map_err(at(path))?;
    let line = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal: all but the two idle ones.
    let fields: Vec<u64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    let busy = fields.iter().take(8).enumerate().filter(|(index, _)| ![3, 4].contains(index));
    Ok(ticks(busy.map(|(_, ticks)| ticks).sum()))
}

/// User and system time from the text of `/proc/PID/stat`; the name in it may hold anything.
fn cpu_of(stat: &str) -> Duration {
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse().ok()).unwrap_or(0);
    ticks(field(11) + field(12))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / TICKS_PER_SECOND)
}

fn number_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Bytes a folder occupies: blocks, not lengths, so that sparse files count for what they are.
fn disk_size(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut size = 0;
    let entries = match std::fs::read_dir(folder) {
        // Gone since it was listed: servers tidy up while we count.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(at(folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(at(folder))?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => size += disk_size(&entry.path())?,
            Ok(meta) => size += meta.blocks() * 512,
            Err(_) => {}
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 500 0 0 0 123 45 0 0 20 0 9 0 1000 1 2 3";
        assert_eq!(cpu_of(stat), Duration::from_millis(1680));
        assert_eq!(cpu_of(""), Duration::ZERO);
    }

    #[test]
    fn our_own_process_is_there() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_size_max > 1 << 20);
        assert!(machine_busy().unwrap() > usage.cpu);
        assert_eq!(number_after("a: 1\nVmHWM:\t  77 kB\n", "VmHWM:"), 77);
    }

    #[test]
    fn disk_size_counts_folders_in_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), vec![1u8; 100_000]).unwrap();
        File::create(folder.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let size = disk_size(folder.path()).unwrap();
        assert!((100_000..200_000).contains(&size), "{size}");
    }

    #[test]
    fn a_server_that_cannot_start_is_an_error_with_its_words() {
        let program = Program {
            kind: Kind::Null,
            binary: PathBuf::from("/bin/ls"),
            arguments: vec!["/nowhere-at-all".to_owned()],
        };
        let error = program.start(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(error.contains("null") && error.contains("exit status"), "{error}");
    }
}

//! Each flag that acts is seen to act, from outside: not only understood, but handed on to whom it
//! is about. Most are shown here, those of a subject of its own in the file of that.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate::config::table::{Does, flags};

use crate::live::blocks;
use crate::live::harness::{Node, TIDEGATE, arguments, home, now_ms, read, wait_for};
use crate::live::wire::{Sender, Store, request, series, write_bytes};

const HOUR_MS: i64 = 3_600_000;

/// Asks with a head line and one series; the status and what was said.
fn ask(node: &Node, head: &str, labels: &[(&str, &str)], t: i64) -> (u16, String) {
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let one = request(vec![series(labels, &[(t, 1.0)])]);
    let body = crate::live::wire::encode(&one);
    let answer = sender.post(head, &body).expect("an answer");
    (answer.status, answer.text)
}

#[test]
fn flags_of_receiving_act() {
    let home = home();
    let node = Node::start(
        home.path(),
        &[
            "--shards=1",
            "--receive.tenant-header=X-Who",
            "--receive.default-tenant-id=nobody",
            "--receive.tenant-label-name=who",
            "--receive.body-bytes-max=1KiB",
            "--receive.decoded-bytes-max=8KiB",
            "--receive.labels-per-series-max=3",
            "--receive.label-name-bytes-max=20B",
            "--receive.label-value-bytes-max=2KiB",
            "--receive.label-set-bytes-max=3KiB",
            "--tsdb.too-far-in-future.time-window=2h",
        ],
    );
    let t = now_ms();
    let (one, long) = ([("__name__", "one")], "x".repeat(9_000));
    for (head, ahead) in [("X-Who: red\r\n", 0), ("", 3 * HOUR_MS / 2)] {
        let (status, said) = ask(&node, head, &one, t + ahead);
        assert_eq!(status, 200, "{said}");
    }
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "one")]);
    let who = |labels: &[(String, String)]| {
        labels.iter().find(|(name, _)| name == "who").map(|(_, value)| value.clone())
    };
    let tenants: Vec<_> = stored.keys().filter_map(|labels| who(labels)).collect();
    assert_eq!(tenants, ["nobody", "red"], "{stored:?}");

    for (labels, status, said) in [
        (
            &[("__name__", "one"), ("a", "1"), ("b", "1"), ("c", "1")][..],
            400,
            "3 labels; --receive.labels-per-series-max",
        ),
        (&[("__name__", "one"), (&long[..21], "1")], 400, "--receive.label-name-bytes-max"),
        (&[("__name__", "one"), ("a", &long[..2_100])], 400, "--receive.label-value-bytes-max"),
        (&[("a", &long[..2_000]), ("b", &long[..2_000])], 400, "--receive.label-set-bytes-max"),
        (&[("a", &long[..])], 413, "at most 8192 are allowed"),
    ] {
        let got = ask(&node, "", labels, t);
        assert!(got.0 == status && got.1.contains(said), "{said}: {got:?}");
    }
    let got = ask(&node, "", &one, t + 3 * HOUR_MS);
    assert!(got.0 == 409 && got.1.contains("farthest future"), "{got:?}");
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    sender.send(&write_bytes("", &[0; 1_025])).expect("is taken");
    let answer = sender.answer().expect("an answer");
    assert!(answer.status == 413 && answer.text.contains("1024"), "{answer:?}");
}

/// Whether a connection of HTTP/2 that rests is sent away within a time: GOAWAY comes.
fn is_sent_away(to: SocketAddr, within: Duration) -> bool {
    const GOAWAY: u8 = 7;
    let mut stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(within)).expect("a timeout");
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("is taken");
    stream.write_all(&empty_settings).expect("is taken");
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let [a, b, c, kind, ..] = head;
        if kind == GOAWAY {
            return true;
        }
        let mut rest = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut rest).expect("the rest of the frame");
    }
}

#[test]
fn flags_of_reading_act() {
    for (age, goes) in [("1s", true), ("0s", false)] {
        let home = home();
        let age = format!("--grpc-server-max-connection-age={age}");
        let flags = ["--shards=1", &age, "--grpc-grace-period=0s", "--http-grace-period=0s"];
        let mut node = Node::start(home.path(), &flags);
        let within = if goes { Duration::from_secs(20) } else { Duration::from_secs(3) };
        assert_eq!(is_sent_away(node.at.grpc, within), goes, "{age}");
        // A stream and a half request, which a stop would wait seconds for.
        let store = Store::connect(node.at.grpc);
        store.watch_health();
        let mut half = Sender::connect(node.at.http).expect("a connection");
        half.send(b"GET /api/v1/labels HTTP/1.1\r\nHost: a\r\nAcc").expect("is taken");
        let begun = Instant::now();
        node.terminate();
        assert!(node.wait().success());
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    }
}

#[test]
fn flags_of_the_bucket_act() {
    let home = home();
    let (bucket, config) = (home.path().join("b"), home.path().join("bucket.yaml"));
    let yaml = format!("type: FILESYSTEM\nconfig: {{directory: '{}'}}\n", bucket.display());
    fs::write(&config, yaml).expect("a file");
    let config = format!("--objstore.config-file={}", config.display());
    let flags = ["--shards=1", &config, "--hash-func=SHA256", "--label=replica=\"7\""];
    let node = Node::start(home.path(), &flags);
    let t = now_ms() - 6 * HOUR_MS;
    let samples: Vec<(i64, f64)> = (0..6).map(|i| (t + i * HOUR_MS, 1.0)).collect();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let answer = sender.write("a", &request(vec![series(&[("__name__", "m")], &samples)]));
    assert_eq!(answer.expect("an answer").status, 200);
    let meta = wait_for("a block in the bucket", || {
        let blocks = fs::read_dir(&bucket).ok()?.flatten();
        blocks.map(|block| read(&block.path().join("meta.json"))).find(|meta| !meta.is_empty())
    });
    assert!(meta.contains("\"SHA256\"") && meta.contains("\"replica\":"), "{meta}");
    assert!(!home.path().join("data/bucket").exists(), "the default bucket is not used");
    wait_for("all noted", || {
        let blocks = blocks::local(&home.path().join("data"));
        blocks
            .iter()
            .all(|b| blocks::shipped(&home.path().join("data"), &b.tenant).contains(&b.meta.ulid))
            .then_some(())
    });
}

/// The log of a node that was started so and is ready.
fn log_of(home: &Path, flags: &[&str]) -> String {
    let log = home.join("log");
    let mut command = std::process::Command::new(TIDEGATE);
    command.args(arguments(home)).args(["--shards=1"]).args(flags);
    command.stderr(fs::File::create(&log).expect("a log"));
    let mut child = command.spawn().expect("starts");
    let said = wait_for("words", || {
        std::thread::sleep(Duration::from_secs(1));
        Some(read(&log))
    });
    child.kill().expect("ours");
    child.wait().expect("gone");
    said
}

#[test]
fn flags_of_the_log_act() {
    let home = home();
    let said = log_of(home.path(), &["--log.format=json"]);
    assert!(said.lines().count() > 5, "{said}");
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(line["level"].is_string() && line["msg"].is_string(), "{line}");
    }
    assert_eq!(log_of(home.path(), &["--log.level=error"]), "");
}

/// Nobody adds a flag that acts without showing it to act.
#[test]
fn each_flag_that_acts_is_tried() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live");
    let files = fs::read_dir(folder).expect("our folder").flatten();
    let text: String = files.map(|file| read(&file.path())).collect();
    let tried = |name: &str| {
        let whole = |at: usize| {
            let end = text[at..].chars().nth(name.len());
            end.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-' && c != '.')
        };
        let named = text.match_indices(&format!("--{name}")).any(|(at, _)| whole(at + 2));
        // The doors' addresses are given by the harness, in one line.
        named || name.ends_with("address") && text.contains(&format!("\"{name}\""))
    };
    let untried: Vec<&str> = flags()
        .filter(|flag| flag.does == Does::Acts && !tried(flag.name))
        .map(|flag| flag.name)
        .collect();
    assert_eq!(untried, Vec::<&str>::new());
}

//! The sender against a scripted target: real sockets, answers by a function of the count.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicU32;

use super::*;
use crate::encode::message::WriteRequest;
use crate::ledger::{History, Standing};
use prost::Message as _;

/// Runs a scenario against a target whose `n`-th request gets `answer(n)`; an empty text closes
/// the connection without an answer. Returns what was sent, decoded, by the answer it got.
fn drive(
    scenario: &Scenario,
    ledger: Option<&Ledger>,
    answer: impl Fn(u32) -> &'static str + Sync,
) -> (Result<Outcome>, Vec<(&'static str, WriteRequest)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let stream = Stream::new(scenario);
    let url = Url { host: host.clone(), path: "/api/v1/write".to_owned() };
    let over = AtomicBool::new(false);
    let count = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut peers = Vec::new();
            for peer in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (count, answer) = (&count, &answer);
                peers.push(scope.spawn(move || serve(peer.unwrap(), count, answer)));
            }
            peers.into_iter().flat_map(|peer| peer.join().unwrap()).collect()
        });
        let give_up = Duration::from_secs(5);
        let first_round = 0;
        let job =
            Job { scenario, stream: &stream, url: &url, ledger, first_round, give_up, keeps: true };
        let outcome = run(&job, |_| {});
        over.store(true, Ordering::Relaxed);
        TcpStream::connect(&host).unwrap();
        (outcome, server.join().unwrap())
    })
}

fn serve(
    mut peer: TcpStream,
    count: &AtomicU32,
    answer: &dyn Fn(u32) -> &'static str,
) -> Vec<(&'static str, WriteRequest)> {
    let mut seen = Vec::new();
    let mut input = Vec::new();
    loop {
        let mut buffer = [0u8; 8192];
        let text = String::from_utf8_lossy(&input).into_owned();
        let head = text
            .find("\r\n\r\n")
            .map(|_| input.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4);
        let size = head.map(|head| {
            let head = String::from_utf8_lossy(&input[..head]).into_owned();
            let at = head.find("Content-Length: ").unwrap() + 16;
            head[at..].lines().next().unwrap().parse::<usize>().unwrap()
        });
        match (head, size) {
            (Some(head), Some(size)) if input.len() >= head + size => {
                let rest = input.split_off(head + size);
                let raw = snap::raw::Decoder::new().decompress_vec(&input[head..]).unwrap();
                input = rest;
                let text = answer(count.fetch_add(1, Ordering::Relaxed));
                seen.push((text, WriteRequest::decode(raw.as_slice()).unwrap()));
                if text.is_empty() {
                    return seen;
                }
                peer.write_all(text.as_bytes()).unwrap();
            }
            _ => match peer.read(&mut buffer) {
                Ok(count) if count > 0 => input.extend_from_slice(&buffer[..count]),
                _ => return seen,
            },
        }
    }
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
const BAD: &str = "HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nnope";

fn scenario() -> Scenario {
    let smoke = Scenario::load("smoke").unwrap();
    Scenario { series: 900, samples_per_request: 100, rounds: 5, warmup_rounds: 1, ..smoke }
}

/// Samples of requests that got 2xx, each series' times in order of arrival.
fn stored(seen: &[(&str, WriteRequest)]) -> HashMap<String, Vec<i64>> {
    let mut stored: HashMap<String, Vec<i64>> = HashMap::new();
    for (_, request) in seen.iter().filter(|(answer, _)| *answer == OK) {
        for series in &request.timeseries {
            let times = stored.entry(format!("{:?}", series.labels)).or_default();
            times.extend(series.samples.iter().map(|sample| sample.timestamp));
        }
    }
    stored
}

#[test]
fn every_sample_arrives_once_and_in_order() {
    let (outcome, seen) = drive(&scenario(), None, |_| OK);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.acked_requests, outcome.acked_samples), (45, 4_500));
    assert_eq!((outcome.latency_us.len(), outcome.warmup_latency_us.len()), (36, 9));
    let stored = stored(&seen);
    assert_eq!(stored.len(), 900);
    let stream = Stream::new(&scenario());
    let times: Vec<i64> = (0..5).map(|step| stream.time(step)).collect();
    assert!(stored.values().all(|got| *got == times));
}

#[test]
fn later_and_lost_connections_lose_nothing_and_the_ledger_knows() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), &scenario()).unwrap();
    let (outcome, seen) = drive(&scenario(), Some(&ledger), |count| match count % 7 {
        2 => BUSY,
        5 => "",
        _ => OK,
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.acked_requests, 45);
    assert!(outcome.retried[&503] > 3 && outcome.reconnects > 3);
    assert!(stored(&seen).values().all(|times| times.len() == 5));
    let history = History::read(folder.path()).unwrap();
    assert_eq!(history.requests.len(), 45);
    assert!(history.requests.values().all(|standing| *standing == Standing::Acked));
}

#[test]
fn a_refusal_is_counted_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), &scenario()).unwrap();
    let (outcome, seen) =
        drive(&scenario(), Some(&ledger), |count| if count == 3 { BAD } else { OK });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.refused, BTreeMap::from([(409, 1)]));
    assert_eq!(outcome.first_refusal.as_deref(), Some("nope"));
    assert_eq!((outcome.acked_requests, seen.len()), (44, 45));
    let history = History::read(folder.path()).unwrap();
    assert_eq!(history.refused, BTreeMap::from([(409, 1)]));
}

#[test]
fn in_2_0_a_success_must_say_that_all_was_written() {
    let scenario = Scenario { protocol: Protocol::V2, ..scenario() };
    let (outcome, _) = drive(&scenario, None, |count| match count {
        3 => "HTTP/1.1 204 x\r\nX-Prometheus-Remote-Write-Samples-Written: 99\r\n\r\n",
        4 => OK,
        _ => "HTTP/1.1 204 x\r\nx-prometheus-remote-write-samples-written: 100\r\n\r\n",
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.refused, BTreeMap::from([(204, 2)]));
    assert_eq!(outcome.acked_samples, 4_300);
}

#[test]
fn a_target_that_stays_away_ends_the_run_with_an_error() {
    let (outcome, _) = drive(&scenario(), None, |count| {
        if count < 10 {
            OK
        } else {
            "HTTP/1.1 503 x\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"
        }
    });
    assert!(matches!(outcome, Err(Error::GaveUp { .. })), "{outcome:?}");
}

#[test]
fn open_mode_counts_from_when_due() {
    // 4500 samples at 45,000/s: 0.1 s of schedule. One answer takes 60 ms, and the requests due
    // behind it on its connection are late although each is answered at once.
    let scenario = Scenario { mode: Mode::Open, rate: 45_000, warmup_rounds: 0, ..scenario() };
    let (outcome, _) = drive(&scenario, None, |count| {
        if count == 4 {
            std::thread::sleep(Duration::from_millis(60));
        }
        OK
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.acked_requests, 45);
    assert!(outcome.elapsed >= Duration::from_millis(95), "{:?}", outcome.elapsed);
    let late = outcome.latency_us.count_between(20_000, 1_000_000);
    assert!(late >= 5, "{late} requests behind the stall are on the record");
}

#[test]
fn repeats_and_late_requests_are_sent() {
    let base = scenario();
    let late = Some(crate::scenario::Late { percent: 20, rounds: 2 });
    let scenario = Scenario { duplicate_percent: 20, late, ..base };
    let (outcome, seen) = drive(&scenario, None, |_| OK);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.acked_samples, 4_500);
    assert!(outcome.repeated_requests > 0);
    let stored = stored(&seen);
    assert!(stored.values().any(|times| !times.is_sorted()), "late");
    assert!(stored.values().any(|times| times.len() > 5), "repeated");
}

#[test]
fn verdicts() {
    for (status, expect) in [
        (200, Verdict::Acked),
        (204, Verdict::Acked),
        (400, Verdict::Refused),
        (404, Verdict::Refused),
        (429, Verdict::Later),
        (500, Verdict::Later),
        (503, Verdict::Later),
        (301, Verdict::Refused),
    ] {
        assert_eq!(verdict(status), expect, "{status}");
    }
}

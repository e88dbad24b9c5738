//! Strangers at the gRPC door: a message costs its sender, and `Info` answers meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use tonic::client::GrpcService;
use tonic::codegen::http;
use tonic::transport::Endpoint;

use crate::live::harness::{Node, PATIENCE, home};
use crate::live::wire::Store;

/// What all requests in hand may cost: the budget of the door, the same again for what is copied
/// out of them, and some room.
const GROWTH_KIB_MAX: u64 = 160 << 10;

/// Half of all answers of `Info` come within the time it is promised in. The rest is what this
/// machine does beside: far less than one of these messages took.
const USUAL: Duration = Duration::from_millis(100);
const WORST: Duration = Duration::from_millis(500);

/// So many messages come at once.
const AT_ONCE: usize = 8;

const INVALID_ARGUMENT: &str = "3";
const RESOURCE_EXHAUSTED: &str = "8";

/// 16 MB of empty entries: field `number`, length 0.
fn empty_entries(number: u8) -> Vec<u8> {
    [number << 3 | 2, 0].repeat(8_000_000)
}

/// One message of a gRPC body.
fn framed(flag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a short message").to_be_bytes();
    [&[flag][..], &length, bytes].concat()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut writer = snap::write::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut writer, bytes).expect("memory takes it");
    writer.into_inner().expect("memory takes it")
}

/// Sends the body over a connection of its own and returns the status.
fn status(to: SocketAddr, method: &str, snappy: bool, body: Vec<u8>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let call = async {
        let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("an address");
        let mut channel = endpoint.connect().await.expect("a connection");
        let mut request = http::Request::post(format!("/thanos.Store/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if snappy {
            request = request.header("grpc-encoding", "snappy");
        }
        let body = tonic::body::Body::new(Full::new(body.into()));
        std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("ready");
        let answer = channel.call(request.body(body).expect("a request")).await;
        let answer = answer.expect("an answer");
        let at_once = answer.headers().get("grpc-status").cloned();
        let rest = answer.into_body().collect().await.expect("a body");
        let status = rest.trailers().and_then(|t| t.get("grpc-status").cloned()).or(at_once);
        status.expect("a status").to_str().expect("text").to_string()
    };
    let bounded = async { tokio::time::timeout(PATIENCE, call).await };
    runtime.expect("a runtime").block_on(bounded).expect("an answer in time")
}

/// How long `Info` takes, again and again until `over`.
fn times_of_info(to: SocketAddr, over: &AtomicBool) -> Vec<Duration> {
    let store = Store::connect(to);
    let mut took = Vec::new();
    while !over.load(Relaxed) {
        let asked = Instant::now();
        store.info();
        took.push(asked.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    took.sort();
    took
}

#[test]
fn a_list_without_end_costs_its_sender_alone() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let to = node.at.grpc;
    let lists = [("Series", 3), ("Series", 14), ("LabelNames", 6), ("LabelValues", 8)];
    for (snappy, flag) in [(false, 0), (true, 1)] {
        let bodies = lists.map(|(method, number)| {
            let entries = empty_entries(number);
            let bytes = if snappy { packed(&entries) } else { entries };
            assert!(!snappy || bytes.len() < 1 << 20, "{} bytes", bytes.len());
            (method, framed(flag, &bytes))
        });
        let (before, over) = (node.reset_peak_kib(), AtomicBool::new(false));
        let (answers, took) = thread::scope(|scope| {
            let info = scope.spawn(|| times_of_info(to, &over));
            let senders: Vec<_> = (bodies.iter().cycle().take(AT_ONCE).cloned())
                .map(|(method, body)| scope.spawn(move || status(to, method, snappy, body)))
                .collect();
            let all = senders.into_iter().map(|sender| sender.join().expect("an answer"));
            let all: Vec<String> = all.collect();
            over.store(true, Relaxed);
            (all, info.join().expect("answers"))
        });
        let growth = node.status_kib("VmHWM").saturating_sub(before);
        let (half, worst) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{growth} KiB more; Info {} times, p50 {half:?}, worst {worst:?}", took.len());
        assert!(answers.iter().any(|code| code == INVALID_ARGUMENT), "{answers:?}");
        let known = |code: &String| code == INVALID_ARGUMENT || code == RESOURCE_EXHAUSTED;
        assert!(answers.iter().all(known), "{answers:?}");
        assert!(growth < GROWTH_KIB_MAX, "{growth} KiB");
        assert!(half < USUAL && worst < WORST, "{took:?}");
    }
}

//! hyper as the oracle: on valid streams both must see the same requests.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::listener::tests::twin::{Clock, Task, pipe, statuses};
use crate::listener::{Answer, Body, Head, Limits, Listener, Refusal, Reply, Service, Tally};
use crate::listener::{Endpoint, Outcome, Version};
use crate::rt::channel::watch;
use crate::rt::clock::Moment;

/// Method, path, body.
type Seen = Vec<(String, String, Vec<u8>)>;

/// A service that takes everything and writes it down.
#[derive(Default, Clone)]
struct Recorder(Rc<RefCell<Seen>>);

const REPLY: Reply =
    Reply { version: Some(Version::V1), endpoint: Some(Endpoint::Write), pause_s: 1 };

impl Service for Recorder {
    type Admission = ();

    fn admit(&self, _: &Head<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    async fn call(&self, head: &Head<'_>, _: Moment, (): (), body: Body<'_>) -> Answer {
        self.0.borrow_mut().push((head.method.into(), head.path.into(), body.to_vec()));
        Answer::of(&Outcome::Applied(Tally::default()), REPLY)
    }

    fn refuse(&self, _: Option<&Head<'_>>, _: Moment, refusal: &Refusal) -> Answer {
        Answer::refused(refusal, REPLY)
    }
}

fn ours(stream: &[u8], cuts: &[usize]) -> (Seen, Vec<u16>) {
    let recorder = Recorder::default();
    let (_drain, drained) = watch::channel(false);
    let listener = Listener::new(Limits::default(), Clock::default(), recorder.clone(), drained);
    let (peer, socket) = pipe(1 << 20);
    let mut task = Task::new(async move { listener.serve(socket).await });
    let mut from = 0;
    for &cut in cuts.iter().chain([&stream.len()]) {
        peer.send(&stream[from..cut]);
        from = cut;
        while task.turn() {}
    }
    peer.end();
    while task.turn() {}
    (recorder.0.take(), statuses(&peer.receive()))
}

fn hypers(stream: &[u8]) -> (Seen, Vec<u16>) {
    let recorder = Recorder::default();
    let record = |request: hyper::Request<Incoming>| {
        let seen = Rc::clone(&recorder.0);
        async move {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            seen.borrow_mut().push((method, path, body.to_vec()));
            let mut answer = hyper::Response::new(Empty::<Bytes>::new());
            *answer.status_mut() = hyper::StatusCode::NO_CONTENT;
            Ok::<_, Infallible>(answer)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let answers = runtime.block_on(async {
        let (mut peer, socket) = tokio::io::duplex(1 << 20);
        let serve = http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(socket), service_fn(record));
        let talk = async {
            peer.write_all(stream).await.expect("room");
            peer.shutdown().await.expect("an open pipe");
            let mut answers = String::new();
            peer.read_to_string(&mut answers).await.expect("answers are text");
            answers
        };
        let (served, answers) = tokio::join!(serve, talk);
        served.expect("hyper takes a valid stream");
        answers
    });
    (recorder.0.take(), statuses(&answers))
}

/// One valid request as bytes.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        "POST",
        "PUT",
        "[A-Z]{3,8}".prop_filter("no tunnel", |m| m != "CONNECT" && m != "HEAD")
    ];
    let path = "/[a-zA-Z0-9/._~%+:@!$&'()*,;=-]{0,30}(\\?[a-z0-9=&]{0,10})?";
    let headers =
        proptest::collection::vec(("X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", "[ -~\t]{0,20}"), 0..8);
    let framing = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(with_length),
        (
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..5),
            "(;[a-z]{1,5}(=[a-z0-9]{1,5})?){0,2}",
            proptest::collection::vec(("T-[a-z]{1,5}", "[ -~]{0,10}"), 0..3),
            any::<bool>(),
        )
            .prop_map(in_chunks),
    ];
    (method, path, headers, framing, 0..3_usize).prop_map(
        |(method, path, headers, framing, blank)| {
            let mut bytes = "\r\n".repeat(blank).into_bytes();
            bytes.extend(format!("{method} {path} HTTP/1.1\r\nhost: a\r\n").bytes());
            for (name, value) in headers {
                bytes.extend(format!("{name}:{value}\r\n").bytes());
            }
            if framing.is_empty() {
                bytes.extend(b"\r\n");
            } else {
                bytes.extend(framing);
            }
            bytes
        },
    )
}

fn with_length(body: Vec<u8>) -> Vec<u8> {
    [format!("Content-Length: {:04}\r\n\r\n", body.len()).into_bytes(), body].concat()
}

/// Chunks, the extension of each, trailers, and whether sizes are written in capitals.
type Chunked = (Vec<Vec<u8>>, String, Vec<(String, String)>, bool);

fn in_chunks((chunks, extension, trailers, upper): Chunked) -> Vec<u8> {
    let mut bytes = b"transfer-encoding: Chunked\r\n\r\n".to_vec();
    for chunk in chunks {
        let len = chunk.len();
        let size = if upper { format!("{len:03X}") } else { format!("{len:x}") };
        bytes.extend(format!("{size}{extension}\r\n").bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(format!("0{extension}\r\n").bytes());
    for (name, value) in trailers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    bytes.extend(b"\r\n");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn hyper_sees_the_same_requests(
        requests in proptest::collection::vec(request(), 1..6),
        mut cuts in proptest::collection::vec(0..10_000_usize, 0..8),
    ) {
        let stream = requests.concat();
        for cut in &mut cuts {
            *cut %= stream.len();
        }
        cuts.sort_unstable();
        let (seen, answers) = ours(&stream, &cuts);
        prop_assert_eq!(seen.len(), requests.len());
        prop_assert_eq!((seen, answers), hypers(&stream));
    }
}

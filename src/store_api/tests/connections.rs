//! How a connection lives: its pings, its age, and others beside it.

use std::time::Duration;

use tidegate_proto::thanos_info::InfoRequest;
use tidegate_proto::thanos_info::info_client::InfoClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{all, external, head, listen, run, series, store};
use crate::query::twin::{self, Head};
use crate::query::{Limits, NotReady};
use crate::rt::beside;
use crate::rt::door::{Door, Places};
use crate::store_api::{Connections, STREAMS_MAX, serve};
use crate::telemetry::Counters;

/// gRPC for Go ends a connection that pings more often than every five minutes unless told
/// otherwise; Queriers ping every 10 s. Here a stream lives through hundreds of pings.
#[test]
fn pings_at_any_pace_are_answered() {
    run(async {
        let (twins, endpoint) = listen(vec![], external(&[])).await;
        let endpoint = endpoint
            .http2_keep_alive_interval(Duration::from_millis(1))
            .keep_alive_while_idle(true);
        let mut health = HealthClient::new(endpoint.connect().await.expect("a connection"));
        let request = HealthCheckRequest { service: "thanos.Store".into() };
        let mut watch = health.watch(request).await.expect("a stream").into_inner();
        let first = watch.message().await.expect("an answer").expect("a status");
        assert_eq!(first.status(), ServingStatus::Serving);
        beside::sleep(Duration::from_millis(500)).await;
        drop(twins.ready.send_replace(Err(NotReady { why: "stopping".into() })));
        let next = watch.message().await.expect("the stream lives").expect("a status");
        assert_eq!(next.status(), ServingStatus::NotServing);
    });
}

/// A new connection to a door that closes connections of this age: what its frames are is for the
/// test to say.
async fn connect(age_max: Option<Duration>) -> TcpStream {
    let twins = twin::view(vec![], external(&[]), Limits::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let never = std::future::pending();
    let connections = Connections::new(age_max);
    let door = Door::new(listener, Places::new("grpc", 16, b""));
    beside::spawn(serve(twins.view.clone(), door, connections, Counters::default(), never));
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &empty_settings].concat();
    stream.write_all(&hello).await.expect("is taken");
    stream
}

/// The next frame of this kind, without its head.
async fn frame(stream: &mut TcpStream, wanted: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let [a, b, c, kind, ..] = head;
        let mut rest = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut rest).await.expect("the rest of the frame");
        if kind == wanted {
            return rest;
        }
    }
}

/// Whether the door asks a connection that rests to go, within `patience`: a GOAWAY frame comes.
async fn is_sent_away(age_max: Option<Duration>, patience: Duration) -> bool {
    let mut stream = connect(age_max).await;
    beside::timeout(patience, frame(&mut stream, 7)).await.is_ok()
}

/// SETTINGS say how many calls there may be; hyper refuses what is more.
#[test]
fn a_connection_has_so_many_calls_at_a_time() {
    run(async {
        let settings = frame(&mut connect(None).await, 4).await;
        let told: Vec<_> = settings.chunks(6).filter(|one| one[..2] == [0, 3]).collect();
        assert_eq!(told, [&[&[0, 3][..], &STREAMS_MAX.to_be_bytes()].concat()[..]]);
    });
}

#[test]
fn connections_grow_as_old_as_allowed() {
    run(async {
        let (age, long) = (Duration::from_millis(50), Duration::from_secs(20));
        assert!(is_sent_away(Some(age), long).await);
        assert!(!is_sent_away(None, 10 * age).await);
    });
}

/// Client, shards and server share this one thread, as badly as it can be. `Info` has a connection
/// of its own: on one it would wait for what is already under way to this slow client.
#[test]
fn info_answers_while_streams_saturate_the_thread() {
    run(async {
        let set = |i: usize| series("t", &[("i", &format!("{i:06}"))], 0..30);
        let heads = vec![Head { part_frames: 200, ..head((0..10_000).map(set).collect()) }];
        let (_twins, endpoint) = listen(heads, external(&[])).await;
        let channel = endpoint.connect().await.expect("a connection");
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut stream = store(&channel).series(all()).await.expect("a stream").into_inner();
            // The twin has done its own work once the first frame is here.
            stream.message().await.expect("an answer").expect("a frame");
            streams.push(beside::spawn(async move {
                let mut frames = 1;
                while stream.message().await.expect("an answer").is_some() {
                    frames += 1;
                    // This client would take all that has arrived in one go.
                    if frames % 16 == 0 {
                        beside::yield_now().await;
                    }
                }
                frames
            }));
        }
        let mut info = InfoClient::new(endpoint.connect().await.expect("a connection"));
        let mut late = Vec::new();
        while streams.iter().any(|s| !s.is_finished()) {
            let asked = Instant::now();
            info.info(InfoRequest {}).await.expect("info");
            late.push(asked.elapsed());
        }
        for stream in streams {
            assert_eq!(stream.await.expect("no panic"), 10_000);
        }
        late.sort();
        let (half, worst) = (late[late.len() / 2], late[late.len() - 1]);
        println!("Info beside four streams: {} asked, p50 {half:?}, worst {worst:?}", late.len());
        assert!(late.len() > 3 && half < Duration::from_millis(100), "p50 {half:?}: {late:?}");
    });
}

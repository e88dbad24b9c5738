//! The reader against a store that speaks gRPC over a real socket, faithful or not.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::codegen::{Body, BoxFuture, Service, StdError, http, tokio_stream};
use tonic::server::{Grpc, NamedService, ServerStreamingService};

use super::*;
use crate::oracle::Findings;
use crate::oracle::tests::{history, scenario, stored};

/// Answers `Series` with frames made beforehand.
#[derive(Clone)]
struct Store(Vec<SeriesResponse>);

impl NamedService for Store {
    const NAME: &'static str = "thanos.Store";
}

type Frames =
    tokio_stream::Iter<std::vec::IntoIter<std::result::Result<SeriesResponse, tonic::Status>>>;

impl ServerStreamingService<SeriesRequest> for Store {
    type Response = SeriesResponse;
    type ResponseStream = Pin<Box<Frames>>;
    type Future = Ready<std::result::Result<tonic::Response<Self::ResponseStream>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<SeriesRequest>) -> Self::Future {
        let request = request.into_inner();
        assert_eq!(request.matchers[0].name, "cluster");
        assert_eq!((request.partial_response_strategy, request.response_batch_size), (1, 64));
        let wanted = |response: &SeriesResponse| {
            request.matchers[1..].iter().all(|wanted| bears(response, wanted))
        };
        let frames: Vec<_> = self.0.drain(..).filter(wanted).map(Ok).collect();
        ready(Ok(tonic::Response::new(Box::pin(tokio_stream::iter(frames)))))
    }
}

impl<B> Service<http::Request<B>> for Store
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        assert_eq!(request.uri().path(), "/thanos.Store/Series");
        let store = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<SeriesResponse, SeriesRequest>::default();
            Ok(Grpc::new(codec).server_streaming(store, request).await)
        })
    }
}

/// The frames of a perfect store: two chunks per series; every third series in two frames, others
/// in a batch.
fn frames() -> Vec<SeriesResponse> {
    let chunk = |samples: &[(i64, u64)]| AggrChunk {
        min_time: samples[0].0,
        max_time: samples[samples.len() - 1].0,
        raw: Some(Chunk { kind: 0, data: xor::encode_plainly(samples) }),
    };
    let mut frames = Vec::new();
    for (number, (labels, samples)) in stored(&scenario()).into_iter().enumerate() {
        let labels: Vec<_> =
            labels.into_iter().map(|(name, value)| Label { name, value }).collect();
        let chunks: Vec<_> = samples.chunks(samples.len().div_ceil(2)).map(chunk).collect();
        if number % 3 == 0 {
            frames.extend(chunks.into_iter().map(|chunk| {
                Frame::Series(Series { labels: labels.clone(), chunks: vec![chunk] })
            }));
        } else {
            frames.push(Frame::Batch(SeriesBatch { series: vec![Series { labels, chunks }] }));
        }
    }
    frames.into_iter().map(|frame| SeriesResponse { frame: Some(frame) }).collect()
}

/// All series of a frame; each frame here is of one tenant.
fn series_of(response: &mut SeriesResponse) -> &mut [Series] {
    match response.frame.as_mut() {
        Some(Frame::Series(series)) => std::slice::from_mut(series),
        Some(Frame::Batch(batch)) => &mut batch.series,
        _ => &mut [],
    }
}

fn bears(response: &SeriesResponse, wanted: &LabelMatcher) -> bool {
    let mut response = response.clone();
    let is = |label: &Label| label.name == wanted.name && label.value == wanted.value;
    series_of(&mut response).iter().all(|series| series.labels.iter().any(is))
}

/// What a store holds of a load that a tenant has sent.
fn frames_of(tenant: &str) -> Vec<SeriesResponse> {
    let mut frames = frames();
    for series in frames.iter_mut().flat_map(series_of) {
        series.labels.push(Label { name: "tenant_id".to_owned(), value: tenant.to_owned() });
        series.labels.sort_by(|a, b| a.name.cmp(&b.name));
    }
    frames
}

#[test]
fn the_same_load_of_two_tenants_is_told_apart() {
    let both = || [frames_of("joker"), frames_of("riddler")].concat();
    let tenant = |name: &str| ("tenant_id".to_owned(), name.to_owned());
    for name in ["joker", "riddler"] {
        let findings = judge_of(both(), Some(&tenant(name)));
        assert!(findings.is_clean(), "{name}: {:?}", findings.first);
    }
    assert!(judge_of(both(), Some(&tenant("penguin"))).counts["lost"] > 0);
    assert!(judge_of(both(), None).counts["twice"] > 0);
}

/// Serves frames, reads them back through the socket, and judges.
fn judge(frames: Vec<SeriesResponse>) -> Findings {
    judge_of(frames, None)
}

fn judge_of(frames: Vec<SeriesResponse>, tenant: Option<&(String, String)>) -> Findings {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tonic::transport::Server::builder()
                    .add_service(Store(frames))
                    .serve_with_shutdown(address, async {
                        let _ended = stopped.await;
                    })
                    .await
            })
        });
        let mut findings = None;
        for _ in 0..100 {
            let mut oracle = Oracle::new(history(&scenario(), &[]), FIDELITY);
            match read(&address.to_string(), tenant, &mut oracle) {
                Ok(()) => {
                    findings = Some(oracle.finish());
                    break;
                }
                Err(Error::Peer { .. }) => std::thread::sleep(std::time::Duration::from_millis(20)),
                Err(other) => panic!("{other}"),
            }
        }
        stop.send(()).unwrap();
        server.join().unwrap().unwrap();
        findings
    });
    server.expect("the store answered")
}

fn chunks(frame: &mut SeriesResponse) -> &mut Vec<AggrChunk> {
    match frame.frame.as_mut().unwrap() {
        Frame::Series(series) => &mut series.chunks,
        Frame::Batch(batch) => &mut batch.series[0].chunks,
        Frame::Warning(_) => panic!("a warning has no chunks"),
    }
}

#[test]
fn a_faithful_store_is_clean() {
    let findings = judge(frames());
    assert!(findings.is_clean(), "{:?}", findings.first);
    assert_eq!(findings.stored_samples, findings.acked_samples);
}

#[test]
fn a_lost_chunk_a_doubled_chunk_and_a_wrong_value_are_found() {
    let mut spoiled = frames();
    chunks(&mut spoiled[2]).remove(0);
    assert!(judge(spoiled).counts["lost"] > 0);

    let mut spoiled = frames();
    let again = chunks(&mut spoiled[2])[0].clone();
    chunks(&mut spoiled[2]).insert(1, again);
    let counts = judge(spoiled).counts;
    assert!(counts["twice"] > 0 && counts.len() == 1, "{counts:?}");

    let mut spoiled = frames();
    let data = &mut chunks(&mut spoiled[2])[0].raw.as_mut().unwrap().data;
    data[2 + 6] ^= 0x10; // within the first value, behind the count and a time of 6 bytes
    assert!(judge(spoiled).counts["wrong value"] > 0);
}

#[test]
fn broken_promises_of_the_protocol_are_found() {
    let check = |spoil: fn(&mut Vec<SeriesResponse>), expect: &str| {
        let mut spoiled = frames();
        spoil(&mut spoiled);
        let findings = judge(spoiled);
        assert!(findings.counts["protocol"] > 0);
        assert!(findings.first[0].to_string().contains(expect), "{:?}", findings.first[0]);
    };
    check(|frames| frames.swap(3, 40), "out of order");
    check(|frames| chunks(&mut frames[2])[0].max_time -= 1, "holds");
    check(|frames| chunks(&mut frames[2])[0].raw = None, "not raw XOR");
    check(|frames| chunks(&mut frames[2]).reverse(), "chunks out of order");
    let warning = SeriesResponse { frame: Some(Frame::Warning("half".to_owned())) };
    let mut spoiled = frames();
    spoiled.push(warning);
    assert!(!judge(spoiled).is_clean());
}

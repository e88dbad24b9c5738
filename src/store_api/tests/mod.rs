//! The door as a Querier sees it: a real gRPC client over loopback, twins of shards behind.

mod connections;
mod messages;

use std::time::Duration;

use prost::Message as _;
use tidegate_proto::thanos::series_response::Result as Answer;
use tidegate_proto::thanos::store_client::StoreClient;
use tidegate_proto::thanos::{self, LabelMatcher, SeriesRequest, ShardInfo};
use tidegate_proto::thanos_info::InfoRequest;
use tidegate_proto::thanos_info::info_client::InfoClient;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use self::messages::by_hand;
use crate::frame::Sharding;
use crate::model::{External, Labels, MatchOp, Matcher, TimeSpan};
use crate::query::twin::{self, Fault, Head, PlainChunk, Series, Twins, external, series};
use crate::query::{Limits, NotReady, SelectRequest};
use crate::rt::beside;
use crate::rt::door::{Door, Places};
use crate::store_api::{Connections, serve};
use crate::telemetry::{Counters, Exposition, Format};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

/// A served view and a connection to it.
async fn open(heads: Vec<Head>, external: External) -> (Twins, Channel) {
    let (twins, endpoint) = listen(heads, external).await;
    (twins, endpoint.connect().await.expect("a connection"))
}

async fn listen(heads: Vec<Head>, external: External) -> (Twins, Endpoint) {
    listen_counted(heads, external, Counters::default()).await
}

async fn listen_counted(
    heads: Vec<Head>,
    external: External,
    counters: Counters,
) -> (Twins, Endpoint) {
    let twins = twin::view(heads, external, Limits::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let view = twins.view.clone();
    let door = Door::new(listener, Places::new("grpc", 16, b""));
    beside::spawn(async move {
        let served =
            serve(view, door, Connections::new(None), counters, std::future::pending()).await;
        served.expect("the server runs");
    });
    (twins, Endpoint::from_shared(format!("http://{address}")).expect("an address"))
}

fn shown(counters: Counters) -> String {
    let mut exposition = Exposition::default();
    exposition.source(move |out| counters.sample(out));
    exposition.render(Format::Text).expect("text")
}

fn store(channel: &Channel) -> StoreClient<Channel> {
    StoreClient::new(channel.clone()).max_decoding_message_size(64 << 20)
}

fn head(series: Vec<Series>) -> Head {
    Head { series, part_frames: 3, ..Head::default() }
}

fn matcher(kind: i32, name: &str, value: &str) -> LabelMatcher {
    LabelMatcher { r#type: kind, name: name.into(), value: value.into() }
}

/// Every series, by a matcher on a stored label that none of the tests uses.
fn all() -> SeriesRequest {
    SeriesRequest {
        max_time: i64::MAX,
        matchers: vec![matcher(0, "never", "")],
        ..SeriesRequest::default()
    }
}

/// What came over a `Series` call.
#[derive(Debug, Default)]
struct Came {
    series: Vec<(Labels, Vec<PlainChunk>)>,
    /// Label sets in frame order, one per `Series` message.
    frames: Vec<Labels>,
    warnings: Vec<String>,
    batches: Vec<usize>,
    frame_bytes_max: usize,
}

async fn read(channel: &Channel, request: SeriesRequest) -> Result<Came, Status> {
    let mut stream = store(channel).series(request).await?.into_inner();
    let mut came = Came::default();
    while let Some(message) = stream.message().await? {
        came.frame_bytes_max = came.frame_bytes_max.max(message.encoded_len());
        match message.result.expect("a known member of the oneof") {
            Answer::Series(one) => came.take(one),
            Answer::Batch(batch) => {
                came.batches.push(batch.series.len());
                batch.series.into_iter().for_each(|one| came.take(one));
            }
            Answer::Warning(text) => came.warnings.push(text),
            Answer::Hints(_) => panic!("no hints are sent"),
        }
    }
    Ok(came)
}

impl Came {
    fn take(&mut self, message: thanos::Series) {
        let pairs: Vec<(String, String)> =
            message.labels.into_iter().map(|l| (l.name, l.value)).collect();
        assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "labels of a series: {pairs:?}");
        let labels = Labels::new(pairs).expect("a label set");
        let chunks = message.chunks.into_iter().map(|c| {
            assert!(c.count.is_none() && c.sum.is_none() && c.counter.is_none(), "raw only");
            let raw = c.raw.expect("raw");
            assert_eq!(raw.r#type, 0, "XOR");
            assert_eq!(raw.hash, twox_hash::XxHash64::oneshot(0, &raw.data));
            (c.min_time, c.max_time, raw.data.to_vec())
        });
        self.frames.push(labels.clone());
        match self.series.last_mut() {
            Some((last, all)) if *last == labels => all.extend(chunks),
            _ => self.series.push((labels, chunks.collect())),
        }
    }
}

/// A request as the twins understand it.
fn want(request: &SeriesRequest) -> SelectRequest {
    let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
    let matchers = request.matchers.iter().map(|m| {
        Matcher::new(ops[m.r#type as usize], m.name.as_str(), m.value.as_str()).expect("valid")
    });
    SelectRequest {
        span: TimeSpan { min: request.min_time, max: request.max_time },
        matchers: matchers.collect(),
        without: request.without_replica_labels.clone().into(),
        skip_chunks: request.skip_chunks,
        limit: request.limit as usize,
        sharding: request.shard_info.as_ref().map(|s| {
            std::sync::Arc::new(Sharding {
                index: s.shard_index,
                total: s.total_shards,
                by: s.by,
                labels: s.labels.clone(),
            })
        }),
    }
}

/// The answer to `request` is the oracle's.
async fn check(channel: &Channel, heads: &[Head], external: &External, request: SeriesRequest) {
    let mut came = read(channel, request.clone()).await.expect("a whole answer");
    let mut wanted = twin::select(heads, external, &want(&request));
    for (_, chunks) in came.series.iter_mut().chain(&mut wanted) {
        chunks.sort();
    }
    assert_eq!(came.series, wanted, "{request:?}");
    assert!(came.frames.is_sorted(), "frames ascend: {request:?}");
    assert_eq!(came.warnings, Vec::<String>::new());
}

/// Three shards, two tenants; sets that are prefixes of each other, differ in one label, or become
/// equal when a label goes.
fn mixed_heads() -> Vec<Head> {
    let sets: [&[(&str, &str)]; 9] = [
        &[("b", "1")],
        &[("b", "1"), ("c", "1")],
        &[("b", "1"), ("c", "1"), ("z", "1")],
        &[("b", "1"), ("z", "1")],
        &[("b", "2"), ("replica", "stored")],
        &[("a", "9")],
        &[("a", "9"), ("m", "1")],
        &[("m", "1"), ("replica", "x")],
        &[("m", "1"), ("replica", "y")],
    ];
    (0..3)
        .map(|shard| {
            let own = sets.iter().zip(0..).filter(|(_, i)| i % 3 == shard || i % 4 == shard);
            let all = own
                .flat_map(|(pairs, i)| ["t1", "t2"].map(|tenant| series(tenant, pairs, i..i + 7)));
            head(all.collect())
        })
        .collect()
}

/// The order must hold on the final set, for external labels before, between and after the stored
/// ones or in their place, and for every way to take labels away.
#[test]
fn the_order_holds_for_all_external_and_replica_labels() {
    run(async {
        let flag_sets: [&[(&str, &str)]; 6] = [
            &[],
            &[("A", "before")],
            &[("bb", "between"), ("mm", "between")],
            &[("zz", "after")],
            &[("b", "over"), ("replica", "over")],
            &[("A", "1"), ("bb", "1"), ("replica", "1"), ("zz", "1")],
        ];
        let names = ["A", "b", "bb", "m", "replica", "tenant_id", "zz"];
        for flags in flag_sets {
            let (heads, external) = (mixed_heads(), external(flags));
            let (_twins, channel) = open(heads.clone(), external.clone()).await;
            for subset in 0..1usize << names.len() {
                let without =
                    names.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, n)| n);
                let request = SeriesRequest {
                    without_replica_labels: without.map(ToString::to_string).collect(),
                    ..all()
                };
                check(&channel, &heads, &external, request).await;
            }
        }
    });
}

#[test]
fn a_select_is_cut_as_asked() {
    run(async {
        let (heads, external) = (mixed_heads(), external(&[("replica", "0")]));
        let (_twins, channel) = open(heads.clone(), external.clone()).await;
        let shard = |index, by| ShardInfo {
            shard_index: index,
            total_shards: 2,
            by,
            labels: vec!["b".into()],
        };
        for request in [
            SeriesRequest { min_time: 3, max_time: 5, ..all() },
            SeriesRequest { min_time: 1000, max_time: 5000, ..all() },
            SeriesRequest { min_time: 5, max_time: 3, ..all() },
            SeriesRequest { skip_chunks: true, ..all() },
            SeriesRequest { limit: 3, ..all() },
            SeriesRequest { shard_info: Some(shard(0, true)), ..all() },
            SeriesRequest { shard_info: Some(shard(1, true)), ..all() },
            SeriesRequest { shard_info: Some(shard(1, false)), ..all() },
            SeriesRequest { matchers: vec![matcher(2, "b", "1|3")], ..all() },
            SeriesRequest { matchers: vec![matcher(3, "b", ".*")], ..all() },
            SeriesRequest {
                matchers: vec![matcher(0, "tenant_id", "t2"), matcher(1, "m", "1")],
                ..all()
            },
            SeriesRequest {
                matchers: vec![matcher(0, "replica", "x"), matcher(0, "m", "1")],
                ..all()
            },
            SeriesRequest { max_resolution_window: 300_000, aggregates: vec![1, 2], ..all() },
        ] {
            check(&channel, &heads, &external, request).await;
        }
        let negative = SeriesRequest { limit: -1, response_batch_size: -7, ..all() };
        let came = read(&channel, negative).await.expect("an answer");
        assert!(came.batches.is_empty() && came.series.len() > 9);
    });
}

#[test]
fn batches_go_only_to_who_asked() {
    run(async {
        let (heads, external) = (mixed_heads(), external(&[]));
        let (_twins, channel) = open(heads.clone(), external.clone()).await;
        for size in [0, 1] {
            let request = SeriesRequest { response_batch_size: size, ..all() };
            let came = read(&channel, request).await.expect("an answer");
            assert_eq!(came.batches, [0; 0], "size {size}");
        }
        let request = SeriesRequest { response_batch_size: 4, ..all() };
        let came = read(&channel, request.clone()).await.expect("an answer");
        let (last, full) = came.batches.split_last().expect("batches");
        assert!(full.iter().all(|&n| n == 4) && (1..=4).contains(last), "{:?}", came.batches);
        assert_eq!(came.batches.iter().sum::<usize>(), came.frames.len());
        check(&channel, &heads, &external, request).await;
    });
}

#[test]
fn big_series_come_in_frames_under_a_mebibyte() {
    run(async {
        // 60,000 samples in chunks of three: about 2.5 MB of chunks and their frames.
        let heads = vec![head(vec![
            series("t", &[("a", "1")], 0..200_000),
            series("t", &[("a", "2")], 0..10),
        ])];
        let (_twins, channel) = open(heads.clone(), external(&[])).await;
        for response_batch_size in [0, 64] {
            let request = SeriesRequest { response_batch_size, ..all() };
            let came = read(&channel, request).await.expect("an answer");
            assert!(came.frame_bytes_max <= 1 << 20, "{} bytes", came.frame_bytes_max);
            assert!(came.frames.len() > 2, "{} frames", came.frames.len());
            let mins: Vec<i64> = came.series[0].1.iter().map(|c| c.0).collect();
            assert!(mins.is_sorted(), "chunks in order of time");
            check(&channel, &heads, &external(&[]), all()).await;
        }
    });
}

#[test]
fn what_is_missing_is_a_warning_or_an_error_as_asked() {
    run(async {
        for fault in [Fault::NoBegin, Fault::FailAfter(1), Fault::VanishAfter(1), Fault::Disorder] {
            let mut heads = mixed_heads();
            heads[1].fault = fault;
            let (_twins, channel) = open(heads, external(&[])).await;
            let came = read(&channel, all()).await.expect("a partial answer");
            assert_eq!(came.warnings.len(), 1, "{fault:?}");
            assert!(came.warnings[0].contains("shard 1"), "{:?}", came.warnings);
            assert!(came.frames.is_sorted() && came.frames.len() > 4);
            let batched = SeriesRequest { response_batch_size: 64, ..all() };
            let again = read(&channel, batched).await.expect("a partial answer");
            assert_eq!((again.frames, again.warnings), (came.frames, came.warnings));
            for request in [
                SeriesRequest { partial_response_strategy: 1, ..all() },
                SeriesRequest { partial_response_disabled: true, ..all() },
            ] {
                let status = read(&channel, request).await.expect_err("no partial answer");
                assert_eq!(status.code(), Code::Aborted, "{fault:?}: {status}");
            }
        }
    });
}

#[test]
fn lists_warn_or_abort_too() {
    run(async {
        let mut heads = mixed_heads();
        heads[1].fault = Fault::NoBegin;
        let (_twins, channel) = open(heads, external(&[])).await;
        let request = thanos::LabelNamesRequest { end: i64::MAX, ..Default::default() };
        let list = store(&channel).label_names(request.clone()).await.expect("names").into_inner();
        assert!(list.names.contains(&"tenant_id".into()));
        assert_eq!(list.warnings, ["the head of shard 1: the disk is on fire"]);
        let request = thanos::LabelNamesRequest { partial_response_strategy: 1, ..request };
        let status = store(&channel).label_names(request).await.expect_err("no partial answer");
        assert_eq!(status.code(), Code::Aborted);
    });
}

#[test]
fn label_names_and_values() {
    run(async {
        let heads = mixed_heads();
        let (_twins, channel) = open(heads, external(&[("replica", "0"), ("zone", "é")])).await;
        let names = |matchers, without: &[&str], limit| {
            let request = thanos::LabelNamesRequest {
                end: i64::MAX,
                matchers,
                without_replica_labels: without.iter().map(ToString::to_string).collect(),
                limit,
                ..Default::default()
            };
            let mut store = store(&channel);
            async move { store.label_names(request).await.expect("names").into_inner().names }
        };
        let every = ["a", "b", "c", "m", "replica", "tenant_id", "z", "zone"];
        assert_eq!(names(vec![], &[], 0).await, every);
        assert_eq!(names(vec![], &[], 3).await, every[..3]);
        assert_eq!(
            names(vec![], &["replica", "a"], 0).await,
            ["b", "c", "m", "tenant_id", "z", "zone"]
        );
        let nothing = vec![matcher(0, "a", "no such")];
        assert_eq!(names(nothing.clone(), &[], 0).await, [""; 0], "no external names either");
        assert_eq!(
            names(vec![matcher(0, "a", "9"), matcher(0, "tenant_id", "t1")], &[], 0).await,
            ["a", "m", "replica", "tenant_id", "zone"]
        );

        let values = |label: &str, matchers, without: &[&str]| {
            let request = thanos::LabelValuesRequest {
                label: label.into(),
                end: i64::MAX,
                matchers,
                without_replica_labels: without.iter().map(ToString::to_string).collect(),
                ..Default::default()
            };
            let mut store = store(&channel);
            async move { store.label_values(request).await.map(|r| r.into_inner().values) }
        };
        assert_eq!(values("b", vec![], &[]).await.expect("values"), ["1", "2"]);
        assert_eq!(values("tenant_id", vec![], &[]).await.expect("values"), ["t1", "t2"]);
        assert_eq!(values("replica", vec![], &[]).await.expect("values"), ["0"], "not the stored");
        assert_eq!(values("zone", vec![], &["zone"]).await.expect("values"), [""; 0]);
        assert_eq!(values("zone", nothing, &[]).await.expect("values"), [""; 0]);
        let status = values("", vec![], &[]).await.expect_err("no label is named");
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

#[test]
fn requests_that_cannot_be_meant_are_invalid_arguments() {
    run(async {
        let (_twins, channel) = open(mixed_heads(), external(&[("replica", "0")])).await;
        for (matchers, want) in [
            (vec![], Some(Code::InvalidArgument)),
            (vec![matcher(2, "a", "(")], Some(Code::InvalidArgument)),
            (vec![matcher(4, "a", "x")], Some(Code::InvalidArgument)),
            (vec![matcher(0, "tenant_id", "t1")], Some(Code::InvalidArgument)),
            (vec![matcher(0, "tenant_id", "nobody")], None),
            (vec![matcher(0, "replica", "7")], None),
            (vec![matcher(0, "replica", "7"), matcher(0, "a", "9")], None),
        ] {
            let request = SeriesRequest { matchers, ..all() };
            match (read(&channel, request.clone()).await, want) {
                (Ok(came), None) => assert!(came.frames.is_empty(), "{request:?}"),
                (Err(status), Some(code)) => assert_eq!(status.code(), code, "{request:?}"),
                (got, want) => panic!("{request:?}: {got:?}, not {want:?}"),
            }
        }
    });
}

#[test]
fn info_says_what_a_receive_says() {
    run(async {
        let heads = vec![
            head(vec![series("t1", &[("a", "1")], 100..110), series("t2", &[("a", "1")], 50..60)]),
            head(vec![series("t1", &[("a", "2")], 70..80)]),
        ];
        let (_twins, channel) = open(heads, external(&[("replica", "0")])).await;
        let mut client = InfoClient::new(channel);
        let info = client.info(InfoRequest {}).await.expect("info").into_inner();
        assert_eq!(info.component_type, "receive");
        let store = info.store.expect("a store");
        assert_eq!((store.min_time, store.max_time), (50, i64::MAX));
        assert!(store.supports_sharding && store.supports_without_replica_labels);
        assert!(!store.supports_projections);
        let set = |tenant: &str| thanos::ZLabelSet {
            labels: [("replica", "0"), ("tenant_id", tenant)]
                .map(|(n, v)| thanos::Label { name: n.into(), value: v.into() })
                .into(),
        };
        assert_eq!(info.label_sets, [set("t1"), set("t2")]);
        let spans: Vec<_> =
            store.tsdb_infos.into_iter().map(|t| (t.labels, t.min_time, t.max_time)).collect();
        assert_eq!(spans, [(Some(set("t1")), 70, i64::MAX), (Some(set("t2")), 50, i64::MAX)]);
        assert!(info.rules.is_none() && info.exemplars.is_none() && info.query.is_none());

        let (_twins, channel) = open(vec![], external(&[("replica", "0")])).await;
        let info = InfoClient::new(channel).info(InfoRequest {}).await.expect("info").into_inner();
        let store = info.store.expect("a store");
        assert_eq!((store.min_time, store.max_time), (i64::MIN, i64::MAX));
        assert_eq!(info.label_sets.len(), 1, "the flags' labels");
    });
}

#[test]
fn readiness_shows_in_info_health_and_series() {
    run(async {
        let (twins, channel) = open(mixed_heads(), external(&[])).await;
        let mut info = InfoClient::new(channel.clone());
        let health = HealthClient::new(channel.clone());
        let check = |service: &str| {
            let request = HealthCheckRequest { service: service.into() };
            let mut health = health.clone();
            async move { health.check(request).await.expect("health").into_inner().status() }
        };
        assert_eq!(check("").await, ServingStatus::Serving);
        drop(twins.ready.send_replace(Err(NotReady { why: "replaying the log".into() })));
        beside::sleep(Duration::from_millis(20)).await;
        let status = info.info(InfoRequest {}).await.expect_err("not ready");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "Not ready: replaying the log");
        let status = read(&channel, all()).await.expect_err("not ready");
        assert_eq!(status.code(), Code::Unavailable);
        for service in ["", "thanos.Store", "thanos.info.Info"] {
            assert_eq!(check(service).await, ServingStatus::NotServing, "{service:?}");
        }
        drop(twins.ready.send_replace(Ok(())));
        beside::sleep(Duration::from_millis(20)).await;
        assert_eq!(check("thanos.Store").await, ServingStatus::Serving);
        assert!(info.info(InfoRequest {}).await.is_ok());
    });
}

#[test]
fn services_can_be_listed() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};
    run(async {
        let (_twins, channel) = open(vec![], external(&[])).await;
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut stream = ServerReflectionClient::new(channel)
            .server_reflection_info(tokio_stream::once(request))
            .await
            .expect("reflection")
            .into_inner();
        let answer = stream.message().await.expect("an answer").expect("a message");
        let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) =
            answer.message_response
        else {
            panic!("not a list: {answer:?}")
        };
        let mut names: Vec<String> = service.into_iter().map(|s| s.name).collect();
        names.sort();
        assert_eq!(names, ["grpc.health.v1.Health", "thanos.Store", "thanos.info.Info"]);
    });
}

#[test]
fn calls_are_counted_as_dashboards_read_them() {
    run(async {
        let counters = Counters::default();
        let (twins, endpoint) =
            listen_counted(mixed_heads(), external(&[]), counters.clone()).await;
        let channel = endpoint.connect().await.expect("a connection");
        let mut info = InfoClient::new(channel.clone());
        info.info(InfoRequest {}).await.expect("info");
        read(&channel, all()).await.expect("an answer");
        read(&channel, SeriesRequest::default()).await.expect_err("no matchers");
        by_hand(&channel, "/stranger/calls", None, vec![]).await;
        drop(twins.ready.send_replace(Err(NotReady { why: "stopping".into() })));
        info.info(InfoRequest {}).await.expect_err("not ready");
        let text = shown(counters);
        let series =
            "grpc_type=\"server_stream\",grpc_service=\"thanos.Store\",grpc_method=\"Series\"";
        let info = "grpc_type=\"unary\",grpc_service=\"thanos.info.Info\",grpc_method=\"Info\"";
        let unknown = "grpc_type=\"unary\",grpc_service=\"unknown\",grpc_method=\"unknown\"";
        for line in [
            format!("grpc_server_started_total{{{series}}} 2"),
            format!("grpc_server_handled_total{{{series},grpc_code=\"OK\"}} 1"),
            format!("grpc_server_handled_total{{{series},grpc_code=\"InvalidArgument\"}} 1"),
            format!("grpc_server_handled_total{{{info},grpc_code=\"OK\"}} 1"),
            format!("grpc_server_handled_total{{{info},grpc_code=\"Unavailable\"}} 1"),
            format!("grpc_server_handled_total{{{unknown},grpc_code=\"Unimplemented\"}} 1"),
            format!("grpc_server_handling_seconds_count{{{series}}} 2"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    });
}

#[test]
fn a_client_that_leaves_is_counted_as_canceled() {
    run(async {
        let counters = Counters::default();
        let all_of = |i: usize| series("t", &[("i", &i.to_string())], 0..300);
        let heads = vec![head((0..4_000).map(all_of).collect())];
        let (twins, endpoint) = listen_counted(heads, external(&[]), counters.clone()).await;
        let channel = endpoint.connect().await.expect("a connection");
        let mut stream = store(&channel).series(all()).await.expect("a stream").into_inner();
        stream.message().await.expect("an answer").expect("a frame");
        drop(stream);
        beside::sleep(Duration::from_millis(100)).await;
        let sent = twins.sent.load(std::sync::atomic::Ordering::Relaxed);
        assert!(sent < 4_000, "the shard sent all {sent}");
        let text = shown(counters);
        let labels = "grpc_type=\"server_stream\",grpc_service=\"thanos.Store\",\
                      grpc_method=\"Series\",grpc_code=\"Canceled\"";
        let line = format!("grpc_server_handled_total{{{labels}}} 1");
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    });
}

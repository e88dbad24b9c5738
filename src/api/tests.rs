//! The routes over twins of shards: a client over loopback where the socket matters, else the
//! router itself.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::Service as _;

use crate::api::answer::PIECE_BYTES;
use crate::api::{routes, serve, serve_connections};
use crate::model::{External, Labels, Sample, TenantId};
use crate::query::twin::{self, Fault, Head, Series, Twins};
use crate::query::{Limits, NotReady};
use crate::rt::beside;
use crate::rt::clock::Moment;
use crate::rt::door::{Door, Places};
use crate::telemetry::{Counters, Exposition, Metric, Snapshot};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

fn series(tenant: &str, pairs: &[(&str, &str)]) -> Series {
    Series {
        tenant: TenantId::new(tenant).expect("a tenant"),
        labels: Labels::new(pairs.iter().copied()).expect("a label set"),
        samples: (0..5).map(|t| Sample::new(t * 1000, 1.0)).collect(),
    }
}

async fn twins() -> Twins {
    let heads = vec![
        Head {
            series: vec![
                series("t1", &[("__name__", "up"), ("job", "a")]),
                series("t2", &[("__name__", "up"), ("job", "b")]),
            ],
            ..Head::default()
        },
        Head {
            series: vec![series("t1", &[("__name__", "load"), ("job", "a")])],
            ..Head::default()
        },
    ];
    let flags = Labels::new([("replica", "0")]).expect("a label set");
    let external = External::new(flags, "tenant_id", None).expect("external labels");
    twin::view(heads, external, Limits::default()).await
}

async fn send(twins: &Twins, request: Request<Body>) -> Response<Body> {
    let mut router = routes(twins.view.clone(), Exposition::default(), Counters::default());
    router.call(request).await.expect("routers answer")
}

async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(bytes.to_vec()).expect("text"))
}

async fn get(twins: &Twins, path: &str) -> (u16, Value) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    json_of(send(twins, request).await).await
}

async fn post(twins: &Twins, path: &str, form: &str) -> (u16, Value) {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_string()))
        .expect("a request");
    json_of(send(twins, request).await).await
}

async fn json_of(response: Response<Body>) -> (u16, Value) {
    assert_eq!(response.headers()["content-type"], "application/json");
    let (status, text) = text(response).await;
    (status, serde_json::from_str(&text).expect("JSON"))
}

fn good(data: impl Into<Value>) -> (u16, Value) {
    (200, json!({"status": "success", "data": data.into()}))
}

fn bad(text: &str) -> (u16, Value) {
    (400, json!({"status": "error", "errorType": "bad_data", "error": text}))
}

#[test]
fn lists_as_prometheus_gives_them() {
    run(async {
        let twins = twins().await;
        let names = json!(["__name__", "job", "replica", "tenant_id"]);
        let t2 = "%7Btenant_id%3D%22t2%22%7D";
        for (path, want) in [
            ("/api/v1/labels", names.clone()),
            ("/api/v1/labels?start=0&end=1.5&unknown=x", names.clone()),
            ("/api/v1/labels?start=1970-01-01T00:00:00Z", names.clone()),
            ("/api/v1/labels?match[]=nothing", json!([])),
            ("/api/v1/label/job/values", json!(["a", "b"])),
            ("/api/v1/label/U__job/values", json!(["a", "b"])),
            ("/api/v1/label/__name__/values?match[]=%7Bjob%3D%22b%22%7D", json!(["up"])),
            ("/api/v1/label/__name__/values?match[]=load&match[]=up", json!(["load", "up"])),
            ("/api/v1/label/tenant_id/values?limit=0", json!(["t1", "t2"])),
            ("/api/v1/label/no%20such%2Fname/values", json!([])),
            (&format!("/api/v1/label/job/values?match[]={t2}"), json!(["b"])),
        ] {
            assert_eq!(get(&twins, path).await, good(want), "{path}");
        }
        assert_eq!(post(&twins, "/api/v1/labels", "limit=9").await, good(names));
        let cut = json!({
            "status": "success", "data": ["__name__", "job"],
            "warnings": ["results truncated due to limit"]
        });
        assert_eq!(get(&twins, "/api/v1/labels?limit=2").await, (200, cut));
    });
}

#[test]
fn lists_of_matchers_without_end_are_refused() {
    run(async {
        let twins = twins().await;
        let selectors = |count| vec!["match[]=up"; count].join("&");
        let matchers = |count| format!("match[]=up{{{}}}", vec!["job!='z'"; count].join(","));
        for path in ["/api/v1/series", "/api/v1/labels"] {
            for form in [selectors(128), matchers(999)] {
                assert_eq!(post(&twins, path, &form).await.0, 200, "{path}");
            }
            for (form, why) in [
                (selectors(129), "129 selectors are given; at most 128 are taken"),
                (matchers(1000), "a selector has 1001 matchers; at most 1000 are taken"),
            ] {
                let want = bad(&format!("invalid parameter \"match[]\": {why}"));
                assert_eq!(post(&twins, path, &form).await, want, "{path}");
            }
        }
    });
}

#[test]
fn a_list_of_labels_is_bounded() {
    run(async {
        let value = |i: usize| format!("{i:03}{}", "x".repeat(1 << 20));
        let series = (0..65).map(|i| series("t1", &[("__name__", "m"), ("big", &value(i))]));
        let heads = vec![Head { series: series.collect(), ..Head::default() }];
        let external = External::new(Labels::default(), "tenant_id", None).expect("labels");
        let twins = twin::view(heads, external, Limits::default()).await;
        let (status, body) = get(&twins, "/api/v1/label/big/values").await;
        assert_eq!((status, &body["errorType"]), (422, &json!("execution")));
        let (status, body) = get(&twins, "/api/v1/label/big/values?limit=2").await;
        assert_eq!((status, body["data"].as_array().map(Vec::len)), (200, Some(2)));
    });
}

/// Others' turns while `work` runs, and what it gives.
async fn turns_of_others<T>(work: impl Future<Output = T>) -> (usize, T) {
    let turns = Rc::new(Cell::new(0));
    let others = async {
        loop {
            turns.set(turns.get() + 1);
            beside::yield_now().await;
        }
    };
    tokio::select! {
        done = work => (turns.get(), done),
        () = others => unreachable!("others never end"),
    }
}

#[test]
fn long_lists_are_written_in_pieces() {
    run(async {
        let value = |i: usize| format!("{i:05}{}", "\"é".repeat(100));
        let of = |i| series("t1", &[("__name__", "m"), ("big", &value(i))]);
        let mut all: Vec<_> = (0..5000).map(of).collect();
        let huge = "x".repeat(300_000);
        all.push(series("t1", &[("__name__", "m"), ("big", &huge)]));
        let heads = vec![Head { series: all, ..Head::default() }];
        let external = External::new(Labels::default(), "tenant_id", None).expect("labels");
        let twins = twin::view(heads, external, Limits::default()).await;
        let values: Vec<_> = (0..5000).map(value).chain([huge]).collect();
        let sets: Vec<_> = values
            .iter()
            .map(|big| json!({"__name__": "m", "big": big, "tenant_id": "t1"}))
            .collect();
        for (path, want) in
            [("/api/v1/label/big/values", json!(values)), ("/api/v1/series?match[]=m", json!(sets))]
        {
            let request = Request::get(path).body(Body::empty()).expect("a request");
            let (turns, response) = turns_of_others(send(&twins, request)).await;
            assert!(turns > 5000 / 256, "{path}: {turns} turns while it was gathered");
            let (mut body, mut text, mut pieces) = (response.into_body(), Vec::new(), 0);
            let read = async {
                while let Some(frame) = body.frame().await {
                    let piece = frame.expect("a piece").into_data().expect("bytes");
                    assert!(piece.len() <= PIECE_BYTES, "{path}: {}", piece.len());
                    text.extend_from_slice(&piece);
                    pieces += 1;
                }
            };
            let (turns, ()) = turns_of_others(read).await;
            assert!(turns >= pieces && pieces > 20, "{path}: {turns} turns, {pieces} pieces");
            let answer: Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!((200, answer), good(want), "{path}");
        }
    });
}

#[test]
fn patterns_are_compiled_beside() {
    run(async {
        let twins = twins().await;
        // Seconds of work in all, and more than a request may take.
        let dear: Vec<_> = (0..40).map(|i| format!("job=~'(?i)[{i}\\\\pL]{{60}}.'")).collect();
        let selector = format!("up{{{}}}", dear.join(","));
        let form = format!("match[]={}", utf8_percent_encode(&selector, NON_ALPHANUMERIC));
        let longest = Rc::new(Cell::new(Duration::ZERO));
        let others = async {
            loop {
                let begun = Moment::now();
                beside::yield_now().await;
                longest.set(longest.get().max(begun.elapsed()));
            }
        };
        let begun = Moment::now();
        tokio::select! {
            (status, answer) = post(&twins, "/api/v1/series", &form) => {
                assert_eq!(status, 400, "{answer}");
                assert!(answer.to_string().contains("bytes together when compiled"), "{answer}");
            }
            () = others => unreachable!("others never end"),
        }
        let (all, longest) = (begun.elapsed(), longest.get());
        assert!(longest * 4 < all, "others waited {longest:?} of {all:?}");
    });
}

#[test]
fn series_of_all_tenants() {
    run(async {
        let twins = twins().await;
        let set = |name: &str, job: &str, tenant: &str| {
            let pairs = [("__name__", name), ("job", job), ("replica", "0"), ("tenant_id", tenant)];
            Value::Object(pairs.map(|(n, v)| (n.to_string(), json!(v))).into_iter().collect())
        };
        let (load, up1, up2) = (set("load", "a", "t1"), set("up", "a", "t1"), set("up", "b", "t2"));
        for (path, want) in [
            ("/api/v1/series?match[]=up", json!([up1, up2])),
            ("/api/v1/series?match[]=up&match[]=%7Bjob%3D%22a%22%7D", json!([load, up1, up2])),
            ("/api/v1/series?match[]=up&match[]=up&start=-1&end=99", json!([up1, up2])),
            ("/api/v1/series?match[]=up&start=99", json!([])),
            ("/api/v1/series?match[]=up&start=3&end=1", json!([])),
        ] {
            assert_eq!(get(&twins, path).await, good(want), "{path}");
        }
        // The form's values and the URL's count together.
        let both = post(&twins, "/api/v1/series?match[]=load", "match%5B%5D=up").await;
        assert_eq!(both, good(json!([load, up1, up2])));
        let cut = json!({
            "status": "success", "data": [load, up1],
            "warnings": ["results truncated due to limit"]
        });
        let path = "/api/v1/series?match[]=up&match[]=load&limit=2";
        assert_eq!(get(&twins, path).await, (200, cut));
    });
}

#[test]
fn requests_that_cannot_be_meant() {
    run(async {
        let twins = twins().await;
        for (path, want) in [
            ("/api/v1/series", "no match[] parameter provided"),
            (
                "/api/v1/series?match[]=%7Bjob%3D~%22.*%22%7D",
                "invalid parameter \"match[]\": match[] must contain at least one non-empty \
                 matcher",
            ),
            (
                "/api/v1/labels?start=soon",
                "invalid parameter \"start\": invalid time value for 'start': cannot parse \
                 \"soon\" to a valid timestamp",
            ),
            (
                "/api/v1/label/job/values?limit=-1",
                "invalid parameter \"limit\": limit must be non-negative",
            ),
            (
                "/api/v1/labels?limit=x",
                "invalid parameter \"limit\": cannot parse \"x\" as a number",
            ),
            (
                "/api/v1/labels?match[]=up%7Ba%3D%22%zz%22%7D",
                "error parsing form values: invalid URL escape \"%zz\"",
            ),
            ("/api/v1/labels?a%2=b", "error parsing form values: invalid URL escape \"%2\""),
            ("/api/v1/labels?%22%=b", "error parsing form values: invalid URL escape \"%\""),
        ] {
            assert_eq!(get(&twins, path).await, bad(want), "{path}");
        }
        let want = bad("error parsing form values: invalid URL escape \"%g1\"");
        assert_eq!(post(&twins, "/api/v1/series", "match[]=up&limit=%g1").await, want);

        let (status, answer) = get(&twins, "/api/v1/series?match[]=up%7B").await;
        assert_eq!((status, &answer["errorType"]), (400, &json!("bad_data")));
        let error = answer["error"].as_str().expect("text");
        assert!(error.starts_with("invalid parameter \"match[]\": 1:4: parse error:"), "{error}");

        let huge = format!("match[]={}", "x".repeat(5 << 20));
        let (status, answer) = post(&twins, "/api/v1/series", &huge).await;
        assert_eq!((status, &answer["errorType"]), (400, &json!("bad_data")));
        let request = Request::get("/api/v1/query").body(Body::empty()).expect("a request");
        let (status, answer) = json_of(send(&twins, request).await).await;
        assert_eq!((status, &answer["errorType"]), (404, &json!("not_found")));
        let request = Request::get("/graph").body(Body::empty()).expect("a request");
        let not_found = text(send(&twins, request).await).await;
        assert_eq!(not_found, (404, "404 page not found\n".into()));
        let request = Request::delete("/api/v1/series").body(Body::empty()).expect("a request");
        let response = send(&twins, request).await;
        assert_eq!(response.headers()["allow"], "GET,HEAD,POST");
        let (status, answer) = json_of(response).await;
        assert_eq!((status, &answer["errorType"]), (405, &json!("bad_data")));
        for path in ["/api/v1/label/%ff/values", "/api/v1/labels?limit=%ff"] {
            let (status, answer) = get(&twins, path).await;
            assert_eq!((status, &answer["status"]), (400, &json!("error")), "{path}: {answer}");
            assert_eq!(answer["errorType"], json!("bad_data"), "{path}");
        }
    });
}

fn places() -> Places {
    Places::new("http", 16, b"")
}

/// A door that stays open, and where it is.
async fn open_door(
    twins: &Twins,
    head_time: Duration,
    places: &Places,
) -> (SocketAddr, impl Future<Output = ()> + use<>) {
    let routes = routes(twins.view.clone(), Exposition::default(), Counters::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let door = Door::new(listener, places.clone());
    (address, serve_connections(routes, door, head_time, std::future::pending()))
}

#[test]
fn a_selector_may_stand_in_a_url_as_it_is() {
    run(async {
        let twins = twins().await;
        let (address, door) = open_door(&twins, Duration::from_secs(9), &places()).await;
        let client = async {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let one =
                "GET /api/v1/series?match[]=up{job=\"b\", job!=\"a b\"} HTTP/1.1\r\nHost: x\r\n";
            let two = format!("{one}\r\n{one}Connection: close\r\n\r\n");
            stream.write_all(two.as_bytes()).await.expect("written");
            let mut answers = String::new();
            stream.read_to_string(&mut answers).await.expect("answers");
            answers
        };
        let answers = tokio::select! {
            () = door => panic!("the door stays open"),
            answers = client => answers,
        };
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
        assert_eq!(answers.matches("\"job\":\"b\"").count(), 2, "{answers}");
        assert!(!answers.contains("\"job\":\"a\""), "{answers}");
    });
}

#[test]
fn a_part_that_fails_is_a_warning() {
    run(async {
        let head =
            |fault| Head { series: vec![series("t", &[("a", "1")])], fault, ..Head::default() };
        let external = External::new(Labels::default(), "tenant_id", None).expect("labels");
        let heads = vec![head(Fault::None), head(Fault::NoBegin)];
        let twins = twin::view(heads, external, Limits::default()).await;
        let warnings = json!(["the head of shard 1: the disk is on fire"]);
        for path in ["/api/v1/labels", "/api/v1/series?match[]=%7Ba%3D%221%22%7D"] {
            let (status, answer) = get(&twins, path).await;
            assert_eq!((status, &answer["warnings"]), (200, &warnings), "{path}");
            assert_ne!(answer["data"], json!([]), "{path}");
        }
    });
}

#[test]
fn readiness() {
    run(async {
        let twins = twins().await;
        let page = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).expect("a request");
            text(send(&twins, request).await).await
        };
        assert_eq!(page("/-/ready").await, (200, "OK".into()));
        drop(twins.ready.send_replace(Err(NotReady { why: "replaying the log".into() })));
        assert_eq!(page("/-/healthy").await, (200, "OK".into()));
        assert_eq!(page("/-/ready").await, (503, "Not ready: replaying the log\n".into()));
        let request = Request::get("/api/v1/labels").body(Body::empty()).expect("a request");
        let response = send(&twins, request).await;
        assert_eq!(response.headers()["retry-after"], "1");
        let (status, answer) = json_of(response).await;
        assert_eq!((status, &answer["errorType"]), (503, &json!("unavailable")));
    });
}

#[test]
fn metrics_over_a_socket() {
    run(async {
        let twins = twins().await;
        let mut exposition = Exposition::default();
        let view = twins.view.clone();
        exposition.source(move |out| view.sample(out));
        exposition.source(|out| out.gauge(Metric::BuildInfo, vec![("version", "1".into())], 1.0));
        let counters = Counters::default();
        let counted = counters.clone();
        exposition.source(move |out| counted.sample(out));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let listener = Door::new(listener, Places::new("http", 16, b""));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let routes = routes(twins.view.clone(), exposition, counters);
        let served = tokio::spawn(serve(routes, listener, async {
            drop(stopped.await);
        }));
        let ask = async |path: &str, accept: &str| {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            answer
        };
        for path in ["/-/ready", "/api/v1/label/x/values", "/api/v1/label/y/values", "/stranger"] {
            ask(path, "*/*").await;
        }
        let open = ask("/metrics", "application/openmetrics-text;version=1.0.0,*/*;q=0.1").await;
        assert!(open.contains("content-type: application/openmetrics-text"), "{open}");
        assert!(open.trim_end().ends_with("# EOF"), "{open}");
        let older = ask("/metrics", "text/plain").await;
        assert!(older.contains("content-type: text/plain; version=0.0.4"), "{older}");
        for line in [
            "tidegate_build_info{version=\"1\"} 1.0",
            "prometheus_tsdb_head_series{tenant=\"t1\"} 2.0",
            "prometheus_tsdb_head_series{tenant=\"t2\"} 1.0",
            "prometheus_tsdb_head_max_time{tenant=\"t1\"} 4000.0",
            "prometheus_tsdb_head_samples_appended_total{tenant=\"t1\",type=\"float\"} 10",
            "thanos_status{component=\"receive\",check=\"ready\"} 1.0",
            "http_requests_total{code=\"200\",handler=\"/api/v1/label/{name}/values\",\
             method=\"get\"} 2",
            "tidegate_query_failures_total{reason=\"overloaded\"} 0",
            "http_requests_total{code=\"404\",handler=\"none\",method=\"get\"} 1",
        ] {
            assert!(older.lines().any(|l| l == line), "{line} is not in\n{older}");
        }
        drop(stop);
        served.await.expect("no panic");
    });
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    run(async {
        let twins = twins().await;
        let (address, door) = open_door(&twins, Duration::from_millis(50), &places()).await;
        let clients = async {
            for said in ["", "GET /-/healthy HTTP/1.1\r\nHost"] {
                let mut client = TcpStream::connect(address).await.expect("a connection");
                client.write_all(said.as_bytes()).await.expect("is taken");
                let mut heard = Vec::new();
                let ended =
                    beside::timeout(Duration::from_secs(10), client.read_to_end(&mut heard));
                ended.await.expect("it is closed in time").expect("without an error");
            }
        };
        tokio::select! {
            () = door => panic!("the door stays open"),
            () = clients => {}
        }
    });
}

#[test]
fn who_does_not_take_his_answer_is_closed_and_counted() {
    run(async {
        let value = |i: usize| format!("{i:02}{}", "x".repeat(1 << 20));
        let all = (0..40).map(|i| series("t1", &[("__name__", "m"), ("big", &value(i))]));
        let heads = vec![Head { series: all.collect(), ..Head::default() }];
        let external = External::new(Labels::default(), "tenant_id", None).expect("labels");
        let twins = twin::view(heads, external, Limits::default()).await;
        let places = places().stalled_after(Duration::from_millis(300));
        let (address, door) = open_door(&twins, Duration::from_mins(1), &places).await;
        let count = |metric, labels: &[_]| {
            let mut out = Snapshot::default();
            places.sample(&mut out);
            out.total(metric, labels) as u64
        };
        let client = async {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            let ask = b"GET /api/v1/label/big/values HTTP/1.1\r\nHost: x\r\n\r\n";
            client.write_all(ask).await.expect("is taken");
            // Slow is not stalled.
            let mut piece = vec![0; 1 << 20];
            for _ in 0..10 {
                client.read_exact(&mut piece).await.expect("it goes on");
                beside::sleep(Duration::from_millis(50)).await;
            }
            let reason = [("door", "http"), ("reason", "stalled")];
            assert_eq!(count(Metric::ReaderConnectionsLost, &reason), 0);
            while count(Metric::ReaderConnectionsLost, &reason) == 0 {
                beside::sleep(Duration::from_millis(20)).await;
            }
            while count(Metric::ReaderConnections, &[]) > 0 {
                beside::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(count(Metric::ReaderConnectionsLost, &reason), 1);
        };
        let client = beside::timeout(Duration::from_secs(20), client);
        tokio::select! {
            () = door => panic!("the door stays open"),
            ended = client => ended.expect("it is closed in time"),
        }
    });
}

//! What was asked is counted as Thanos' dashboards read it, and a stranger makes no series.

use crate::listener::tests::twin::{Stage, statuses};
use crate::telemetry::Metric;

fn request(method: &str, path: &str, tenant: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: gate\r\nTHANOS-TENANT: {tenant}\r\n\
         Content-Encoding: snappy\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_request_counts_under_its_code_and_its_tenant() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for (method, path, tenant, body, status) in [
        ("POST", "/api/v1/receive", "red", "abc", 200),
        ("POST", "/api/v1/write", "red", "defg", 204),
        ("POST", "/api/v1/receive", "red", "conflict", 409),
        ("GET", "/api/v1/receive", "red", "", 405),
        ("GET", "/", "red", "", 404),
    ] {
        let answer = client.send(request(method, path, tenant, body)).receive();
        assert_eq!(statuses(&answer), [status], "{path}");
    }
    assert_eq!(statuses(&client.send("no HTTP\r\n\r\n").receive()), [400]);

    let all = stage.numbers();
    let write = [("handler", "receive"), ("method", "post"), ("tenant", "red")];
    for (metric, labels, want) in [
        (Metric::HttpRequests, &write[..], 3.0),
        (Metric::HttpRequestDuration, &write, 3.0),
        (Metric::HttpRequestBytes, &write, 3.0),
        (Metric::HttpInFlight, &write, 0.0),
        (Metric::HttpRequests, &[("code", "405"), ("handler", "receive"), ("method", "get")], 1.0),
        (Metric::HttpRequests, &[("code", "404"), ("handler", "none"), ("method", "get")], 1.0),
        (Metric::HttpRequests, &[("code", "400"), ("handler", "none"), ("method", "other")], 1.0),
        (Metric::HttpRequests, &[], 6.0),
        (Metric::WriteSeries, &[("code", "409"), ("tenant", "red")], 1.0),
        (Metric::WriteSamples, &[], 3.0),
        (Metric::RefusedRequests, &[("reason", "http-invalid")], 1.0),
        (Metric::RefusedRequests, &[], 3.0),
    ] {
        let got = all.total(metric, labels);
        assert!((got - want).abs() < f64::EPSILON, "{metric:?} {labels:?}: {got}");
    }
}

#[test]
fn a_tenant_of_whom_nothing_is_stored_has_no_name() {
    let stage = Stage::new();
    let mut client = stage.connect();
    stage.notes.not_ready.set(true);
    for i in 0..50 {
        let answer = client.send(request("POST", "/api/v1/receive", &format!("t{i}"), "x"));
        assert_eq!(statuses(&answer.receive()), [503]);
    }
    assert_eq!(stage.counted(Metric::HttpRequests, &[("code", "503"), ("tenant", "")]), 50);
    assert_eq!(stage.counted(Metric::HttpRequests, &[]), 50);
    // Once something of it is stored, it has one, for what is refused as well.
    stage.notes.not_ready.set(false);
    let answer = client.send(request("POST", "/api/v1/receive", "t0", "x")).receive();
    assert_eq!(statuses(&answer), [200]);
    stage.notes.not_ready.set(true);
    let answer = client.send(request("POST", "/api/v1/receive", "t0", "x")).receive();
    assert_eq!(statuses(&answer), [503]);
    for code in ["200", "503"] {
        let labels = [("code", code), ("tenant", "t0")];
        assert_eq!(stage.counted(Metric::HttpRequests, &labels), 1, "{code}");
    }
}

#[test]
fn what_is_admitted_is_in_flight_until_it_is_answered() {
    let stage = Stage::new();
    let mut client = stage.connect();
    stage.notes.slowness.set(1);
    client.send(request("POST", "/api/v1/receive", "red", "slow"));
    assert_eq!(stage.counted(Metric::HttpInFlight, &[]), 1);
    stage.notes.slowness.set(0);
    assert_eq!(statuses(&client.settle().receive()), [200]);
    assert_eq!(stage.counted(Metric::HttpInFlight, &[]), 0);
    // One that breaks off in its body as well.
    let cut = request("POST", "/api/v1/receive", "red", "x");
    client.send(cut.trim_end_matches('x'));
    assert_eq!(stage.counted(Metric::HttpInFlight, &[("tenant", "red")]), 1);
    client.end();
    assert_eq!(stage.counted(Metric::HttpInFlight, &[]), 0);
}

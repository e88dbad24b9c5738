//! Health, metrics, the counting of requests, and the answer to paths that are not there.

use std::future::Future;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::api::Shared;
use crate::rt::clock::Moment;
use crate::telemetry::{Exposition, Format, LabelPairs, Metric};

/// Upper bounds in seconds, as Thanos has them for HTTP.
const DURATION_BOUNDS_S: [f64; 12] =
    [0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 60.0, 120.0];

/// `/-/healthy`.
pub(super) async fn healthy() -> &'static str {
    "OK"
}

/// `/-/ready`.
pub(super) async fn ready(State(shared): State<Shared>) -> Response {
    match shared.view.ready() {
        Ok(()) => "OK".into_response(),
        Err(not_ready) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{not_ready}\n")).into_response()
        }
    }
}

/// `/metrics`.
pub(super) async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::of(accept);
    match shared.exposition.render(format) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Any other path.
pub(super) async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Counts requests.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    total: Family<LabelPairs, Counter>,
    duration: Family<LabelPairs, Histogram, fn() -> Histogram>,
}

impl Requests {
    pub(super) fn new(exposition: &mut Exposition) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(DURATION_BOUNDS_S);
        let requests =
            Self { total: Family::default(), duration: Family::new_with_constructor(histogram) };
        exposition.family(Metric::HttpRequests, requests.total.clone());
        exposition.family(Metric::HttpRequestDuration, requests.duration.clone());
        requests
    }

    fn answered(&self, handler: &str, method: &'static str, code: StatusCode, took_s: f64) {
        let labels = vec![
            ("code", code.as_str().to_string()),
            ("handler", handler.to_string()),
            ("method", method.to_string()),
        ];
        self.total.get_or_create(&labels).inc();
        self.duration.get_or_create(&labels).observe(took_s);
    }
}

/// Counts one request. The labels are the route and the method, not what the client wrote: else a
/// stranger could make as many series as he likes.
pub(super) fn count(
    State(requests): State<Requests>,
    request: Request,
    next: Next,
) -> impl Future<Output = Response> + Send {
    let begun = Moment::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = match request.method().as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        _ => "other",
    };
    async move {
        let response = next.run(request).await;
        let handler = route.as_ref().map_or("none", MatchedPath::as_str);
        let took_s = begun.elapsed().as_secs_f64();
        requests.answered(handler, method, response.status(), took_s);
        response
    }
}

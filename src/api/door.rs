//! Health, metrics, the counting of requests, and the answer to paths that are not there.

use std::future::Future;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::Shared;
use crate::api::answer::Failure;
use crate::rt::clock::Moment;
use crate::telemetry::{Counters, Format, Metric};

/// Where Prometheus' API lies.
const API: &str = "/api/v1/";

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

/// Any other path. Below `/api/v1/` it is told as errors are there.
pub(super) async fn not_found(uri: Uri) -> Response {
    let path = uri.path();
    if path.starts_with(API) {
        let text = format!("{path} is not served here; labels, label/<name>/values and series are");
        return Failure::NotFound(text).into_response();
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// Another method than the path is for.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{} does not take {method}", uri.path());
    if uri.path().starts_with(API) {
        return Failure::Method(text).into_response();
    }
    (StatusCode::METHOD_NOT_ALLOWED, format!("{text}\n")).into_response()
}

/// Counts one request. The labels are the route and the method, not what the client wrote: else a
/// stranger could make as many series as he likes.
pub(super) fn count(
    State(counters): State<Counters>,
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
        let labels = vec![
            ("code", response.status().as_str().to_owned()),
            ("handler", handler.to_owned()),
            ("method", method.to_owned()),
        ];
        let took_s = begun.elapsed().as_secs_f64();
        counters.observe(Metric::HttpRequestDuration, labels.clone(), took_s);
        counters.count(Metric::HttpRequests, labels, 1);
        response
    }
}

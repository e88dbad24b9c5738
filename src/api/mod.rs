//! The HTTP door for people and tools: health, metrics, and Prometheus' API for labels and series.
//!
//! | route | methods | answers |
//! |---|---|---|
//! | `/-/healthy` | GET, HEAD | 200 while the process runs |
//! | `/-/ready` | GET, HEAD | 200, or 503 and what is waited for |
//! | `/metrics` | GET | `OpenMetrics` or text 0.0.4, as `Accept` says |
//! | `/api/v1/labels` | GET, POST | label names |
//! | `/api/v1/label/<name>/values` | GET | values of a label |
//! | `/api/v1/series` | GET, POST | label sets |
//!
//! ## Whose data
//! A request sees the data of *all* tenants, as through a Thanos Querier: each series carries the
//! external labels, the tenant's among them, and `match[]={tenant_id="a"}` asks for one. There is
//! no access control here; who must not see other tenants must not reach this port.
//!
//! ## Promises
//! - Parameters, answers, error types and their texts are Prometheus' (3.x): `{"status":"success",
//!   "data":...}`, or `{"status":"error","errorType":...,"error":...}`, whatever goes wrong below
//!   `/api/v1/`. A `match[]` may stand in a URL as it is, with its quotes and braces.
//! - What a shard or block could not answer shows in `warnings`; a list cut by `limit` says so.
//! - A connection that says nothing is closed, and so is one that does not take its answer; none
//!   holds a stop back. There are only so many: one more is answered 503, see [`crate::rt::door`].
//! - An answer is bounded: [`ANSWER_BYTES_MAX`], else error `execution`. A request body as well.
//! - No answer holds the control thread: a long list is written in pieces, with turns between them.
//!
//! ## Limits
//! Too many queries give 503 with `Retry-After`; before all is replayed the API gives 503 too.

mod answer;
mod door;
mod list;
mod param;
mod target;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;

use crate::api::target::Mended;
use crate::query::View;
use crate::rt::beside;
use crate::rt::door::Door;
use crate::telemetry::{Counters, Exposition};

/// Most bytes of labels in one answer.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest time a connection may take to send the head of its next request. Longer than the usual
/// intervals of scrapes, so that their connections stay.
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);

/// Most bytes of a form in a request: many long selectors.
const FORM_BYTES_MAX: usize = 4 << 20;

/// What the routes need.
#[derive(Debug, Clone)]
struct Shared {
    view: View,
    exposition: Arc<Exposition>,
}

/// What a connection is told when there are too many.
pub const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\nConnection: close\r\n\r\n\
    too many connections\n";

/// Serves `routes` at `door` until `stop` is ready; requests that run then may end.
pub async fn serve(routes: Router, door: Door, stop: impl Future<Output = ()>) {
    serve_connections(routes, door, HEAD_TIME_MAX, stop).await;
}

async fn serve_connections(
    routes: Router,
    mut door: Door,
    head_time_max: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_time_max);
    let open = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = door.accept() => accepted,
            () = &mut stop => break,
        };
        let (read, write) = tokio::io::split(stream);
        let stream = TokioIo::new(tokio::io::join(Mended::new(read), write));
        let service = TowerToHyperService::new(routes.clone());
        let connection = open.watch(http.serve_connection(stream, service));
        // A connection that breaks is its client's matter.
        beside::spawn(async move { drop(connection.await) });
    }
    drop(door);
    open.shutdown().await;
}

/// All routes, to be cloned for each address. `exposition` is what `/metrics` shows; the routes
/// count their requests in `counters`.
pub fn routes(view: View, exposition: Exposition, counters: Counters) -> Router {
    let shared = Shared { view, exposition: Arc::new(exposition) };
    Router::new()
        .route("/-/healthy", get(door::healthy))
        .route("/-/ready", get(door::ready))
        .route("/metrics", get(door::metrics))
        .route("/api/v1/labels", get(list::names).post(list::names))
        .route("/api/v1/label/{name}/values", get(list::values))
        .route("/api/v1/series", get(list::series).post(list::series))
        .fallback(door::not_found)
        .method_not_allowed_fallback(door::method_not_allowed)
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(counters, door::count))
        .with_state(shared)
}

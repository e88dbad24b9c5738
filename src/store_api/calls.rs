//! Counts calls under the names that Thanos' dashboards read.
//!
//! ## Metrics
//! `grpc_server_started_total`, `grpc_server_handled_total`, `grpc_server_handling_seconds`, with
//! labels as go-grpc-prometheus has them. A path that no service serves counts as `unknown`: what a
//! stranger writes must not make series.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::Code;

use crate::rt::clock::Moment;
use crate::telemetry::{Counters, LabelPairs, Metric};

/// Paths that are served, with service, method and type.
const METHODS: [(&str, &str, &str); 8] = [
    ("thanos.Store", "Series", "server_stream"),
    ("thanos.Store", "LabelNames", "unary"),
    ("thanos.Store", "LabelValues", "unary"),
    ("thanos.info.Info", "Info", "unary"),
    ("grpc.health.v1.Health", "Check", "unary"),
    ("grpc.health.v1.Health", "Watch", "server_stream"),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", "bidi_stream"),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", "bidi_stream"),
];
const UNKNOWN: (&str, &str, &str) = ("unknown", "unknown", "unary");

/// Counts one call: its start now, its end when its last byte has left or it is dropped.
pub(super) async fn count(
    State(counters): State<Counters>,
    request: Request,
    next: Next,
) -> Response {
    let call = Call::start(counters, request.uri().path());
    let response = next.run(request).await;
    match code_of(response.headers()) {
        // An answer without messages has its status in the head.
        Some(code) => {
            call.end(code);
            response
        }
        None => response.map(|body| Body::new(Counted { body, call: Some(call) })),
    }
}

/// A call that has not ended.
#[derive(Debug)]
struct Call {
    counters: Counters,
    labels: LabelPairs,
    begun: Moment,
}

impl Call {
    fn start(counters: Counters, path: &str) -> Self {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (service, method) = (parts.next(), parts.next());
        let known = METHODS.iter().find(|m| Some(m.0) == service && Some(m.1) == method);
        let (service, method, kind) = known.unwrap_or(&UNKNOWN);
        let labels = vec![
            ("grpc_type", (*kind).to_string()),
            ("grpc_service", (*service).to_string()),
            ("grpc_method", (*method).to_string()),
        ];
        counters.count(Metric::GrpcStarted, labels.clone(), 1);
        Self { counters, labels, begun: Moment::now() }
    }

    fn end(self, code: Code) {
        let Self { counters, labels, begun } = self;
        let took_s = begun.elapsed().as_secs_f64();
        counters.observe(Metric::GrpcHandlingSeconds, labels.clone(), took_s);
        let labels = [labels, vec![("grpc_code", go_name(code))]].concat();
        counters.count(Metric::GrpcHandled, labels, 1);
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(headers.get("grpc-status")?.as_bytes()))
}

/// Names as gRPC for Go has them.
fn go_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".into(),
        Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}"),
    }
}

/// A body that ends its call.
#[derive(Debug)]
struct Counted {
    body: Body,
    call: Option<Call>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = hyper::body::Body::poll_frame(Pin::new(&mut self.body), context);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.trailers_ref().and_then(code_of),
            Poll::Ready(Some(Err(_)) | None) => Some(Code::Unknown),
            Poll::Pending => None,
        };
        if let Some(code) = ended
            && let Some(call) = self.call.take()
        {
            call.end(code);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    /// The client went away before the end.
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.end(Code::Cancelled);
        }
    }
}

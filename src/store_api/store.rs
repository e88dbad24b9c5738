//! `thanos.Store` as a service, by hand so that `Series` can have a codec of its own.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use tidegate_proto::thanos;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstEncoder;

use crate::query::{LabelList, View};
use crate::store_api::codec::{AnswerEncoder, Checked};
use crate::store_api::fields::Bounded;
use crate::store_api::{REQUEST_BYTES_MAX, request, series};

/// The service. Cheap to clone: tonic clones it per request.
#[derive(Debug, Clone)]
pub(super) struct Store {
    view: View,
}

impl Store {
    pub(super) fn new(view: View) -> Self {
        Self { view }
    }
}

impl NamedService for Store {
    const NAME: &'static str = "thanos.Store";
}

impl Service<http::Request<Body>> for Store {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let view = self.view.clone();
        match request.uri().path() {
            "/thanos.Store/Series" => Box::pin(async move {
                let call = Call(|request| series::series(view.clone(), request));
                let mut grpc = Grpc::new(Checked::<_, AnswerEncoder>::default())
                    .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
                Ok(grpc.server_streaming(call, request).await)
            }),
            "/thanos.Store/LabelNames" => Box::pin(async move {
                Ok(unary(Call(|request| label_names(view.clone(), request)), request).await)
            }),
            "/thanos.Store/LabelValues" => Box::pin(async move {
                Ok(unary(Call(|request| label_values(view.clone(), request)), request).await)
            }),
            _ => {
                let text = format!("{} is not a method of thanos.Store", request.uri().path());
                Box::pin(async move { Ok(Status::unimplemented(text).into_http()) })
            }
        }
    }
}

/// A function from request to answer as the kind of service tonic calls.
struct Call<F>(F);

impl<F, M, R, A> Service<Request<M>> for Call<F>
where
    F: FnMut(Request<M>) -> A,
    A: Future<Output = Result<R, Status>> + Send + 'static,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = BoxFuture<Response<R>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Self::Future {
        let answer = (self.0)(request);
        Box::pin(async move { answer.await.map(Response::new) })
    }
}

async fn unary<F, M, R, A>(call: Call<F>, request: http::Request<Body>) -> http::Response<Body>
where
    F: FnMut(Request<M>) -> A,
    A: Future<Output = Result<R, Status>> + Send + 'static,
    M: Bounded,
    R: prost::Message + Send + 'static,
{
    let mut grpc = Grpc::new(Checked::<M, ProstEncoder<R>>::default())
        .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
    grpc.unary(call, request).await
}

async fn label_names(
    view: View,
    request: Request<thanos::LabelNamesRequest>,
) -> Result<thanos::LabelNamesResponse, Status> {
    let request = request.into_inner();
    let aborts =
        request::aborts(request.partial_response_strategy, request.partial_response_disabled);
    let (span, without) = ((request.start, request.end), request.without_replica_labels);
    let wanted = request::labels(&view, span, request.matchers, without, request.limit).await?;
    let list = view.label_names(wanted).await.map_err(|e| request::status(&e))?;
    let (names, warnings) = answer(list, aborts)?;
    Ok(thanos::LabelNamesResponse { names, warnings, hints: None })
}

async fn label_values(
    view: View,
    request: Request<thanos::LabelValuesRequest>,
) -> Result<thanos::LabelValuesResponse, Status> {
    let request = request.into_inner();
    let label = request.label;
    if label.is_empty() {
        return Err(Status::invalid_argument("label name parameter cannot be empty"));
    }
    let aborts =
        request::aborts(request.partial_response_strategy, request.partial_response_disabled);
    let (span, without) = ((request.start, request.end), request.without_replica_labels);
    let wanted = request::labels(&view, span, request.matchers, without, request.limit).await?;
    let list = view.label_values(&label, wanted).await;
    let (values, warnings) = answer(list.map_err(|e| request::status(&e))?, aborts)?;
    Ok(thanos::LabelValuesResponse { values, warnings, hints: None })
}

/// A list and its warnings, or an error if the client wants no partial answer.
fn answer(list: LabelList, aborts: bool) -> Result<(Vec<String>, Vec<String>), Status> {
    match list.failed.first() {
        Some(error) if aborts => Err(request::status(error)),
        _ => Ok((list.texts, list.failed.iter().map(ToString::to_string).collect())),
    }
}

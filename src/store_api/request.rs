//! From the messages of a Querier to what the view understands, and its errors back.
//!
//! How long their lists may be is checked before: [`super::fields`]. Patterns may take long to
//! compile, so requests are read on the control pool.

use std::sync::Arc;

use tidegate_proto::thanos::{self, PartialResponseStrategy, label_matcher};
use tonic::Status;

use crate::frame::Sharding;
use crate::model::{MatchOp, Matcher, Matchers, TimeSpan};
use crate::query::{Error, LabelsRequest, SelectRequest, View};

/// What is left to do for a request.
#[derive(Debug)]
pub(super) enum Plan<T> {
    /// Ask the view.
    Ask(T),
    /// No data here can match.
    Nothing,
}

/// Reads a request on the control pool.
pub(super) async fn read<T: Send + 'static>(
    view: &View,
    step: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    view.prepare(step).await.map_err(|error| status(&error))?
}

/// A `Series` request as a select.
pub(super) fn select(
    request: thanos::SeriesRequest,
    view: &View,
) -> Result<Plan<SelectRequest>, Status> {
    let matchers = matchers(&request.matchers)?;
    if !names_series(&matchers, view)? {
        return Ok(Plan::Nothing);
    }
    let sharding = request.shard_info.filter(|s| s.total_shards > 0).map(|s| {
        Arc::new(Sharding {
            index: s.shard_index,
            total: s.total_shards,
            by: s.by,
            labels: s.labels,
        })
    });
    Ok(Plan::Ask(SelectRequest {
        span: TimeSpan { min: request.min_time, max: request.max_time },
        matchers: matchers.into(),
        without: request.without_replica_labels.into(),
        skip_chunks: request.skip_chunks,
        limit: limit(request.limit),
        sharding,
    }))
}

/// The common part of `LabelNames` and `LabelValues`, read as [`read`] does.
pub(super) async fn labels(
    view: &View,
    (min, max): (i64, i64),
    wanted: Vec<thanos::LabelMatcher>,
    without: Vec<String>,
    limit_wanted: i64,
) -> Result<LabelsRequest, Status> {
    let step = move || {
        Ok(LabelsRequest {
            span: TimeSpan { min, max },
            matchers: matchers(&wanted)?.into(),
            without: without.into(),
            limit: limit(limit_wanted),
        })
    };
    read(view, step).await
}

/// Zero is no limit, and so is what is less, as in Thanos.
fn limit(wanted: i64) -> usize {
    usize::try_from(wanted).unwrap_or(0)
}

fn matchers(wanted: &[thanos::LabelMatcher]) -> Result<Vec<Matcher>, Status> {
    let mut made = Matchers::default();
    let matcher = |m: &thanos::LabelMatcher| {
        let op = match label_matcher::Type::try_from(m.r#type) {
            Ok(label_matcher::Type::Eq) => MatchOp::Equal,
            Ok(label_matcher::Type::Neq) => MatchOp::NotEqual,
            Ok(label_matcher::Type::Re) => MatchOp::Regex,
            Ok(label_matcher::Type::Nre) => MatchOp::NotRegex,
            Err(_) => {
                let text = format!("matcher on {:?} has unknown type {}", m.name, m.r#type);
                return Err(Status::invalid_argument(text));
            }
        };
        made.make(op, m.name.as_str(), m.value.as_str())
            .map_err(|e| Status::invalid_argument(e.to_string()))
    };
    wanted.iter().map(matcher).collect()
}

/// Whether the matchers name series here. False if none of the tenants can match; an error, as in
/// Thanos, if they name tenants alone, for that asks for all of their series.
fn names_series(matchers: &[Matcher], view: &View) -> Result<bool, Status> {
    let (on_external, rest) = view.external().split(matchers);
    if !rest.is_empty() {
        return Ok(true);
    }
    let fits = |tenant: &crate::query::TenantInfo| {
        on_external.iter().all(|m| m.matches(tenant.labels.get(m.name()).unwrap_or_default()))
    };
    if on_external.is_empty() || view.info().iter().any(fits) {
        let text = "no matchers specified (excluding external labels)";
        return Err(Status::invalid_argument(text));
    }
    Ok(false)
}

/// Whether the client wants an error rather than a partial answer.
pub(super) fn aborts(strategy: i32, partial_response_disabled: bool) -> bool {
    partial_response_disabled || strategy == PartialResponseStrategy::Abort as i32
}

/// An error as a status, for an answer that ends with it.
pub(super) fn status(error: &Error) -> Status {
    let text = error.to_string();
    match error {
        Error::NotReady(_) => Status::unavailable(text),
        Error::Overloaded { .. } | Error::OverBudget { .. } => Status::resource_exhausted(text),
        Error::Stalled { .. } => Status::deadline_exceeded(text),
        Error::BrokenOff(_) => Status::internal(text),
        Error::Gone { .. } | Error::Failed { .. } | Error::Disorder { .. } => Status::aborted(text),
    }
}

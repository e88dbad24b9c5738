//! From the messages of a Querier to what the view understands, and its errors back.
//!
//! Patterns may take long to compile, so requests are read on the control pool.

use std::sync::Arc;

use tidegate_proto::thanos::{self, PartialResponseStrategy, label_matcher};
use tonic::Status;

use crate::frame::Sharding;
use crate::model::{MatchOp, Matcher, TimeSpan};
use crate::query::{Error, LabelsRequest, MATCHERS_MAX, SelectRequest, View};

/// Most names to remove: they are looked through for every label of every series. A Querier sends
/// its `--query.replica-label` flags, a few.
const WITHOUT_MAX: usize = 128;
/// Most names in `shard_info.labels`, looked through as well. They are those of one `by` or
/// `without` of a query.
const SHARD_LABELS_MAX: usize = 1000;

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
    at_most(WITHOUT_MAX, "without_replica_labels", request.without_replica_labels.len())?;
    let shard_labels = request.shard_info.as_ref().map_or(0, |shard| shard.labels.len());
    at_most(SHARD_LABELS_MAX, "shard_info.labels", shard_labels)?;
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

/// The common part of `LabelNames` and `LabelValues`.
pub(super) fn labels(
    span: (i64, i64),
    matchers_wanted: &[thanos::LabelMatcher],
    without: Vec<String>,
    limit_wanted: i64,
) -> Result<LabelsRequest, Status> {
    at_most(WITHOUT_MAX, "without_replica_labels", without.len())?;
    Ok(LabelsRequest {
        span: TimeSpan { min: span.0, max: span.1 },
        matchers: matchers(matchers_wanted)?.into(),
        without: without.into(),
        limit: limit(limit_wanted),
    })
}

/// Refuses a list that would be gone through too often.
fn at_most(max: usize, field: &str, len: usize) -> Result<(), Status> {
    if len <= max {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{field} has {len} entries; at most {max} are taken")))
}

/// Zero is no limit, and so is what is less, as in Thanos.
fn limit(wanted: i64) -> usize {
    usize::try_from(wanted).unwrap_or(0)
}

fn matchers(wanted: &[thanos::LabelMatcher]) -> Result<Vec<Matcher>, Status> {
    at_most(MATCHERS_MAX, "matchers", wanted.len())?;
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
        Matcher::new(op, m.name.as_str(), m.value.as_str())
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

#[cfg(test)]
mod tests {
    use tidegate_proto::thanos::{LabelMatcher, SeriesRequest, ShardInfo};
    use tonic::Code;

    use super::*;
    use crate::model::{External, Labels};
    use crate::query::Limits;
    use crate::query::twin;
    use crate::rt::control;

    #[test]
    fn lists_without_end_are_refused_by_name() {
        let test = async {
            let external = External::new(Labels::default(), "tenant_id", None).expect("labels");
            let twins = twin::view(Vec::new(), external, Limits::default()).await;
            let names = |count| vec!["n".to_string(); count];
            let matchers = |count| {
                let (name, value) = ("a".to_string(), "x".to_string());
                vec![LabelMatcher { name, value, ..<_>::default() }; count]
            };
            let one = || SeriesRequest { matchers: matchers(1), ..<_>::default() };
            let sharded = |count| {
                let info = ShardInfo { total_shards: 2, labels: names(count), ..<_>::default() };
                SeriesRequest { shard_info: Some(info), ..one() }
            };
            let without = |count| SeriesRequest { without_replica_labels: names(count), ..one() };
            let matching = |count| SeriesRequest { matchers: matchers(count), ..one() };
            for (most, over, why) in [
                (without(128), without(129), "without_replica_labels has 129 entries; at most 128"),
                (sharded(1000), sharded(1001), "shard_info.labels has 1001 entries; at most 1000"),
                (matching(1000), matching(1001), "matchers has 1001 entries; at most 1000"),
            ] {
                select(most, &twins.view).expect("not too many");
                let status = select(over, &twins.view).expect_err("too many");
                assert_eq!(status.code(), Code::InvalidArgument);
                assert!(status.message().starts_with(why), "{status}");
            }
            labels((0, 1), &matchers(1000), names(128), 0).expect("not too many");
            for (many, without) in [(1001, 0), (0, 129)] {
                let status = labels((0, 1), &matchers(many), names(without), 0);
                assert_eq!(status.expect_err("too many").code(), Code::InvalidArgument);
            }
        };
        control::run(test).expect("a control thread");
    }
}

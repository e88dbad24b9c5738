//! `labels`, `label/<name>/values` and `series`: what there is, without samples.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use bytes::Bytes;
use prost::Message as _;
use tidegate_proto::thanos;

use crate::api::answer::{Failure, LabelObject, List};
use crate::api::param::{Params, label_name};
use crate::api::{ANSWER_BYTES_MAX, Shared};
use crate::query::{LabelsRequest, SelectRequest};
use crate::rt::beside;

/// As Prometheus says it.
const TRUNCATED: &str = "results truncated due to limit";

/// Texts or series that are taken in before others have their turn: some 100 us.
const TURN: usize = 256;

/// `/api/v1/labels`.
pub(super) async fn names(
    State(shared): State<Shared>,
    params: Params,
) -> Result<List<impl Iterator<Item = String>>, Failure> {
    list(shared, params, None).await
}

/// `/api/v1/label/<name>/values`.
pub(super) async fn values(
    State(shared): State<Shared>,
    name: Result<Path<String>, PathRejection>,
    params: Params,
) -> Result<List<impl Iterator<Item = String>>, Failure> {
    let Path(name) = name
        .map_err(|error| Failure::BadData(format!("invalid label name: {}", error.body_text())))?;
    list(shared, params, Some(label_name(&name)?)).await
}

async fn list(
    shared: Shared,
    params: Params,
    of: Option<String>,
) -> Result<List<impl Iterator<Item = String>>, Failure> {
    let Params { span, limit, matchers: mut sets } = params;
    if sets.is_empty() {
        sets.push(Arc::new([]));
    }
    let (mut union, mut warnings, mut truncated) = (BTreeSet::new(), BTreeSet::new(), false);
    let mut bytes = 0;
    for matchers in sets {
        let request = LabelsRequest { span, matchers, without: Arc::new([]), limit };
        let found = match &of {
            None => shared.view.label_names(request).await?,
            Some(label) => shared.view.label_values(label, request).await?,
        };
        truncated |= found.truncated;
        warnings.extend(found.failed.iter().map(ToString::to_string));
        for (i, text) in found.texts.into_iter().enumerate() {
            if i % TURN == 0 {
                beside::yield_now().await;
            }
            let len = text.len();
            bytes += if union.insert(text) { len } else { 0 };
        }
        within_bound(bytes)?;
    }
    truncated |= limit != 0 && union.len() > limit;
    let texts = union.into_iter().take(if limit == 0 { usize::MAX } else { limit });
    Ok(List::new(texts, with_truncated(warnings, truncated)))
}

/// `/api/v1/series`.
pub(super) async fn series(
    State(shared): State<Shared>,
    params: Params,
) -> Result<List<impl Iterator<Item = LabelObject>>, Failure> {
    let Params { span, limit, matchers: sets } = params;
    if sets.is_empty() {
        return Err(Failure::BadData("no match[] parameter provided".into()));
    }
    let mut found = Found { limit, ..Found::default() };
    for matchers in sets {
        let request = SelectRequest {
            span,
            matchers,
            without: Arc::new([]),
            skip_chunks: true,
            limit,
            sharding: None,
        };
        found.select(&shared, request).await?;
    }
    let sets = found.frames.into_values().map(label_object);
    Ok(List::new(sets, with_truncated(found.warnings, found.truncated)))
}

/// Label sets of several selects, each once.
#[derive(Debug, Default)]
struct Found {
    limit: usize,
    /// Sort key of a set, and the set as an encoded `thanos.Series`.
    frames: BTreeMap<Bytes, Bytes>,
    bytes: usize,
    truncated: bool,
    warnings: BTreeSet<String>,
}

impl Found {
    async fn select(&mut self, shared: &Shared, request: SelectRequest) -> Result<(), Failure> {
        let mut stream = shared.view.select(request).await?;
        let mut taken = 0;
        while let Some(next) = stream.next().await {
            taken += 1;
            if taken % TURN == 0 {
                beside::yield_now().await;
            }
            match next {
                Ok(frame) => {
                    let bytes = frame.len_bytes();
                    if self.frames.insert(frame.key, frame.body).is_none() {
                        self.bytes += bytes;
                    }
                }
                Err(error) if error.is_final() => return Err(error.into()),
                Err(error) => {
                    self.warnings.insert(error.to_string());
                }
            }
            if self.limit != 0 && self.frames.len() > self.limit {
                self.truncated = true;
                if let Some((key, body)) = self.frames.pop_last() {
                    self.bytes -= key.len() + body.len();
                }
            }
            within_bound(self.bytes)?;
        }
        self.truncated |= stream.truncated();
        Ok(())
    }
}

fn within_bound(bytes: usize) -> Result<(), Failure> {
    if bytes <= ANSWER_BYTES_MAX {
        return Ok(());
    }
    let why = "narrow match[] or set limit";
    Err(Failure::Execution(format!("the answer would be over {ANSWER_BYTES_MAX} bytes; {why}")))
}

fn with_truncated(warnings: BTreeSet<String>, truncated: bool) -> Vec<String> {
    warnings.into_iter().chain(truncated.then(|| TRUNCATED.to_string())).collect()
}

/// The labels of an encoded series. We encoded it ourselves, so it can be read.
fn label_object(body: Bytes) -> LabelObject {
    let series = thanos::Series::decode(body).unwrap_or_default();
    series.labels.into_iter().map(|label| (label.name, label.value)).collect()
}

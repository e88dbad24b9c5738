//! The stream of `Series`: frames out, warnings or an error, and turns for others.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures_lite::{FutureExt as _, Stream, stream};
use tidegate_proto::thanos::SeriesRequest;
use tonic::{Request, Status};

use crate::frame::FRAME_BYTES_MAX;
use crate::query::{SeriesStream, View};
use crate::rt::beside;
use crate::store_api::budget;
use crate::store_api::codec::Answer;
use crate::store_api::request::{self, Plan};

/// A stream gives way to other tasks after this many bytes: about 100 us of work.
pub(super) const TURN_BYTES: usize = 256 * 1024;

/// Series in one `batch` at most, whatever the client asks for.
const BATCH_SERIES_MAX: usize = 1024;

/// Starts the answer to a `Series` request.
pub(super) async fn series(
    view: View,
    request: Request<SeriesRequest>,
) -> Result<impl Stream<Item = Result<Answer, Status>> + Send, Status> {
    let (_, mut extensions, request) = request.into_parts();
    let request_bytes = extensions.remove::<budget::Held>();
    let aborts =
        request::aborts(request.partial_response_strategy, request.partial_response_disabled);
    let batch_max = usize::try_from(request.response_batch_size).unwrap_or(0);
    view.ready().map_err(|e| Status::unavailable(e.to_string()))?;
    let asked = view.clone();
    let plan = request::read(&view, move || request::select(request, &asked)).await?;
    let frames = match plan {
        Plan::Ask(select) => Some(view.select(select).await.map_err(|e| request::status(&e))?),
        Plan::Nothing => None,
    };
    let answers = frames.map(|frames| Answers {
        frames,
        batch_max: batch_max.clamp(1, BATCH_SERIES_MAX),
        aborts,
        held: None,
        turn_bytes: 0,
        _request_bytes: request_bytes,
    });
    Ok(stream::unfold(answers, |answers| async {
        let mut answers = answers?;
        // A bug in a query must not end the connection, which carries other queries.
        let next = AssertUnwindSafe(answers.next()).catch_unwind().await;
        match next.unwrap_or_else(|_| Some(Err(Status::internal("panic in Series; see the log")))) {
            Some(Ok(answer)) => Some((Ok(answer), Some(answers))),
            Some(Err(status)) => Some((Err(status), None)),
            None => None,
        }
    }))
}

/// The frames of a select as messages.
#[derive(Debug)]
struct Answers {
    frames: SeriesStream,
    /// Series per message; 1 means no batches.
    batch_max: usize,
    aborts: bool,
    /// What ended the batch before it.
    held: Option<Held>,
    turn_bytes: usize,
    /// The matchers live as long as the select.
    _request_bytes: Option<budget::Held>,
}

#[derive(Debug)]
enum Held {
    Frame(Bytes),
    Failure(crate::query::Error),
    End,
}

impl Answers {
    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            beside::yield_now().await;
        }
        let first = match self.take().await {
            Held::Frame(body) => body,
            Held::Failure(error) if self.aborts || error.is_final() => {
                return Some(Err(request::status(&error)));
            }
            Held::Failure(error) => return Some(Ok(Answer::Warning(error.to_string()))),
            Held::End => return None,
        };
        self.turn_bytes += first.len();
        if self.batch_max == 1 {
            return Some(Ok(Answer::Series(first)));
        }
        let mut bytes = first.len();
        let mut batch = vec![first];
        while batch.len() < self.batch_max {
            match self.take().await {
                Held::Frame(body) if bytes + body.len() <= FRAME_BYTES_MAX => {
                    bytes += body.len();
                    self.turn_bytes += body.len();
                    batch.push(body);
                }
                other => {
                    self.held = Some(other);
                    break;
                }
            }
        }
        Some(Ok(Answer::Batch(batch)))
    }

    async fn take(&mut self) -> Held {
        if let Some(held) = self.held.take() {
            return held;
        }
        match self.frames.next().await {
            Some(Ok(frame)) => Held::Frame(frame.body),
            Some(Err(error)) => Held::Failure(error),
            None => Held::End,
        }
    }
}

//! The envelope around every answer, and errors as Prometheus names them.
//!
//! A list may be long, so it is not written at once but in pieces, as its reader takes them, and
//! others have their turn between two of them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::{Json, body};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_lite::stream;
use serde::Serialize;

use crate::query;
use crate::rt::beside;

/// Seconds after which a refused query may be tried again.
const RETRY_AFTER_S: &str = "1";

/// A label set as it is shown.
pub(super) type LabelObject = BTreeMap<String, String>;

/// Most bytes of a list in one piece: some 100 us of writing.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// A good answer: a list, and what is missing in it.
#[derive(Debug)]
pub(super) struct List<I> {
    /// `None` when the end is written.
    items: Option<I>,
    warnings: Vec<String>,
    begun: bool,
    /// Written, and not sent yet.
    text: BytesMut,
}

impl<I: Iterator<Item: Serialize>> List<I> {
    pub(super) fn new(items: I, warnings: Vec<String>) -> Self {
        let text = BytesMut::from(r#"{"status":"success","data":["#);
        Self { items: Some(items), warnings, begun: false, text }
    }

    /// The next piece; `None` after the last.
    fn piece(&mut self) -> Result<Option<Bytes>, serde_json::Error> {
        while self.text.len() < PIECE_BYTES
            && let Some(items) = &mut self.items
        {
            if let Some(item) = items.next() {
                if std::mem::replace(&mut self.begun, true) {
                    self.text.put_u8(b',');
                }
                serde_json::to_writer((&mut self.text).writer(), &item)?;
                continue;
            }
            self.items = None;
            self.text.put_u8(b']');
            if !self.warnings.is_empty() {
                self.text.put_slice(br#","warnings":"#);
                serde_json::to_writer((&mut self.text).writer(), &self.warnings)?;
            }
            self.text.put_u8(b'}');
        }
        let len = self.text.len().min(PIECE_BYTES);
        Ok((len > 0).then(|| self.text.split_to(len).freeze()))
    }
}

impl<I: Iterator<Item: Serialize> + Send + 'static> IntoResponse for List<I> {
    fn into_response(self) -> Response {
        let pieces = stream::try_unfold(self, async |mut list| {
            beside::yield_now().await;
            Ok::<_, serde_json::Error>(list.piece()?.map(|piece| (piece, list)))
        });
        ([(CONTENT_TYPE, "application/json")], body::Body::from_stream(pieces)).into_response()
    }
}

/// Why a request has no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request cannot be meant.
    BadData(String),
    /// The answer is too big.
    Execution(String),
    /// Not now.
    Unavailable(String),
    /// There is no such path.
    NotFound(String),
    /// The path is there, but not for this method.
    Method(String),
}

impl Failure {
    /// A parameter that cannot be read.
    pub(super) fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::BadData(format!("invalid parameter {name:?}: {why}"))
    }
}

impl From<query::Error> for Failure {
    fn from(error: query::Error) -> Self {
        let text = error.to_string();
        match error {
            query::Error::OverBudget { .. } => Self::Execution(text),
            // The other ones are parts that failed; as the whole answer they may pass.
            _ => Self::Unavailable(text),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'static str,
    #[serde(rename = "errorType")]
    error_type: &'static str,
    error: &'a str,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error_type, text) = match &self {
            Self::BadData(text) => (StatusCode::BAD_REQUEST, "bad_data", text),
            Self::Execution(text) => (StatusCode::UNPROCESSABLE_ENTITY, "execution", text),
            Self::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", text),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, "not_found", text),
            Self::Method(text) => (StatusCode::METHOD_NOT_ALLOWED, "bad_data", text),
        };
        let told = Json(Body { status: "error", error_type, error: text });
        match &self {
            Self::Unavailable(_) => (status, [(RETRY_AFTER, RETRY_AFTER_S)], told).into_response(),
            _ => (status, told).into_response(),
        }
    }
}

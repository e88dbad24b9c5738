//! The envelope around every answer, and errors as Prometheus names them.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::query;

/// Seconds after which a refused query may be tried again.
const RETRY_AFTER_S: &str = "1";

/// A label set as it is shown.
pub(super) type LabelObject = BTreeMap<String, String>;

/// A good answer.
#[derive(Debug, Serialize)]
pub(super) struct Success<T> {
    status: &'static str,
    data: T,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl<T> Success<T> {
    pub(super) fn new(data: T, warnings: Vec<String>) -> Self {
        Self { status: "success", data, warnings }
    }
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
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
        let body = Json(Body { status: "error", error_type, error: text });
        match &self {
            Self::Unavailable(_) => (status, [(RETRY_AFTER, RETRY_AFTER_S)], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

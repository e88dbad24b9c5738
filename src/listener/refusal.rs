//! Why a whole request was refused. Closed: what is not here cannot happen to a request.
//!
//! Each refusal has a status, an id that stays the same across releases (`err-tidegate-<id>`),
//! and a text that names the thing and the way out. `listener::answer` makes the answer of it.

use std::borrow::Cow;

use thiserror::Error;

use crate::listener::answer::Status;
use crate::listener::http::Fault;
use crate::model::TenantError;

/// Names of the refusals that are answered 503: the same request may come again.
pub(crate) const TURNED_AWAY: [&str; 6] =
    ["overloaded", "log-behind", "series-wait", "not-ready", "draining", "storage-failed"];

/// A request of which nothing is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is not good HTTP, or too long, or too slow. Closes the connection.
    #[error(transparent)]
    Http(#[from] Fault),
    /// The path is not served on this port.
    #[error("no such path on the remote write port; write to /api/v1/receive or /api/v1/write")]
    PathUnknown,
    /// The path is served, but not for this method.
    #[error("this path takes POST only")]
    MethodNotAllowed,
    /// A header that decides something occurs twice.
    #[error("header {name} occurs more than once; send it once")]
    HeaderTwice {
        /// Its name.
        name: String,
    },
    /// The tenant header does not name a tenant.
    #[error("header {header}: {error}")]
    Tenant {
        /// Name of the header.
        header: String,
        /// What is wrong with the name.
        error: TenantError,
    },
    /// The content type is not one of remote write.
    #[error(
        "content type {got:?} is not of remote write; send \
         application/x-protobuf or application/x-protobuf;proto=prometheus.WriteRequest (1.0), \
         or application/x-protobuf;proto=io.prometheus.write.v2.Request (2.0)"
    )]
    ContentTypeUnknown {
        /// What was sent, cut to a bounded length.
        got: String,
    },
    /// The body is not compressed as remote write is.
    #[error("content encoding {got:?} is not spoken here; compress with snappy (block format)")]
    ContentEncodingUnknown {
        /// What was sent, cut to a bounded length.
        got: String,
    },
    /// The body is not valid snappy.
    #[error("body is no snappy block: {what}")]
    SnappyInvalid {
        /// What is wrong with it.
        what: String,
    },
    /// The body declares more decoded bytes than are allowed.
    #[error(
        "body declares {declared} decoded bytes, at most {max} are allowed; send smaller requests"
    )]
    DecodedTooLong {
        /// The declared length.
        declared: u64,
        /// The limit.
        max: u64,
    },
    /// It is more than its tenant may send at once.
    #[error(
        "request has {got} {what}, and its tenant may send {max} at once; send smaller requests, \
         or raise the limit in the limits file"
    )]
    AboveLimit {
        /// Of what.
        what: &'static str,
        /// How many or, of bytes, how many are announced.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// The labels of a request of remote write 2.0 come to more bytes than are allowed.
    #[error(
        "labels come to more than {max} bytes when their symbols are written out, as in remote \
         write 1.0; send smaller requests"
    )]
    LabelsTooLong {
        /// The limit.
        max: u64,
    },
    /// The decoded body has more records than one of its length may have.
    #[error("body has too many records: {what}")]
    RecordsTooMany {
        /// How many there may be.
        what: String,
    },
    /// The decoded body is not the protobuf message it should be.
    #[error("body is no write request: {what}")]
    MessageInvalid {
        /// What is wrong with it.
        what: String,
    },
    /// A queue or buffer of this machine is full.
    #[error("overloaded: {what} is full; the same request may be sent again later")]
    Overloaded {
        /// The queue.
        what: Cow<'static, str>,
    },
    /// A shard takes samples in faster than its log is written.
    #[error(
        "overloaded: too much waits to be written to the log; the same request may be sent again \
         later"
    )]
    LogBehind,
    /// A shard has too many new series that the series file does not have. Known ones are taken.
    #[error(
        "overloaded: too many new series wait to be written to the series file, and the request \
         has others; the same request may be sent again later"
    )]
    SeriesWait,
    /// Writes are not taken yet.
    #[error("not ready: {what}; the same request may be sent again later")]
    NotReady {
        /// What is still going on.
        what: &'static str,
    },
    /// The process is about to stop.
    #[error("shutting down; the same request may be sent again after the restart")]
    Draining,
    /// A shard can no longer make anything durable.
    #[error("storage of this machine refuses writes: {what}")]
    StorageFailed {
        /// In the words of the storage.
        what: String,
    },
    /// A defect of this server. The sender is told to try again: the request may be a good one.
    #[error("internal error, see the log of the server")]
    Panicked,
}

impl Refusal {
    /// The status that says so.
    pub fn status(&self) -> Status {
        match self {
            Self::Http(fault) => fault.status(),
            Self::PathUnknown => Status::NotFound,
            Self::MethodNotAllowed => Status::MethodNotAllowed,
            Self::HeaderTwice { .. }
            | Self::Tenant { .. }
            | Self::SnappyInvalid { .. }
            | Self::MessageInvalid { .. } => Status::BadRequest,
            Self::ContentTypeUnknown { .. } | Self::ContentEncodingUnknown { .. } => {
                Status::UnsupportedMediaType
            }
            Self::AboveLimit { .. }
            | Self::DecodedTooLong { .. }
            | Self::LabelsTooLong { .. }
            | Self::RecordsTooMany { .. } => Status::ContentTooLarge,
            Self::Overloaded { .. }
            | Self::LogBehind
            | Self::SeriesWait
            | Self::NotReady { .. }
            | Self::Draining
            | Self::StorageFailed { .. } => Status::Unavailable,
            Self::Panicked => Status::Internal,
        }
    }

    /// Its name in answers and metrics.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Http(Fault::BodyTooLong { .. }) => "body-too-long",
            Self::Http(Fault::HeadTooSlow | Fault::BodyTooSlow) => "request-too-slow",
            Self::Http(_) => "http-invalid",
            Self::PathUnknown => "path-unknown",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::HeaderTwice { .. } => "header-twice",
            Self::Tenant { .. } => "tenant-invalid",
            Self::ContentTypeUnknown { .. } => "content-type-unknown",
            Self::ContentEncodingUnknown { .. } => "content-encoding-unknown",
            Self::SnappyInvalid { .. } => "snappy-invalid",
            Self::DecodedTooLong { .. } => "decoded-too-long",
            Self::AboveLimit { .. } => "above-tenant-limit",
            Self::LabelsTooLong { .. } => "labels-too-long",
            Self::RecordsTooMany { .. } => "records-too-many",
            Self::MessageInvalid { .. } => "message-invalid",
            Self::Overloaded { .. } => "overloaded",
            Self::LogBehind => "log-behind",
            Self::SeriesWait => "series-wait",
            Self::NotReady { .. } => "not-ready",
            Self::Draining => "draining",
            Self::StorageFailed { .. } => "storage-failed",
            Self::Panicked => "internal",
        }
    }
}

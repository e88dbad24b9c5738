//! What went wrong in a bucket, and whether asking again could help.
//!
//! Object storage fails in thirty ways and says so in as many: a status, an XML code in the body,
//! a closed connection. They are told apart here, once, by what the caller does about them. The
//! text names the operation, the key and the way out.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use thiserror::Error;

/// An operation on a bucket, with the name Thanos gives it in `thanos_objstore_*` metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A listing.
    Iter,
    /// A whole object read.
    Get,
    /// A part of an object read.
    GetRange,
    /// Whether an object exists.
    Exists,
    /// An object written, in one request or many.
    Upload,
    /// An object deleted.
    Delete,
    /// Size and tag of an object asked.
    Attributes,
}

impl Op {
    /// The value of the label `operation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iter => "iter",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Exists => "exists",
            Self::Upload => "upload",
            Self::Delete => "delete",
            Self::Attributes => "attributes",
        }
    }
}

/// Which way it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no such object.
    NotFound,
    /// The bucket itself does not exist.
    NoBucket,
    /// The credentials are missing, wrong, expired or not enough.
    Denied,
    /// Our clock and the server's are too far apart for a signature.
    ClockSkew,
    /// The server asks for a pause.
    Throttled,
    /// The server could not be reached, broke off, or answered 5xx; or a directory cannot be used.
    Unavailable,
    /// The bucket lives elsewhere: wrong region or endpoint.
    Moved,
    /// The server understood and refused this request (another 4xx).
    Refused,
    /// The object is not what was expected: another size or tag, or larger than allowed.
    Unexpected,
    /// The source of an upload cannot be read.
    Local,
}

impl Fault {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn worth_retry(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Unexpected | Self::Local)
    }

    /// Whether every other request to this bucket would fare the same.
    pub fn whole_bucket(self) -> bool {
        matches!(
            self,
            Self::NoBucket
                | Self::Denied
                | Self::ClockSkew
                | Self::Throttled
                | Self::Unavailable
                | Self::Moved
        )
    }

    /// The way out, for the end of the message.
    fn way_out(self) -> &'static str {
        match self {
            Self::NoBucket => "; create the bucket or correct `bucket` and `endpoint`",
            Self::Denied => "; check access_key, secret_key and the bucket's policy",
            Self::ClockSkew => "; correct this machine's clock",
            Self::Moved => "; correct `region` and `endpoint`",
            _ => "",
        }
    }
}

/// A failed operation on a bucket.
#[derive(Debug)]
pub struct Error {
    /// What was asked.
    pub op: Op,
    /// Of which object; empty if of the whole bucket.
    pub key: String,
    /// Which way it failed.
    pub fault: Fault,
    source: Box<dyn StdError + Send + Sync>,
}

impl Error {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn worth_retry(&self) -> bool {
        self.fault.worth_retry()
    }

    pub(super) fn new<E>(op: Op, key: &str, fault: Fault, source: E) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        Self { op, key: key.into(), fault, source: source.into() }
    }

    /// Sorts an error of a bucket that is a directory. A disk that is full, a mount that is gone,
    /// rights that were taken away: the bucket is down, and no block is to blame.
    pub(super) fn local(op: Op, key: &str, source: io::Error) -> Self {
        let fault = match source.kind() {
            io::ErrorKind::NotFound if op != Op::Upload => Fault::NotFound,
            io::ErrorKind::InvalidInput => Fault::Refused,
            _ => Fault::Unavailable,
        };
        Self::new(op, key, fault, source)
    }

    /// Sorts an error of the `object_store` crate. Its kinds cover a few statuses; the rest, and
    /// the XML code that tells a bad clock from a bad key, are in the text.
    pub(super) fn from_store(op: Op, key: &str, source: object_store::Error) -> Self {
        let text = texts(&source);
        let fault = match (&source, error_code(&text)) {
            (_, Some(code)) if by_code(code).is_some() => by_code(code),
            (object_store::Error::NotFound { .. }, _) => Some(Fault::NotFound),
            (
                object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. },
                _,
            ) => Some(Fault::Denied),
            _ if text.contains("redirect without LOCATION") => Some(Fault::Moved),
            _ => status(&text).map(by_status),
        };
        Self::new(op, key, fault.unwrap_or(Fault::Unavailable), source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, key, fault, source } = self;
        let what = match fault {
            Fault::NotFound => "no such object",
            Fault::NoBucket => "no such bucket",
            Fault::Denied => "access denied",
            Fault::ClockSkew => "the clocks of server and client differ too much",
            Fault::Throttled => "the server asks to slow down",
            Fault::Unavailable => "the bucket is unavailable",
            Fault::Moved => "the bucket is in another region or at another endpoint",
            Fault::Refused => "the server refused the request",
            Fault::Unexpected => "the object is not what was expected",
            Fault::Local => "the local disk failed",
        };
        let space = if key.is_empty() { "" } else { " " };
        write!(f, "bucket {}{space}{key}: {what} ({source}", op.as_str())?;
        // HTTP clients say "connect error" on top; why not is at the bottom.
        let (top, bottom) = (source.to_string(), bottom(source.as_ref()).to_string());
        if !top.contains(&bottom) {
            write!(f, ": {bottom}")?;
        }
        write!(f, "){}", fault.way_out())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.source.as_ref())
    }
}

/// Settings that do not make a bucket. Nothing was asked of a server yet.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A key lacks a value or has one that cannot be.
    #[error("bucket setting `{key}`: {problem}")]
    Bad {
        /// The key, as in Thanos' YAML.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file named in the settings cannot be read.
    #[error("bucket setting `{key}`: cannot read {}: {source}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory of a bucket cannot be made or written to.
    #[error(
        "bucket setting `directory`: cannot make {} or write to it: {source}; name a folder that \
         this user may write to", path.display()
    )]
    Directory {
        /// The directory, with the prefix.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The `object_store` crate refused the whole.
    #[error("bucket settings: {0}")]
    Store(#[from] object_store::Error),
}

/// The error that all above it come from.
fn bottom<'a>(mut error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    while let Some(below) = error.source() {
        error = below;
    }
    error
}

/// The message of an error and of all below it.
fn texts(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text.push('\n');
        text.push_str(&error.to_string());
        below = error.source();
    }
    text
}

/// The first `<Code>` of an S3 error body.
fn error_code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}

/// The status in the text of a failed request.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn by_status(status: u16) -> Fault {
    match status {
        300..400 => Fault::Moved,
        401 | 403 => Fault::Denied,
        404 => Fault::NotFound,
        408 | 409 => Fault::Unavailable,
        429 => Fault::Throttled,
        400..500 => Fault::Refused,
        _ => Fault::Unavailable,
    }
}

/// Codes that say more than their status does.
fn by_code(code: &str) -> Option<Fault> {
    Some(match code {
        "NoSuchBucket" => Fault::NoBucket,
        "RequestTimeTooSkewed" => Fault::ClockSkew,
        "SlowDown" | "Throttling" | "RequestLimitExceeded" | "TooManyRequests" => Fault::Throttled,
        "ExpiredToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" => {
            Fault::Denied
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraint" => {
            Fault::Moved
        }
        "InternalError" | "ServiceUnavailable" | "RequestTimeout" | "IncompleteBody"
        | "NoSuchUpload" => Fault::Unavailable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> Fault {
        let source = object_store::Error::Generic { store: "S3", source: text.into() };
        Error::from_store(Op::Upload, "k", source).fault
    }

    #[test]
    fn answers_are_sorted_by_what_to_do_about_them() {
        let xml = |code: &str| format!("status code: 403 Forbidden: <Error><Code>{code}</Code>");
        for (text, want) in [
            (xml("RequestTimeTooSkewed"), Fault::ClockSkew),
            (xml("SignatureDoesNotMatch"), Fault::Denied),
            (xml("SomethingNew"), Fault::Denied),
            ("status code: 503 Service Unavailable: ".into(), Fault::Unavailable),
            ("status code: 429 Too Many".into(), Fault::Throttled),
            ("status code: 400 Bad Request: <Code>EntityTooLarge</Code>".into(), Fault::Refused),
            ("status code: 400: <Code>RequestTimeout</Code>".into(), Fault::Unavailable),
            ("status code: 404: <Code>NoSuchBucket</Code>".into(), Fault::NoBucket),
            ("status code: 404: <Code>NoSuchKey</Code>".into(), Fault::NotFound),
            ("status code: 301 Moved".into(), Fault::Moved),
            ("Received redirect without LOCATION, this".into(), Fault::Moved),
            ("error response: <Code>SlowDown</Code>".into(), Fault::Throttled),
            ("connection closed before message completed".into(), Fault::Unavailable),
            ("status code: ".into(), Fault::Unavailable),
            ("status code: 4é".into(), Fault::Unavailable),
        ] {
            assert_eq!(sorted(&text), want, "{text}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_used_blames_no_block() {
        let sorted = |op, kind: io::ErrorKind| Error::local(op, "k", kind.into()).fault;
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::NotADirectory,
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::StorageFull,
            io::ErrorKind::StaleNetworkFileHandle,
            io::ErrorKind::Other,
        ] {
            assert!(sorted(Op::Upload, kind).whole_bucket(), "{kind:?}");
        }
        assert_eq!(sorted(Op::Get, io::ErrorKind::NotFound), Fault::NotFound);
    }

    #[test]
    fn the_text_names_operation_key_and_way_out() {
        let error = Error::new(Op::Upload, "01X/index", Fault::Denied, "SignatureDoesNotMatch");
        assert_eq!(
            error.to_string(),
            "bucket upload 01X/index: access denied (SignatureDoesNotMatch); \
             check access_key, secret_key and the bucket's policy"
        );
        assert!(!error.worth_retry());
    }
}

//! What can stop the load generator. One enum, because every caller does the same with it: print
//! it and leave with a non-zero code. Answers of the target are *results*, not errors; see
//! [`sender`](crate::sender).

use std::io;
use std::path::{Path, PathBuf};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A scenario that cannot be: text, key or value.
    #[error("scenario {name}: {reason}")]
    Scenario { name: String, reason: String },
    /// A flag or argument that means nothing here.
    #[error("{0}")]
    Usage(String),
    /// The file system.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The network, or a peer that speaks no HTTP.
    #[error("{peer}: {reason}")]
    Peer { peer: String, reason: String },
    /// The ledger on disk is not one of ours, or belongs to another load.
    #[error("ledger {path}: {reason}")]
    Ledger { path: PathBuf, reason: String },
    /// What the target gave back cannot be decoded. That is its fault, and a failed check.
    #[error("{what} does not decode: {reason}")]
    Decode { what: &'static str, reason: String },
    /// A server under comparison did not start, or died.
    #[error("{target}: {reason}")]
    Server { target: String, reason: String },
    /// The target stayed away longer than `--give-up`.
    #[error("gave up on request {request} of round {round} after {seconds} s: {reason}")]
    GaveUp { round: u32, request: u32, seconds: u64, reason: String },
}

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Names the path in an I/O error: `map_err(at(path))`.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::File { path: path.to_owned(), source }
}

//! Settings: what was said on the command line, and what it means.
//!
//! [`table`] holds every flag; all else follows from it. Arguments become `typed`, what was said,
//! and then `meant`, the [`Receive`] that the rest of the program sees: checked, in types that
//! carry their units, never changed. It holds values only, no sockets and no handles.
//!
//! ## Promises
//! - A flag of Thanos Receive acts, or is named at start as doing nothing here, or ends the start
//!   with a reason. None is ignored in silence, and neither is a key of the objstore YAML.
//! - Each error is one line that names the flag or key, the fact, and the way out where one is.
//! - A secret appears in no text made here: not in `Display`, not in `Debug`, not in an error.
//!
//! ## Limits
//! Nothing is read but the arguments and the files they name: no environment, no host name (it is
//! passed in), no resolver, no clock.
//!
//! ## Why
//! One table instead of derived structs: parser, help, notes and tests cannot drift apart, and the
//! flags that do *not* act, half of all, have a place where their reason stands.

mod address;
mod cli;
mod duration;
mod help;
mod label;
mod meant;
pub mod objstore;
mod secret;
mod size;
pub mod table;
mod tenant_limits;
mod typed;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use meant::{
    Ack, BODIES_BYTES_MAX, DECODED_BYTES_MAX, Data, External, Limits, Log, LogFormat, LogLevel,
    READS_STOP_MAX, Read, Receive, TenantLimitsSource, Write,
};
pub use objstore::{Bucket, Credentials};
pub use secret::Secret;
pub use tenant_limits::{LimitsTable, TenantLimits, TenantLimitsError, parse as parse_limits};

/// What the program is asked to do.
#[derive(Debug)]
pub enum Command {
    /// `tidegate receive`.
    Receive(Box<Receive>),
    /// `tidegate inspect wal PATH...`.
    InspectWal {
        /// Segments, or folders of them.
        paths: Vec<PathBuf>,
    },
    /// `--help` and `--version`: a text for standard output.
    Print(String),
}

/// Reads the arguments, the program's own name first. `hostname` labels the data of a node that was
/// given no `--label`.
pub fn parse(args: impl IntoIterator<Item = OsString>, hostname: &str) -> Result<Command, Error> {
    Ok(match cli::parse(args)? {
        cli::Said::Receive(typed) => Command::Receive(Box::new(Receive::new(&typed, hostname)?)),
        cli::Said::InspectWal(paths) => Command::InspectWal { paths },
        cli::Said::Help => Command::Print(help::overview()),
        cli::Said::HelpReceive => Command::Print(help::receive()),
        cli::Said::Version => {
            Command::Print(format!("tidegate, version {}\n", env!("CARGO_PKG_VERSION")))
        }
    })
}

/// Why the program does not start.
#[derive(Debug, Error)]
pub enum Error {
    /// No such command.
    #[error("unknown command {command:?}{}; tidegate --help lists them", did_you_mean(near))]
    UnknownCommand {
        /// What stands there.
        command: String,
        /// One that is spelled alike.
        near: Option<String>,
    },
    /// No such flag.
    #[error("unknown flag {flag}{}; tidegate receive --help lists all flags", did_you_mean(near))]
    UnknownFlag {
        /// The flag with its dashes.
        flag: String,
        /// One that is spelled alike.
        near: Option<String>,
    },
    /// A flag of `receive` that stands before it, or after another command.
    #[error("{flag} is a flag of receive and comes after it: tidegate receive {flag} ...")]
    FlagElsewhere {
        /// The flag with its dashes.
        flag: String,
    },
    /// A word where none belongs.
    #[error("unexpected argument {arg:?}; flags begin with --")]
    Stray {
        /// The word.
        arg: String,
    },
    /// A flag that can be given once was given twice.
    #[error("{flag} was given more than once")]
    Twice {
        /// The flag with its dashes.
        flag: String,
    },
    /// Two flags of which one excludes the other.
    #[error("{flag} and {other} exclude each other; give one")]
    Both {
        /// The flag with its dashes.
        flag: String,
        /// The other one.
        other: String,
    },
    /// A flag without its value.
    #[error("{flag} needs a value")]
    NoValue {
        /// The flag with its dashes.
        flag: String,
    },
    /// `--x=true`, as kingpin does not allow either.
    #[error("{flag} takes no value; say --name or --no-name")]
    BoolWithValue {
        /// The flag with its dashes.
        flag: String,
    },
    /// `inspect wal` without a path.
    #[error("inspect wal needs a path: a segment of the log, or a folder of them")]
    NoPath,
    /// What clap says and we have no words for.
    #[error("{text}")]
    Usage {
        /// clap's text.
        text: String,
    },
    /// Bytes that are no text.
    #[error("argument {arg:?} is not UTF-8")]
    NotUtf8 {
        /// The argument as far as it can be shown.
        arg: String,
    },
    /// A file that an argument names cannot be read.
    #[error("cannot read {what} from {path}: {source}", path = path.display())]
    File {
        /// What it was to hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A circle of `@file`s.
    #[error("@{path} names a file inside a file too deep; do the files name each other?")]
    FilesTooDeep {
        /// The innermost.
        path: String,
    },
    /// A value of the wrong form.
    #[error("--{flag}: {value:?} {problem}")]
    BadValue {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Tidegate would not do as asked.
    #[error("--{flag} is refused: {reason}")]
    Refused {
        /// The flag.
        flag: &'static str,
        /// Why, and the way out.
        reason: &'static str,
    },
    /// The bucket's YAML.
    #[error("{flag}: {source}")]
    Objstore {
        /// The flag, and the file if it names one.
        flag: String,
        /// What is wrong.
        source: objstore::ObjstoreError,
    },
    /// The limits of tenants.
    #[error("{flag}: {source}")]
    TenantLimits {
        /// The flag, and the file if it names one.
        flag: String,
        /// What is wrong.
        source: TenantLimitsError,
    },
    /// Two nodes would write to one bucket under one name.
    #[error(
        "--objstore.config needs at least one --label, like --label 'receive_replica=\"a\"': \
         blocks of several nodes are told apart in the bucket by their labels"
    )]
    NoLabel,
    /// There is nothing to label data with.
    #[error("this machine has no host name; give a --label, like --label 'receive_replica=\"a\"'")]
    NoHostname,
}

#[expect(clippy::ref_option, reason = "thiserror hands fields over by reference")]
fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref().map_or(String::new(), |near| format!(", did you mean {near}?"))
}

#[cfg(test)]
mod tests;

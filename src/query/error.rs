//! What can go wrong when reading, and where.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::rt::beside::BrokenOff;

/// Where frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The head of this shard.
    Head(u16),
    /// The finished local blocks.
    Blocks,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(shard) => write!(f, "the head of shard {shard}"),
            Self::Blocks => f.write_str("the local blocks"),
        }
    }
}

/// Nothing can be read yet, or no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Not ready: {why}")]
pub struct NotReady {
    /// What is being waited for, for example `replaying the log`.
    pub why: String,
}

/// Why a read did not give everything.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing can be read yet, or no more.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Too many selects run and wait.
    #[error("too many queries: {running} run and {waiting} wait; try again later")]
    Overloaded {
        /// How many may run.
        running: usize,
        /// How many may wait.
        waiting: usize,
    },
    /// A source ended before it had said all.
    #[error("{origin} went away in the middle of its answer")]
    Gone {
        /// Which.
        origin: Origin,
    },
    /// A source said that it failed.
    #[error("{origin}: {why}")]
    Failed {
        /// Which.
        origin: Origin,
        /// Its words.
        why: String,
    },
    /// A source broke the order of the stream: a bug. What it had left was thrown away.
    #[error("{origin} sent series out of order; the rest of its series is left out")]
    Disorder {
        /// Which.
        origin: Origin,
    },
    /// The read would hold more in hand than it may. It ends here.
    #[error("the query holds more than {limit_bytes} bytes in hand; narrow it, or set a limit")]
    OverBudget {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// Nobody read the stream for too long. The select was ended then.
    #[error("no series was taken for {} s, so the query was ended", after.as_secs())]
    Stalled {
        /// How long.
        after: Duration,
    },
    /// A step of the read itself, not of a source, did not end.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

impl Error {
    /// Whether the select as a whole is over, and not only one of its sources.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotReady(_)
            | Self::Overloaded { .. }
            | Self::OverBudget { .. }
            | Self::Stalled { .. }
            | Self::BrokenOff(_) => true,
            Self::Gone { .. } | Self::Failed { .. } | Self::Disorder { .. } => false,
        }
    }
}

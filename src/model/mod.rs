//! The words of the field as types: labels, samples, matchers, time, tenants.
//!
//! Everything here is plain data: no I/O, no clock, no allocation policy. A name in this folder
//! means what the glossary of `ARCHITECTURE.md` says it means, everywhere in the tree.

mod external;
pub mod histogram;
mod key;
mod label;
mod matcher;
mod pattern;
mod quoted;
pub mod re2;
mod sample;
mod tenant;
mod time;

pub use external::External;
pub use key::{KeySecret, SECRET_BYTES, TenantKeys};
pub use label::{LabelError, Labels, METRIC_NAME, SORT_KEY_END, sort_key};
pub use matcher::{MatchOp, Matcher, Matchers};
pub use pattern::{
    MatcherError, REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX, REQUEST_COMPILED_BYTES_MAX,
};
pub use quoted::{Quoted, QuotedChar, is_printable};
pub use sample::{STALE_NAN_BITS, Sample};
pub use tenant::{TenantError, TenantId};
pub use time::{BLOCK_RANGE_MS, TimeRange, TimeSpan};

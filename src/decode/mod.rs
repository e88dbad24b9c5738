//! Remote write as bytes: from a body to a borrowed view of its series and samples.
//!
//! ```text
//! body --snappy::decode--> decoded --write_request_v1--> Scan --route-->
//!                          one buffer                    positions in it
//!                          decoded --write_request_v2--> Scan
//!                          symbols and references        positions in regions written out
//!
//! decoded  .. 0a len [0a len (0a len name 12 len value)] [0a ..] 12 len (sample) .. 0a len ..
//!                     `----- label region of a series -----------' `-> Scan::samples
//! ```
//!
//! A request is not built into structs, it is *scanned*: the scan notes for each series where its
//! labels lie, and copies its samples out as numbers. A series that was seen before needs no more:
//! its **label region**, the bytes of all its label records, is hashed as it is, and the hash is
//! the key to the series. Only a region with a new hash is ever looked into ([`region`]): checked,
//! sorted and brought to its **canonical** spelling, of which each label set has exactly one.
//!
//! ## Promises
//! - No bytes make it panic, loop without end or take memory out of proportion: a length is checked
//!   before it is believed ([`snappy`]), a request has at most as many records as an honest one of
//!   its length can have (`scan`), and nothing recurses.
//! - In the steady state nothing is allocated: buffers and arenas belong to the caller and are
//!   reused.
//! - A label region is all of a series' labels and nothing else, in the order of the message, and
//!   lies in one piece.
//! - Every error is the sender's fault and final: whoever answers says 4xx.
//!
//! The oracle is prost: what it decodes of a message, the scan finds, bit for bit; what it refuses,
//! the scan refuses too, or it lies inside a record that the scan steps over and whoever looks into
//! it refuses. The tests beside hold it to that, on random, mutated and real messages.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, reason = "these bytes are strangers'"))]

mod error;
pub mod histogram;
pub(crate) mod protobuf;
pub mod region;
mod remote_write_v1;
mod remote_write_v2;
mod scan;
pub mod snappy;
#[cfg(test)]
pub(crate) mod tests;

pub use error::{BadSeries, Error, SeriesError};
pub use region::{LabelLimits, Repairs};
pub use remote_write_v1::write_request_v1;
pub use remote_write_v2::write_request_v2;
pub use scan::{HistogramView, MESSAGE_BYTES_MAX, RECORDS_FREE, Scan, SeriesView};

/// Version of remote write a request is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.0, message `prometheus.WriteRequest`.
    V1,
    /// 2.0, message `io.prometheus.write.v2.Request`.
    V2,
}

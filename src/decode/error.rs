//! Why a body is not a write request.
//!
//! Every case is the sender's doing: it is answered with a 4xx, and sending the same bytes again
//! would end the same way. Nothing here may make a sender retry.

use thiserror::Error;

/// Why bytes are not a write request. Positions count from the start of the decoded message, or of
/// the label region if one is read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The body is empty. A valid empty message still has one byte, the length 0.
    #[error("the body is empty; a snappy block begins with the length of its content")]
    EmptyBody,
    /// The content would be larger than the limit.
    #[error("the body declares {declared} bytes of content, the limit is {limit}")]
    DecodedTooLarge {
        /// Declared length in bytes.
        declared: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// The declared length is more than snappy can make of so few bytes.
    #[error("a body of {body} bytes cannot hold the {declared} bytes of content it declares")]
    ImpossibleLength {
        /// Declared length in bytes.
        declared: usize,
        /// Length of the body in bytes.
        body: usize,
    },
    /// The body is not a snappy block.
    #[error("the body is not a snappy block: {0}")]
    CorruptSnappy(#[from] snap::Error),
    /// A field says it is longer than the message it lies in.
    #[error("byte {at}: a field of {length} bytes, but its message ends after {left}")]
    Truncated {
        /// Where the content of the field begins.
        at: usize,
        /// Length of its content in bytes.
        length: u64,
        /// Bytes left in the message.
        left: usize,
    },
    /// A varint does not end within its message, has more than ten bytes, or more than 64 bits.
    #[error("byte {at}: a varint that does not end in time")]
    BadVarint {
        /// Where it begins.
        at: usize,
    },
    /// A key holds field number 0 or one that does not exist.
    #[error("byte {at}: field key {key} has no valid field number")]
    BadFieldNumber {
        /// Where the key begins.
        at: usize,
        /// The key.
        key: u64,
    },
    /// A field's content is coded in another way than its definition says, or in no known way.
    #[error("byte {at}: field {field} has wire type {wire_type}, which it cannot have")]
    BadWireType {
        /// Where the key ends.
        at: usize,
        /// Field number.
        field: u32,
        /// Wire type, 0 to 7.
        wire_type: u8,
    },
    /// A group, a coding that was given up before remote write began.
    #[error("byte {at}: field {field} is a group; no version of remote write has groups")]
    Group {
        /// Where the key ends.
        at: usize,
        /// Field number.
        field: u32,
    },
    /// More series, samples or pieces of labels than one request may have.
    #[error("more than {max} series, samples or pieces of labels in one request")]
    TooManyRecords {
        /// Most of each kind.
        max: usize,
    },
    /// A label region holds something else than label records: it does not come from a scan.
    #[error("byte {at} of a label region: not a label")]
    NotALabel {
        /// Where the record begins in the region.
        at: usize,
    },
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// More than this receiver allows: a 4xx that names the limit.
    OverLimit,
    /// Not what it claims to be: 400.
    Malformed,
}

impl Error {
    /// What to answer. Each verdict is final for the request: a sender must not retry.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::DecodedTooLarge { .. } | Self::TooManyRecords { .. } => Verdict::OverLimit,
            Self::EmptyBody
            | Self::ImpossibleLength { .. }
            | Self::CorruptSnappy(_)
            | Self::Truncated { .. }
            | Self::BadVarint { .. }
            | Self::BadFieldNumber { .. }
            | Self::BadWireType { .. }
            | Self::Group { .. }
            | Self::NotALabel { .. } => Verdict::Malformed,
        }
    }
}

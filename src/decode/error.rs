//! Why a body is not a write request, and why a series of one cannot be stored.
//!
//! Every case is the sender's doing: it is answered with a 4xx, and sending the same bytes again
//! would end the same way. Nothing here may make a sender retry.

use thiserror::Error;

use crate::decode::region;

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
    /// More records than a message of this length can hold of what senders send.
    #[error(
        "more than {max} series, samples, histograms, symbols and pieces of labels, more than so \
         many bytes hold of good ones; send no empty records"
    )]
    TooManyRecords {
        /// Most of all kinds together.
        max: usize,
    },
    /// The symbol table of remote write 2.0 does not begin with the empty text, which all that is
    /// not said refers to.
    #[error("the first of the symbols has {length} bytes; it must be empty")]
    FirstSymbolNotEmpty {
        /// Its length in bytes.
        length: usize,
    },
    /// Labels of a request of remote write 2.0 are too long when they are written out, histograms
    /// behind them.
    #[error("the labels written out and the histograms have more than {limit} bytes")]
    LabelsTooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// A label region holds something else than label records: it does not come from a scan.
    #[error("byte {at} of a label region: not a label")]
    NotALabel {
        /// Where the record begins in the region.
        at: usize,
    },
}

/// Why a series, or a histogram of one, cannot be stored, by what it says of itself. It costs that,
/// not the request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeriesError {
    /// No label is left, or there was none.
    #[error("a series without labels")]
    NoLabels,
    /// A label has no name.
    #[error("a label with an empty name and the value {value:?}")]
    EmptyName {
        /// The start of its value.
        value: String,
    },
    /// Two labels share a name.
    #[error("label name {name:?} occurs more than once")]
    DuplicateName {
        /// The start of the name.
        name: String,
    },
    /// A name or a value is not UTF-8.
    #[error("label {name:?} is not valid UTF-8")]
    NotUtf8 {
        /// The start of the name, repaired.
        name: String,
    },
    /// A series has too many labels.
    #[error("a series with more than {max} labels")]
    TooManyNames {
        /// Limit.
        max: usize,
    },
    /// A name is too long.
    #[error("label name {name:?} has {got} bytes, the limit is {max}")]
    NameTooLong {
        /// The start of the name.
        name: String,
        /// Its length in bytes.
        got: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// A value is too long.
    #[error("the value of label {name:?} has {got} bytes, the limit is {max}")]
    ValueTooLong {
        /// The start of the name.
        name: String,
        /// Length of the value in bytes.
        got: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// All labels together are too long.
    #[error("a series with {got} bytes of labels, the limit is {max}")]
    RegionTooLong {
        /// Length in bytes.
        got: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// A label is not a protobuf message.
    #[error("a label that is not a label: {0}")]
    Malformed(#[from] Error),
    /// A name refers to a symbol, but nothing does for its value. Remote write 2.0 only.
    #[error("an odd number of references to symbols: a name without a value")]
    OddRefs,
    /// A reference beyond the symbol table. Remote write 2.0 only.
    #[error("a reference to symbol {reference}, but there are {symbols}")]
    RefOutOfRange {
        /// The reference.
        reference: u32,
        /// How many symbols there are.
        symbols: usize,
    },
    /// There is no `__name__`. Remote write 2.0 only: 1.0 lets it pass, as Thanos does.
    #[error("a series without the label __name__")]
    NoMetricName,
    /// There is nothing to store. Remote write 2.0 only: 1.0 lets it pass.
    #[error("a series without a sample or a histogram")]
    NoSamples,
    /// A histogram that Prometheus would not store either, or that cannot be read.
    #[error("a histogram that is none: {what}")]
    HistogramInvalid {
        /// What is wrong with it.
        what: String,
    },
    /// A histogram has too many buckets.
    #[error("a histogram of {got} buckets and bounds, the limit is {max}")]
    HistogramTooWide {
        /// How many.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// A histogram is too long.
    #[error("a histogram of {got} bytes, the limit is {max}")]
    HistogramTooLong {
        /// Length of its message in bytes.
        got: usize,
        /// Limit in bytes.
        max: usize,
    },
}

/// Series, or histograms of good ones, that cannot be stored, for one kind of reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSeries {
    /// Why, in the words of the first of them.
    pub error: SeriesError,
    /// The labels of the first of them, as far as they can be shown.
    pub shown: String,
    /// How many series.
    pub series: u64,
    /// Their samples.
    pub samples: u64,
}

impl BadSeries {
    /// Counts a series to those of its kind in `all`.
    pub fn add(all: &mut Vec<Self>, error: SeriesError, samples: u64, region: &[u8]) {
        Self::count(all, error, (1, samples), region);
    }

    /// Counts a histogram of a series that is good.
    pub fn add_histogram(all: &mut Vec<Self>, error: SeriesError, region: &[u8]) {
        Self::count(all, error, (0, 1), region);
    }

    fn count(
        all: &mut Vec<Self>,
        error: SeriesError,
        (series, samples): (u64, u64),
        region: &[u8],
    ) {
        if let Some(known) = Self::like(all, &error) {
            known.series += series;
            known.samples += samples;
        } else {
            all.push(Self { error, shown: region::shown(region), series, samples });
        }
    }

    /// Joins two lists, of each kind one entry.
    pub fn merge(all: &mut Vec<Self>, others: Vec<Self>) {
        for other in others {
            match Self::like(all, &other.error) {
                Some(known) => {
                    known.series += other.series;
                    known.samples += other.samples;
                }
                None => all.push(other),
            }
        }
    }

    fn like<'a>(all: &'a mut [Self], error: &SeriesError) -> Option<&'a mut Self> {
        let kind = std::mem::discriminant(error);
        all.iter_mut().find(|bad| std::mem::discriminant(&bad.error) == kind)
    }
}

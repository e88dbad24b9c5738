//! Samples as bits: the chunk encodings of the Prometheus TSDB.
//!
//! A chunk is a run of samples of one series in time order, compressed. Its bytes are the same in
//! a head, in a block's chunk file and in a StoreAPI answer, so a chunk is encoded once, when its
//! samples arrive, and is only ever copied afterwards. That makes [`xor::Appender`] the hottest
//! code of the product and its output a format that other programs read for years.
//!
//! ## Format
//!
//! A chunk's payload begins with the number of its samples, big-endian, 16 bits; what follows is
//! the business of its [`Encoding`], a continuous stream of bits, most significant first ([`xor`]
//! for floats, [`histogram`] for histograms). The last byte is padded with zero bits. Writers of
//! Prometheus 2.x leave one more zero byte when the stream ends on a byte's border, so a reader
//! takes the samples that are announced and ignores what is left.
//!
//! The payload does not hold its encoding, its length or a checksum: the file or the message
//! around it does.
//!
//! ## Promises
//!
//! - Bytes written here equal those of Prometheus for the same samples.
//! - Reading foreign, cut or damaged bytes gives samples or an [`enum@Error`], never a panic, and
//!   takes no memory but for the buckets of one histogram, in proportion to the bytes.
//! - What is written are encodings 1 to 3, which all readers know. Prometheus has more, 4 to 6,
//!   with start times; they can be read ([`xor2`], [`histogram::Reader::with_starts`]).
//! - The bits of a value survive: payloads of NaN, the sign of zero, the stale marker.

mod bits;
pub mod histogram;
mod start;
mod window;
pub mod xor;
pub mod xor2;

use thiserror::Error;

use crate::chunk::bits::Fault;

/// How the samples of a chunk are encoded. The numbers are those of a block's chunk files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Float samples, see [`xor`].
    Xor = 1,
    /// Native histograms with integer counts.
    Histogram = 2,
    /// Native histograms with float counts.
    FloatHistogram = 3,
}

impl Encoding {
    /// The encoding with this number in a block. Prometheus has others (4 to 6, and Thanos 255
    /// for downsampled data); they are an error here because they are neither written nor served.
    pub fn from_byte(byte: u8) -> Result<Self, Error> {
        match byte {
            1 => Ok(Self::Xor),
            2 => Ok(Self::Histogram),
            3 => Ok(Self::FloatHistogram),
            _ => Err(Error::UnknownEncoding { byte }),
        }
    }

    /// The number in a block's chunk file and in remote read.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// The number in Thanos' StoreAPI, which counts from zero.
    pub fn wire(self) -> i32 {
        i32::from(self as u8) - 1
    }
}

/// One finished chunk, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// Time of the first sample, ms.
    pub min_t: i64,
    /// Time of the last sample, ms.
    pub max_t: i64,
    /// The payload, without length, encoding and checksum.
    pub bytes: &'a [u8],
}

impl Chunk<'_> {
    /// How many samples the payload announces.
    pub fn sample_count(&self) -> Result<u16, Error> {
        sample_count(self.bytes)
    }
}

/// How many samples a payload announces. All three encodings begin with that number.
pub fn sample_count(bytes: &[u8]) -> Result<u16, Error> {
    let head = bytes.first_chunk::<2>().ok_or(Error::NoHeader { len: bytes.len() })?;
    Ok(u16::from_be_bytes(*head))
}

/// Why bytes are not a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// The number of the encoding is not one of 1, 2, 3.
    #[error("chunk encoding {byte} is unknown; 1 (XOR), 2 and 3 (histograms) are read")]
    UnknownEncoding {
        /// The number.
        byte: u8,
    },
    /// Not even the number of samples, or what else is in front of them, is there.
    #[error("chunk of {len} bytes is too short to hold its header")]
    NoHeader {
        /// Length of the payload in bytes.
        len: usize,
    },
    /// The bits end inside a sample.
    #[error("chunk ends inside sample {sample} of {count}")]
    Truncated {
        /// Position of the sample, from 0.
        sample: u16,
        /// How many the chunk announces.
        count: u16,
    },
    /// A variable-length integer has more than 64 bits.
    #[error("sample {sample} of the chunk has a time of more than 64 bits")]
    TimeOverflow {
        /// Position of the sample, from 0.
        sample: u16,
    },
    /// The bits of a value would not fit into 64.
    #[error(
        "sample {sample} of the chunk has {lead} leading zeros and {significant} bits: over 64"
    )]
    ValueOverflow {
        /// Position of the sample, from 0.
        sample: u16,
        /// Announced leading zeros.
        lead: u32,
        /// Announced significant bits.
        significant: u32,
    },
    /// The schema of a chunk of histograms is unknown.
    #[error("chunk of histograms has the schema {schema}; -9 to 52 and -53 are known")]
    UnknownSchema {
        /// The schema.
        schema: i64,
    },
    /// A chunk of histograms announces more than it can hold.
    #[error("chunk of histograms announces {announced} {what} in {bits} bits")]
    LayoutTooLong {
        /// Of what.
        what: &'static str,
        /// How many.
        announced: u64,
        /// Bits that are left of the chunk.
        bits: usize,
    },
    /// A span does not fit into its type.
    #[error("chunk of histograms has a span of {length} buckets at the offset {offset}")]
    SpanTooWide {
        /// Its offset.
        offset: i64,
        /// Its length.
        length: u64,
    },
}

impl Error {
    /// The error of a sample that cannot be read.
    #[cold]
    fn at(fault: Fault, sample: u16, count: u16) -> Self {
        match fault {
            Fault::Ended => Self::Truncated { sample, count },
            Fault::Overlong => Self::TimeOverflow { sample },
            Fault::Wide { lead, significant } => Self::ValueOverflow { sample, lead, significant },
        }
    }
}

#[cfg(test)]
mod tests;

//! Native histograms as bits: encodings 2 (integer counts) and 3 (float counts), and the reading of
//! 5 and 6, which are the same with start times.
//!
//! ## Format
//!
//! ```text
//! encodings 2, 3   16 bits number of samples · 2 bits header · 6 zero
//! encodings 5, 6   2 bits header · 14 bits number of samples · 8 bits where start times are
//!
//! header: 00 unknown · 01 no counter reset before this chunk · 10 a reset · 11 gauges
//!
//! layout, once: zero threshold · int schema · spans · spans · bounds if the schema is -53
//!   zero threshold   8 bits: 0 is 0.0, b is 2^(b - 244), 255 is followed by 64 bits
//!   spans            uint number, then each: uint length · int offset; positive ones first
//!   bounds           uint number, then each: uint 1000 bound + 1, or 0 and 64 bits
//!
//! integer sample 0   int t · uint count · uint zero count · 64 bits sum · int each bucket
//! integer sample n   int dod of t, of count, of zero count · XOR of sum · int dod of each bucket
//! float sample 0     int t · 64 bits count, zero count, sum, each bucket
//! float sample n     int dod of t · XOR of count, zero count, sum, each bucket
//! ```
//!
//! `int` and `uint` are integers of variable width ([`bits::VARBIT`]), an XOR is that of
//! `window.rs`; each field has deltas or a window of its own. The value of an integer bucket is the
//! difference of its population to the bucket before. A stale marker has no bucket fields, counts
//! that do not change (integers) or become 0 (floats), and only stale markers may follow it in its
//! chunk; as the first of a chunk it has the empty layout.
//!
//! ## Promises
//!
//! - Bytes written equal those of Prometheus for the same samples, and so does the decision where a
//!   chunk ends ([`Appended`]).
//! - What is appended comes back, with the bits of all floats, in the sense of
//!   [`same_as`](crate::model::histogram::Histogram::same_as): perhaps with more empty buckets.
//! - A reader takes at most 24 bytes for each bit of a chunk, whatever the chunk announces, and
//!   time in proportion to its bits.
//! - An appender is at most 160 bytes, and on the heap 16 for each bucket of its chunk and 8 for
//!   each span and bound.

mod append;
mod layout;
mod read;

pub use append::{Appended, Appender, Cause, Cut, PARTS_MAX, Wider, first_header};
pub use read::{Point, Reader};

use crate::chunk::Error;
use crate::chunk::bits::{self, Fault};
use crate::chunk::window::Xor;
use crate::model::histogram::{Double, Float, Integer, Kind, ResetHint};

/// Bytes in front of the stream.
const HEADER_BYTES: usize = 3;

/// Where the bits of an open chunk go.
type Stream<'a> = bits::Writer<'a, Vec<u8>>;

/// What a chunk says of counter resets before its first sample: encodings 2 and 3.
pub fn header(bytes: &[u8]) -> Result<ResetHint, Error> {
    let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(Error::NoHeader { len: bytes.len() })?;
    Ok(header_of(head[2]))
}

/// Makes a chunk say nothing of the samples before it, for others have come between; that it holds
/// gauges stays said. Encodings 2 and 3.
pub fn forget_before(bytes: &mut [u8]) {
    if let Some(flags) = bytes.get_mut(HEADER_BYTES - 1)
        && header_of(*flags) != ResetHint::Gauge
    {
        *flags = header_byte(ResetHint::Unknown);
    }
}

/// The two highest bits of a byte.
fn header_of(byte: u8) -> ResetHint {
    match byte >> 6 {
        0b00 => ResetHint::Unknown,
        0b01 => ResetHint::NotReset,
        0b10 => ResetHint::Reset,
        _ => ResetHint::Gauge,
    }
}

/// The byte of a header.
fn header_byte(header: ResetHint) -> u8 {
    match header {
        ResetHint::Unknown => 0b00 << 6,
        ResetHint::NotReset => 0b01 << 6,
        ResetHint::Reset => 0b10 << 6,
        ResetHint::Gauge => 0b11 << 6,
    }
}

/// How the counts of a kind are coded.
pub trait Codec: Kind {
    /// What is remembered of a count or a bucket between two samples.
    type Field: Field;
    /// Whether a reset can be ruled out where the sort of chunk changes, see [`Cut`].
    const RULES_OUT: bool;
    /// Fewest bits of a bucket in the first sample.
    const BUCKET_BITS: usize;

    /// A count as 64 bits.
    fn raw_count(count: Self::Count) -> u64;
    /// A count from its bits.
    fn count(raw: u64) -> Self::Count;
    /// What is stored for a bucket as 64 bits.
    fn raw_bucket(stored: Self::Bucket) -> u64;
    /// What is stored for a bucket from its bits.
    fn bucket(raw: u64) -> Self::Bucket;
    /// Appends a count of the first sample.
    fn put_first_count(stream: &mut Stream<'_>, raw: u64);
    /// Appends a bucket of the first sample.
    fn put_first_bucket(stream: &mut Stream<'_>, raw: u64);
    /// Appends a count of a later stale marker.
    fn put_stale_count(stream: &mut Stream<'_>, field: &mut Self::Field);
    /// Reads a count of the first sample.
    fn take_first_count(stream: &mut bits::Reader<'_>) -> Result<u64, Fault>;
    /// Reads a bucket of the first sample.
    fn take_first_bucket(stream: &mut bits::Reader<'_>) -> Result<u64, Fault>;
}

/// What is remembered of a field between two samples.
pub trait Field: Copy + std::fmt::Debug {
    /// A writer's first value.
    fn begun(raw: u64) -> Self;
    /// A reader's first value.
    fn found(raw: u64) -> Self;
    /// The value.
    fn raw(&self) -> u64;
    /// Appends the next value.
    fn put(&mut self, stream: &mut Stream<'_>, raw: u64);
    /// Reads the next value.
    fn take(&mut self, stream: &mut bits::Reader<'_>) -> Result<(), Fault>;
}

/// An integer that is told by the delta of its delta. All arithmetic wraps.
#[derive(Debug, Clone, Copy)]
pub struct Track {
    value: u64,
    delta: u64,
}

impl Field for Track {
    fn begun(raw: u64) -> Self {
        Self { value: raw, delta: 0 }
    }

    fn found(raw: u64) -> Self {
        Self::begun(raw)
    }

    fn raw(&self) -> u64 {
        self.value
    }

    fn put(&mut self, stream: &mut Stream<'_>, raw: u64) {
        let delta = raw.wrapping_sub(self.value);
        stream.put_varbit(delta.wrapping_sub(self.delta) as i64);
        *self = Self { value: raw, delta };
    }

    fn take(&mut self, stream: &mut bits::Reader<'_>) -> Result<(), Fault> {
        self.delta = self.delta.wrapping_add(stream.take_varbit()? as u64);
        self.value = self.value.wrapping_add(self.delta);
        Ok(())
    }
}

impl Field for Xor {
    fn begun(raw: u64) -> Self {
        Self::begun(raw)
    }

    fn found(raw: u64) -> Self {
        Self::found(raw)
    }

    fn raw(&self) -> u64 {
        self.bits
    }

    fn put(&mut self, stream: &mut Stream<'_>, raw: u64) {
        self.put(stream, raw);
    }

    fn take(&mut self, stream: &mut bits::Reader<'_>) -> Result<(), Fault> {
        self.take(stream)
    }
}

impl Codec for Integer {
    type Field = Track;
    const RULES_OUT: bool = true;
    const BUCKET_BITS: usize = 1;

    fn raw_count(count: u64) -> u64 {
        count
    }

    fn count(raw: u64) -> u64 {
        raw
    }

    fn raw_bucket(stored: i64) -> u64 {
        stored as u64
    }

    fn bucket(raw: u64) -> i64 {
        raw as i64
    }

    fn put_first_count(stream: &mut Stream<'_>, raw: u64) {
        stream.put_uvarbit(raw);
    }

    fn put_first_bucket(stream: &mut Stream<'_>, raw: u64) {
        stream.put_varbit(raw as i64);
    }

    fn put_stale_count(stream: &mut Stream<'_>, _: &mut Track) {
        stream.put_varbit(0);
    }

    fn take_first_count(stream: &mut bits::Reader<'_>) -> Result<u64, Fault> {
        stream.take_uvarbit()
    }

    fn take_first_bucket(stream: &mut bits::Reader<'_>) -> Result<u64, Fault> {
        Ok(stream.take_varbit()? as u64)
    }
}

impl Codec for Float {
    type Field = Xor;
    const RULES_OUT: bool = false;
    const BUCKET_BITS: usize = 64;

    fn raw_count(count: Double) -> u64 {
        count.0
    }

    fn count(raw: u64) -> Double {
        Double(raw)
    }

    fn raw_bucket(stored: Double) -> u64 {
        stored.0
    }

    fn bucket(raw: u64) -> Double {
        Double(raw)
    }

    fn put_first_count(stream: &mut Stream<'_>, raw: u64) {
        stream.put(raw, 64);
    }

    fn put_first_bucket(stream: &mut Stream<'_>, raw: u64) {
        stream.put(raw, 64);
    }

    fn put_stale_count(stream: &mut Stream<'_>, field: &mut Xor) {
        field.put(stream, 0);
    }

    fn take_first_count(stream: &mut bits::Reader<'_>) -> Result<u64, Fault> {
        stream.take(64)
    }

    fn take_first_bucket(stream: &mut bits::Reader<'_>) -> Result<u64, Fault> {
        stream.take(64)
    }
}

#[cfg(test)]
mod tests;

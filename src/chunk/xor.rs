//! Float samples as bits: the XOR encoding (1), Facebook's Gorilla as Prometheus writes it.
//!
//! ## Format
//!
//! ```text
//! 16 bits   number of samples
//! sample 0  varint t · 64 bits value
//! sample 1  uvarint t1 - t0 · value field
//! sample n  time field · value field
//!
//! time field: dod = (t[n] - t[n-1]) - (t[n-1] - t[n-2]), wrapping
//!   0                     dod = 0
//!   10   14 bits          -8191 ..= 8192
//!   110  17 bits          -65535 ..= 65536
//!   1110 20 bits          -524287 ..= 524288
//!   1111 64 bits          any other, two's complement
//!
//! value field: x = bits ^ bits before
//!   0                     x = 0
//!   10  w bits            x lies in the window of the last `11`: its w significant bits
//!   11  5 lead · 6 w · w bits    a new window: leading zeros (at most 31), width (0 means 64)
//! ```
//!
//! The short time fields are two's complement but for one value: `100..0` is positive. Lower and
//! equal times can be encoded too, as all time arithmetic wraps; keeping samples in order is the
//! caller's affair.
//!
//! ## Promises
//!
//! [`Appender`] writes what Prometheus writes for the same samples. It is plain state of less than
//! a cache line and owns no bytes: they lie in a tail that its owner grows and moves at will. An
//! append writes to the tail only when a word of 64 bits is full, so a series that hardly changes
//! leaves its tail alone for tens of samples.
//!
//! [`Appender::finish`] may be called at any time, as a query does, and the appender goes on.

use crate::model::Sample;

use super::bits::{self, Fault};
use super::{Error, sample_count};

/// Most bytes by which one sample lengthens a chunk: its second, with a delta of ten varint bytes
/// and 2 + 5 + 6 + 64 bits of value.
pub const MAX_SAMPLE_BYTES: usize = 20;

/// Most samples of a chunk; its header has 16 bits.
pub const MAX_SAMPLES: u16 = u16::MAX;

/// Bytes of the number of samples in front of the stream.
const HEADER_BYTES: usize = 2;

/// More leading zeros than this are not told: the field has five bits.
const LEAD_MAX: u32 = 31;

/// `lead` of an appender that has no window yet; no value has so many leading zeros.
const NO_WINDOW: u8 = u8::MAX;

/// The open end of an XOR chunk: all that appending the next sample must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appender {
    last_t: i64,
    last_bits: u64,
    /// Time between the last two samples.
    delta: u64,
    /// The stream's unfinished word, see [`bits::Writer`].
    partial: u64,
    /// Length of the stream in bits. 65,535 samples have less than 2^24.
    len_bits: u32,
    count: u16,
    /// Leading and trailing zeros of the current window.
    lead: u8,
    trail: u8,
}

const _: () =
    assert!(size_of::<Appender>() <= 48, "an appender shares a cache line with its series");

impl Default for Appender {
    fn default() -> Self {
        Self::new()
    }
}

impl Appender {
    /// An appender of an empty chunk.
    pub const fn new() -> Self {
        Self {
            last_t: 0,
            last_bits: 0,
            delta: 0,
            partial: 0,
            len_bits: 0,
            count: 0,
            lead: NO_WINDOW,
            trail: 0,
        }
    }

    /// Appends a sample. `tail` holds what this appender has written so far.
    ///
    /// # Panics
    ///
    /// When `tail` has less than [`Appender::len_bytes`] + [`MAX_SAMPLE_BYTES`] bytes and the
    /// sample needed them, and when the chunk has [`MAX_SAMPLES`].
    #[inline]
    pub fn append(&mut self, tail: &mut [u8], t: i64, bits: u64) {
        debug_assert!(self.len_bytes() + MAX_SAMPLE_BYTES <= tail.len(), "tail is too short");
        if self.count < 2 {
            return self.begin(tail, t, bits);
        }
        assert!(self.count < MAX_SAMPLES, "an XOR chunk holds at most {MAX_SAMPLES} samples");
        let delta = t.wrapping_sub(self.last_t) as u64;
        let dod = delta.wrapping_sub(self.delta) as i64;
        let xor = bits ^ self.last_bits;
        let mut stream =
            bits::Writer::resume(&mut tail[HEADER_BYTES..], (self.partial, self.len_bits));
        // The time field travels with the first bits of the value field: at most 24 + 13 bits.
        let (time, n) = time_field(dod).unwrap_or_else(|| {
            stream.put(0b1111, 4);
            stream.put(dod as u64, 64);
            (0, 0)
        });
        self.put_value(&mut stream, xor, time, n);
        (self.partial, self.len_bits) = stream.suspend();
        self.last_t = t;
        self.last_bits = bits;
        self.delta = delta;
        self.count += 1;
    }

    /// Appends the first or the second sample.
    #[cold]
    fn begin(&mut self, tail: &mut [u8], t: i64, bits: u64) {
        let mut stream =
            bits::Writer::resume(&mut tail[HEADER_BYTES..], (self.partial, self.len_bits));
        if self.count == 0 {
            stream.put_varint(t);
            stream.put(bits, 64);
        } else {
            self.delta = t.wrapping_sub(self.last_t) as u64;
            stream.put_uvarint(self.delta);
            self.put_value(&mut stream, bits ^ self.last_bits, 0, 0);
        }
        (self.partial, self.len_bits) = stream.suspend();
        self.last_t = t;
        self.last_bits = bits;
        self.count += 1;
    }

    /// Appends `n` bits `before` and a value field.
    #[inline]
    fn put_value(&mut self, stream: &mut bits::Writer<'_>, xor: u64, before: u64, n: u32) {
        if xor == 0 {
            return stream.put(before << 1, n + 1);
        }
        let lead = xor.leading_zeros().min(LEAD_MAX);
        let trail = xor.trailing_zeros();
        let window = (u32::from(self.lead), u32::from(self.trail));
        if lead >= window.0 && trail >= window.1 {
            stream.put(before << 2 | 0b10, n + 2);
            stream.put(xor >> window.1, 64 - window.0 - window.1);
        } else {
            let width = 64 - lead - trail;
            let header = 0b11 << 11 | u64::from(lead) << 6 | u64::from(width % 64);
            stream.put(before << 13 | header, n + 13);
            stream.put(xor >> trail, width);
            (self.lead, self.trail) = (lead as u8, trail as u8);
        }
    }

    /// Makes `tail[..n]` the exact bytes of the chunk so far and returns `n`, which is
    /// [`Appender::len_bytes`]. The appender goes on afterwards as if nothing had happened.
    ///
    /// # Panics
    ///
    /// When `tail` is shorter than that.
    pub fn finish(&self, tail: &mut [u8]) -> usize {
        tail[..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
        bits::settle(&mut tail[HEADER_BYTES..], (self.partial, self.len_bits));
        self.len_bytes()
    }

    /// How many samples were appended.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Time of the last sample, ms; 0 before the first.
    pub fn last_t(&self) -> i64 {
        self.last_t
    }

    /// Bits of the last value; 0 before the first.
    pub fn last_bits(&self) -> u64 {
        self.last_bits
    }

    /// Length of the chunk so far in bytes, its header included.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        HEADER_BYTES + self.len_bits.div_ceil(8) as usize
    }
}

/// A time field of at most 24 bits and its length.
#[inline]
fn time_field(dod: i64) -> Option<(u64, u32)> {
    /// `100..0` is the positive end, so the range is one step above two's complement.
    fn fits(dod: i64, n: u32) -> bool {
        (dod.wrapping_add((1 << (n - 1)) - 1) as u64) < 1 << n
    }
    fn field(prefix: u64, dod: i64, n: u32) -> u64 {
        prefix << n | dod as u64 & ((1 << n) - 1)
    }
    if dod == 0 {
        Some((0, 1))
    } else if fits(dod, 14) {
        Some((field(0b10, dod, 14), 2 + 14))
    } else if fits(dod, 17) {
        Some((field(0b110, dod, 17), 3 + 17))
    } else if fits(dod, 20) {
        Some((field(0b1110, dod, 20), 4 + 20))
    } else {
        None
    }
}

/// Reads the samples of an XOR chunk in order. After an error it ends.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    stream: bits::Reader<'a>,
    count: u16,
    /// How many samples were read.
    at: u16,
    t: i64,
    bits: u64,
    delta: u64,
    /// The current window. It begins as all 64 bits: an appender of Prometheus that was opened
    /// again may use it before it has told one.
    lead: u32,
    trail: u32,
}

impl<'a> Reader<'a> {
    /// A reader of a payload. Only the header is looked at.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let count = sample_count(bytes)?;
        let stream = bits::Reader::new(bytes.get(HEADER_BYTES..).unwrap_or_default());
        Ok(Self { stream, count, at: 0, t: 0, bits: 0, delta: 0, lead: 0, trail: 0 })
    }

    /// How many samples the chunk announces.
    pub fn count(&self) -> u16 {
        self.count
    }

    #[inline]
    fn read(&mut self) -> Result<Sample, Error> {
        if self.at < 2 {
            return self.begin();
        }
        let next = self.stream.peek();
        // One look shows a time field of at most 24 bits and the value's header of at most 13.
        let (dod, n) = match short_time(next) {
            Some(field) => field,
            None => (self.long_time().map_err(|f| self.fault(f))?, 0),
        };
        self.delta = self.delta.wrapping_add(dod as u64);
        self.t = self.t.wrapping_add(self.delta as i64);
        let next = if n == 0 { self.stream.peek() } else { next };
        self.read_value(next, n)?;
        Ok(Sample { t: self.t, bits: self.bits })
    }

    /// Reads the first or the second sample.
    #[cold]
    fn begin(&mut self) -> Result<Sample, Error> {
        if self.at == 0 {
            self.t = self.stream.take_varint().map_err(|f| self.fault(f))?;
            self.bits = self.stream.take(64).map_err(|f| self.fault(f))?;
        } else {
            self.delta = self.stream.take_uvarint().map_err(|f| self.fault(f))?;
            self.t = self.t.wrapping_add(self.delta as i64);
            self.read_value(self.stream.peek(), 0)?;
        }
        Ok(Sample { t: self.t, bits: self.bits })
    }

    /// Reads a time field of 68 bits.
    #[cold]
    fn long_time(&mut self) -> Result<i64, Fault> {
        self.stream.skip(4)?;
        Ok(self.stream.take(64)? as i64)
    }

    /// Reads a value field into `bits`. `next` is what the stream shows, its first `before` bits
    /// are known already but not consumed.
    #[inline]
    fn read_value(&mut self, next: u64, before: u32) -> Result<(), Error> {
        let next = next << before;
        let header = match next >> 62 {
            0b00 | 0b01 => {
                return self.stream.skip(before + 1).map_err(|f| self.fault(f));
            }
            0b10 => 2,
            _ => 13,
        };
        self.stream.skip(before + header).map_err(|f| self.fault(f))?;
        if header == 13 {
            let lead = (next >> 57 & 0x1f) as u32;
            let significant = match (next >> 51 & 0x3f) as u32 {
                0 => 64,
                n => n,
            };
            if lead + significant > 64 {
                return Err(self.fault(Fault::Wide { lead, significant }));
            }
            (self.lead, self.trail) = (lead, 64 - lead - significant);
        }
        let width = 64 - self.lead - self.trail;
        let xor = self.stream.take(width).map_err(|f| self.fault(f))? << self.trail;
        self.bits ^= xor;
        Ok(())
    }

    #[cold]
    fn fault(&self, fault: Fault) -> Error {
        Error::at(fault, self.at, self.count)
    }
}

/// The time field at the top of `next` and its length, unless it is the long one.
#[inline]
fn short_time(next: u64) -> Option<(i64, u32)> {
    let (prefix, n) = match next.leading_ones() {
        0 => return Some((0, 1)),
        1 => (2, 14),
        2 => (3, 17),
        3 => (4, 20),
        _ => return None,
    };
    let field = (next << prefix >> (64 - n)) as i64;
    Some((if field > 1 << (n - 1) { field - (1 << n) } else { field }, prefix + n))
}

impl Iterator for Reader<'_> {
    type Item = Result<Sample, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.count {
            return None;
        }
        let sample = self.read();
        self.at = if sample.is_ok() { self.at + 1 } else { self.count };
        Some(sample)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An announced number is no reason to take memory for it: a sample has at least two bits.
        (0, Some(usize::from(self.count - self.at)))
    }
}

//! Float samples with start times as bits: encoding 4 of Prometheus 3.11 and later. Read, never
//! written: Thanos does not know it.
//!
//! ## Format
//!
//! ```text
//! 16 bits · 8 bits   number of samples · where start times are
//! sample 0  varint t · 64 bits value                            each with its
//! sample 1  uvarint t1 - t0 · V                                 start time behind it
//! sample n  0                    time as expected, value as before
//!           10     W             time as expected
//!           110    13 bits · V   dod = (t[n] - t[n-1]) - (t[n-1] - t[n-2]), two's complement
//!           1110   20 bits · V
//!           11110  64 bits · V
//!           11111                time as expected, stale marker
//!
//! V: 0 the value as before · 10 a value in the window · 110 window and value · 111 stale marker
//! W: 0 a value in the window · 1 window and value
//! ```
//!
//! "The value as before" and what XORs refer to is the last value that was not a stale marker, 0.0
//! before any. Windows are those of the float encoding.

use crate::chunk::bits::{self, Fault};
use crate::chunk::start::Starts;
use crate::chunk::window::Window;
use crate::chunk::{Error, sample_count};
use crate::model::{STALE_NAN_BITS, Sample};

/// Bytes in front of the stream.
const HEADER_BYTES: usize = 3;

/// A float sample and when its series began to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartedSample {
    /// The sample.
    pub sample: Sample,
    /// Start time, ms; 0 is none.
    pub start_t: i64,
}

/// Reads the samples of a chunk in order. After an error it ends.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    stream: bits::Reader<'a>,
    count: u16,
    /// How many samples were read.
    at: u16,
    starts: Starts,
    t: i64,
    delta: u64,
    /// Bits of the last value that was no stale marker.
    base: u64,
    window: Window,
}

impl<'a> Reader<'a> {
    /// A reader of a payload. Only the header is looked at.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let count = sample_count(bytes)?;
        let (head, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(Error::NoHeader { len: bytes.len() })?;
        Ok(Self {
            stream: bits::Reader::new(rest),
            count,
            at: 0,
            starts: Starts::new(head[2]),
            t: 0,
            delta: 0,
            base: 0,
            window: Window::ALL,
        })
    }

    fn read(&mut self) -> Result<StartedSample, Fault> {
        let before = self.t;
        let bits = match self.at {
            0 => {
                self.t = self.stream.take_varint()?;
                let bits = self.stream.take(64)?;
                if bits != STALE_NAN_BITS {
                    self.base = bits;
                }
                bits
            }
            1 => {
                self.delta = self.stream.take_uvarint()?;
                self.t = self.t.wrapping_add(self.delta as i64);
                self.take_v()?
            }
            _ => self.take_joint()?,
        };
        let start_t = self.starts.take(&mut self.stream, self.at, self.t, before)?;
        Ok(StartedSample { sample: Sample { t: self.t, bits }, start_t })
    }

    /// Reads time and value of a sample after the second; returns the value's bits.
    fn take_joint(&mut self) -> Result<u64, Fault> {
        let ones = self.stream.peek().leading_ones().min(5);
        self.stream.skip((ones + 1).min(5))?;
        let width = match ones {
            2 => 13,
            3 => 20,
            4 => 64,
            _ => 0,
        };
        if width > 0 {
            let field = self.stream.take(width)?;
            let dod = (field << (64 - width)) as i64 >> (64 - width);
            self.delta = self.delta.wrapping_add(dod as u64);
        }
        self.t = self.t.wrapping_add(self.delta as i64);
        match ones {
            0 => Ok(self.base),
            1 => {
                let new_window = self.stream.take(1)? == 1;
                self.take_value(new_window)
            }
            5 => Ok(STALE_NAN_BITS),
            _ => self.take_v(),
        }
    }

    fn take_v(&mut self) -> Result<u64, Fault> {
        let ones = self.stream.peek().leading_ones().min(3);
        self.stream.skip((ones + 1).min(3))?;
        match ones {
            0 => Ok(self.base),
            3 => Ok(STALE_NAN_BITS),
            _ => self.take_value(ones == 2),
        }
    }

    fn take_value(&mut self, new_window: bool) -> Result<u64, Fault> {
        if new_window {
            self.window = Window::take(&mut self.stream)?;
        }
        self.base ^= self.window.take_bits(&mut self.stream)?;
        Ok(self.base)
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<StartedSample, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.count {
            return None;
        }
        let sample = self.read().map_err(|fault| Error::at(fault, self.at, self.count));
        self.at = if sample.is_ok() { self.at + 1 } else { self.count };
        Some(sample)
    }
}

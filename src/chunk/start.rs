//! Start times beside the samples of a chunk: encodings 4, 5 and 6, which are read only.
//!
//! ## Format
//!
//! A byte in the header tells where start times are (`known` is its highest bit, `on` the others);
//! what belongs to a sample stands behind the sample's own bits:
//!
//! ```text
//! sample 0       if known: varint t[0] - start[0]; else it has none, which is 0
//! sample on      if on > 0: integer of variable width, d[on] = t[on - 1] - start[on]
//! sample i > on  integer of variable width, d[i] - d[i - 1], d[i] = t[i - 1] - start[i]
//! ```
//!
//! Between 0 and `on` a sample has the start time of the one before. All arithmetic wraps.

use crate::chunk::bits::{self, Fault};

/// The start times of a chunk, as far as they were read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Starts {
    known: bool,
    on: u16,
    /// Start time of the last sample, ms; 0 is none.
    start_t: i64,
    /// `d` of the last sample.
    before: i64,
}

impl Starts {
    /// From the byte in the header.
    pub(super) fn new(byte: u8) -> Self {
        Self { known: byte & 0x80 != 0, on: u16::from(byte & 0x7f), ..Self::default() }
    }

    /// Reads the start time of sample `at` at `t`; the sample before is at `t_before`.
    pub(super) fn take(
        &mut self,
        stream: &mut bits::Reader<'_>,
        at: u16,
        t: i64,
        t_before: i64,
    ) -> Result<i64, Fault> {
        if at == 0 {
            if self.known {
                self.start_t = t.wrapping_sub(stream.take_varint()?);
            }
        } else if self.on > 0 && at >= self.on {
            self.before = self.before.wrapping_add(stream.take_varbit()?);
            self.start_t = t_before.wrapping_sub(self.before);
        }
        Ok(self.start_t)
    }
}

//! The XOR of two values as a field: its significant bits and the window they stand in.
//!
//! ```text
//! 0                            nothing changed
//! 10  w bits                   in the window of the last `11`
//! 11  5 lead · 6 w · w bits    a new window: leading zeros (at most 31), width (0 means 64)
//! ```
//!
//! The float encoding has fields like these, but writes them together with its times.

use crate::chunk::bits::{self, Fault, Words};

/// More leading zeros than this are not told: the field has five bits.
const LEAD_MAX: u32 = 31;

/// Where the significant bits of an XOR lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    lead: u8,
    trail: u8,
}

impl Window {
    /// What a writer has before its first `11`: a window in which nothing fits.
    const NONE: Self = Self { lead: u8::MAX, trail: 0 };
    /// What a reader begins with: a writer of Prometheus that was opened again may use it.
    pub(super) const ALL: Self = Self { lead: 0, trail: 0 };

    /// Reads a window.
    pub(super) fn take(stream: &mut bits::Reader<'_>) -> Result<Self, Fault> {
        let lead = stream.take(5)? as u32;
        let significant = match stream.take(6)? as u32 {
            0 => 64,
            n => n,
        };
        match 64_u32.checked_sub(lead + significant) {
            Some(trail) => Ok(Self { lead: lead as u8, trail: trail as u8 }),
            None => Err(Fault::Wide { lead, significant }),
        }
    }

    /// Reads an XOR in this window.
    pub(super) fn take_bits(self, stream: &mut bits::Reader<'_>) -> Result<u64, Fault> {
        let width = 64 - u32::from(self.lead) - u32::from(self.trail);
        Ok(stream.take(width)? << self.trail)
    }
}

/// A value of 64 bits that is told by its XOR with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xor {
    /// The value.
    pub(super) bits: u64,
    window: Window,
}

impl Xor {
    /// A writer's first value.
    pub(super) fn begun(bits: u64) -> Self {
        Self { bits, window: Window::NONE }
    }

    /// A reader's first value.
    pub(super) fn found(bits: u64) -> Self {
        Self { bits, window: Window::ALL }
    }

    /// Appends the next value.
    pub(super) fn put<S: Words + ?Sized>(&mut self, stream: &mut bits::Writer<'_, S>, bits: u64) {
        let xor = bits ^ std::mem::replace(&mut self.bits, bits);
        if xor == 0 {
            return stream.put(0, 1);
        }
        let (lead, trail) = (xor.leading_zeros().min(LEAD_MAX), xor.trailing_zeros());
        let window = (u32::from(self.window.lead), u32::from(self.window.trail));
        if lead >= window.0 && trail >= window.1 {
            stream.put(0b10, 2);
            stream.put(xor >> window.1, 64 - window.0 - window.1);
        } else {
            let width = 64 - lead - trail;
            stream.put(0b11 << 11 | u64::from(lead) << 6 | u64::from(width % 64), 13);
            stream.put(xor >> trail, width);
            self.window = Window { lead: lead as u8, trail: trail as u8 };
        }
    }

    /// Reads the next value.
    pub(super) fn take(&mut self, stream: &mut bits::Reader<'_>) -> Result<(), Fault> {
        if stream.take(1)? == 0 {
            return Ok(());
        }
        if stream.take(1)? == 1 {
            self.window = Window::take(stream)?;
        }
        self.bits ^= self.window.take_bits(stream)?;
        Ok(())
    }
}

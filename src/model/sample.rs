//! One float sample, its value kept as bits.

/// Bits of the stale marker. It is a *signalling* NaN: it is compared by bits and never passes
/// through arithmetic, which would quieten it (Prometheus `value.StaleNaN`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// A float sample: a time and the bits of an IEEE 754 double. Bits, because the payload of a NaN
/// and the sign of a zero are data here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub t: i64,
    /// Bits of the value.
    pub bits: u64,
}

impl Sample {
    /// A sample of a value.
    pub fn new(t: i64, value: f64) -> Self {
        Self { t, bits: value.to_bits() }
    }

    /// The value. For looking at, not for storing: a signalling NaN may come back quiet.
    pub fn value(self) -> f64 {
        f64::from_bits(self.bits)
    }
}

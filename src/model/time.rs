//! Time: milliseconds since the epoch, and the two kinds of interval of the formats.
//!
//! Block ranges are half-open and chunk spans are closed; mixing them up loses or doubles the
//! sample on the border, so each has its own type.

use std::fmt;

/// Length of the range one block covers: two hours, as in Prometheus and Thanos.
pub const BLOCK_RANGE_MS: i64 = 2 * 60 * 60 * 1000;

/// Half-open interval `[start, end)` in milliseconds: the range of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeRange {
    /// First millisecond inside.
    pub start: i64,
    /// First millisecond after.
    pub end: i64,
}

impl TimeRange {
    /// The aligned block range that holds `t`. Aligned to the floor, so that a negative time lies
    /// inside its range as well. The last range of all ends at `i64::MAX`.
    pub fn aligned(t: i64) -> Self {
        let start = t - t.rem_euclid(BLOCK_RANGE_MS).min(t.saturating_sub(i64::MIN));
        Self { start, end: start.saturating_add(BLOCK_RANGE_MS) }
    }

    /// Whether `t` lies inside.
    pub fn contains(&self, t: i64) -> bool {
        self.start <= t && t < self.end
    }

    /// Whether any millisecond of `span` lies inside.
    pub fn overlaps(&self, span: TimeSpan) -> bool {
        self.start <= span.max && span.min < self.end
    }
}

impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// Closed interval `[min, max]` in milliseconds: the span of a chunk, or of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeSpan {
    /// First millisecond inside.
    pub min: i64,
    /// Last millisecond inside.
    pub max: i64,
}

impl TimeSpan {
    /// All of time.
    pub const ALL: Self = Self { min: i64::MIN, max: i64::MAX };

    /// Whether `t` lies inside.
    pub fn contains(&self, t: i64) -> bool {
        self.min <= t && t <= self.max
    }

    /// Whether both share a millisecond.
    pub fn overlaps(&self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_time_on_both_sides_of_zero() {
        for t in [0, 1, -1, BLOCK_RANGE_MS, BLOCK_RANGE_MS - 1, -BLOCK_RANGE_MS, 1_700_000_000_000]
        {
            let range = TimeRange::aligned(t);
            assert!(range.contains(t), "{t} in {range}");
            assert_eq!(range.start.rem_euclid(BLOCK_RANGE_MS), 0);
            assert_eq!(range.end - range.start, BLOCK_RANGE_MS);
        }
        assert!(TimeRange::aligned(i64::MIN).contains(i64::MIN));
        assert_eq!(TimeRange::aligned(i64::MAX).end, i64::MAX);
    }

    #[test]
    fn closed_and_open_ends_differ() {
        let range = TimeRange { start: 10, end: 20 };
        assert!(!range.overlaps(TimeSpan { min: 20, max: 30 }));
        assert!(range.overlaps(TimeSpan { min: 19, max: 30 }));
        assert!(range.overlaps(TimeSpan { min: 0, max: 10 }));
        assert!(!range.overlaps(TimeSpan { min: 0, max: 9 }));
    }
}

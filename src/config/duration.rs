//! Durations as Prometheus writes them: `1d12h`, `90s`, `250ms`, `0`.
//!
//! Units from large to small, each at most once, whole numbers: y (365 d), w, d, h, m, s, ms
//! (Prometheus `model.ParseDuration`). A number without a unit is only `0`.

use std::fmt::Write;
use std::time::Duration;

use thiserror::Error;

/// Units in the order in which they must come, in milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum DurationError {
    /// There is nothing.
    #[error("is empty; write a duration like 1d12h, 90s or 0")]
    Empty,
    /// A number was expected here.
    #[error("has no number before {at:?}; write a duration like 1d12h")]
    NoNumber {
        /// What stands there.
        at: String,
    },
    /// A number has no unit.
    #[error("has no unit after {number}; units are y w d h m s ms")]
    NoUnit {
        /// The number.
        number: String,
    },
    /// No such unit.
    #[error("has an unknown unit {unit:?}; units are y w d h m s ms")]
    UnknownUnit {
        /// What stands there.
        unit: String,
    },
    /// A unit after itself or a smaller one.
    #[error("has {unit} out of order; units go once each from large to small: y w d h m s ms")]
    Order {
        /// The unit.
        unit: &'static str,
    },
    /// More than Prometheus' 64 bits of nanoseconds.
    #[error("is too long; at most 292y")]
    TooLong,
}

/// Reads a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut allowed, mut total_ms) = (text, 0, 0_u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return Err(DurationError::NoNumber { at: rest.into() });
        }
        let letters = after.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let (unit, next) = after.split_at(letters);
        if unit.is_empty() {
            return Err(DurationError::NoUnit { number: number.into() });
        }
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit { unit: unit.into() });
        };
        let (unit, unit_ms) = UNITS[index];
        if index < allowed {
            return Err(DurationError::Order { unit });
        }
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let sum = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms));
        total_ms = sum.ok_or(DurationError::TooLong)?;
        (rest, allowed) = (next, index + 1);
    }
    // Prometheus counts nanoseconds in an i64.
    if total_ms > i64::MAX as u64 / 1_000_000 {
        return Err(DurationError::TooLong);
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration as [`parse`] reads it, in days and below; fractions of a millisecond are cut.
pub(crate) fn text(duration: Duration) -> String {
    let mut left_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left_ms == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (unit, unit_ms) in UNITS.iter().skip(2) {
        if left_ms >= *unit_ms {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}{unit}", left_ms / unit_ms);
            left_ms %= unit_ms;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_prometheus_reads_them() {
        for (input, want_ms) in [
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("0d", Ok(0)),
            ("15d", Ok(15 * 86_400_000)),
            ("1d12h", Ok(36 * 3_600_000)),
            ("1y2w3d4h5m6s7ms", Ok(((365 + 14 + 3) * 24 + 4) * 3_600_000 + 306_007)),
            ("1m30s", Ok(90_000)),
            ("250ms", Ok(250)),
            ("007s", Ok(7_000)),
            ("292y", Ok(292 * 365 * 86_400_000)),
            ("", Err("is empty; write a duration like 1d12h, 90s or 0")),
            ("5", Err("has no unit after 5; units are y w d h m s ms")),
            ("1d5", Err("has no unit after 5; units are y w d h m s ms")),
            ("d", Err("has no number before \"d\"; write a duration like 1d12h")),
            ("-1s", Err("has no number before \"-1s\"; write a duration like 1d12h")),
            ("1.5h", Err("has an unknown unit \".\"; units are y w d h m s ms")),
            ("1 h", Err("has an unknown unit \" h\"; units are y w d h m s ms")),
            ("3us", Err("has an unknown unit \"us\"; units are y w d h m s ms")),
            ("1H", Err("has an unknown unit \"H\"; units are y w d h m s ms")),
            (
                "1h1d",
                Err("has d out of order; units go once each from large to small: y w d h m s ms"),
            ),
            (
                "1h1h",
                Err("has h out of order; units go once each from large to small: y w d h m s ms"),
            ),
            ("293y", Err("is too long; at most 292y")),
            ("99999999999999999999s", Err("is too long; at most 292y")),
            ("1é", Err("has an unknown unit \"é\"; units are y w d h m s ms")),
        ] {
            let got = parse(input).map(|d| d.as_millis()).map_err(|e| e.to_string());
            assert_eq!(got, want_ms.map_err(str::to_owned), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..=292 * 365 * 86_400_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&text(duration)), Ok(duration));
        }

        #[test]
        fn no_text_breaks_it(text in "[0-9ywdhms.-]{0,24}|.{0,12}") {
            let _unused = parse(&text);
        }
    }
}

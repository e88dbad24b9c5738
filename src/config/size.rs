//! Sizes in bytes: `512`, `64KiB`, `32MiB`, `1GB`.
//!
//! As in Thanos, units are powers of 1024 in both spellings: `1GB` is `1GiB`.

use thiserror::Error;

/// Units by their first letter, as a power of 1024.
const UNITS: [(&str, u32); 5] = [("T", 4), ("G", 3), ("M", 2), ("K", 1), ("", 0)];

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum SizeError {
    /// No number stands in front.
    #[error("does not begin with a whole number; write a size like 512, 64KiB or 32MiB")]
    NoNumber,
    /// No such unit.
    #[error("has an unknown unit {unit:?}; units are B KiB MiB GiB TiB")]
    UnknownUnit {
        /// What stands after the number.
        unit: String,
    },
    /// More than 64 bits.
    #[error("is too large")]
    TooLarge,
}

/// Reads a size.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let prefix = ["iB", "B"].iter().find_map(|end| unit.strip_suffix(end)).unwrap_or(unit);
    let known = UNITS.iter().find(|(name, power)| {
        *name == prefix && (unit.ends_with('B') || *power == 0) && unit != "iB"
    });
    let Some((_, power)) = known else {
        return Err(SizeError::UnknownUnit { unit: unit.into() });
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(1024_u64.pow(*power)).ok_or(SizeError::TooLarge)
}

/// Writes a size as [`parse`] reads it, in the largest unit that divides it.
pub(crate) fn text(bytes: u64) -> String {
    let (unit, power) = UNITS
        .iter()
        .find(|(_, power)| bytes.is_multiple_of(1024_u64.pow(*power)) && bytes > 0)
        .unwrap_or(&("", 0));
    let letter = if unit.is_empty() { "B".into() } else { format!("{unit}iB") };
    format!("{}{letter}", bytes / 1024_u64.pow(*power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_in_both_spellings() {
        for (input, want) in [
            ("0", Ok(0)),
            ("512", Ok(512)),
            ("512B", Ok(512)),
            ("64KiB", Ok(65_536)),
            ("64KB", Ok(65_536)),
            ("1GB", Ok(1 << 30)),
            ("2TiB", Ok(2 << 40)),
            ("", Err(SizeError::NoNumber)),
            ("-1", Err(SizeError::NoNumber)),
            ("MiB", Err(SizeError::NoNumber)),
            ("1M", Err(SizeError::UnknownUnit { unit: "M".into() })),
            ("1iB", Err(SizeError::UnknownUnit { unit: "iB".into() })),
            ("1 MiB", Err(SizeError::UnknownUnit { unit: " MiB".into() })),
            ("1.5GiB", Err(SizeError::UnknownUnit { unit: ".5GiB".into() })),
            ("18446744073709551616", Err(SizeError::TooLarge)),
            ("16777216TiB", Err(SizeError::TooLarge)),
        ] {
            assert_eq!(parse(input), want, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64) {
            prop_assert_eq!(parse(&text(bytes)), Ok(bytes));
        }
    }
}

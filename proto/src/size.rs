//! Amounts of memory and disk, as users write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Text form: `512`, `64KiB`, `1.5GiB`, `2GB`; a bare `K`, `M`, `G`, `T` is binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a size; write a number with a unit, for example 512MiB or 16GiB")]
pub struct ParseByteSizeError(pub String);

const BINARY: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
const DECIMAL: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in BINARY {
            if self.0 >= bytes {
                #[expect(clippy::cast_precision_loss, reason = "one decimal is printed")]
                return write!(f, "{:.1} {unit}iB", self.0 as f64 / bytes as f64);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        let refuse = || ParseByteSizeError(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let number: f64 = number.parse().map_err(|_| refuse())?;
        let unit = unit.trim().to_ascii_uppercase();
        let scale = match unit.as_str() {
            "" | "B" => 1,
            unit => DECIMAL
                .into_iter()
                .chain(BINARY)
                .find(|&(name, _)| name == unit || format!("{name}IB") == unit)
                .map(|(_, bytes)| bytes)
                .ok_or_else(refuse)?,
        };
        #[expect(clippy::cast_precision_loss, reason = "units are powers that f64 holds exactly")]
        let bytes = number * scale as f64;
        // 2^60 is past any disk; beyond it f64 stops being exact.
        if !(0.0..1_152_921_504_606_846_976.0).contains(&bytes) {
            return Err(refuse());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked above")]
        Ok(Self(bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_users_write_them() {
        for (text, bytes) in [
            ("512", 512),
            ("64KiB", 65_536),
            ("1.5GiB", 1_610_612_736),
            ("2GB", 2_000_000_000),
            ("4g", 4 << 30),
            ("1 MiB", 1 << 20),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize(1_610_612_736).to_string(), "1.5 GiB");
    }

    #[test]
    fn a_text_that_is_no_size_is_refused() {
        for text in ["", "x", "-1", "1XB", "1e9", "9999999TiB", "GiB", "."] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}

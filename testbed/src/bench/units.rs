//! Sizes and durations as people write them.

use std::time::Duration;

/// `10KiB`, `8MiB`, `1GiB`, `5MB`, `123` to bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("unknown unit {unit}: use B, KiB, MiB, GiB, KB, MB or GB")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// `30s`, `2m`, `500ms`, `1h`, `30` to a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("unknown unit {unit}: use ms, s, m or h")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// A size in its largest exact binary unit.
pub fn show_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes}B"), |(shift, name)| format!("{}{name}", bytes >> shift))
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| format!("{text} does not begin with a number"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: units mean what people expect. Method: vectors, and refusals.
    #[test]
    fn units_are_read() {
        for (text, bytes) in [("0", 0), ("10KiB", 10_240), ("8 MiB", 8 << 20), ("5MB", 5_000_000)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for (text, millis) in [("30s", 30_000), ("2m", 120_000), ("500ms", 500), ("7", 7_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        }
        for bad in ["", "KiB", "-1", "1.5MiB", "10XB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("1d").is_err());
        assert_eq!((show_size(10_240), show_size(8 << 20)), ("10KiB".into(), "8MiB".into()));
        assert_eq!((show_size(0), show_size(1025)), ("0B".into(), "1025B".into()));
    }
}

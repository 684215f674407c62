// SPDX-License-Identifier: GPL-2.0-only
//! Sizes in bytes as people write and read them, in IEC units.

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `1536` as `1.5 KiB`: three digits at least, never more than is known.
#[must_use]
pub fn format(bytes: u64) -> String {
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Tenths, rounded; u128 because ten times a u64 may not fit.
    let scale = 1_u128 << (10 * unit);
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    if tenths % 10 == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// `3G`, `3GiB`, `1.5 MiB` or a plain number of bytes. Decimal units (`GB`) count in thousands.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = scale(unit.trim()).ok_or_else(|| {
        format!(
            "unknown unit `{}` in size `{text}` (use K, M, G, T, KiB, ... or none)",
            unit.trim()
        )
    })?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let bad = || format!("`{text}` is not a size");
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 9 {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let tail: u128 = if fraction.is_empty() {
        0
    } else {
        let digits: u128 = fraction.parse().map_err(|_| bad())?;
        digits * u128::from(scale) / 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?)
    };
    u64::try_from(u128::from(whole) * u128::from(scale) + tail)
        .map_err(|_| format!("size `{text}` is too large"))
}

fn scale(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    if lower.is_empty() || lower == "b" {
        return Some(1);
    }
    let power = "kmgtpe".find(lower.chars().next()?)?;
    let power = u32::try_from(power).ok()? + 1;
    match lower.get(1..)? {
        "" | "ib" => 1024_u64.checked_pow(power),
        "b" => 1000_u64.checked_pow(power),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn people_read() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (3 << 30, "3 GiB"),
            ((3 << 30) + (1 << 27), "3.1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }

    #[test]
    fn people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("16K", 16384),
            ("16k", 16384),
            ("3G", 3 << 30),
            ("3GiB", 3 << 30),
            (" 1.5 MiB ", 3 << 19),
            ("2GB", 2_000_000_000),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "G",
            "1X",
            "1.",
            ".5",
            "-1",
            "1 2",
            "1..2",
            "16E",
            "99999999999999999999",
            "1GiBs",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

//! Sizes as people write them: `512M`, `2G`.

use thiserror::Error;

/// Suffixes, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a size: write a number of bytes, or one with K, M, G or T behind it")]
pub struct NotASize(String);

/// Reads a number of bytes, with an optional suffix K, M, G or T (powers of 1024, either case, `iB` or `B` allowed).
///
/// # Errors
/// The text is not of that form, or the size does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, NotASize> {
    let error = || NotASize(text.to_owned());
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(letter, shift)| Some((bare.strip_suffix(*letter)?, *shift)))
        .unwrap_or((bare, 0));
    // "12iB" has lost its letter; a sign would be accepted by the integer parser.
    if (shift == 0 && upper.ends_with("IB")) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(error)
}

/// Writes a number of bytes for people: three digits in the largest unit that it fills.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let Some((letter, shift)) = UNITS.iter().find(|(_, shift)| bytes >> shift != 0) else {
        return format!("{bytes} B");
    };
    let whole = bytes >> shift;
    // Tenths, rounded down: a full disk must not look larger than it is.
    let tenths = (((bytes & ((1 << shift) - 1)) >> (shift - 10)) * 10) >> 10;
    if whole >= 100 || tenths == 0 {
        format!("{whole} {letter}iB")
    } else {
        format!("{whole}.{tenths} {letter}iB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_suffixes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64K", 65536), ("1m", 1 << 20), ("2GiB", 2 << 30), ("8TB", 8 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "+1", "1.5G", "12iB", "1E", "lots", "16777216T", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((10 << 30) + (1 << 20), "10 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }
}

//! Sizes as people write them: `512M`, `2G`.

use super::{ConfigError, Result};

/// Suffixes, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Reads a number of bytes, with an optional suffix K, M, G or T (powers of 1024, either case, `iB` or `B` allowed).
///
/// # Errors
/// The text is not of that form, or the size does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64> {
    sky_devices::image::parse_size(text).map_err(|_| ConfigError::Size { text: text.to_owned() })
}

/// Writes a number of bytes in the largest unit that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes} bytes"), |(letter, shift)| format!("{} {letter}iB", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("2G", 2 << 30),
            ("2GiB", 2 << 30),
            ("2gb", 2 << 30),
            ("262144K", 256 << 20),
            ("1T", 1 << 40),
            (" 64M ", 64 << 20),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "M", "-1", "+1M", "1.5G", "12X", "1 M", "12iB", "16777216T", "99999999999999999999", "0x10"]
        {
            assert_eq!(parse_size(text), Err(ConfigError::Size { text: text.to_owned() }), "{text}");
        }
    }

    #[test]
    fn every_size_survives_being_written_and_read() {
        // Numbers of every magnitude, from a fixed linear congruential sequence.
        let mut number = 1_u64;
        for round in 0..2000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bytes = (number >> (round % 64)) & !((1_u64 << (round % 41)) - 1);
            let written = format_size(bytes).replace(' ', "").replace("bytes", "");
            assert_eq!(parse_size(&written), Ok(bytes), "{written}");
        }
    }
}

//! Names of keys: a misspelt one is an error that names the one that was probably meant.

use sky::config::nearest;

use super::ConfigError;

/// The error for `key`, which is none of `known`.
pub(super) fn unknown(key: &str, place: &str, known: &'static [&'static str]) -> ConfigError {
    let suggestion = nearest(key, known).map(str::to_owned);
    ConfigError::UnknownKey { key: key.to_owned(), place: place.to_owned(), suggestion, known }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["path", "format", "readonly", "serial", "queues"];

    #[test]
    fn near_misses_are_recognised() {
        for (typo, meant) in
            [("redonly", "readonly"), ("read_only", "readonly"), ("pth", "path"), ("queue", "queues")]
        {
            let message = unknown(typo, "--disk", KNOWN).to_string();
            assert_eq!(message, format!("unknown key `{typo}` in --disk (did you mean `{meant}`?)"));
        }
    }

    #[test]
    fn a_stranger_gets_the_whole_list() {
        let message = unknown("xyzzy", "--disk", KNOWN).to_string();
        assert!(message.ends_with("(known keys: path, format, readonly, serial, queues)"), "{message}");
    }
}

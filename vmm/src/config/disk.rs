//! A disk as the user describes it: `path=FILE,format=raw,readonly=on,serial=NAME,queues=N`.

use std::path::PathBuf;
use std::str::FromStr;

use super::{ConfigError, Result, keys};

const PLACE: &str = "--disk";
const KNOWN: &[&str] = &["path", "format", "readonly", "serial", "queues"];
/// What a virtio-blk device can report as its serial number.
const MAX_SERIAL: usize = 20;
const MAX_QUEUES: u16 = 16;

/// How the bytes of a disk lie in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// Byte for byte.
    #[default]
    Raw,
}

/// One disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// File or block device that holds it.
    pub path: PathBuf,
    /// How the bytes lie in the file.
    pub format: DiskFormat,
    /// The guest may not write.
    pub read_only: bool,
    /// Serial number that the guest sees, at most 20 bytes.
    pub serial: Option<String>,
    /// Number of request queues.
    pub queues: u16,
}

impl FromStr for DiskSpec {
    type Err = ConfigError;

    /// A comma inside a value is written twice, as in `path=a,,b`.
    fn from_str(text: &str) -> Result<Self> {
        let pairs = split(text)
            .into_iter()
            .map(|piece| match piece.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(ConfigError::NotKeyValue { piece, place: PLACE.to_owned() }),
            })
            .collect::<Result<Vec<_>>>()?;
        Self::from_pairs(pairs, PLACE)
    }
}

impl DiskSpec {
    /// A disk from keys and values, wherever they were written.
    pub(super) fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>, place: &str) -> Result<Self> {
        let mut seen = vec![];
        let mut path = None;
        let mut spec =
            Self { path: PathBuf::new(), format: DiskFormat::Raw, read_only: false, serial: None, queues: 1 };
        for (key, value) in pairs {
            let wrong = |key, expected| ConfigError::Value {
                key,
                value: value.clone(),
                place: place.to_owned(),
                expected,
            };
            match key.as_str() {
                "path" => path = Some(PathBuf::from(&value)).filter(|path| !path.as_os_str().is_empty()),
                "format" => match value.as_str() {
                    "raw" => spec.format = DiskFormat::Raw,
                    _ => return Err(wrong("format", "the only format is raw")),
                },
                "readonly" => {
                    spec.read_only = match value.as_str() {
                        "on" | "true" | "yes" => true,
                        "off" | "false" | "no" => false,
                        _ => return Err(wrong("readonly", "write on or off")),
                    }
                }
                "serial" if value.len() > MAX_SERIAL || !value.is_ascii() => {
                    return Err(wrong("serial", "at most 20 ASCII characters"));
                }
                "serial" => spec.serial = Some(value),
                "queues" => {
                    spec.queues = value
                        .parse()
                        .ok()
                        .filter(|queues| (1..=MAX_QUEUES).contains(queues))
                        .ok_or_else(|| wrong("queues", "a number from 1 to 16"))?;
                }
                _ => return Err(keys::unknown(&key, place, KNOWN)),
            }
            if seen.contains(&key) {
                return Err(ConfigError::DuplicateKey { key, place: place.to_owned() });
            }
            seen.push(key);
        }
        spec.path = path.ok_or(ConfigError::DiskWithoutPath)?;
        Ok(spec)
    }
}

/// Cuts at commas; two commas are one that belongs to the text.
fn split(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            pieces.push(String::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_at_once() {
        let spec: DiskSpec =
            "path=/tmp/a,,b.img,format=raw,readonly=on,serial=root,queues=4".parse().unwrap();
        assert_eq!(
            spec,
            DiskSpec {
                path: "/tmp/a,b.img".into(),
                format: DiskFormat::Raw,
                read_only: true,
                serial: Some("root".into()),
                queues: 4
            }
        );
    }

    #[test]
    fn only_the_path_is_needed() {
        let spec: DiskSpec = "path=x".parse().unwrap();
        assert_eq!((spec.read_only, spec.serial, spec.queues), (false, None, 1));
        for text in ["readonly=on", "path="] {
            assert_eq!(text.parse::<DiskSpec>(), Err(ConfigError::DiskWithoutPath));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("path=x,redonly=on", "unknown key `redonly` in --disk (did you mean `readonly`?)"),
            ("/tmp/x", "`/tmp/x` in --disk is not of the form KEY=VALUE"),
            ("path=x,path=y", "key `path` appears twice in --disk"),
            ("path=x,format=qcow2", "`qcow2` is no value for key `format` in --disk: the only format is raw"),
            ("path=x,readonly=maybe", "`maybe` is no value for key `readonly` in --disk: write on or off"),
            ("path=x,queues=0", "`0` is no value for key `queues` in --disk: a number from 1 to 16"),
            ("path=x,queues=70000", "`70000` is no value for key `queues` in --disk: a number from 1 to 16"),
        ] {
            assert_eq!(text.parse::<DiskSpec>().unwrap_err().to_string(), message);
        }
        assert!("path=x,serial=123456789012345678901".parse::<DiskSpec>().is_err());
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let alphabet = ["path", "=", ",", ",,", "on", "x", "queues", "é", "1"];
        for mut number in 0..alphabet.len().pow(5) {
            let mut text = String::new();
            for _ in 0..5 {
                text.push_str(alphabet[number % alphabet.len()]);
                number /= alphabet.len();
            }
            let _ = text.parse::<DiskSpec>();
        }
    }
}

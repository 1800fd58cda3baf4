//! A disk as the user describes it: `path=FILE,format=selfie,readonly=on,serial=NAME,queues=N`.

use std::path::PathBuf;
use std::str::FromStr;

use sky_devices::block::Cache;
use sky_devices::image::{BackingPolicy, Format, ImageSpec};

use super::{ConfigError, Result, keys};

const PLACE: &str = "--disk";
const KNOWN: &[&str] = &["path", "format", "readonly", "cache", "backing", "serial", "queues"];
/// What a virtio-blk device can report as its serial number.
const MAX_SERIAL: usize = 20;
const MAX_QUEUES: u16 = 16;

/// One disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// The file or block device that holds it, and how it is opened.
    pub image: ImageSpec,
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
        let mut spec = Self { image: ImageSpec::new("", Format::Raw), serial: None, queues: 1 };
        for (key, value) in pairs {
            let wrong = |key, expected| ConfigError::Value {
                key,
                value: value.clone(),
                place: place.to_owned(),
                expected,
            };
            match key.as_str() {
                "path" => path = Some(PathBuf::from(&value)).filter(|path| !path.as_os_str().is_empty()),
                "format" => {
                    spec.image.format =
                        value.parse().map_err(|_| wrong("format", "write raw, selfie or qcow2"))?;
                }
                "readonly" => {
                    spec.image.read_only = on(&value).ok_or_else(|| wrong("readonly", "write on or off"))?;
                }
                "cache" => match value.as_str() {
                    "direct" => spec.image.cache = Some(Cache::Direct),
                    "buffered" => spec.image.cache = Some(Cache::Buffered),
                    _ => return Err(wrong("cache", "write direct or buffered")),
                },
                "backing" => {
                    spec.image.backing = match on(&value) {
                        Some(true) => BackingPolicy::Open,
                        Some(false) => BackingPolicy::Refuse,
                        None => return Err(wrong("backing", "write on or off")),
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
        spec.image.path = path.ok_or(ConfigError::DiskWithoutPath)?;
        Ok(spec)
    }
}

fn on(value: &str) -> Option<bool> {
    match value {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
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
        let text =
            "path=/tmp/a,,b.img,format=selfie,readonly=on,cache=buffered,backing=on,serial=root,queues=4";
        let image = ImageSpec {
            read_only: true,
            cache: Some(Cache::Buffered),
            backing: BackingPolicy::Open,
            ..ImageSpec::new("/tmp/a,b.img", Format::Selfie)
        };
        assert_eq!(text.parse(), Ok(DiskSpec { image, serial: Some("root".into()), queues: 4 }));
    }

    #[test]
    fn only_the_path_is_needed() {
        let spec: DiskSpec = "path=x".parse().unwrap();
        assert_eq!(spec, DiskSpec { image: ImageSpec::new("x", Format::Raw), serial: None, queues: 1 });
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
            ("path=x,format=vdi", "`vdi` is no value for key `format` in --disk: write raw, selfie or qcow2"),
            ("path=x,cache=none", "`none` is no value for key `cache` in --disk: write direct or buffered"),
            ("path=x,backing=b", "`b` is no value for key `backing` in --disk: write on or off"),
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

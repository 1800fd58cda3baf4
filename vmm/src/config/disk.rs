//! A disk as the user describes it: `path=FILE,format=selfie,readonly=on,serial=NAME,queues=N,layers=cache`.

use std::path::PathBuf;
use std::str::FromStr;

use sky_devices::block::Cache;
use sky_devices::image::{BackingPolicy, Format, ImageSpec};
use sky_devices::layers::{LayerError, LayerKeys};

use super::{ConfigError, Result, keys};

const PLACE: &str = "--disk";
/// Those of the layers at the end.
const KNOWN: &[&str] = &[
    "path",
    "format",
    "readonly",
    "direct",
    "backing",
    "serial",
    "queues",
    "layers",
    "cache",
    "cache-size",
    "cache-mode",
    "cache-classes",
    "dedup-memory",
];
/// What a virtio-blk device can report as its serial number.
const MAX_SERIAL: usize = 20;
const MAX_QUEUES: u16 = 16;

/// One disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// The file or block device that holds it, and how it is opened.
    pub image: ImageSpec,
    /// What is above the image.
    pub layers: LayerKeys,
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
        let image = ImageSpec::new("", Format::Raw);
        let mut spec = Self { image, layers: LayerKeys::default(), serial: None, queues: 1 };
        let of_layers = |error| ConfigError::Layers { place: place.to_owned(), error };
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
                "direct" => {
                    let direct = on(&value).ok_or_else(|| wrong("direct", "write on or off"))?;
                    spec.image.cache = Some(if direct { Cache::Direct } else { Cache::Buffered });
                }
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
                _ => match spec.layers.set(&key, &value) {
                    Ok(true) => {}
                    Ok(false) => return Err(keys::unknown(&key, place, KNOWN)),
                    Err(LayerError::Value { key, value, expected }) => {
                        return Err(ConfigError::Value { key, value, place: place.to_owned(), expected });
                    }
                    Err(error) => return Err(of_layers(error)),
                },
            }
            if seen.contains(&key) {
                return Err(ConfigError::DuplicateKey { key, place: place.to_owned() });
            }
            seen.push(key);
        }
        spec.layers.check().map_err(of_layers)?;
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
        let text = "path=/tmp/a,,b.img,format=selfie,readonly=on,direct=off,backing=on,serial=root,queues=4,layers=dedup";
        let image = ImageSpec {
            read_only: true,
            cache: Some(Cache::Buffered),
            backing: BackingPolicy::Open,
            ..ImageSpec::new("/tmp/a,b.img", Format::Selfie)
        };
        let mut layers = LayerKeys::default();
        layers.set("layers", "dedup").unwrap();
        assert_eq!(text.parse(), Ok(DiskSpec { image, layers, serial: Some("root".into()), queues: 4 }));
    }

    #[test]
    fn only_the_path_is_needed() {
        let spec: DiskSpec = "path=x".parse().unwrap();
        let image = ImageSpec::new("x", Format::Raw);
        assert_eq!(spec, DiskSpec { image, layers: LayerKeys::default(), serial: None, queues: 1 });
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
            ("path=x,direct=none", "`none` is no value for key `direct` in --disk: write on or off"),
            (
                "path=x,layers=none",
                "`none` is no value for key `layers` in --disk: write cache, dedup or cache+dedup",
            ),
            ("path=x,cache=direct", "--disk: key `cache` needs `layers=cache`"),
            ("path=x,cache-sise=1G", "unknown key `cache-sise` in --disk (did you mean `cache-size`?)"),
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
    fn keys_of_layers_are_suggested() {
        assert_eq!(KNOWN[KNOWN.len() - LayerKeys::KEYS.len()..], LayerKeys::KEYS);
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

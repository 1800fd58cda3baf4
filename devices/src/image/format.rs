//! The names of image formats.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// How an image lays a disk out in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes of the file are the bytes of the disk.
    Raw,
    /// QEMU's format, which can be read here and not written.
    Qcow2,
    /// Sky's own format.
    Selfie,
}

impl Format {
    /// The name that users give and children record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Selfie => "selfie",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format that nobody here knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no format {0:?}; the formats are raw, qcow2 and selfie")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        [Self::Raw, Self::Qcow2, Self::Selfie]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        assert_eq!(
            ["raw", "qcow2", "selfie"].map(str::parse),
            [Ok(Format::Raw), Ok(Format::Qcow2), Ok(Format::Selfie)]
        );
        for name in ["", "RAW", "raw ", "qcow", "vmdk"] {
            assert_eq!(name.parse::<Format>(), Err(UnknownFormat(name.into())));
        }
    }
}

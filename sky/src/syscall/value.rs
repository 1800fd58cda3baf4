//! Decoded arguments: for people as strace writes them, for programs as JSON.

use std::fmt::{self, Write};

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// What an argument says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Signed(i64),
    /// A number that cannot be negative.
    Unsigned(u64),
    /// Bits, written in hexadecimal.
    Hex(u64),
    /// A file mode, written in octal.
    Mode(u32),
    /// A device, major and minor number.
    Device(u32, u32),
    /// A user address whose memory was not looked at, or not yet. 0 is NULL.
    Address(u64),
    /// A user address that could not be read: its page is absent.
    Absent(u64),
    /// Something that has a name: `AT_FDCWD`, `SEEK_SET`, `SIGTERM`.
    Name(&'static str),
    /// Flags joined by `|`, or an expression of them.
    Flags(String),
    /// Bytes, which may be a string's.
    Bytes {
        /// As many as were read.
        bytes: Vec<u8>,
        /// There were more, or the rest was absent.
        cut: bool,
    },
    /// An array.
    List {
        /// Its first elements.
        items: Vec<Value>,
        /// There were more.
        cut: bool,
    },
    /// A structure.
    Struct {
        /// Its members, in the order in which strace writes them.
        members: Vec<(&'static str, Value)>,
        /// It has more, which are not decoded.
        cut: bool,
    },
    /// What a pointer points to, if that is a single number.
    Pointee(Box<Value>),
}

impl Value {
    /// Whole bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes { bytes: bytes.into(), cut: false }
    }
}

/// Writes bytes with the escapes of C, the shortest that are not ambiguous.
fn escape(f: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => f.write_str("\\\"")?,
            b'\\' => f.write_str("\\\\")?,
            b'\n' => f.write_str("\\n")?,
            b'\t' => f.write_str("\\t")?,
            b'\r' => f.write_str("\\r")?,
            0x0b => f.write_str("\\v")?,
            0x0c => f.write_str("\\f")?,
            b' '..=b'~' => f.write_char(byte.into())?,
            // A digit behind it would be taken for a part of it.
            _ if matches!(bytes.get(index + 1), Some(b'0'..=b'7')) => write!(f, "\\{byte:03o}")?,
            _ => write!(f, "\\{byte:o}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Address(0) => f.write_str("NULL"),
            Self::Hex(0) => f.write_char('0'),
            Self::Hex(value) | Self::Address(value) => write!(f, "{value:#x}"),
            Self::Mode(value) => write_mode(f, *value),
            Self::Device(major, minor) => {
                write!(f, "makedev({}, {})", Self::Hex((*major).into()), Self::Hex((*minor).into()))
            }
            Self::Absent(address) => write!(f, "{address:#x} /* absent */"),
            Self::Name(name) => f.write_str(name),
            Self::Flags(text) => f.write_str(text),
            Self::Bytes { bytes, cut } => {
                f.write_char('"')?;
                escape(f, bytes)?;
                f.write_str(if *cut { "\"..." } else { "\"" })
            }
            Self::List { items, cut } => {
                f.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(more(*cut, items.is_empty()))?;
                f.write_char(']')
            }
            Self::Struct { members, cut } => {
                f.write_char('{')?;
                for (index, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}{name}={value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(more(*cut, members.is_empty()))?;
                f.write_char('}')
            }
            Self::Pointee(value) => write!(f, "[{value}]"),
        }
    }
}

/// Writes permissions in octal: with a leading zero, and three digits at least.
pub(super) fn write_mode(f: &mut impl Write, mode: u32) -> fmt::Result {
    if mode < 0o100 { write!(f, "{mode:03o}") } else { write!(f, "0{mode:o}") }
}

/// What stands for elements that are left out.
fn more(cut: bool, first: bool) -> &'static str {
    match (cut, first) {
        (false, _) => "",
        (true, true) => "...",
        (true, false) => ", ...",
    }
}

/// Numbers are numbers; addresses, bits, modes and names are strings. Bytes are a string with the escapes of C, and
/// `{"text": .., "cut": true}` if there were more. An absent page is `{"absent": ADDRESS}`, a list that was cut ends in
/// `"..."`.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Hex(_) | Self::Mode(_) | Self::Device(..) | Self::Name(_) | Self::Flags(_) => {
                serializer.collect_str(self)
            }
            Self::Address(0) => serializer.serialize_none(),
            Self::Address(_) => serializer.collect_str(self),
            Self::Absent(address) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("absent", &format!("{address:#x}"))?;
                map.end()
            }
            Self::Bytes { bytes, cut } => {
                let mut text = String::new();
                escape(&mut text, bytes).map_err(serde::ser::Error::custom)?;
                if !cut {
                    return serializer.serialize_str(&text);
                }
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("text", &text)?;
                map.serialize_entry("cut", cut)?;
                map.end()
            }
            Self::List { items, cut } => {
                let mut list = serializer.serialize_seq(None)?;
                for item in items {
                    list.serialize_element(item)?;
                }
                if *cut {
                    list.serialize_element("...")?;
                }
                list.end()
            }
            Self::Struct { members, .. } => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Self::Pointee(value) => value.serialize(serializer),
        }
    }
}

//! One thing that a journal says.

use super::super::fingerprint::Fingerprint;
use super::super::page;

const NEW: u8 = 1;
const NAMED: u8 = 2;
const SHARE: u8 = 3;
const UNMAP: u8 = 4;

/// A change of the map. Blocks are numbers as in the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::idedup) enum Record {
    /// A physical block was given out, for content with this CRC-32C and, where that is to be shared, fingerprint.
    New { logical: u32, physical: u32, crc: u32, name: Option<Fingerprint> },
    /// A logical block leads to a physical one that was there.
    Share { logical: u32, physical: u32 },
    /// Logical blocks are zeros.
    Unmap { logical: u32, count: u32 },
}

impl Record {
    /// Bytes of the longest.
    pub(super) const LONGEST: usize = 45;

    pub(in crate::idedup) fn length(&self, width: usize) -> usize {
        match self {
            Self::New { name: None, .. } => 13,
            Self::New { name: Some(_), .. } => 13 + width,
            Self::Share { .. } | Self::Unmap { .. } => 9,
        }
    }

    pub(super) fn encode(&self, width: usize, bytes: &mut Vec<u8>) {
        let (tag, first, second) = match *self {
            Self::New { logical, physical, ref name, .. } => {
                (if name.is_some() { NAMED } else { NEW }, logical, physical)
            }
            Self::Share { logical, physical } => (SHARE, logical, physical),
            Self::Unmap { logical, count } => (UNMAP, logical, count),
        };
        bytes.push(tag);
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&second.to_le_bytes());
        if let Self::New { crc, name, .. } = self {
            bytes.extend_from_slice(&crc.to_le_bytes());
            bytes.extend(name.iter().flat_map(|name| &name.0[..width]));
        }
    }

    /// The records in `bytes`, or nothing if there is anything else.
    pub(super) fn decode_all(width: usize, mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut records = Vec::new();
        while let Some(&tag) = bytes.first() {
            let length = match tag {
                NEW => 13,
                NAMED => 13 + width,
                SHARE | UNMAP => 9,
                _ => return None,
            };
            let (record, rest) = bytes.split_at_checked(length)?;
            let (first, second) = (page::u32_at(record, 1), page::u32_at(record, 5));
            records.push(match tag {
                SHARE => Self::Share { logical: first, physical: second },
                UNMAP => Self::Unmap { logical: first, count: second },
                _ => Self::New {
                    logical: first,
                    physical: second,
                    crc: page::u32_at(record, 9),
                    name: (tag == NAMED).then(|| Fingerprint::stored(&record[13..])),
                },
            });
            bytes = rest;
        }
        Some(records)
    }
}

//! What each sector may hold.

use super::disks::{SECTOR, SECTORS};

/// Contents of a sector by age: what it held at the last flush, and what came since. Zero is zeros.
type Versions = Vec<(u64, bool)>;

#[derive(Clone, Debug)]
pub(crate) struct Model(Vec<Versions>);

/// One thing that was done.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Sectors from that one on got a version.
    Write {
        sector: u64,
        count: u64,
        version: u64,
    },
    Flush,
    /// Everything was read after a crash.
    Found(Vec<u64>),
}

/// The bytes of a sector.
pub(crate) fn content(sector: u64, version: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    if version > 0 {
        for (index, piece) in bytes.chunks_mut(16).enumerate() {
            piece[..8].copy_from_slice(&version.to_le_bytes());
            piece[8..].copy_from_slice(&(sector << 8 | index as u64).to_le_bytes());
        }
    }
    bytes
}

/// The version of a sector's bytes; none of it if they are not one.
pub(crate) fn version(sector: u64, bytes: &[u8]) -> Option<u64> {
    let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (content(sector, version) == bytes).then_some(version)
}

impl Model {
    pub(crate) fn new() -> Self {
        Self(vec![vec![(0, true)]; SECTORS as usize])
    }

    /// Takes notice of something, which succeeded or may have happened in part.
    pub(crate) fn apply(&mut self, event: &Event, succeeded: bool) {
        match event {
            Event::Write { sector, count, version } => {
                for versions in &mut self.0[*sector as usize..(sector + count) as usize] {
                    versions.push((*version, succeeded));
                }
            }
            Event::Flush if succeeded => {
                for versions in &mut self.0 {
                    let certain = versions.iter().rposition(|(_, certain)| *certain).unwrap();
                    versions.drain(..certain);
                }
            }
            Event::Flush => {}
            Event::Found(found) => {
                self.0 = found.iter().map(|version| vec![(*version, true)]).collect();
            }
        }
    }

    /// What is there while nothing has crashed.
    pub(crate) fn check_live(&self, first: u64, bytes: &[u8]) -> Result<(), String> {
        self.check(first, bytes, true).map(|_| ())
    }

    /// What may be there after a crash.
    pub(crate) fn check_crashed(&self, bytes: &[u8]) -> Result<Vec<u64>, String> {
        self.check(0, bytes, false)
    }

    fn check(&self, first: u64, bytes: &[u8], live: bool) -> Result<Vec<u64>, String> {
        (first..)
            .zip(bytes.chunks(SECTOR as usize))
            .map(|(sector, bytes)| {
                let versions = &self.0[sector as usize];
                let from = if live { versions.iter().rposition(|(_, certain)| *certain).unwrap() } else { 0 };
                let found = version(sector, bytes);
                found.filter(|found| versions[from..].iter().any(|(version, _)| version == found)).ok_or_else(
                    || format!("sector {sector} holds {found:?}, allowed are {:?}", &versions[from..]),
                )
            })
            .collect()
    }
}

//! What is written: sectors that say which sector they are and which write they come from.

use sky_devices::block::simulated::Random;

pub(super) const SECTOR: usize = 512;

/// The first bytes of every sector that is not zeros.
const MAGIC: [u8; 4] = *b"sctr";

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Content {
    Zeros,
    /// The parent's bytes.
    Parent,
    /// The bytes of one write.
    Version {
        version: u32,
        kind: Kind,
    },
}

/// How a write's bytes look to a compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Much the same throughout.
    Text,
    /// No two alike.
    Noise,
    /// Some of its sectors are noise, so that a block is on either side of what compresses well enough.
    Mixed,
}

impl Content {
    /// Writes what sector number `sector` holds then.
    pub(super) fn fill(self, sector: u64, bytes: &mut [u8]) {
        match self {
            Self::Zeros => bytes.fill(0),
            Self::Parent => fill(sector, 0, sector.is_multiple_of(3), bytes),
            Self::Version { version, kind } => {
                let noise = match kind {
                    Kind::Text => false,
                    Kind::Noise => true,
                    Kind::Mixed => Random::new(sector << 32 | u64::from(version)).one_in(6),
                };
                fill(sector, version, noise, bytes);
            }
        }
    }

    /// Whether sector number `sector` holds exactly this.
    pub(super) fn is(self, sector: u64, bytes: &[u8]) -> bool {
        let version = match self {
            Self::Zeros => return bytes == [0; SECTOR],
            Self::Parent => 0,
            Self::Version { version, .. } => version,
        };
        // Most that differ do so here.
        if bytes[..16] != header(sector, version) {
            return false;
        }
        let mut expected = [0; SECTOR];
        self.fill(sector, &mut expected);
        bytes == expected
    }
}

fn fill(sector: u64, version: u32, noise: bool, bytes: &mut [u8]) {
    let mut random = Random::new(sector.wrapping_mul(0x1_0000_0001) ^ u64::from(version) << 40);
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&if noise { random.bits() } else { 0x2020_6575_6575_2020 }.to_le_bytes());
    }
    bytes[..16].copy_from_slice(&header(sector, version));
}

fn header(sector: u64, version: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&version.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// What a sector's bytes say of themselves, for messages.
pub(super) fn describe(bytes: &[u8]) -> String {
    if bytes.iter().all(|&byte| byte == 0) {
        return "zeros".to_owned();
    }
    if bytes[..4] != MAGIC {
        return format!("foreign bytes {:02x?}...", &bytes[..16]);
    }
    let version = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    let sector = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    format!("sector {sector} version {version}, or part of it")
}

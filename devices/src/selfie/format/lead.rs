//! The lead block of an embedded cluster: a header that says whose it is, and the compressed content of the block.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::{BLOCK, Blocks, Cluster, Virtual, get_u16, get_u32, get_u48, lz4, put_u48};

/// Bytes of the header.
pub(in crate::selfie) const HEADER: usize = 32;
const MAGIC: [u8; 2] = [0x5f, 0x01];
/// The longest content that fits behind the header.
const MAX_PAYLOAD: usize = BLOCK - HEADER;

/// The image's own key: without it nobody can make a header that is taken for one of ours, above all no guest that
/// writes what it likes into blocks where headers are looked for.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::selfie) struct Secret(pub(in crate::selfie) [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A lead block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::selfie) struct Lead {
    pub(in crate::selfie) of: Virtual,
    /// Which block of the cluster this is.
    pub(in crate::selfie) rotation: u8,
    pub(in crate::selfie) sequence: u64,
    pub(in crate::selfie) blocks: Blocks,
    /// Bytes of the compressed content, and their sum.
    length: u16,
    sum: u32,
}

impl Lead {
    /// The header of a block with the compressed content `payload`, at most what [`compress`] gives; none for zeros.
    pub(in crate::selfie) fn new(
        of: Virtual,
        rotation: u8,
        sequence: u64,
        blocks: Blocks,
        payload: &[u8],
    ) -> Self {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        Self { of, rotation, sequence, blocks, length, sum: crc32c::crc32c(payload) }
    }

    /// Bytes of the header for the cluster `at`, whose zone is in its `epoch`.
    ///
    /// Layout: magic 2, length 2, virtual cluster 4, rotation 1, reserved 1, sequence 6, blocks 4, sum 4, MAC 8.
    pub(in crate::selfie) fn encode(&self, at: Cluster, epoch: u32, secret: &Secret) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.of.0.to_le_bytes());
        bytes[8] = self.rotation;
        put_u48(&mut bytes[10..], self.sequence);
        bytes[16..20].copy_from_slice(&self.blocks.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.sum.to_le_bytes());
        let mac = mac(&bytes[..24], at, epoch, secret);
        bytes[24..].copy_from_slice(&mac);
        bytes
    }

    /// The header at the beginning of `block`, if it is one of this cluster in this epoch.
    pub(in crate::selfie) fn decode(block: &[u8], at: Cluster, epoch: u32, secret: &Secret) -> Option<Self> {
        let bytes = block.get(..HEADER)?;
        if bytes[..2] != MAGIC || bytes[24..] != mac(&bytes[..24], at, epoch, secret) {
            return None;
        }
        let lead = Self {
            of: Virtual(get_u32(&bytes[4..])),
            rotation: bytes[8],
            sequence: get_u48(&bytes[10..]),
            blocks: Blocks(get_u32(&bytes[16..])),
            length: get_u16(&bytes[2..]),
            sum: get_u32(&bytes[20..]),
        };
        (lead.rotation < 16 && usize::from(lead.length) <= MAX_PAYLOAD).then_some(lead)
    }

    /// The compressed content of `block`, which begins with this header; `None` if it is not what was written.
    pub(in crate::selfie) fn payload<'a>(&self, block: &'a [u8]) -> Option<&'a [u8]> {
        let payload = block.get(HEADER..HEADER + usize::from(self.length))?;
        (crc32c::crc32c(payload) == self.sum).then_some(payload)
    }
}

/// SipHash-2-4 over the header's fields, the cluster's place and its zone's epoch: what lies elsewhere, or has lain
/// here before the zone was used anew, is no header.
fn mac(fields: &[u8], at: Cluster, epoch: u32, secret: &Secret) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(&secret.0);
    hasher.write(fields);
    hasher.write(&at.0.to_le_bytes());
    hasher.write(&epoch.to_le_bytes());
    hasher.finish().to_le_bytes()
}

/// How much of a block is compressed, first of all little.
const BEGINNINGS: [usize; 3] = [512, 2048, BLOCK];

/// Compresses a block so that it fits behind a header, and no further; empty for zeros, `None` if it does not fit.
///
/// What is not compressed is expanded as quickly as memory is copied.
pub(in crate::selfie) fn compress(block: &[u8]) -> Option<Vec<u8>> {
    if is_zero(block) {
        return Some(Vec::new());
    }
    let mut compressed = vec![0; lz4_flex::block::get_maximum_output_size(block.len())];
    BEGINNINGS.into_iter().find_map(|beginning| {
        let length = lz4_flex::block::compress_into(block.get(..beginning)?, &mut compressed).ok()?;
        lz4::shorten(compressed.get(..length)?, block, MAX_PAYLOAD)
    })
}

/// The reverse of [`compress`], into a block. Returns false for bytes that it never gave.
pub(in crate::selfie) fn expand(payload: &[u8], block: &mut [u8]) -> bool {
    if payload.is_empty() {
        block.fill(0);
        return true;
    }
    lz4_flex::block::decompress_into(payload, block).is_ok_and(|length| length == block.len())
}

/// Whether there is nothing but zeros.
pub(in crate::selfie) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: Secret = Secret([7; 16]);

    fn block(content: &[u8]) -> Vec<u8> {
        let payload = compress(content).unwrap();
        let lead = Lead::new(Virtual(77), 3, 1 << 47, Blocks(5), &payload);
        let mut block = lead.encode(Cluster(9), 4, &SECRET).to_vec();
        block.extend(&payload);
        block.resize(BLOCK, 0);
        block
    }

    #[test]
    fn a_block_comes_back_from_behind_its_header() {
        let text: Vec<u8> = b"all that is written ".iter().copied().cycle().take(BLOCK).collect();
        for content in [text, vec![0; BLOCK], vec![9; BLOCK]] {
            let block = block(&content);
            let lead = Lead::decode(&block, Cluster(9), 4, &SECRET).unwrap();
            assert_eq!((lead.of, lead.rotation, lead.sequence), (Virtual(77), 3, 1 << 47));
            assert_eq!(lead.blocks, Blocks(5));
            let mut back = vec![1; BLOCK];
            assert!(expand(lead.payload(&block).unwrap(), &mut back));
            assert_eq!(back, content);
        }
    }

    #[test]
    fn a_header_counts_only_where_and_when_it_was_written() {
        let block = block(&[1; BLOCK]);
        let decode = |block: &[u8], at, epoch, secret| Lead::decode(block, Cluster(at), epoch, secret);
        assert!(decode(&block, 9, 4, &SECRET).is_some());
        assert!(decode(&block, 10, 4, &SECRET).is_none(), "another place");
        assert!(decode(&block, 9, 5, &SECRET).is_none(), "another epoch");
        assert!(decode(&block, 9, 4, &Secret([8; 16])).is_none(), "another image");
        assert!(decode(&block[..31], 9, 4, &SECRET).is_none());
        for bit in 0..HEADER * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 9, 4, &SECRET).is_none(), "{bit}");
        }
        let mut torn = block.clone();
        torn[HEADER] ^= 1;
        assert!(decode(&torn, 9, 4, &SECRET).unwrap().payload(&torn).is_none());
    }

    proptest! {
        #[test]
        fn what_does_not_fit_is_told(content in proptest::collection::vec(any::<u8>(), BLOCK), same in 0..BLOCK) {
            let mut content = content;
            let first = content[0];
            content[..same].fill(first);
            if let Some(payload) = compress(&content) {
                prop_assert!(payload.len() <= MAX_PAYLOAD);
                let mut back = vec![0; BLOCK];
                prop_assert!(expand(&payload, &mut back));
                prop_assert_eq!(back, content);
            } else {
                prop_assert!(same < 200, "{} equal bytes make room for a header", same);
            }
        }

        #[test]
        fn any_bytes_expand_or_do_not(payload in proptest::collection::vec(any::<u8>(), 0..BLOCK)) {
            let mut block = vec![0; BLOCK];
            let _ = expand(&payload, &mut block);
        }
    }

    #[test]
    fn no_more_is_compressed_than_has_to_be() {
        let mut random = crate::block::simulated::Random::new(1);
        let noise: Vec<u8> = (0..BLOCK / 8).flat_map(|_| random.bits().to_le_bytes()).collect();
        // Wherever the bytes are that compress, and however many.
        for (from, length) in [(100, 100), (448, 512), (1536, 512), (3072, 512), (2000, 2096), (0, 4096)] {
            let mut content = noise.clone();
            content[from..from + length].fill(7);
            let payload = compress(&content).unwrap();
            assert!((MAX_PAYLOAD - 8..=MAX_PAYLOAD).contains(&payload.len()), "{from}: {}", payload.len());
            let mut back = vec![0; BLOCK];
            assert!(expand(&payload, &mut back) && back == content, "{from}");
        }
    }

    #[test]
    fn zeros_are_known() {
        let mut bytes = [0; 100];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 50, 99] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}

//! What all structures begin with: a checksum, what they are, whose, and which. See `docs/idedup-format.md`.

/// Bytes of a block, of the disk and of the medium.
pub(super) const BLOCK: usize = 4096;
/// Bytes before the content of a page.
pub(super) const HEADER: usize = 24;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Superblock,
    Checkpoint,
    Journal,
    Table,
    Bucket,
    Staged,
    Filter,
}

impl Kind {
    fn mark(self) -> [u8; 4] {
        *match self {
            Self::Superblock => b"iDsb",
            Self::Checkpoint => b"iDcp",
            Self::Journal => b"iDjl",
            Self::Table => b"iDtb",
            Self::Bucket => b"iDbk",
            Self::Staged => b"iDrn",
            Self::Filter => b"iDfl",
        }
    }
}

/// Which image a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(pub(super) u64);

/// Writes the header of a page whose content is there.
pub(super) fn seal(kind: Kind, identity: Identity, number: u64, page: &mut [u8]) {
    page[4..8].copy_from_slice(&kind.mark());
    page[8..16].copy_from_slice(&identity.0.to_le_bytes());
    page[16..24].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&page[4..]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The identity and number of a page, if it is one of that kind.
pub(super) fn header(kind: Kind, page: &[u8]) -> Option<(Identity, u64)> {
    // Most that differ do so here, before anything is summed up.
    if page.get(4..8)? != kind.mark() || u32_at(page, 0) != crc32c::crc32c(&page[4..]) {
        return None;
    }
    Some((Identity(u64_at(page, 8)), u64_at(page, 16)))
}

/// The number of a page, if it is one of that kind and image.
pub(super) fn number(kind: Kind, identity: Identity, page: &[u8]) -> Option<u64> {
    header(kind, page).and_then(|(found, number)| (found == identity).then_some(number))
}

/// The bytes from `at`, which the caller knows to be there.
fn array<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&page[at..at + N]);
    bytes
}

pub(super) fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(page, at))
}

pub(super) fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(page, at))
}

pub(super) fn u64_at(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(page, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_all_of_its_header_and_content() {
        let (mine, other) = (Identity(7), Identity(8));
        let mut page = [3; BLOCK];
        seal(Kind::Table, mine, 5, &mut page);
        assert_eq!(number(Kind::Table, mine, &page), Some(5));
        assert_eq!((number(Kind::Table, other, &page), number(Kind::Bucket, mine, &page)), (None, None));
        for at in [0, 4, 8, 16, 24, BLOCK - 1] {
            let mut torn = page;
            torn[at] ^= 1;
            assert_eq!(number(Kind::Table, mine, &torn), None, "{at}");
        }
        assert_eq!(header(Kind::Table, &[]), None);
    }
}

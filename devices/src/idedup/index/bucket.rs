//! What lies in a bucket of the index, and in a page of a run.

use super::super::fingerprint::Fingerprint;
use super::super::layout::bucket_capacity;
use super::super::options::Verify;
use super::super::page::{self, BLOCK, Identity, Kind};

const COUNT: usize = 24;
const ENTRIES: usize = 32;

/// A physical block, and which of its contents is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::idedup) struct Claim {
    pub(in crate::idedup) physical: u32,
    pub(in crate::idedup) generation: u32,
}

/// The entries of a page, oldest first; none if it is no page.
pub(super) fn entries(verify: Verify, page: &[u8]) -> impl Iterator<Item = (Fingerprint, Claim)> + '_ {
    let (width, capacity) = (verify.width(), bucket_capacity(verify));
    let count = if page.len() < BLOCK { 0 } else { usize::from(page::u16_at(page, COUNT)).min(capacity) };
    let bytes = page.get(ENTRIES..ENTRIES + count * (width + 8)).unwrap_or_default();
    bytes.chunks_exact(width + 8).map(move |entry| {
        let claim =
            Claim { physical: page::u32_at(entry, width), generation: page::u32_at(entry, width + 4) };
        (Fingerprint::stored(&entry[..width]), claim)
    })
}

/// What a page claims of a fingerprint.
pub(super) fn find(verify: Verify, page: &[u8], name: &Fingerprint) -> Option<Claim> {
    entries(verify, page).find(|(found, _)| found == name).map(|(_, claim)| claim)
}

/// A page that holds the last of `entries` that it has room for.
pub(super) fn encode(
    verify: Verify,
    kind: Kind,
    identity: Identity,
    number: u64,
    entries: &[(Fingerprint, Claim)],
) -> Vec<u8> {
    let kept = &entries[entries.len().saturating_sub(bucket_capacity(verify))..];
    let mut page = vec![0; ENTRIES];
    let count = u16::try_from(kept.len()).unwrap_or(0);
    page[COUNT..COUNT + 2].copy_from_slice(&count.to_le_bytes());
    for (name, claim) in kept {
        page.extend_from_slice(&name.0[..verify.width()]);
        page.extend_from_slice(&claim.physical.to_le_bytes());
        page.extend_from_slice(&claim.generation.to_le_bytes());
    }
    page.resize(BLOCK, 0);
    page::seal(kind, identity, number, &mut page);
    page
}

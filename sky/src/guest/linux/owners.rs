//! Which file a page of the guest's memory belongs to, as the page itself says (include/linux/mm_types.h).
//!
//! Whoever asks is no virtual CPU: no address space is at hand. So the two regions of the kernel's memory that are needed are
//! looked up once, while one is. Both stay where they are as long as the kernel runs: the direct map, one after the other as
//! physical memory is, in which the kernel allocates its structures; and the array of `struct page`.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::pages::{PAGE, PageCache, VMEMMAP_ALIGN};
use super::{Linux, OpenFile};
use crate::guest::btf::Btf;
use crate::guest::{Gpa, Gva, View};
use crate::{Error, Result};

/// Both regions begin at a multiple of this (`kernel_randomize_memory()`, arch/x86/mm/kaslr.c).
const REGION_ALIGN: u64 = VMEMMAP_ALIGN;
/// `PageTail()`: the word says which page is the first of the compound, and 1 more.
const TAIL: u64 = 1;
/// `PAGE_MAPPING_FLAGS`: no page of a file.
const MAPPING_FLAGS: u64 = 3;
/// `PG_locked`, the first of `enum pageflags`.
const LOCKED: u64 = 1;
/// Pages of the largest compound that the page cache uses.
const MAX_COMPOUND: u64 = 1 << 9;
/// Pieces in which the array of pages may lie: with pages of 2 MiB it takes 512 at most.
const MAX_RUNS: usize = 1 << 12;
const LARGE_PAGE: u64 = 2 << 20;

/// Offsets, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    page_flags: u64,
    page_compound_head: u64,
    mapping_host: u64,
}

impl Offsets {
    /// Looks up every offset that is needed.
    ///
    /// # Errors
    /// [`Error::Btf`].
    pub(super) fn new(btf: &Btf) -> Result<Self> {
        Ok(Self {
            page_flags: btf.offset("page", "flags")?,
            page_compound_head: btf.offset("page", "compound_head")?,
            mapping_host: btf.offset("address_space", "host")?,
        })
    }
}

/// A piece of the array of pages that lies in one piece of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Bytes from the beginning of the array.
    start: u64,
    end: u64,
    /// Where it begins.
    gpa: u64,
}

/// The block of a file that a page of the guest's memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedBlock {
    /// The file: the numbers of the device and of the inode.
    pub file: (u32, u64),
    /// Byte offset in it.
    pub offset: u64,
    /// The page is being filled or changed: nobody is to look at it (`PG_locked`).
    pub locked: bool,
}

/// Knows which files the pages of a guest belong to.
#[derive(Debug)]
pub(crate) struct PageOwners {
    memory: GuestMemoryMmap,
    /// Where the direct map begins.
    direct: u64,
    /// Where the array of pages begins.
    array: u64,
    runs: Vec<Run>,
    page_bytes: u64,
    offsets: Offsets,
    folio_mapping: u64,
    folio_index: u64,
    inode_mapping: u64,
    inode_ino: u64,
    inode_sb: u64,
    sb_dev: u64,
}

impl Linux {
    /// Looks up where the guest keeps its pages, by a file that has the block at byte `offset` in the page cache. `None` if it
    /// has not, and on a kernel or a guest where the page cache cannot be read (see [`cached_block`](Self::cached_block)).
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] for structures that make no sense.
    pub(crate) fn page_owners(
        &self,
        view: &View<'_>,
        file: &OpenFile,
        offset: u64,
    ) -> Result<Option<PageOwners>> {
        let Some((pages, offsets)) = self.pages.as_ref().zip(self.owners) else { return Ok(None) };
        let Some(folio) = pages.folio_of(view, file.inode, offset)? else { return Ok(None) };
        let owners = PageOwners {
            memory: view.physical().clone(),
            direct: direct_map(view, file.inode)?,
            array: folio.0 - folio.0 % REGION_ALIGN,
            runs: array_of_pages(view, folio, pages)?,
            page_bytes: pages.page_bytes,
            offsets,
            folio_mapping: pages.folio_mapping,
            folio_index: pages.folio_index,
            inode_mapping: pages.inode_mapping,
            inode_ino: self.inode_ino,
            inode_sb: self.inode_sb,
            sb_dev: self.sb_dev,
        };
        Ok(Some(owners))
    }
}

/// Where the direct map begins, by a structure in it.
fn direct_map(view: &View<'_>, inside: Gva) -> Result<u64> {
    let begins = inside.0.wrapping_sub(view.translate(inside)?.gpa.0);
    if begins.is_multiple_of(REGION_ALIGN) && Gva(begins).is_kernel() {
        Ok(begins)
    } else {
        Err(Error::Kernel("an inode is not in the direct map"))
    }
}

/// Where the pieces of the array of pages lie that `page` is in.
fn array_of_pages(view: &View<'_>, page: Gva, pages: &PageCache) -> Result<Vec<Run>> {
    let array = Gva(page.0 - page.0 % REGION_ALIGN);
    let frames = view.physical().last_addr().0 / PAGE + 1;
    let length = frames.saturating_mul(pages.page_bytes);
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < length {
        let Ok(mapping) = view.translate(array.offset(at)) else {
            // There is no memory to describe.
            at = (at + 1).next_multiple_of(LARGE_PAGE);
            continue;
        };
        let end = at.saturating_add(mapping.rest).min(length);
        let follows = |last: &&mut Run| last.end == at && last.gpa + (at - last.start) == mapping.gpa.0;
        if let Some(last) = runs.last_mut().filter(follows) {
            last.end = end;
        } else if runs.len() < MAX_RUNS {
            runs.push(Run { start: at, end, gpa: mapping.gpa.0 });
        } else {
            return Err(Error::Kernel("the array of pages is in too many pieces"));
        }
        at = end;
    }
    Ok(runs)
}

impl PageOwners {
    fn load(&self, gpa: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.memory.read_slice(&mut word, GuestAddress(gpa)).ok()?;
        Some(u64::from_le_bytes(word))
    }

    /// A word of a structure that the kernel has allocated.
    fn word(&self, structure: Gva, offset: u64) -> Option<u64> {
        self.load(structure.0.checked_sub(self.direct)?.checked_add(offset)?)
    }

    /// A word of the `struct page` of a page frame.
    fn of_page(&self, frame: u64, offset: u64) -> Option<u64> {
        let start = frame.checked_mul(self.page_bytes)?;
        let run = self.runs.get(self.runs.partition_point(|run| run.end <= start))?;
        let inside = start.checked_sub(run.start)?.checked_add(offset)?;
        if inside + 8 <= run.end - run.start { self.load(run.gpa.checked_add(inside)?) } else { None }
    }

    /// The frame whose `struct page` is there.
    fn frame(&self, page: u64) -> Option<u64> {
        let inside = page.checked_sub(self.array)?;
        inside.is_multiple_of(self.page_bytes).then(|| inside / self.page_bytes)
    }

    /// What is in the page frame at `page`, if it is in the page cache of a file.
    pub(crate) fn find(&self, page: Gpa) -> Option<CachedBlock> {
        let frame = page.0 / PAGE;
        let word = self.of_page(frame, self.offsets.page_compound_head)?;
        let first = if word & TAIL != 0 { self.frame(word - TAIL)? } else { frame };
        let behind = frame.checked_sub(first).filter(|&behind| behind < MAX_COMPOUND)?;
        let mapping = self.of_page(first, self.folio_mapping)?;
        if mapping & MAPPING_FLAGS != 0 {
            return None;
        }
        let index = self.of_page(first, self.folio_index)?.checked_add(behind)?;
        let inode = Gva(self.word(Gva(mapping), self.offsets.mapping_host)?);
        // What was a page of a file may be anything by now; an inode says itself which is its cache.
        if self.word(inode, self.inode_mapping)? != mapping {
            return None;
        }
        let superblock = Gva(self.word(inode, self.inode_sb)?);
        let device = self.word(superblock, self.sb_dev)? & u64::from(u32::MAX);
        Some(CachedBlock {
            file: (u32::try_from(device).ok()?, self.word(inode, self.inode_ino)?),
            offset: index.checked_mul(PAGE)?,
            locked: self.of_page(first, self.offsets.page_flags)? & LOCKED != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIRECT: u64 = 0xffff_9a40_0000_0000;
    const ARRAY: u64 = 0xffff_ea80_0000_0000;
    /// The array of pages, in two pieces: the first half describes the memory's first half.
    const FIRST: u64 = 0x1_8000;
    const SECOND: u64 = 0x1_0000;
    const FRAMES: u64 = 256;
    const HALF: u64 = FRAMES / 2 * 64;
    const MAPPING: u64 = DIRECT + 0x3_0100;
    const INODE: u64 = DIRECT + 0x3_1000;
    const SUPERBLOCK: u64 = DIRECT + 0x3_2000;

    fn owners(memory: &GuestMemoryMmap) -> PageOwners {
        PageOwners {
            memory: memory.clone(),
            direct: DIRECT,
            array: ARRAY,
            runs: vec![
                Run { start: 0, end: HALF, gpa: FIRST },
                Run { start: HALF, end: 2 * HALF, gpa: SECOND },
            ],
            page_bytes: 64,
            offsets: Offsets { page_flags: 0, page_compound_head: 8, mapping_host: 0 },
            folio_mapping: 24,
            folio_index: 32,
            inode_mapping: 48,
            inode_ino: 64,
            inode_sb: 40,
            sb_dev: 16,
        }
    }

    fn put(memory: &GuestMemoryMmap, at: u64, value: u64) {
        memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn page(memory: &GuestMemoryMmap, frame: u64, words: [u64; 5]) {
        let at = if frame < FRAMES / 2 { FIRST + frame * 64 } else { SECOND + frame * 64 - HALF };
        for (word, value) in (0..).zip(words) {
            put(memory, at + word * 8, value);
        }
    }

    fn memory() -> GuestMemoryMmap {
        let bytes = usize::try_from(FRAMES * PAGE).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        for (at, value) in [
            (MAPPING, INODE),
            (INODE + 48, MAPPING),
            (INODE + 40, SUPERBLOCK),
            (INODE + 64, 1234),
            // The next member is not to be taken for a part of the device's number.
            (SUPERBLOCK + 16, 0xffff_ffff_0080_0001),
        ] {
            put(&memory, at - DIRECT, value);
        }
        memory
    }

    #[test]
    fn pages_say_what_they_hold() {
        let memory = memory();
        let owners = owners(&memory);
        let cached =
            |index: u64, locked| Some(CachedBlock { file: (0x80_0001, 1234), offset: index * PAGE, locked });
        for frame in [7, FRAMES - 1] {
            page(&memory, frame, [LOCKED, 0, 0, MAPPING, 55]);
            assert_eq!(owners.find(Gpa(frame * PAGE + 5)), cached(55, true));
        }
        // The third page of a compound, across both pieces of the array.
        page(&memory, 127, [2, 0, 0, MAPPING, 8]);
        page(&memory, 129, [0, (ARRAY + 127 * 64) | TAIL, 0, 0, 0]);
        assert_eq!(owners.find(Gpa(129 * PAGE)), cached(10, false));
        // Anonymous memory; no file; a file that is gone, and its inode is another's; beyond the memory.
        page(&memory, 20, [0, 0, 0, MAPPING | 1, 0]);
        page(&memory, 21, [0, 0, 0, 0, 0]);
        assert_eq!([20, 21, FRAMES, u64::MAX / PAGE].map(|frame| owners.find(Gpa(frame * PAGE))), [None; 4]);
        put(&memory, INODE - DIRECT + 48, MAPPING + 8);
        assert_eq!(owners.find(Gpa(7 * PAGE)), None);
    }

    /// Page tables as a kernel makes them: the direct map in pages of 1 GiB, the array in small ones.
    #[test]
    fn the_regions_are_found() {
        const TABLES: u64 = 0x4_0000;
        let memory = memory();
        let present = |table: u64| (TABLES + table) | 3;
        put(&memory, TABLES + ((DIRECT >> 39) & 511) * 8, present(0x1000));
        put(&memory, TABLES + 0x1000 + ((DIRECT >> 30) & 511) * 8, 3 | 1 << 7);
        put(&memory, TABLES + ((ARRAY >> 39) & 511) * 8, present(0x2000));
        put(&memory, TABLES + 0x2000 + ((ARRAY >> 30) & 511) * 8, present(0x3000));
        put(&memory, TABLES + 0x3000, present(0x4000));
        for half in 0..HALF / PAGE {
            put(&memory, TABLES + 0x4000 + half * 8, (FIRST + half * PAGE) | 3);
            put(&memory, TABLES + 0x4000 + (HALF / PAGE + half) * 8, (SECOND + half * PAGE) | 3);
        }
        let view = View::new(&memory, TABLES, false);
        assert_eq!(direct_map(&view, Gva(INODE)).unwrap(), DIRECT);
        assert!(direct_map(&view, Gva(ARRAY + 64)).is_err());
        let pages = PageCache::for_tests();
        assert_eq!(array_of_pages(&view, Gva(ARRAY + 640), &pages).unwrap(), owners(&memory).runs);
        // Nothing describes the second half of the memory.
        put(&memory, TABLES + 0x4000 + HALF / PAGE * 8, 0);
        put(&memory, TABLES + 0x4000 + (HALF / PAGE + 1) * 8, 0);
        assert_eq!(array_of_pages(&view, Gva(ARRAY), &pages).unwrap(), owners(&memory).runs[..1]);
    }

    proptest! {
        #[test]
        fn any_memory_gives_an_answer_or_none(words in proptest::collection::vec(any::<u64>(), 64), gpa in 0..FRAMES * PAGE, wild: u64) {
            let memory = memory();
            for (at, word) in (0..).zip(&words) {
                // Often an address in one of the regions, with any of the low bits.
                let value = match word % 4 {
                    0 => DIRECT + (word >> 8) % (FRAMES * PAGE),
                    1 => ARRAY + (word >> 8) % (2 * HALF),
                    2 => *word,
                    _ => word >> 50,
                };
                put(&memory, FIRST + at * 8, value);
                put(&memory, SECOND + at * 8, value);
            }
            let owners = owners(&memory);
            for gpa in [gpa, gpa % (16 * PAGE), wild] {
                let _ = owners.find(Gpa(gpa));
            }
        }
    }
}

//! The page cache: what the kernel holds of a file, found as the kernel finds it (lib/xarray.c, mm/filemap.c).

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{Linux, OpenFile, pointer};
use crate::guest::btf::Btf;
use crate::guest::{Gpa, Gva, View};
use crate::{Error, Result};

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;
const PAGE_SHIFT: u32 = 12;
/// Slots of a node, by their logarithm: `XA_CHUNK_SHIFT`.
const CHUNK_SHIFT: u32 = 6;
const CHUNK_MASK: u64 = (1 << CHUNK_SHIFT) - 1;
/// Levels of the highest tree that 64 bits of index can have.
const MAX_LEVELS: usize = 11;
/// Internal entries up to here are no nodes: `xa_is_node()`.
const LAST_SPECIAL: u64 = 4096;
/// The array of `struct page` begins at a multiple of this (`kernel_randomize_memory()`, arch/x86/mm/kaslr.c).
pub(super) const VMEMMAP_ALIGN: u64 = 1 << 30;

/// Offsets in the structures of the page cache, in bytes.
#[derive(Debug)]
pub(super) struct PageCache {
    pub(super) inode_mapping: u64,
    mapping_pages: u64,
    node_shift: u64,
    node_slots: u64,
    pub(super) folio_mapping: u64,
    pub(super) folio_index: u64,
    /// Bytes of a `struct page`.
    pub(super) page_bytes: u64,
}

/// What a word of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Node(Gva),
    /// The slot that has the entry for this one, too.
    Sibling(u64),
    Folio(Gva),
    /// Nothing, or what was there before, or a lock.
    Absent,
}

impl From<u64> for Entry {
    fn from(word: u64) -> Self {
        match word & 3 {
            2 if word > LAST_SPECIAL => Self::Node(Gva(word - 2)),
            2 if word >> 2 <= CHUNK_MASK => Self::Sibling(word >> 2),
            0 if Gva(word).is_kernel() => Self::Folio(Gva(word)),
            _ => Self::Absent,
        }
    }
}

impl PageCache {
    /// Looks up every offset that is needed.
    ///
    /// # Errors
    /// [`Error::Btf`] on kernels before 5.16, which have no folios.
    pub(super) fn new(btf: &Btf) -> Result<Self> {
        let page_bytes = btf.size("page")?;
        // The guest says so, and numbers of pages are divided by it.
        if page_bytes == 0 {
            return Err(Error::Btf("struct page has no size".into()));
        }
        Ok(Self {
            inode_mapping: btf.offset("inode", "i_mapping")?,
            mapping_pages: btf.offset("address_space", "i_pages.xa_head")?,
            node_shift: btf.offset("xa_node", "shift")?,
            node_slots: btf.offset("xa_node", "slots")?,
            folio_mapping: btf.offset("folio", "mapping")?,
            folio_index: btf.offset("folio", "index")?,
            page_bytes,
        })
    }

    /// Where page `index` of an inode lies. Other CPUs go on meanwhile: what is found says itself which file it
    /// belongs to.
    fn find(&self, view: &View<'_>, inode: Gva, index: u64) -> Result<Option<Gpa>> {
        let mapping = pointer(view, inode.offset(self.inode_mapping))?;
        let Some(folio) = self.folio(view, mapping, index)? else { return Ok(None) };
        if view.read_u64(folio.offset(self.folio_mapping))? != mapping.0 {
            return Ok(None);
        }
        let first = view.read_u64(folio.offset(self.folio_index))?;
        let page = index
            .checked_sub(first)
            .zip(self.frame(view, folio))
            .and_then(|(at, frame)| frame.checked_add(at));
        Ok(page.and_then(|frame| frame.checked_mul(PAGE)).map(Gpa))
    }

    /// The `struct folio` of the page at byte `offset` of an inode, if the array that it is in can be told by its address.
    pub(super) fn folio_of(&self, view: &View<'_>, inode: Gva, offset: u64) -> Result<Option<Gva>> {
        let mapping = pointer(view, inode.offset(self.inode_mapping))?;
        let folio = self.folio(view, mapping, offset >> PAGE_SHIFT)?;
        Ok(folio.filter(|&folio| self.frame(view, folio).is_some()))
    }

    /// The folio that page `index` is in.
    fn folio(&self, view: &View<'_>, mapping: Gva, index: u64) -> Result<Option<Gva>> {
        let odd = || Error::Kernel("the tree of a page cache is malformed");
        let root = view.read_u64(mapping.offset(self.mapping_pages))?;
        let mut node = match Entry::from(root) {
            Entry::Node(node) => node,
            // Without a node there is one page at most, the first.
            Entry::Folio(folio) if index == 0 => return Ok(Some(folio)),
            _ => return Ok(None),
        };
        let mut reach = None;
        for _ in 0..MAX_LEVELS {
            let mut shift = [0];
            view.read(node.offset(self.node_shift), &mut shift)?;
            let shift = u32::from(shift[0]);
            // Each level is one chunk lower than the one above.
            if !shift.is_multiple_of(CHUNK_SHIFT) || shift >= reach.unwrap_or(u64::BITS) {
                return Err(odd());
            }
            if reach.is_none() && index >> shift > CHUNK_MASK {
                return Ok(None);
            }
            reach = Some(shift);
            let slot =
                |number: u64| view.read_u64(node.offset(self.node_slots + number * 8)).map(Entry::from);
            let entry = match slot((index >> shift) & CHUNK_MASK)? {
                Entry::Sibling(first) => slot(first)?,
                entry => entry,
            };
            match entry {
                Entry::Node(below) => node = below,
                Entry::Folio(folio) => return Ok(Some(folio)),
                Entry::Sibling(_) => return Err(odd()),
                Entry::Absent => return Ok(None),
            }
        }
        Err(odd())
    }

    /// Number of the page frame that a `struct page` describes. They lie in one array, by number. Where it begins is in
    /// no structure, but at a multiple of 1 GiB; with so much memory that it is longer than that, nothing is known.
    fn frame(&self, view: &View<'_>, page: Gva) -> Option<u64> {
        let frames = view.physical().last_addr().0 / PAGE + 1;
        if frames.checked_mul(self.page_bytes)? > VMEMMAP_ALIGN {
            return None;
        }
        let inside = page.0 % VMEMMAP_ALIGN;
        inside.is_multiple_of(self.page_bytes).then(|| inside / self.page_bytes)
    }
}

impl Linux {
    /// Copies the 4 KiB block at byte `offset` of a file out of the guest's page cache; false when it is not there, when
    /// the file is no longer open, or on a kernel or a guest where the page cache cannot be read (before 5.16; more than
    /// 64 GiB of memory).
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] for a tree that makes no sense.
    pub fn cached_block(
        &self,
        view: &View<'_>,
        file: &OpenFile,
        offset: u64,
        block: &mut [u8; 4096],
    ) -> Result<bool> {
        let Some(pages) = &self.pages else { return Ok(false) };
        if view.read_u64(file.inode.offset(self.inode_ino))? != file.identity.1 {
            return Ok(false);
        }
        let Some(gpa) = pages.find(view, file.inode, offset >> PAGE_SHIFT)? else { return Ok(false) };
        Ok(view.physical().read_slice(block, GuestAddress(gpa.0)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use vm_memory::GuestMemoryMmap;

    use super::*;
    use crate::guest::btf::builder::Builder;

    const MEMORY: usize = 2 << 20;
    /// Both show all of the memory, from its beginning.
    const DIRECT: u64 = 0xffff_8880_0000_0000;
    const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
    /// The page tables; structures of pages lie below, at 64 bytes each.
    const TABLES: u64 = 0x10_0000;
    const INODE: u64 = 0x10_8000;
    const MAPPING: u64 = 0x10_9000;
    /// Nodes from here on.
    const NODES: u64 = 0x10_a000;
    /// Number of the type `struct xarray` in [`types`].
    const XARRAY: u32 = 4;
    const PAGES: PageCache = PageCache {
        inode_mapping: 8,
        mapping_pages: 16,
        node_shift: 0,
        node_slots: 40,
        folio_mapping: 24,
        folio_index: 32,
        page_bytes: 64,
    };

    impl PageCache {
        /// With a `struct page` of 64 bytes.
        pub(in crate::guest::linux) fn for_tests() -> Self {
            PAGES
        }
    }

    fn memory() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        for (at, (linear, table)) in [(DIRECT, 0x1000), (VMEMMAP, 0x2000)].into_iter().enumerate() {
            let flags = 3;
            put(&memory, TABLES + ((linear >> 39) & 511) * 8, (TABLES + table) | flags);
            put(&memory, TABLES + table + ((linear >> 30) & 511) * 8, flags | 1 << 7);
            assert!(at < 2);
        }
        put(&memory, INODE + 8, DIRECT + MAPPING);
        memory
    }

    fn put(memory: &GuestMemoryMmap, at: u64, value: u64) {
        memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn view(memory: &GuestMemoryMmap) -> View<'_> {
        View::new(memory, TABLES, false)
    }

    /// The kernel's insertion, the simple way: always as high as `levels`.
    struct Tree<'a> {
        memory: &'a GuestMemoryMmap,
        levels: u32,
        nodes: BTreeMap<(u32, u64), u64>,
    }

    impl<'a> Tree<'a> {
        fn new(memory: &'a GuestMemoryMmap, levels: u32) -> Self {
            Self { memory, levels, nodes: BTreeMap::new() }
        }

        fn node(&mut self, level: u32, index: u64) -> u64 {
            let shift = level * CHUNK_SHIFT;
            let prefix = index.checked_shr(shift + CHUNK_SHIFT).unwrap_or(0);
            if let Some(&at) = self.nodes.get(&(level, prefix)) {
                return at;
            }
            let at = NODES + self.nodes.len() as u64 * 0x240;
            self.nodes.insert((level, prefix), at);
            put(self.memory, at, shift.into());
            let entry = (DIRECT + at) | 2;
            if level + 1 == self.levels {
                put(self.memory, MAPPING + 16, entry);
            } else {
                let above = self.node(level + 1, index);
                let slot = (index >> (shift + CHUNK_SHIFT)) & CHUNK_MASK;
                put(self.memory, above + 40 + slot * 8, entry);
            }
            at
        }

        /// Puts the folio of `1 << order` pages that begins at frame `frame` at `index`.
        fn insert(&mut self, index: u64, order: u32, frame: u64) {
            let page = frame * 64;
            put(self.memory, page + 24, DIRECT + MAPPING);
            put(self.memory, page + 32, index);
            let node = self.node(0, index);
            let first = index & CHUNK_MASK;
            put(self.memory, node + 40 + first * 8, VMEMMAP + page);
            for other in first + 1..first + (1 << order) {
                put(self.memory, node + 40 + other * 8, first << 2 | 2);
            }
        }
    }

    #[test]
    fn a_single_page_has_no_node() {
        let memory = memory();
        put(&memory, MAPPING + 16, VMEMMAP + 5 * 64);
        put(&memory, 5 * 64 + 24, DIRECT + MAPPING);
        let find = |index| PAGES.find(&view(&memory), Gva(DIRECT + INODE), index).unwrap();
        assert_eq!((find(0), find(1)), (Some(Gpa(5 * PAGE)), None));
        // Used for something else by now.
        put(&memory, 5 * 64 + 24, DIRECT + MAPPING + 0x100);
        assert_eq!(PAGES.find(&view(&memory), Gva(DIRECT + INODE), 0).unwrap(), None);
        // A shadow of what was there.
        put(&memory, MAPPING + 16, 0x1235);
        assert_eq!(PAGES.find(&view(&memory), Gva(DIRECT + INODE), 0).unwrap(), None);
    }

    #[test]
    fn a_tree_that_leads_nowhere_is_an_error() {
        let memory = memory();
        // A node that is its own child.
        put(&memory, MAPPING + 16, (DIRECT + NODES) | 2);
        put(&memory, NODES + 40, (DIRECT + NODES) | 2);
        assert!(PAGES.find(&view(&memory), Gva(DIRECT + INODE), 0).is_err());
        put(&memory, NODES, 7);
        assert!(PAGES.find(&view(&memory), Gva(DIRECT + INODE), 0).is_err(), "no chunk has such a height");
    }

    /// Type information of a kernel with a `struct page` of so many bytes.
    fn types(page_bytes: u32) -> Btf {
        const STRUCT: u32 = 4;
        let mut builder = Builder::new();
        for (name, size, members) in [
            ("page", page_bytes, &[][..]),
            ("inode", 16, &[("i_mapping", 8)]),
            ("address_space", 24, &[("i_pages", 8)]),
            ("xarray", 16, &[("xa_head", 8)]),
            ("xa_node", 48, &[("shift", 0), ("slots", 40)]),
            ("folio", 40, &[("mapping", 24), ("index", 32)]),
        ] {
            builder.head(name, STRUCT, u32::try_from(members.len()).unwrap(), size);
            for &(member, byte) in members {
                builder.member(member, XARRAY, byte);
            }
        }
        Btf::parse(builder.build()).unwrap()
    }

    #[test]
    fn pages_without_a_size_are_refused() {
        let pages = PageCache::new(&types(64)).unwrap();
        assert_eq!((pages.page_bytes, pages.mapping_pages), (64, 16));
        assert!(matches!(PageCache::new(&types(0)), Err(Error::Btf(_))));
    }

    proptest! {
        #[test]
        fn pages_are_found_where_they_were_put(
            levels in 1..4u32,
            folios in proptest::collection::vec((any::<u32>(), 0..4u32), 1..24),
        ) {
            let memory = memory();
            let mut tree = Tree::new(&memory, levels);
            let mut model = BTreeMap::new();
            let mut frame = 1;
            for (place, order) in folios {
                let pages = 1u64 << order;
                let index = (u64::from(place) & ((1 << (levels * CHUNK_SHIFT)) - 1)) & !(pages - 1);
                if (index..index + pages).any(|page| model.contains_key(&page)) {
                    continue;
                }
                tree.insert(index, order, frame);
                model.extend((0..pages).map(|at| (index + at, Gpa((frame + at) * PAGE))));
                frame += pages;
            }
            let view = view(&memory);
            let find = |index| PAGES.find(&view, Gva(DIRECT + INODE), index).unwrap();
            for (&index, &gpa) in &model {
                prop_assert_eq!(find(index), Some(gpa));
                prop_assert_eq!(find(index + 1), model.get(&(index + 1)).copied());
            }
            prop_assert_eq!(find(1 << (levels * CHUNK_SHIFT)), None);
            prop_assert_eq!(find(u64::MAX), None);
        }

        #[test]
        fn any_memory_gives_an_answer_or_an_error(words in proptest::collection::vec(any::<u64>(), 64), index: u64) {
            let memory = memory();
            for (at, word) in (0..).zip(&words) {
                // Often an address in the memory, with any of the low bits.
                let value = if word % 4 < 3 { DIRECT | ((word >> 8) % MEMORY as u64) | (word & 3) } else { *word };
                put(&memory, NODES + at * 8, value);
            }
            put(&memory, MAPPING + 16, (DIRECT + NODES) | 2);
            let _ = PAGES.find(&view(&memory), Gva(DIRECT + INODE), index);
        }
    }
}

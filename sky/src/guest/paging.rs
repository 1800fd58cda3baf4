//! Guest-virtual addresses: the page-table walk of the CPU, done from outside (SDM vol. 3, 5.5; APM vol. 2, 5.3).

use std::fmt;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice};

use crate::{Error, Result};

/// An address in a guest's linear address space.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gva(pub u64);

/// An address in a guest's physical address space.
///
/// What a page-table entry yields is below 2^52, so small offsets may be added without care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gpa(pub u64);

impl fmt::Debug for Gva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gva({:#x})", self.0)
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpa({:#x})", self.0)
    }
}

impl Gva {
    /// The address `bytes` further on, as the CPU computes it: modulo 2^64.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether a kernel would map itself here: the upper, sign-extended half.
    #[must_use]
    pub fn is_kernel(self) -> bool {
        self.0 >> 63 == 1
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// Where a virtual page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Physical address of the byte that was asked for.
    pub gpa: Gpa,
    /// Bytes from the one asked for to the end of its page, 1 to 1 GiB.
    pub rest: u64,
    /// Instructions may be fetched from it.
    pub executable: bool,
    /// It may be written to. A page that several address spaces share until one writes to it may not.
    pub writable: bool,
    /// It was written to, by this address space, since the kernel last looked.
    pub dirty: bool,
}

/// A guest's memory as one address space shows it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    memory: &'a GuestMemoryMmap,
    /// The memory from address 0 on, where most page tables lie: the quick way to it.
    low: Option<VolatileSlice<'a>>,
    root: Gpa,
    five_level: bool,
}

impl<'a> View<'a> {
    /// The memory under page directory `cr3`, whose flag bits are ignored.
    ///
    /// Under page-table isolation that is to be the kernel's directory of the pair, which maps the user's pages too.
    #[must_use]
    pub fn new(memory: &'a GuestMemoryMmap, cr3: u64, five_level: bool) -> Self {
        let first = memory.iter().next().filter(|region| region.start_addr().0 == 0);
        let low = first.and_then(|region| region.as_volatile_slice().ok());
        Self { memory, low, root: Gpa(cr3 & FRAME), five_level }
    }

    /// The same memory under another page directory.
    #[must_use]
    pub fn of_directory(&self, cr3: u64) -> Self {
        Self { root: Gpa(cr3 & FRAME), ..*self }
    }

    /// Physical address of the page directory.
    #[must_use]
    pub fn directory(&self) -> u64 {
        self.root.0
    }

    /// The guest's physical memory.
    #[must_use]
    pub fn physical(&self) -> &'a GuestMemoryMmap {
        self.memory
    }

    /// `length` bytes from physical address `gpa` on; `None` unless all of them are guest memory.
    #[must_use]
    pub fn slice(&self, gpa: Gpa, length: usize) -> Option<VolatileSlice<'a>> {
        let low = self.low.as_ref().and_then(|low| low.subslice(usize::try_from(gpa.0).ok()?, length).ok());
        low.or_else(|| self.memory.get_slice(GuestAddress(gpa.0), length).ok())
    }

    /// Loads an aligned `u64` by its physical address; `None` outside guest memory.
    #[must_use]
    pub fn load(&self, gpa: Gpa) -> Option<u64> {
        // The innermost of all loops: `Bytes::load` on the whole memory takes six times as many instructions.
        let low =
            self.low.as_ref().and_then(|low| low.load(usize::try_from(gpa.0).ok()?, Ordering::Relaxed).ok());
        low.or_else(|| self.memory.load(GuestAddress(gpa.0), Ordering::Relaxed).ok())
    }

    /// Reads two bytes at any address, as quickly as an aligned word.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_pair(&self, gva: Gva) -> Result<[u8; 2]> {
        let inside = gva.0 % 8;
        if inside == 7 {
            let mut pair = [0; 2];
            self.read(gva, &mut pair)?;
            return Ok(pair);
        }
        let word = self.read_u64(Gva(gva.0 - inside))?.to_le_bytes();
        let at = usize::try_from(inside).unwrap_or(0);
        Ok([word[at], word[at + 1]])
    }

    /// Walks the page tables for `gva`.
    ///
    /// # Errors
    /// [`Error::NotMapped`] when an entry on the way is not present, or lies outside guest memory.
    pub fn translate(&self, gva: Gva) -> Result<Mapping> {
        self.walk(gva).map_err(|_| Error::NotMapped(gva))
    }

    /// Whether nothing was ever at `gva`: the walk ends at an entry that is empty, not at one that says where the
    /// page has gone.
    #[must_use]
    pub fn is_untouched(&self, gva: Gva) -> bool {
        self.walk(gva) == Err(0)
    }

    /// The error is the entry that is not present, or any bit pattern but 0 for a table outside guest memory.
    fn walk(&self, gva: Gva) -> std::result::Result<Mapping, u64> {
        let mut table = self.root.0;
        let mut executable = true;
        let mut writable = true;
        let top = if self.five_level { 48 } else { 39 };
        let mut shift = top;
        loop {
            let index = (gva.0 >> shift) & 0x1ff;
            // `table` has its low 12 bits clear and `index * 8` is below 4096: no carry, no overflow. An entry is
            // loaded whole, as the CPU does.
            let entry = self.load(Gpa(table | (index * 8))).ok_or(PRESENT)?;
            if entry & PRESENT == 0 {
                return Err(entry);
            }
            executable &= entry & NO_EXECUTE == 0;
            writable &= entry & WRITABLE != 0;
            let leaf = shift == 12 || (shift <= 30 && entry & LARGE != 0);
            if leaf {
                let inside = (1u64 << shift) - 1;
                let gpa = Gpa((entry & FRAME & !inside) | (gva.0 & inside));
                let rest = inside - (gva.0 & inside) + 1;
                return Ok(Mapping { gpa, rest, executable, writable, dirty: entry & DIRTY != 0 });
            }
            table = entry & FRAME;
            shift -= 9;
        }
    }

    /// Copies `buffer.len()` bytes from `gva` out of the guest.
    ///
    /// # Errors
    /// [`Error::NotMapped`] with the first address that could not be read; `buffer` is then partly filled.
    pub fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = gva.offset(done as u64);
            let mapping = self.translate(at)?;
            let left = buffer.len() - done;
            let piece = usize::try_from(mapping.rest).unwrap_or(usize::MAX).min(left);
            self.memory
                .read_slice(&mut buffer[done..done + piece], GuestAddress(mapping.gpa.0))
                .map_err(|_| Error::NotMapped(at))?;
            done += piece;
        }
        Ok(())
    }

    /// Reads an aligned or unaligned little-endian `u64`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u64(&self, gva: Gva) -> Result<u64> {
        if gva.0.is_multiple_of(8) {
            return self.load(self.translate(gva)?.gpa).ok_or(Error::NotMapped(gva));
        }
        let mut bytes = [0; 8];
        self.read(gva, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u32(&self, gva: Gva) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a NUL-terminated string of at most `limit` bytes; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// As [`read`](Self::read), or [`Error::TooLong`] when no NUL comes within `limit` bytes.
    pub fn read_string(&self, gva: Gva, limit: usize) -> Result<String> {
        let mut bytes = Vec::new();
        let mut page = [0; PAGE_BYTES];
        while bytes.len() < limit {
            let at = gva.offset(bytes.len() as u64);
            // Never beyond the page: the next one may be absent and need not be there.
            let rest = usize::try_from(PAGE - at.0 % PAGE).unwrap_or(page.len()).min(limit - bytes.len());
            self.read(at, &mut page[..rest])?;
            if let Some(end) = page[..rest].iter().position(|&byte| byte == 0) {
                bytes.extend_from_slice(&page[..end]);
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            bytes.extend_from_slice(&page[..rest]);
        }
        Err(Error::TooLong(gva))
    }

    /// Copies `data` into the guest at `gva`.
    ///
    /// # Errors
    /// As [`read`](Self::read); a prefix may have been written.
    pub fn write(&self, gva: Gva, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = gva.offset(done as u64);
            let mapping = self.translate(at)?;
            let piece = usize::try_from(mapping.rest).unwrap_or(usize::MAX).min(data.len() - done);
            self.memory
                .write_slice(&data[done..done + piece], GuestAddress(mapping.gpa.0))
                .map_err(|_| Error::NotMapped(at))?;
            done += piece;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: usize = 1 << 20;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
    }

    fn put(memory: &GuestMemoryMmap, at: u64, value: u64) {
        memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Tables at 0x1000 (top), 0x2000, 0x3000, 0x4000; the page at 0x7000 is mapped at `gva`.
    fn map_4k(memory: &GuestMemoryMmap, gva: u64, flags: u64) {
        for (level, table) in [(39, 0x1000u64), (30, 0x2000), (21, 0x3000)] {
            put(memory, table + ((gva >> level) & 0x1ff) * 8, (table + 0x1000) | 3);
        }
        put(memory, 0x4000 + ((gva >> 12) & 0x1ff) * 8, 0x7000 | flags);
    }

    #[test]
    fn small_page() {
        let memory = memory();
        map_4k(&memory, 0xffff_8880_1234_5000, 3 | NO_EXECUTE);
        let view = View::new(&memory, 0x1000 | 5, false);
        let mapping = view.translate(Gva(0xffff_8880_1234_5678)).unwrap();
        assert_eq!(
            mapping,
            Mapping {
                gpa: Gpa(0x7678),
                rest: 0x1000 - 0x678,
                executable: false,
                writable: true,
                dirty: false
            }
        );
        assert!(matches!(view.translate(Gva(0xffff_8880_1234_6000)), Err(Error::NotMapped(_))));
    }

    #[test]
    fn large_pages() {
        let memory = memory();
        put(&memory, 0x1000, 0x2000 | 3);
        put(&memory, 0x2000, 0x3000 | 3);
        put(&memory, 0x2008, (1 << 30) | 3 | LARGE);
        put(&memory, 0x3008, 0x40_0000 | 3 | LARGE | (1 << 12));
        let view = View::new(&memory, 0x1000, false);
        assert_eq!(view.translate(Gva(0x20_1234)).unwrap().gpa, Gpa(0x40_1234));
        assert_eq!(view.translate(Gva(0x20_1234)).unwrap().rest, 0x20_0000 - 0x1234);
        assert_eq!(view.translate(Gva(0x4000_0042)).unwrap().gpa, Gpa((1 << 30) | 0x42));
    }

    #[test]
    fn strings_stop_at_the_nul_and_at_the_limit() {
        let memory = memory();
        map_4k(&memory, 0x5000, 3);
        let view = View::new(&memory, 0x1000, false);
        view.write(Gva(0x5ffb), b"name\0").unwrap();
        assert_eq!(view.read_string(Gva(0x5ffb), 4096).unwrap(), "name");
        assert!(matches!(view.read_string(Gva(0x5ffb), 4), Err(Error::TooLong(_))));
        view.write(Gva(0x5ffb), b"names").unwrap();
        assert!(matches!(view.read_string(Gva(0x5ffb), 4096), Err(Error::NotMapped(Gva(0x6000)))));
    }

    #[test]
    fn pairs_are_read_at_any_address() {
        let memory = memory();
        map_4k(&memory, 0x5000, 3);
        let view = View::new(&memory, 0x1000, false);
        view.write(Gva(0x5000), &std::array::from_fn::<u8, 32, _>(|at| u8::try_from(at).unwrap())).unwrap();
        for at in 0..31u8 {
            assert_eq!(view.read_pair(Gva(0x5000 + u64::from(at))).unwrap(), [at, at + 1]);
        }
        assert!(view.read_pair(Gva(0x5fff)).is_err(), "the second byte is on a page that is not there");
    }

    proptest! {
        /// Page tables of random bytes: an answer or an error, and an answer lies where the tables say.
        #[test]
        fn random_tables_never_panic(words in proptest::collection::vec(any::<u64>(), 64), gva: u64, cr3: u64) {
            let memory = memory();
            for (index, word) in words.iter().enumerate() {
                let at = (word ^ gva).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (MEMORY as u64 / 8) * 8;
                put(&memory, at, words[(index * 7) % words.len()] & 0xf_ffff | 1);
            }
            for five_level in [false, true] {
                let view = View::new(&memory, cr3 & 0xf_ffff, five_level);
                if let Ok(mapping) = view.translate(Gva(gva)) {
                    prop_assert!(mapping.rest >= 1 && mapping.rest <= 1 << 30);
                    prop_assert_eq!(mapping.gpa.0 % PAGE, gva % PAGE);
                }
                let mut buffer = [0; 5000];
                let _ = view.read(Gva(gva), &mut buffer);
                let _ = view.read_string(Gva(gva), 300);
            }
        }
    }
}

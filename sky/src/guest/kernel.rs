//! The guest kernel's image as it lies in memory: which parts are mapped, what is text, where its BTF is.
//!
//! Everything starts from one address that the CPU itself names, the SYSCALL entry in LSTAR. KASLR moves the image
//! as a whole, so a window around that address holds it.

use std::ops::Range;

use crate::guest::btf::{self, Btf};
use crate::guest::{Gva, View};
use crate::{Error, Result};

/// `__START_KERNEL_map` and the end of the largest image and of KASLR's range, Linux `x86_64/mm.rst`.
const IMAGE_SPACE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;

/// How far the image may reach on each side of its SYSCALL entry. Debian's are 30 to 50 MiB in all.
const REACH: u64 = 96 << 20;

const PAGE: u64 = 4096;

/// A run of mapped pages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extent {
    start: u64,
    length: u64,
    executable: bool,
}

/// The mapped parts of the kernel's image.
#[derive(Debug)]
pub struct KernelImage {
    extents: Vec<Extent>,
}

impl KernelImage {
    /// Finds the image around its SYSCALL entry point.
    ///
    /// # Errors
    /// [`Error::Kernel`] when `entry` is not where Linux maps its image.
    pub fn around(view: &View<'_>, entry: Gva) -> Result<Self> {
        if !IMAGE_SPACE.contains(&entry.0) {
            return Err(Error::Kernel("LSTAR does not point into a Linux kernel image"));
        }
        let start = entry.0.saturating_sub(REACH).max(IMAGE_SPACE.start) & !(PAGE - 1);
        let end = entry.0.saturating_add(REACH).min(IMAGE_SPACE.end);
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = start;
        while at < end {
            let Ok(mapping) = view.translate(Gva(at)) else {
                at += PAGE;
                continue;
            };
            let length = mapping.rest.min(end - at);
            match extents.last_mut() {
                Some(last) if last.start + last.length == at && last.executable == mapping.executable => {
                    last.length += length;
                }
                _ => extents.push(Extent { start: at, length, executable: mapping.executable }),
            }
            at += length;
        }
        Ok(Self { extents })
    }

    /// Every address in text where `pattern` stands.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if the image changes under the search.
    pub fn find_in_text(&self, view: &View<'_>, pattern: &[u8]) -> Result<Vec<Gva>> {
        let mut found = Vec::new();
        for extent in self.extents.iter().filter(|extent| extent.executable) {
            for_each_match(view, extent, pattern, 1, |gva| {
                found.push(gva);
                true
            })?;
        }
        Ok(found)
    }

    /// Finds and parses the kernel's BTF.
    ///
    /// # Errors
    /// [`Error::Btf`] when the image holds none: built without `CONFIG_DEBUG_INFO_BTF`.
    pub fn btf(&self, view: &View<'_>) -> Result<Btf> {
        let mut result = None;
        for extent in &self.extents {
            for_each_match(view, extent, &btf::SIGNATURE, 4, |gva| {
                result = load_btf(view, gva).ok();
                result.is_none()
            })?;
            if let Some(btf) = result {
                return Ok(btf);
            }
        }
        Err(Error::Btf("the kernel image holds none (CONFIG_DEBUG_INFO_BTF)".into()))
    }
}

fn load_btf(view: &View<'_>, gva: Gva) -> Result<Btf> {
    let mut header = [0; btf::HEADER];
    view.read(gva, &mut header)?;
    let mut bytes = vec![0; btf::section_size(&header)?];
    view.read(gva, &mut bytes)?;
    let btf = Btf::parse(bytes)?;
    // The signature also stands in code that checks for it, and modules bring sections of their own.
    if btf.has_struct("task_struct") { Ok(btf) } else { Err(Error::Btf("not the kernel's own".into())) }
}

/// Calls `visit` for each place in `extent` where `pattern` stands at a multiple of `align`; it returns whether to
/// go on.
fn for_each_match(
    view: &View<'_>,
    extent: &Extent,
    pattern: &[u8],
    align: u64,
    mut visit: impl FnMut(Gva) -> bool,
) -> Result<()> {
    const CHUNK: u64 = 1 << 20;
    let mut buffer = Vec::new();
    let mut offset = 0;
    while offset < extent.length {
        // Chunks overlap by a pattern less one byte, so that none is missed across their borders.
        let length = (CHUNK + pattern.len() as u64 - 1).min(extent.length - offset);
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        let base = Gva(extent.start + offset);
        view.read(base, &mut buffer)?;
        let first = pattern.first().copied().unwrap_or(0);
        for (index, window) in buffer.windows(pattern.len()).enumerate() {
            let at = base.offset(index as u64);
            if window[0] == first && window == pattern && at.0.is_multiple_of(align) && !visit(at) {
                return Ok(());
            }
        }
        offset += CHUNK;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    /// Maps 6 MiB of physical memory at the image space by 2 MiB pages, the middle one executable.
    fn guest() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        put(0x1000 + 511 * 8, 0x2000 | 3);
        put(0x2000 + 510 * 8, 0x3000 | 3);
        for (index, nx) in [(1u64, 1u64), (2, 0), (3, 1)] {
            put(0x3000 + index * 8, (index << 21) | (1 << 7) | 3 | (nx << 63));
        }
        memory
    }

    #[test]
    fn text_is_searched_and_data_is_not() {
        let memory = guest();
        let pattern = [0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00];
        // In data; in text across the border of two chunks; at the very end of text.
        for at in [0x20_0000u64 + 64, 0x40_0000 + (1 << 20) - 3, 0x60_0000 - 6] {
            memory.write_slice(&pattern, GuestAddress(at)).unwrap();
        }
        let view = View::new(&memory, 0x1000, false);
        let image = KernelImage::around(&view, Gva(0xffff_ffff_8040_0000)).unwrap();
        assert_eq!(image.extents.len(), 3);
        let base = 0xffff_ffff_8040_0000;
        assert_eq!(
            image.find_in_text(&view, &pattern).unwrap(),
            [Gva(base + (1 << 20) - 3), Gva(base + (2 << 20) - 6)]
        );
        assert!(image.btf(&view).is_err());
    }

    #[test]
    fn an_entry_outside_the_image_space_is_refused() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        assert!(KernelImage::around(&view, Gva(0x40_0000)).is_err());
    }
}

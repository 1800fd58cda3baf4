//! Takes the ELF kernel out of a bzImage.
//!
//! The boot header says where the compressed payload lies. What compressed it is told by its first bytes; all but
//! gzip have the unpacked size appended, which the tools would take for garbage.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::host::{Tool, ensure};
use crate::command;
use crate::error::{Error, Result};

const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

#[derive(Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    With(Tool),
}

pub(super) fn extract(bzimage: &Path, elf: &Path) -> Result<()> {
    let image = fs::read(bzimage).map_err(Error::file("read", bzimage))?;
    let malformed = |problem: &str| Error::Format { path: bzimage.to_path_buf(), problem: problem.into() };
    let payload = payload(&image).ok_or_else(|| malformed("is not a bzImage"))?;
    let compression = compression(payload).ok_or_else(|| malformed("is compressed in an unknown way"))?;
    let (mut unpack, data) = match compression {
        Compression::Gzip => (Command::new("gzip"), payload),
        Compression::With(tool) => (ensure(tool)?, &payload[..payload.len().saturating_sub(4)]),
    };
    let packed = elf.with_extension("packed");
    fs::write(&packed, data).map_err(Error::file("write", &packed))?;
    let input = File::open(&packed).map_err(Error::file("open", &packed))?;
    let output = File::create(elf).map_err(Error::file("create", elf))?;
    command::filter(unpack.arg("-dc"), input, output)?;
    fs::remove_file(&packed).map_err(Error::file("remove", &packed))?;
    let start = fs::read(elf).map_err(Error::file("read", elf))?;
    if start.starts_with(b"\x7fELF") { Ok(()) } else { Err(malformed("holds no ELF kernel")) }
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| {
        let bytes: [u8; 4] = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // Zero stands for four, for boot loaders of long ago.
    let setup = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(word(PAYLOAD_LENGTH)?)?)
}

fn compression(payload: &[u8]) -> Option<Compression> {
    match payload {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::With(Tool::Xz)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::With(Tool::Zstd)),
        [0x02, 0x21, 0x4c, 0x18, ..] => Some(Compression::With(Tool::Lz4)),
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[SETUP_SECTORS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = u8::try_from(payload.len()).unwrap();
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        assert_eq!(payload(&image(b"here")), Some(&b"here"[..]));
    }

    #[test]
    fn a_header_that_points_outside_is_refused() {
        let mut image = image(b"here");
        image[PAYLOAD_LENGTH] = 5;
        assert_eq!(payload(&image), None);
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].fill(0xff);
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"short"), None);
    }

    #[test]
    fn compressions_are_told_apart() {
        assert_eq!(compression(b"\xfd7zXZ\0..."), Some(Compression::With(Tool::Xz)));
        assert_eq!(compression(b"\x28\xb5\x2f\xfd"), Some(Compression::With(Tool::Zstd)));
        assert_eq!(compression(b"\x1f\x8b\x08"), Some(Compression::Gzip));
        assert_eq!(compression(b"\x7fELF"), None);
    }
}

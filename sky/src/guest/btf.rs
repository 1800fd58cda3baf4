//! The guest kernel's own description of its structures: BTF, as `Documentation/bpf/btf.rst` of Linux defines it.
//!
//! Debian's kernels carry it in their image, so offsets of structure members and of per-CPU variables are known
//! without symbols, debug packages or a table of kernel versions. The bytes come from the guest: everything is
//! checked once, while parsing, and a look-up afterwards can only miss.

use std::collections::HashMap;

use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, KnownLayout, Unaligned};

use crate::{Error, Result};

/// Bytes every BTF section of interest begins with: magic 0xeb9f, version 1, no flags, a header of 24 bytes.
pub const SIGNATURE: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];

/// Bytes of the header.
pub const HEADER: usize = 24;

/// No kernel's BTF is near this (6.12: 5 MiB); a larger one is refused rather than copied.
const MAX_SIZE: usize = 64 << 20;

/// Anonymous structures nest; no kernel comes near this.
const MAX_DEPTH: usize = 16;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: U16,
    version: u8,
    flags: u8,
    hdr_len: U32,
    type_off: U32,
    type_len: U32,
    str_off: U32,
    str_len: U32,
}

/// `struct btf_type`.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawType {
    name_off: U32,
    info: U32,
    size_or_type: U32,
}

/// The three words of `struct btf_member`, `btf_var_secinfo` and `btf_array`.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Triple(U32, U32, U32);

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

impl RawType {
    fn kind(self) -> u32 {
        (self.info.get() >> 24) & 0x1f
    }

    fn kind_flag(self) -> bool {
        self.info.get() >> 31 == 1
    }

    fn vlen(self) -> usize {
        (self.info.get() & 0xffff) as usize
    }

    /// Bytes that follow the three common words.
    fn tail(self) -> Option<usize> {
        Some(match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.vlen(),
            kind::ENUM | kind::FUNC_PROTO => 8 * self.vlen(),
            2 | 7..=12 | 16 | kind::TYPE_TAG => 0,
            _ => return None,
        })
    }
}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the beginning of the structure.
    pub offset: u64,
    type_id: u32,
}

/// A parsed BTF section.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Where type `id` lies in `bytes`; ids count from 1.
    types: Vec<usize>,
    structs: HashMap<String, u32>,
    variables: HashMap<String, (u64, u32)>,
}

/// Bytes of the whole section that begins with `header`, or an error if it is no BTF header.
///
/// # Errors
/// [`Error::Btf`]: another magic or version, or a size that no kernel has.
pub fn section_size(header: &[u8]) -> Result<usize> {
    let (header, _) =
        Header::ref_from_prefix(header).map_err(|_| Error::Btf("shorter than its header".into()))?;
    if header.magic.get() != 0xeb9f || header.version != 1 || header.hdr_len.get() != 24 {
        return Err(Error::Btf("not version 1".into()));
    }
    let end = |offset: U32, length: U32| u64::from(offset.get()) + u64::from(length.get());
    let body = end(header.type_off, header.type_len).max(end(header.str_off, header.str_len));
    match usize::try_from(body) {
        Ok(body) if body <= MAX_SIZE => Ok(HEADER + body),
        _ => Err(Error::Btf(format!("a section of {body} bytes"))),
    }
}

impl Btf {
    /// Parses a section, taken from its header to its end.
    ///
    /// # Errors
    /// [`Error::Btf`] says what is malformed.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let size = section_size(&bytes)?;
        if bytes.len() < size {
            return Err(Error::Btf(format!("{} bytes of {size}", bytes.len())));
        }
        let (header, _) =
            Header::ref_from_prefix(&bytes).map_err(|_| Error::Btf("shorter than its header".into()))?;
        let range = |offset: U32, length: U32| {
            let start = HEADER + offset.get() as usize;
            start..start + length.get() as usize
        };
        let strings = range(header.str_off, header.str_len);
        let body = range(header.type_off, header.type_len);
        let mut btf =
            Self { bytes, strings, types: vec![0], structs: HashMap::new(), variables: HashMap::new() };
        btf.index_types(body)?;
        btf.index_names();
        Ok(btf)
    }

    fn index_types(&mut self, body: std::ops::Range<usize>) -> Result<()> {
        let mut at = body.start;
        while at < body.end {
            let raw = self.raw_at(at).ok_or_else(|| Error::Btf("a type is cut off".into()))?;
            let tail = raw.tail().ok_or_else(|| Error::Btf(format!("unknown kind {}", raw.kind())))?;
            self.types.push(at);
            at += size_of::<RawType>() + tail;
        }
        if at == body.end { Ok(()) } else { Err(Error::Btf("the last type is cut off".into())) }
    }

    fn index_names(&mut self) {
        for id in 1..self.types.len() {
            let Ok(id) = u32::try_from(id) else { return };
            let Some(raw) = self.raw(id) else { continue };
            match raw.kind() {
                // The first of a name wins: vmlinux has one of each that we ask for.
                kind::STRUCT => {
                    if let Some(name) = self.name(raw.name_off.get()).filter(|name| !name.is_empty()) {
                        let name = name.to_owned();
                        self.structs.entry(name).or_insert(id);
                    }
                }
                kind::DATASEC if self.name(raw.name_off.get()) == Some(".data..percpu") => {
                    for index in 0..raw.vlen() {
                        let Some(Triple(variable, offset, _)) = self.triple(id, index) else { continue };
                        let Some(target) = self.raw(variable.get()) else { continue };
                        if let Some(name) = self.name(target.name_off.get()) {
                            let name = name.to_owned();
                            let place = (u64::from(offset.get()), target.size_or_type.get());
                            self.variables.entry(name).or_insert(place);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Byte offset of `member` in `structure`; dots go into nested structures (`f_path.dentry`), anonymous ones are
    /// looked through.
    ///
    /// # Errors
    /// [`Error::Btf`] names what is missing.
    pub fn offset(&self, structure: &str, member: &str) -> Result<u64> {
        Ok(self.member(structure, member)?.offset)
    }

    /// Like [`offset`](Self::offset), and what stands there.
    ///
    /// # Errors
    /// As [`offset`](Self::offset).
    pub fn member(&self, structure: &str, member: &str) -> Result<Member> {
        let missing = || Error::Btf(format!("no member {member} in struct {structure}"));
        let id = *self.structs.get(structure).ok_or_else(|| Error::Btf(format!("no struct {structure}")))?;
        let mut place = Member { offset: 0, type_id: id };
        for name in member.split('.') {
            let inner = self.find(place.type_id, name, 0).ok_or_else(missing)?;
            place = Member {
                offset: place.offset.checked_add(inner.offset).ok_or_else(missing)?,
                type_id: inner.type_id,
            };
        }
        Ok(place)
    }

    /// Bytes of a structure.
    ///
    /// # Errors
    /// [`Error::Btf`] names what is missing.
    pub fn size(&self, structure: &str) -> Result<u64> {
        let id = self.structs.get(structure).and_then(|&id| self.raw(id));
        id.map(|raw| raw.size_or_type.get().into())
            .ok_or_else(|| Error::Btf(format!("no struct {structure}")))
    }

    /// Whether the kernel has a structure of this name.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.structs.contains_key(name)
    }

    /// Offset of a per-CPU variable from the base that the kernel keeps in GS.
    #[must_use]
    pub fn per_cpu(&self, name: &str) -> Option<u64> {
        self.variables.get(name).map(|place| place.0)
    }

    /// Elements of the array that stands at `member`, and the bytes of one.
    ///
    /// # Errors
    /// [`Error::Btf`] when it is no array of structures.
    pub fn array(&self, member: Member) -> Result<(u32, u32)> {
        let odd = || Error::Btf("not an array of structures".into());
        let id = self.resolve(member.type_id).ok_or_else(odd)?;
        self.raw(id).filter(|raw| raw.kind() == kind::ARRAY).ok_or_else(odd)?;
        let Triple(element, _, count) = self.triple(id, 0).ok_or_else(odd)?;
        let element = self.resolve(element.get()).and_then(|id| self.raw(id)).ok_or_else(odd)?;
        if !matches!(element.kind(), kind::STRUCT | kind::UNION) {
            return Err(odd());
        }
        Ok((count.get(), element.size_or_type.get()))
    }

    fn find(&self, type_id: u32, name: &str, depth: usize) -> Option<Member> {
        if depth > MAX_DEPTH {
            return None;
        }
        let id = self.resolve(type_id)?;
        let raw = self.raw(id)?;
        if !matches!(raw.kind(), kind::STRUCT | kind::UNION) {
            return None;
        }
        for index in 0..raw.vlen() {
            let Triple(name_off, member_type, place) = self.triple(id, index)?;
            // With the kind flag the top byte is the width of a bit field.
            let bits = if raw.kind_flag() { place.get() & 0xff_ffff } else { place.get() };
            let offset = u64::from(bits / 8);
            let member_name = self.name(name_off.get())?;
            if member_name == name {
                return Some(Member { offset, type_id: member_type.get() });
            }
            if member_name.is_empty()
                && let Some(inner) = self.find(member_type.get(), name, depth + 1)
            {
                return Some(Member { offset: offset + inner.offset, ..inner });
            }
        }
        None
    }

    /// Looks through typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let raw = self.raw(id)?;
            match raw.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = raw.size_or_type.get();
                }
                _ => return Some(id),
            }
        }
        None
    }

    fn raw_at(&self, at: usize) -> Option<RawType> {
        RawType::read_from_prefix(self.bytes.get(at..)?).ok().map(|(raw, _)| raw)
    }

    fn raw(&self, id: u32) -> Option<RawType> {
        if id == 0 {
            return None;
        }
        self.raw_at(*self.types.get(id as usize)?)
    }

    fn triple(&self, id: u32, index: usize) -> Option<Triple> {
        let at = *self.types.get(id as usize)? + size_of::<RawType>() + index * size_of::<Triple>();
        Triple::read_from_prefix(self.bytes.get(at..)?).ok().map(|(triple, _)| triple)
    }

    fn name(&self, offset: u32) -> Option<&str> {
        let strings = self.bytes.get(self.strings.clone())?;
        let name = strings.get(offset as usize..)?;
        let end = name.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&name[..end]).ok()
    }
}

#[cfg(test)]
pub(crate) mod builder;
#[cfg(test)]
mod tests;

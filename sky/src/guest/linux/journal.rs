//! Whether a file system writes data twice: through its journal first, then to its place.

use super::{Linux, OpenFile, pointer};
use crate::Result;
use crate::guest::View;
use crate::guest::btf::Btf;

/// `EXT4_MOUNT_DATA_FLAGS` and `EXT4_MOUNT_JOURNAL_DATA` of fs/ext4/ext4.h.
const DATA_FLAGS: u32 = 0xc00;
const JOURNAL_DATA: u32 = 0x400;

/// Offsets in the structures of ext4, in bytes. Kernels that have it as a module do not describe them.
#[derive(Debug)]
pub(super) struct Ext4 {
    sb_type: u64,
    sb_info: u64,
    type_name: u64,
    mount_options: u64,
}

impl Ext4 {
    /// Looks up every offset that is needed.
    ///
    /// # Errors
    /// [`Error::Btf`](crate::Error::Btf) if this kernel has none of them.
    pub(super) fn new(btf: &Btf) -> Result<Self> {
        Ok(Self {
            sb_type: btf.offset("super_block", "s_type")?,
            sb_info: btf.offset("super_block", "s_fs_info")?,
            type_name: btf.offset("file_system_type", "name")?,
            mount_options: btf.offset("ext4_sb_info", "s_mount_opt")?,
        })
    }
}

impl Linux {
    /// Whether what is written to `file` goes through a journal as it is. Of ext4, which serves ext3 as well, the mount
    /// option is known, but not the attribute of single files (`chattr +j`).
    ///
    /// # Errors
    /// [`Error::NotMapped`](crate::Error::NotMapped).
    pub fn journals_data(&self, view: &View<'_>, file: &OpenFile) -> Result<bool> {
        let Some(ext4) = &self.ext4 else { return Ok(false) };
        let superblock = pointer(view, file.inode.offset(self.inode_sb))?;
        let kind = pointer(view, superblock.offset(ext4.sb_type))?;
        let name = view.read_u64(pointer(view, kind.offset(ext4.type_name))?)?.to_le_bytes();
        if !matches!(&name[..5], b"ext4\0" | b"ext3\0") {
            return Ok(false);
        }
        let info = pointer(view, superblock.offset(ext4.sb_info))?;
        Ok(view.read_u32(info.offset(ext4.mount_options))? & DATA_FLAGS == JOURNAL_DATA)
    }
}

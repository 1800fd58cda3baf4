//! Open files: what a descriptor means, and by what path.

use super::{Linux, pointer};
use crate::guest::{Gva, View};
use crate::{Error, Result};

/// Longest path, `PATH_MAX`.
const PATH_MAX: usize = 4096;
/// More steps than a path of `PATH_MAX` bytes can have.
const MAX_DEPTH: usize = PATH_MAX / 2;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// A file that a guest thread has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Identity: the device and inode numbers.
    pub identity: (u32, u64),
    /// What the file system tells files by that have an inode number one after the other (`i_generation`).
    pub generation: u32,
    /// How many names it has.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Position of the descriptor in bytes.
    pub position: u64,
    /// Flags of `open(2)`, `O_APPEND` and such.
    pub flags: u32,
    pub(super) inode: Gva,
    dentry: Gva,
    mount: Gva,
}

/// What has become of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel no longer knows its inode, or has done with it.
    Gone,
    /// It has no name any more, but somebody has it open, or mapped.
    Orphaned,
    /// It is still there.
    There {
        /// Its path now, if the kernel still knows the name by which it was opened.
        path: Option<String>,
        /// Size in bytes.
        size: u64,
    },
}

impl Linux {
    /// What has become of a file that was open at some time. Its inode and its name may be somebody else's by now, and
    /// say so.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn fate(&self, view: &View<'_>, file: &OpenFile) -> Result<Fate> {
        let inode = file.inode;
        if view.read_u64(inode.offset(self.inode_ino))? != file.identity.1
            || view.read_u32(inode.offset(self.inode_generation))? != file.generation
        {
            return Ok(Fate::Gone);
        }
        if view.read_u32(inode.offset(self.inode_links))? == 0 {
            let is_used = view.read_u32(inode.offset(self.inode_count))? != 0;
            return Ok(if is_used { Fate::Orphaned } else { Fate::Gone });
        }
        let known = view.read_u64(file.dentry.offset(self.dentry_inode)).is_ok_and(|at| at == inode.0);
        let path = if known { self.path(view, file).ok() } else { None };
        Ok(Fate::There { path, size: view.read_u64(inode.offset(self.inode_size))? })
    }

    /// What `fd` of `task` refers to, or `None` unless it is an open regular file.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn open_file(&self, view: &View<'_>, task: Gva, fd: u32) -> Result<Option<OpenFile>> {
        match self.descriptor(view, task, fd)? {
            Some(file) => self.file(view, file),
            None => Ok(None),
        }
    }

    /// The `struct file` that `fd` of `task` refers to.
    pub(super) fn descriptor(&self, view: &View<'_>, task: Gva, fd: u32) -> Result<Option<Gva>> {
        let table = pointer(view, pointer(view, task.offset(self.task_files))?.offset(self.files_fdt))?;
        if fd >= view.read_u32(table.offset(self.fdt_max_fds))? {
            return Ok(None);
        }
        let slots = pointer(view, table.offset(self.fdt_fd))?;
        let file = Gva(view.read_u64(slots.offset(u64::from(fd) * 8))?);
        Ok(file.is_kernel().then_some(file))
    }

    /// The executable of `task`; `None` for a thread of the kernel, and an executable that is no regular file.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn executable_file(&self, view: &View<'_>, task: Gva) -> Result<Option<OpenFile>> {
        let mm = Gva(view.read_u64(task.offset(self.task_mm))?);
        if mm.0 == 0 {
            return Ok(None);
        }
        let file = Gva(view.read_u64(mm.offset(self.mm_exe_file))?);
        if file.is_kernel() { self.file(view, file) } else { Ok(None) }
    }

    /// What a `struct file` is, if it is a regular file.
    fn file(&self, view: &View<'_>, file: Gva) -> Result<Option<OpenFile>> {
        let inode = pointer(view, file.offset(self.file_inode))?;
        if view.read_u32(inode.offset(self.inode_mode))? & S_IFMT != S_IFREG {
            return Ok(None);
        }
        let superblock = pointer(view, inode.offset(self.inode_sb))?;
        Ok(Some(OpenFile {
            identity: (
                view.read_u32(superblock.offset(self.sb_dev))?,
                view.read_u64(inode.offset(self.inode_ino))?,
            ),
            generation: view.read_u32(inode.offset(self.inode_generation))?,
            links: view.read_u32(inode.offset(self.inode_links))?,
            size: view.read_u64(inode.offset(self.inode_size))?,
            position: view.read_u64(file.offset(self.file_pos))?,
            flags: view.read_u32(file.offset(self.file_flags))?,
            inode,
            dentry: pointer(view, file.offset(self.file_dentry))?,
            mount: pointer(view, file.offset(self.file_mnt))?,
        }))
    }

    /// Path of an open file from the root of its mount namespace, as `d_path()` makes it.
    ///
    /// # Errors
    /// [`Error::NotMapped`] or [`Error::TooLong`].
    pub fn path(&self, view: &View<'_>, file: &OpenFile) -> Result<String> {
        self.dentry_path(view, file.dentry, file.mount)
    }

    /// Path of a `struct path`: its dentry and vfsmount.
    pub(super) fn dentry_path(&self, view: &View<'_>, first: Gva, vfsmount: Gva) -> Result<String> {
        let mut parts: Vec<String> = Vec::new();
        let mut length = 0;
        let mut dentry = first;
        // It points at the vfsmount inside its struct mount.
        let mut mount = Gva(vfsmount.0.wrapping_sub(self.mount_vfsmount));
        for _ in 0..MAX_DEPTH {
            let root = pointer(view, mount.offset(self.mount_vfsmount + self.vfsmount_root))?;
            if dentry == root {
                let parent = pointer(view, mount.offset(self.mount_parent))?;
                if parent == mount {
                    parts.reverse();
                    return Ok(format!("/{}", parts.join("/")));
                }
                dentry = pointer(view, mount.offset(self.mount_mountpoint))?;
                mount = parent;
                continue;
            }
            let name = self.name(view, dentry)?;
            length += name.len() + 1;
            if length > PATH_MAX {
                break;
            }
            parts.push(name);
            dentry = pointer(view, dentry.offset(self.dentry_parent))?;
        }
        Err(Error::TooLong(first))
    }
}

//! What a running Linux guest says of itself: the current task, its address space, its executable, its open files.
//!
//! Offsets come from the guest's BTF, values from its memory. All of it is read while the virtual CPU stands still.

use crate::guest::btf::Btf;
use crate::guest::{Gva, View};
use crate::{Error, Result};

/// Longest file name, `NAME_MAX`.
const NAME_MAX: usize = 255;
/// Longest path, `PATH_MAX`.
const PATH_MAX: usize = 4096;
/// More steps than a path of `PATH_MAX` bytes can have.
const MAX_DEPTH: usize = PATH_MAX / 2;
/// More tasks than any guest has; bounds the walk over a list that lies in guest memory.
const MAX_TASKS: usize = 1 << 20;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// Offsets in the guest kernel's structures, in bytes.
#[derive(Debug)]
pub struct Linux {
    current: u64,
    tlb_contexts: u64,
    tlb_context_size: u64,
    tlb_context_count: u64,
    tlb_ctx_id: u64,
    task_mm: u64,
    task_files: u64,
    task_tasks: u64,
    task_tgid: u64,
    mm_ctx_id: u64,
    mm_exe_file: u64,
    files_fdt: u64,
    fdt_fd: u64,
    fdt_max_fds: u64,
    file_dentry: u64,
    file_mnt: u64,
    file_inode: u64,
    file_pos: u64,
    file_flags: u64,
    inode_mode: u64,
    inode_size: u64,
    inode_ino: u64,
    inode_sb: u64,
    sb_dev: u64,
    dentry_name: u64,
    dentry_parent: u64,
    vfsmount_root: u64,
    mount_vfsmount: u64,
    mount_parent: u64,
    mount_mountpoint: u64,
}

/// A file that a guest thread has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Identity: the device and inode numbers.
    pub identity: (u32, u64),
    /// Size in bytes.
    pub size: u64,
    /// Position of the descriptor in bytes.
    pub position: u64,
    /// Flags of `open(2)`, `O_APPEND` and such.
    pub flags: u32,
    dentry: Gva,
    mount: Gva,
}

/// A process of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Number of its address space, never used twice by a running kernel.
    pub ctx_id: u64,
    /// File name of its executable, without folders.
    pub executable: String,
}

impl Linux {
    /// Looks up every offset that is needed.
    ///
    /// # Errors
    /// [`Error::Btf`] names the first structure or member that this kernel does not have.
    pub fn new(btf: &Btf) -> Result<Self> {
        let missing = |name: &str| Error::Btf(format!("no per-CPU variable {name}"));
        let current = match btf.per_cpu("current_task") {
            Some(offset) => offset,
            // 6.2 to 6.14 keep it with other hot variables.
            None => {
                btf.per_cpu("pcpu_hot").ok_or_else(|| missing("current_task"))?
                    + btf.offset("pcpu_hot", "current_task")?
            }
        };
        let contexts = btf.member("tlb_state", "ctxs")?;
        let (count, size) = btf.array(contexts)?;
        Ok(Self {
            current,
            tlb_contexts: btf.per_cpu("cpu_tlbstate").ok_or_else(|| missing("cpu_tlbstate"))?
                + contexts.offset,
            tlb_context_size: u64::from(size),
            tlb_context_count: u64::from(count),
            tlb_ctx_id: btf.offset("tlb_context", "ctx_id")?,
            task_mm: btf.offset("task_struct", "mm")?,
            task_files: btf.offset("task_struct", "files")?,
            task_tasks: btf.offset("task_struct", "tasks")?,
            task_tgid: btf.offset("task_struct", "tgid")?,
            mm_ctx_id: btf.offset("mm_struct", "context.ctx_id")?,
            mm_exe_file: btf.offset("mm_struct", "exe_file")?,
            files_fdt: btf.offset("files_struct", "fdt")?,
            fdt_fd: btf.offset("fdtable", "fd")?,
            fdt_max_fds: btf.offset("fdtable", "max_fds")?,
            file_dentry: btf.offset("file", "f_path.dentry")?,
            file_mnt: btf.offset("file", "f_path.mnt")?,
            file_inode: btf.offset("file", "f_inode")?,
            file_pos: btf.offset("file", "f_pos")?,
            file_flags: btf.offset("file", "f_flags")?,
            inode_mode: btf.offset("inode", "i_mode")?,
            inode_size: btf.offset("inode", "i_size")?,
            inode_ino: btf.offset("inode", "i_ino")?,
            inode_sb: btf.offset("inode", "i_sb")?,
            sb_dev: btf.offset("super_block", "s_dev")?,
            dentry_name: btf.offset("dentry", "d_name.name")?,
            dentry_parent: btf.offset("dentry", "d_parent")?,
            vfsmount_root: btf.offset("vfsmount", "mnt_root")?,
            mount_vfsmount: btf.offset("mount", "mnt")?,
            mount_parent: btf.offset("mount", "mnt_parent")?,
            mount_mountpoint: btf.offset("mount", "mnt_mountpoint")?,
        })
    }

    /// The task that runs on the CPU whose per-CPU area begins at `per_cpu`.
    ///
    /// # Errors
    /// [`Error::NotMapped`], as with everything here that reads the guest.
    pub fn current(&self, view: &View<'_>, per_cpu: Gva) -> Result<Gva> {
        pointer(view, per_cpu.offset(self.current))
    }

    /// Number of the address space that the value `cr3` belongs to, while that CPU's kernel has just loaded it.
    ///
    /// `switch_mm_irqs_off` files the number under the address-space id that CR3 carries (0 without PCID) before it
    /// writes CR3, so at that point it is exact, unlike the page directory's frame, which is used again at once.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn loaded_ctx_id(&self, view: &View<'_>, per_cpu: Gva, cr3: u64) -> Result<u64> {
        // kern_pcid(): the id is stored plus one, bit 11 marks the user's half.
        let slot = (cr3 & 0x7ff).saturating_sub(1).min(self.tlb_context_count.saturating_sub(1));
        view.read_u64(per_cpu.offset(self.tlb_contexts + slot * self.tlb_context_size + self.tlb_ctx_id))
    }

    /// The process that `task` belongs to, or `None` for a kernel thread.
    ///
    /// # Errors
    /// [`Error::NotMapped`] or [`Error::TooLong`].
    pub fn process(&self, view: &View<'_>, task: Gva) -> Result<Option<Process>> {
        let mm = Gva(view.read_u64(task.offset(self.task_mm))?);
        if mm.0 == 0 {
            return Ok(None);
        }
        let exe = Gva(view.read_u64(mm.offset(self.mm_exe_file))?);
        let executable = if exe.0 == 0 {
            String::new()
        } else {
            self.name(view, pointer(view, exe.offset(self.file_dentry))?)?
        };
        Ok(Some(Process {
            pid: view.read_u32(task.offset(self.task_tgid))?,
            ctx_id: view.read_u64(mm.offset(self.mm_ctx_id))?,
            executable,
        }))
    }

    /// Every process of the guest, found from any of its tasks.
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] if the list of tasks has no end.
    pub fn processes(&self, view: &View<'_>, task: Gva) -> Result<Vec<Process>> {
        let mut all = Vec::new();
        let mut at = task;
        for _ in 0..MAX_TASKS {
            // An executable that cannot be named must not hide the rest of the list.
            if let Ok(Some(process)) = self.process(view, at) {
                all.push(process);
            }
            at = Gva(pointer(view, at.offset(self.task_tasks))?.0.wrapping_sub(self.task_tasks));
            if at == task {
                return Ok(all);
            }
        }
        Err(Error::Kernel("the list of tasks has no end"))
    }

    /// What `fd` of `task` refers to, or `None` unless it is an open regular file.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn open_file(&self, view: &View<'_>, task: Gva, fd: u32) -> Result<Option<OpenFile>> {
        let table = pointer(view, pointer(view, task.offset(self.task_files))?.offset(self.files_fdt))?;
        if fd >= view.read_u32(table.offset(self.fdt_max_fds))? {
            return Ok(None);
        }
        let slots = pointer(view, table.offset(self.fdt_fd))?;
        let file = Gva(view.read_u64(slots.offset(u64::from(fd) * 8))?);
        if file.0 == 0 {
            return Ok(None);
        }
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
            size: view.read_u64(inode.offset(self.inode_size))?,
            position: view.read_u64(file.offset(self.file_pos))?,
            flags: view.read_u32(file.offset(self.file_flags))?,
            dentry: pointer(view, file.offset(self.file_dentry))?,
            mount: pointer(view, file.offset(self.file_mnt))?,
        }))
    }

    /// Path of an open file from the root of its mount namespace, as `d_path()` makes it.
    ///
    /// # Errors
    /// [`Error::NotMapped`] or [`Error::TooLong`].
    pub fn path(&self, view: &View<'_>, file: &OpenFile) -> Result<String> {
        let mut parts: Vec<String> = Vec::new();
        let mut length = 0;
        let mut dentry = file.dentry;
        // The file points at the vfsmount inside its struct mount.
        let mut mount = Gva(file.mount.0.wrapping_sub(self.mount_vfsmount));
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
        Err(Error::TooLong(file.dentry))
    }

    fn name(&self, view: &View<'_>, dentry: Gva) -> Result<String> {
        view.read_string(pointer(view, dentry.offset(self.dentry_name))?, NAME_MAX + 1)
    }
}

/// Reads a pointer that must point into the kernel.
fn pointer(view: &View<'_>, at: Gva) -> Result<Gva> {
    let value = Gva(view.read_u64(at)?);
    if value.is_kernel() { Ok(value) } else { Err(Error::Kernel("a pointer does not point into the kernel")) }
}

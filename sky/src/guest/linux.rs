//! What a running Linux guest says of itself: the current task, its address space, its executable, its open files.
//!
//! Offsets come from the guest's BTF, values from its memory. All of it is read while the virtual CPU stands still.

mod files;
mod owners;
mod pages;
mod process;
mod uring;

use crate::guest::btf::Btf;
use crate::guest::{Gva, View};
use crate::{Error, Result};

pub use files::{Fate, OpenFile};
pub use owners::CachedBlock;
pub(crate) use owners::PageOwners;
pub use process::{Process, Thread};
pub use uring::Submissions;

/// Longest file name, `NAME_MAX`.
const NAME_MAX: usize = 255;

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
    task_pid: u64,
    task_parent: u64,
    task_signal: u64,
    task_thread_node: u64,
    task_stack: u64,
    task_syscall_work: u64,
    signal_threads: u64,
    mm_pgd: u64,
    mm_arg_start: u64,
    mm_arg_end: u64,
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
    inode_links: u64,
    inode_count: u64,
    inode_generation: u64,
    sb_dev: u64,
    dentry_name: u64,
    dentry_parent: u64,
    dentry_inode: u64,
    vfsmount_root: u64,
    mount_vfsmount: u64,
    mount_parent: u64,
    mount_mountpoint: u64,
    /// Not for all kernels.
    pages: Option<pages::PageCache>,
    owners: Option<owners::Offsets>,
    uring: Option<uring::Uring>,
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
            task_pid: btf.offset("task_struct", "pid")?,
            task_parent: btf.offset("task_struct", "real_parent")?,
            task_signal: btf.offset("task_struct", "signal")?,
            task_thread_node: btf.offset("task_struct", "thread_node")?,
            task_stack: btf.offset("task_struct", "stack")?,
            task_syscall_work: btf.offset("task_struct", "thread_info.syscall_work")?,
            signal_threads: btf.offset("signal_struct", "thread_head")?,
            mm_pgd: btf.offset("mm_struct", "pgd")?,
            mm_arg_start: btf.offset("mm_struct", "arg_start")?,
            mm_arg_end: btf.offset("mm_struct", "arg_end")?,
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
            inode_links: btf.offset("inode", "i_nlink")?,
            inode_count: btf.offset("inode", "i_count")?,
            inode_generation: btf.offset("inode", "i_generation")?,
            sb_dev: btf.offset("super_block", "s_dev")?,
            dentry_name: btf.offset("dentry", "d_name.name")?,
            dentry_parent: btf.offset("dentry", "d_parent")?,
            dentry_inode: btf.offset("dentry", "d_inode")?,
            vfsmount_root: btf.offset("vfsmount", "mnt_root")?,
            mount_vfsmount: btf.offset("mount", "mnt")?,
            mount_parent: btf.offset("mount", "mnt_parent")?,
            mount_mountpoint: btf.offset("mount", "mnt_mountpoint")?,
            pages: pages::PageCache::new(btf).ok(),
            owners: owners::Offsets::new(btf).ok(),
            uring: uring::Uring::new(btf).ok(),
        })
    }

    /// The task that runs on the CPU whose per-CPU area begins at `per_cpu`.
    ///
    /// # Errors
    /// [`Error::NotMapped`], as with everything here that reads the guest.
    pub fn current(&self, view: &View<'_>, per_cpu: Gva) -> Result<Gva> {
        pointer(view, per_cpu.offset(self.current))
    }

    /// Where the CPU whose per-CPU area begins at `per_cpu` keeps the number of the address space that it has loaded
    /// in `slot`: `cpu_tlbstate.ctxs[slot].ctx_id`.
    #[must_use]
    pub fn loaded_ctx_id(&self, per_cpu: Gva, slot: u64) -> Gva {
        let slot = slot.min(self.tlb_context_count.saturating_sub(1));
        per_cpu.offset(self.tlb_contexts + slot * self.tlb_context_size + self.tlb_ctx_id)
    }
}

/// Reads a pointer that must point into the kernel.
fn pointer(view: &View<'_>, at: Gva) -> Result<Gva> {
    let value = Gva(view.read_u64(at)?);
    if value.is_kernel() { Ok(value) } else { Err(Error::Kernel("a pointer does not point into the kernel")) }
}

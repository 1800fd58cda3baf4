//! Processes and threads: who they are, whose children, where their kernel stacks lie.

use super::{Linux, NAME_MAX, pointer};
use crate::guest::{Gpa, Gva, View};
use crate::{Error, Result};

/// More tasks than any guest has; bounds the walks over lists that lie in guest memory.
const MAX_TASKS: usize = 1 << 20;
/// What is read of a command line, in bytes.
const MAX_COMMAND: u64 = 4096;

/// A process of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Number of its address space, never used twice by a running kernel.
    pub ctx_id: u64,
    /// File name of its executable, without folders; empty if it has none.
    pub executable: String,
    /// Any task of it.
    pub task: Gva,
}

/// A thread of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its `task_struct`.
    pub task: Gva,
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Number of its address space; 0 for a thread of the kernel.
    pub ctx_id: u64,
    /// Lowest address of its kernel stack.
    pub stack: Gva,
}

impl Linux {
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
            pid: self.pid(view, task)?,
            ctx_id: view.read_u64(mm.offset(self.mm_ctx_id))?,
            executable,
            task,
        }))
    }

    /// Process id of `task` in the initial namespace.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn pid(&self, view: &View<'_>, task: Gva) -> Result<u32> {
        view.read_u32(task.offset(self.task_tgid))
    }

    /// Thread id of `task` in the initial namespace.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn tid(&self, view: &View<'_>, task: Gva) -> Result<u32> {
        view.read_u32(task.offset(self.task_pid))
    }

    /// The process that `task` is a child of; its adopter if that has ended.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn parent(&self, view: &View<'_>, task: Gva) -> Result<Gva> {
        pointer(view, task.offset(self.task_parent))
    }

    /// Path of the executable of `task` from the root of its mount namespace.
    ///
    /// # Errors
    /// [`Error::NotMapped`] or [`Error::TooLong`]; [`Error::Kernel`] for a thread of the kernel.
    pub fn executable_path(&self, view: &View<'_>, task: Gva) -> Result<String> {
        let exe = pointer(view, pointer(view, task.offset(self.task_mm))?.offset(self.mm_exe_file))?;
        let dentry = pointer(view, exe.offset(self.file_dentry))?;
        self.dentry_path(view, dentry, pointer(view, exe.offset(self.file_mnt))?)
    }

    /// Command line of `task`, its arguments separated by blanks, as far as its pages are there.
    ///
    /// # Errors
    /// [`Error::NotMapped`]; [`Error::Kernel`] for a thread of the kernel.
    pub fn command_line(&self, view: &View<'_>, task: Gva) -> Result<String> {
        let mm = pointer(view, task.offset(self.task_mm))?;
        let start = view.read_u64(mm.offset(self.mm_arg_start))?;
        let end = view.read_u64(mm.offset(self.mm_arg_end))?;
        let length = end.saturating_sub(start).min(MAX_COMMAND);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        view.of_directory(self.directory(view, mm)?.0).read(Gva(start), &mut bytes)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        let line = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>();
        Ok(line.join(" "))
    }

    /// Where the page directory of an address space lies. The kernel names it by its own address for it.
    fn directory(&self, view: &View<'_>, mm: Gva) -> Result<Gpa> {
        Ok(view.translate(pointer(view, mm.offset(self.mm_pgd))?)?.gpa)
    }

    /// Every process of the guest, found from its [first task](Self::first_task).
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] if the list of tasks has no end.
    pub fn processes(&self, view: &View<'_>, task: Gva) -> Result<Vec<Process>> {
        let mut all = Vec::new();
        // A process that cannot be named must not hide the rest of the list.
        self.each(view, task, self.task_tasks, |at| {
            all.extend(self.process(view, at).ok().flatten());
            Ok(())
        })?;
        Ok(all)
    }

    /// The guest's first task, which never ends, found from any other. It is its own parent.
    ///
    /// Not every task is in the list of tasks: threads are not, nor are the idle tasks of further CPUs.
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] if the ancestors have no end.
    pub fn first_task(&self, view: &View<'_>, task: Gva) -> Result<Gva> {
        let mut at = task;
        for _ in 0..MAX_TASKS {
            let parent = self.parent(view, at)?;
            if parent == at {
                return Ok(at);
            }
            at = parent;
        }
        Err(Error::Kernel("the ancestors of a task have no end"))
    }

    /// Every thread of every process, found from the [first task](Self::first_task).
    ///
    /// While the guest runs this is still right about a thread that lives all the time.
    ///
    /// # Errors
    /// As [`processes`](Self::processes).
    pub fn threads(&self, view: &View<'_>, task: Gva) -> Result<Vec<Thread>> {
        let mut all = Vec::new();
        self.each(view, task, self.task_tasks, |leader| {
            let signal = pointer(view, leader.offset(self.task_signal))?;
            let head = signal.offset(self.signal_threads);
            let mut node = pointer(view, head)?;
            for _ in 0..MAX_TASKS {
                if node == head {
                    return Ok(());
                }
                let task = Gva(node.0.wrapping_sub(self.task_thread_node));
                all.push(self.thread(view, task)?);
                if all.len() > MAX_TASKS {
                    break;
                }
                node = pointer(view, node)?;
            }
            Err(Error::Kernel("the list of threads has no end"))
        })?;
        Ok(all)
    }

    fn thread(&self, view: &View<'_>, task: Gva) -> Result<Thread> {
        let mm = Gva(view.read_u64(task.offset(self.task_mm))?);
        Ok(Thread {
            task,
            pid: self.pid(view, task)?,
            tid: self.tid(view, task)?,
            ctx_id: if mm.0 == 0 { 0 } else { view.read_u64(mm.offset(self.mm_ctx_id))? },
            stack: Gva(view.read_u64(task.offset(self.task_stack))?),
        })
    }

    /// Lowest address of the kernel stack of `task`.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn stack(&self, view: &View<'_>, task: Gva) -> Result<Gva> {
        pointer(view, task.offset(self.task_stack))
    }

    /// Whether somebody in the guest watches or filters the system calls of `task`: ptrace, seccomp, audit, tracing
    /// (`enum syscall_work_bit`, include/linux/thread_info.h).
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn is_observed(&self, view: &View<'_>, task: Gva) -> Result<bool> {
        Ok(view.read_u64(task.offset(self.task_syscall_work))? != 0)
    }

    /// Visits a circular list of tasks that are linked by the `list_head` at `link`.
    fn each(
        &self,
        view: &View<'_>,
        task: Gva,
        link: u64,
        mut visit: impl FnMut(Gva) -> Result<()>,
    ) -> Result<()> {
        let mut at = task;
        for _ in 0..MAX_TASKS {
            visit(at)?;
            at = Gva(pointer(view, at.offset(link))?.0.wrapping_sub(link));
            if at == task {
                return Ok(());
            }
        }
        Err(Error::Kernel("the list of tasks has no end"))
    }

    /// Name of a dentry.
    pub(super) fn name(&self, view: &View<'_>, dentry: Gva) -> Result<String> {
        view.read_string(pointer(view, dentry.offset(self.dentry_name))?, NAME_MAX + 1)
    }
}

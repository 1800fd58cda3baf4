//! The fake guest's kernel: page tables, text, type information, tasks.

use std::collections::HashMap;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guest::btf::builder::Builder;

/// 8 MiB of guest memory from 4 MiB on, mapped here by 2 MiB pages; user addresses below 8 MiB are their own frames.
pub(in crate::trap::engine) const BASE: u64 = 0xffff_ffff_8100_0000;
pub(in crate::trap::engine) const LSTAR: u64 = BASE + 0x1_0000;
pub(in crate::trap::engine) const IRET: u64 = LSTAR + 0x200;
/// The entries of 32-bit code.
pub(in crate::trap::engine) const CSTAR: u64 = LSTAR + 0x800;
pub(in crate::trap::engine) const SYSENTER: u64 = LSTAR + 0x900;
pub(in crate::trap::engine) const INT80: u64 = LSTAR + 0xa00;
pub(in crate::trap::engine) const PADDING: u64 = BASE + 0x1_1000;
pub(in crate::trap::engine) const GATE: u64 = BASE + 0x2_0000;
pub(in crate::trap::engine) const IDT: u64 = BASE + 0x3_0000;
/// `bts rdi, 63; mov cr3, rdi; nop`: the NOP.
pub(in crate::trap::engine) const SWITCH: u64 = BASE + 0x4_0008;
pub(in crate::trap::engine) const DISPATCHER: u64 = BASE + 0x5_0000;
const BTF: u64 = BASE + 0x20_0000;
const PER_CPU: u64 = BASE + 0x40_0000;
/// In a per-CPU area.
pub(in crate::trap::engine) const CURRENT: u64 = 0x100;
pub(in crate::trap::engine) const STACK_TOP: u64 = 0x108;
pub(in crate::trap::engine) const CONTEXTS: u64 = 0x200;
const USER_RSP: u64 = 0x120;
const OBJECTS: u64 = BASE + 0x41_0000;
const ENTRY_STACK: u64 = BASE + 0x42_0000;
const THREAD_STACK: u64 = BASE + 0x43_0000;
const STACK_SIZE: u64 = 0x2000;
const DIRECTORIES: u64 = BASE + 0x48_0000;
const USER_ARGUMENTS: u64 = 0x13_0000;

pub(in crate::trap::engine) fn per_cpu(cpu: usize) -> u64 {
    PER_CPU + cpu as u64 * 0x1000
}

pub(in crate::trap::engine) fn entry_stack(cpu: usize) -> u64 {
    ENTRY_STACK + cpu as u64 * 0x1000
}

/// Where the task in `slot` lies. Everything that hangs on it is in the same 4 KiB.
pub(in crate::trap::engine) fn object(slot: usize) -> u64 {
    OBJECTS + slot as u64 * 0x1000
}

pub(in crate::trap::engine) fn stack_top(slot: usize) -> u64 {
    THREAD_STACK + (slot as u64 + 1) * STACK_SIZE
}

/// Page directory of the process whose first thread is in `slot`.
pub(in crate::trap::engine) fn directory(slot: usize) -> u64 {
    physical(DIRECTORIES + slot as u64 * 0x2000)
}

pub(in crate::trap::engine) fn physical(gva: u64) -> u64 {
    if gva >= BASE { gva - BASE + 0x40_0000 } else { gva }
}

/// What a new process is to be.
#[derive(Clone, Copy, Debug)]
pub(in crate::trap::engine) struct Identity<'a> {
    pub(in crate::trap::engine) slot: usize,
    pub(in crate::trap::engine) pid: u32,
    pub(in crate::trap::engine) ctx_id: u64,
    pub(in crate::trap::engine) parent: usize,
    pub(in crate::trap::engine) executable: &'a str,
    pub(in crate::trap::engine) command: &'a str,
}

/// Guest memory that a kernel has filled.
#[derive(Debug)]
pub(in crate::trap::engine) struct Kernel(pub(in crate::trap::engine) GuestMemoryMmap);

impl Kernel {
    pub(in crate::trap::engine) fn new() -> Self {
        let kernel = Self(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap());
        kernel.word(0x2000, 0x5003);
        kernel.word(0x3000 + 510 * 8, 0x4003);
        for page in 0..4u64 {
            kernel.word(0x5000 + page * 8, (page << 21) | 0x83);
            let data = if page == 0 { 0 } else { 1 << 63 };
            kernel.word(0x4000 + (((BASE >> 21) & 511) + page) * 8, (0x40_0000 + (page << 21)) | 0x83 | data);
        }
        kernel.text();
        kernel.put(BTF, &btf());
        kernel
    }

    pub(in crate::trap::engine) fn put(&self, gva: u64, bytes: &[u8]) {
        self.0.write_slice(bytes, GuestAddress(physical(gva))).unwrap();
    }

    pub(in crate::trap::engine) fn word(&self, gva: u64, value: u64) {
        self.put(gva, &value.to_le_bytes());
    }

    pub(in crate::trap::engine) fn get(&self, gva: u64) -> u64 {
        self.0.read_obj(GuestAddress(physical(gva))).unwrap()
    }

    pub(in crate::trap::engine) fn bytes(&self, gva: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_slice(&mut bytes, GuestAddress(physical(gva))).unwrap();
        bytes
    }

    /// A way in and two ways out as Linux 6.12 has them, shortened.
    fn text(&self) {
        let rel32 =
            |from: u64, to: u64| u32::try_from(to.wrapping_sub(from) & 0xffff_ffff).unwrap().to_le_bytes();
        let offset = |value: u64| u32::try_from(value).unwrap().to_le_bytes();
        // endbr64; swapgs; mov gs:[USER_RSP], rsp; jmp over two int3; mov rsp, gs:[rip+..]
        let mut text = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xf8, 0x65, 0x48, 0x89, 0x24, 0x25];
        text.extend(offset(USER_RSP));
        text.extend([0xeb, 0x02, 0xcc, 0xcc, 0x65, 0x48, 0x8b, 0x25]);
        text.extend(rel32(LSTAR + text.len() as u64 + 4, STACK_TOP));
        // push 0x2b; push gs:[USER_RSP]; push r11; push 0x33; push rcx; push rax
        text.extend([0x6a, 0x2b, 0x65, 0xff, 0x34, 0x25]);
        text.extend(offset(USER_RSP));
        text.extend([0x41, 0x53, 0x6a, 0x33, 0x51, 0x50]);
        // push rdi, rsi, rdx, rcx, -ENOSYS, r8 to r11, rbx, rbp, r12 to r15; xor ebx, ebx
        text.extend([0x57, 0x56, 0x52, 0x51, 0x6a, 0xda, 0x41, 0x50, 0x41, 0x51, 0x41, 0x52, 0x41, 0x53]);
        text.extend([0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x31, 0xdb]);
        // mov rdi, rsp; movsxd rsi, eax; call
        text.extend([0x48, 0x89, 0xe7, 0x48, 0x63, 0xf0, 0xe8]);
        text.extend(rel32(LSTAR + text.len() as u64 + 4, DISPATCHER));
        // test al, al; je IRET; mov rcx, [rsp+0x80]; mov r11, [rsp+0x90]
        text.extend([0x84, 0xc0, 0x0f, 0x84]);
        text.extend(rel32(LSTAR + text.len() as u64 + 4, IRET));
        text.extend([0x48, 0x8b, 0x8c, 0x24, 0x80, 0, 0, 0, 0x4c, 0x8b, 0x9c, 0x24, 0x90, 0, 0, 0]);
        // pop all but r11 and rcx, which go to rsi; mov rsp, [rsp+0x20]; swapgs; sysretq
        text.extend([
            0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0x5e, 0x41, 0x5a, 0x41, 0x59,
        ]);
        text.extend([0x41, 0x58, 0x58, 0x5e, 0x5a, 0x5e, 0x5f, 0x48, 0x8b, 0x64, 0x24, 0x20]);
        text.extend([0x0f, 0x01, 0xf8, 0x48, 0x0f, 0x07]);
        self.put(LSTAR, &text);
        // pop all; add rsp, 8; swapgs; iretq
        let mut text =
            vec![0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0x41, 0x5b, 0x41, 0x5a];
        text.extend([0x41, 0x59, 0x41, 0x58, 0x58, 0x59, 0x5a, 0x5e, 0x5f]);
        text.extend([0x48, 0x83, 0xc4, 0x08, 0x0f, 0x01, 0xf8, 0x48, 0xcf]);
        self.put(IRET, &text);
        self.put(PADDING, &[0xcc; 0x3000]);
        self.put(GATE, &[0x0f, 0x01, 0xca]);
        self.put(SWITCH - 8, &[0x48, 0x0f, 0xba, 0xef, 0x3f, 0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00]);
        for (vector, handler, kind) in [(6, GATE, 0x8e), (0x80, INT80, 0xee)] {
            let gate = IDT + vector * 16;
            self.word(gate, (handler & 0xffff) | (kind << 40) | (((handler >> 16) & 0xffff) << 48));
            self.word(gate + 8, handler >> 32);
        }
    }

    /// Lays down a task and all that hangs on it; file 3 is `/a.bin`, 12 KiB long, at position 8 KiB.
    pub(in crate::trap::engine) fn process(&self, new: Identity<'_>) {
        let task = object(new.slot);
        self.put(task, &[0; 0x1000]);
        let (files, table, slots, file, inode) =
            (task + 0x200, task + 0x240, task + 0x280, task + 0x300, task + 0x340);
        let (superblock, dentry, root, mount, name) =
            (task + 0x380, task + 0x3c0, task + 0x400, task + 0x440, task + 0x480);
        for (at, value) in [
            (files, table),
            (table, slots),
            (table + 8, 4),
            (slots + 3 * 8, file),
            (file, mount + 16),
            (file + 8, dentry),
            (file + 16, inode),
            (file + 24, 8192),
            (inode, 0o100_644),
            (inode + 8, 12288),
            (inode + 16, 17),
            (inode + 24, superblock),
            (inode + 32, 1),
            (dentry + 8, name),
            (dentry + 16, root),
            (dentry + 24, inode),
            (mount, mount),
            (mount + 16, root),
        ] {
            self.word(at, value);
        }
        self.put(name, b"a.bin\0");
        self.task(new.slot, new.slot, new.pid, new.pid, new.parent);
        self.image(new.slot, new.ctx_id, new.executable, new.command);
        let cr3 = directory(new.slot);
        for (entry, table) in [(0, 0x2003u64), (511, 0x3003)] {
            self.0.write_obj(table, GuestAddress(cr3 + entry * 8)).unwrap();
        }
    }

    /// The address space of the process in `slot`, and what runs there.
    pub(in crate::trap::engine) fn image(&self, slot: usize, ctx_id: u64, executable: &str, command: &str) {
        let task = object(slot);
        let (mm, exe, dentry, name) = (task + 0x100, task + 0x4c0, task + 0x500, task + 0x540);
        let arguments = USER_ARGUMENTS + slot as u64 * 0x100;
        let command = command.replace(' ', "\0") + "\0";
        for (at, value) in [
            (mm + 8, ctx_id),
            (mm + 0x18, exe),
            (mm + 0x20, DIRECTORIES + slot as u64 * 0x2000),
            (mm + 0x28, arguments),
            (mm + 0x30, arguments + command.len() as u64),
            (exe, task + 0x440 + 16),
            (exe + 8, dentry),
            (dentry + 8, name),
            (dentry + 16, task + 0x400),
        ] {
            self.word(at, value);
        }
        self.put(name, format!("{executable}\0").as_bytes());
        self.put(arguments, command.as_bytes());
    }

    /// The task itself, in the process whose first thread is in slot `leader`.
    pub(in crate::trap::engine) fn task(
        &self,
        slot: usize,
        leader: usize,
        pid: u32,
        tid: u32,
        parent: usize,
    ) {
        let (task, of) = (object(slot), object(leader));
        for (at, value) in [
            (0x08, 0),
            (0x10, of + 0x100),
            (0x18, of + 0x200),
            (0x30, u64::from(pid) | (u64::from(tid) << 32)),
            (0x38, object(parent)),
            (0x40, of + 0x600),
            (0x58, stack_top(slot) - STACK_SIZE),
        ] {
            self.word(task + at, value);
        }
    }

    /// Links the tasks in a circle, and the threads of each process; `tasks` are slots and their leaders.
    pub(in crate::trap::engine) fn link(&self, tasks: &[(usize, usize)]) {
        let mut leaders: Vec<usize> = tasks.iter().map(|&(_, leader)| leader).collect();
        leaders.dedup();
        leaders.sort_unstable();
        leaders.dedup();
        for (at, &leader) in leaders.iter().enumerate() {
            let next = leaders[(at + 1) % leaders.len()];
            self.word(object(leader) + 0x20, object(next) + 0x20);
            let head = object(leader) + 0x600;
            let mut last = head;
            for (slot, _) in tasks.iter().filter(|&&(_, of)| of == leader) {
                self.word(last, object(*slot) + 0x48);
                last = object(*slot) + 0x48;
            }
            self.word(last, head);
        }
    }
}

/// Offsets of the fake kernel's structures.
const MEMBERS: &[(&str, &[(&str, u32)])] = &[
    ("thread_info", &[("syscall_work", 8)]),
    ("signal_struct", &[("thread_head", 0)]),
    ("files_struct", &[("fdt", 0)]),
    ("fdtable", &[("fd", 0), ("max_fds", 8)]),
    ("super_block", &[("s_dev", 0)]),
    (
        "inode",
        &[
            ("i_mode", 0),
            ("i_size", 8),
            ("i_ino", 16),
            ("i_sb", 24),
            ("i_nlink", 32),
            ("i_generation", 36),
            ("i_count", 40),
        ],
    ),
    ("qstr", &[("name", 8)]),
    ("path", &[("mnt", 0), ("dentry", 8)]),
    ("vfsmount", &[("mnt_root", 0)]),
    ("tlb_context", &[("ctx_id", 0)]),
    ("mm_context_t", &[("ctx_id", 8)]),
];

type Structure = (&'static str, &'static [(&'static str, &'static str, u32)]);

/// Structures with others inside: name, members, and what those are.
const NESTED: &[Structure] = &[
    (
        "task_struct",
        &[
            ("thread_info", "thread_info", 0),
            ("mm", "", 0x10),
            ("files", "", 0x18),
            ("tasks", "", 0x20),
            ("tgid", "", 0x30),
            ("pid", "", 0x34),
            ("real_parent", "", 0x38),
            ("signal", "", 0x40),
            ("thread_node", "", 0x48),
            ("stack", "", 0x58),
        ],
    ),
    (
        "mm_struct",
        &[
            ("context", "mm_context_t", 0),
            ("exe_file", "", 0x18),
            ("pgd", "", 0x20),
            ("arg_start", "", 0x28),
            ("arg_end", "", 0x30),
        ],
    ),
    ("file", &[("f_path", "path", 0), ("f_inode", "", 16), ("f_pos", "", 24), ("f_flags", "", 32)]),
    ("dentry", &[("d_name", "qstr", 0), ("d_parent", "", 16), ("d_inode", "", 24)]),
    ("mount", &[("mnt_parent", "", 0), ("mnt_mountpoint", "", 8), ("mnt", "vfsmount", 16)]),
];

fn btf() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.head("int", 1, 0, 8);
    builder.words(&[64]);
    let mut ids: HashMap<&str, u32> = HashMap::from([("", 1)]);
    let mut id = 1;
    let plain = MEMBERS.iter().map(|&(name, members)| {
        (name, members.iter().map(|&(member, byte)| (member, "", byte)).collect::<Vec<_>>())
    });
    for (name, members) in plain.chain(NESTED.iter().map(|&(name, members)| (name, members.to_vec()))) {
        builder.head(name, 4, u32::try_from(members.len()).unwrap(), 16);
        for (member, kind, byte) in members {
            builder.member(member, ids[kind], byte);
        }
        id += 1;
        ids.insert(name, id);
    }
    let word = |value: u64| u32::try_from(value).unwrap();
    builder.head("", 3, 0, 0); // an array of contexts
    builder.words(&[ids["tlb_context"], 1, 6]);
    builder.head("tlb_state", 4, 1, 200);
    builder.member("ctxs", id + 1, 0);
    builder.head("current_task", 14, 0, 1);
    builder.words(&[0]);
    builder.head("cpu_tlbstate", 14, 0, id + 2);
    builder.words(&[0]);
    builder.head(".data..percpu", 15, 2, 0);
    builder.words(&[id + 3, word(CURRENT), 8, id + 4, word(CONTEXTS), 200]);
    builder.build()
}

//! A guest made by hand, for tests of the engine.

use vm_memory::{Bytes, GuestAddress};

use kvm_bindings::kvm_regs;

use super::arm::msr;
use super::frames::{PtRegs, RF};
use super::*;
use crate::Config;
use crate::guest::btf::builder::Builder;
use crate::trap::EFER;
use crate::trap::cpu::mock::MockCpu;

/// The first 8 MiB of guest memory, mapped here by 2 MiB pages; user addresses below 4 MiB are the same memory.
pub(super) const BASE: u64 = 0xffff_ffff_8100_0000;
pub(super) const LSTAR: u64 = BASE + 0x1_0000;
pub(super) const IRET: u64 = LSTAR + 0x100;
pub(super) const GATE: u64 = BASE + 0x2_0000;
const IDT: u64 = BASE + 0x3_0000;
const CR3_WRITE: u64 = BASE + 0x4_0000;
const BTF: u64 = BASE + 0x20_0000;
pub(super) const PER_CPU: u64 = BASE + 0x40_0000;
pub(super) const CURRENT: u64 = 0x100;
const STACK_TOP: u64 = 0x108;
const CONTEXTS: u64 = 0x200;
const OBJECTS: u64 = BASE + 0x41_0000;
const ENTRY_STACK: u64 = BASE + 0x42_0000;
const THREAD_STACK: u64 = BASE + 0x43_0000;
pub(super) const USER_CODE: u64 = 0x10_0000;
pub(super) const USER_BUFFER: u64 = 0x11_0000;
pub(super) const USER_STACK: u64 = 0x12_0000;
pub(super) const USER_FLAGS: u64 = 0x246;
pub(super) const FMASK: u64 = 0x4_7700;

/// A process of the fake guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FakeProcess {
    pub(super) ctx_id: u64,
    pub(super) cr3: u64,
    pub(super) executable: &'static str,
    pub(super) object: u64,
}

pub(super) const OLD: FakeProcess = FakeProcess { ctx_id: 5, cr3: 0x1000, executable: "init", object: 0 };
pub(super) const BYSTANDER: FakeProcess = FakeProcess { ctx_id: 8, cr3: 0x8000, executable: "sh", object: 1 };
pub(super) const WRITER: FakeProcess =
    FakeProcess { ctx_id: 9, cr3: 0x9000, executable: "writer", object: 2 };

pub(super) struct Fake {
    pub(super) memory: GuestMemoryMmap,
    pub(super) cpu: MockCpu,
    pub(super) sky: Arc<Sky>,
    pub(super) sce_engine: Sce,
}

/// Offsets of the fake kernel's structures: everything lies in one object per process, 0x1000 bytes each.
const MEMBERS: &[(&str, &[(&str, u32)])] = &[
    ("task_struct", &[("mm", 0x10), ("files", 0x18), ("tasks", 0x20), ("tgid", 0x30)]),
    ("files_struct", &[("fdt", 0)]),
    ("fdtable", &[("fd", 0), ("max_fds", 8)]),
    ("super_block", &[("s_dev", 0)]),
    ("inode", &[("i_mode", 0), ("i_size", 8), ("i_ino", 16), ("i_sb", 24)]),
    ("qstr", &[("name", 8)]),
    ("path", &[("mnt", 0), ("dentry", 8)]),
    ("vfsmount", &[("mnt_root", 0)]),
    ("tlb_context", &[("ctx_id", 0)]),
    ("mm_context_t", &[("ctx_id", 8)]),
];

fn btf() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.head("int", 1, 0, 8);
    builder.words(&[64]);
    let mut id = 1;
    let mut ids = std::collections::HashMap::new();
    let mut structure = |builder: &mut Builder, name: &'static str, members: &[(&str, u32, u32)]| {
        builder.head(name, 4, u32::try_from(members.len()).unwrap(), 16);
        for &(member, type_id, byte) in members {
            builder.member(member, type_id, byte);
        }
        id += 1;
        ids.insert(name, id);
    };
    for (name, members) in MEMBERS {
        let members: Vec<(&str, u32, u32)> =
            members.iter().map(|&(member, byte)| (member, 1, byte)).collect();
        structure(&mut builder, name, &members);
    }
    let (qstr, path, vfsmount, context, mm_context) = (7, 8, 9, 10, 11);
    structure(&mut builder, "mm_struct", &[("context", mm_context, 0), ("exe_file", 1, 0x18)]);
    structure(
        &mut builder,
        "file",
        &[("f_path", path, 0), ("f_inode", 1, 16), ("f_pos", 1, 24), ("f_flags", 1, 32)],
    );
    structure(&mut builder, "dentry", &[("d_name", qstr, 0), ("d_parent", 1, 16)]);
    structure(
        &mut builder,
        "mount",
        &[("mnt_parent", 1, 0), ("mnt_mountpoint", 1, 8), ("mnt", vfsmount, 16)],
    );
    assert_eq!((ids["qstr"], ids["path"], ids["vfsmount"]), (qstr, path, vfsmount));
    assert_eq!((ids["tlb_context"], ids["mm_context_t"], ids["mount"]), (context, mm_context, 15));
    builder.head("", 3, 0, 0); // 16: an array of contexts
    builder.words(&[context, 1, 6]);
    builder.head("tlb_state", 4, 1, 200); // 17
    builder.member("ctxs", 16, 0);
    builder.head("current_task", 14, 0, 1); // 18
    builder.words(&[0]);
    builder.head("cpu_tlbstate", 14, 0, 17); // 19
    builder.words(&[0]);
    builder.head(".data..percpu", 15, 2, 0);
    let word = |value: u64| u32::try_from(value).unwrap();
    builder.words(&[18, word(CURRENT), 8, 19, word(CONTEXTS), 200]);
    builder.build()
}

impl Fake {
    pub(super) fn physical(gva: u64) -> u64 {
        if gva >= BASE { gva - BASE + 0x40_0000 } else { gva }
    }

    pub(super) fn put(&mut self, gva: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(Self::physical(gva))).unwrap();
    }

    fn word(&mut self, gva: u64, value: u64) {
        self.put(gva, &value.to_le_bytes());
    }

    fn get(&self, gva: u64) -> u64 {
        self.memory.read_obj(GuestAddress(Self::physical(gva))).unwrap()
    }

    pub(super) fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let config = Config::parse("[[process]]\nexecutable = 'writer'").unwrap();
        let sky = Sky::new(config);
        let sce_engine = sky.vcpu(memory.clone());
        let mut fake = Self { memory, cpu: MockCpu::default(), sky, sce_engine };
        for cr3 in [OLD.cr3, BYSTANDER.cr3, WRITER.cr3] {
            fake.word(cr3, 0x2003);
            fake.word(cr3 + 511 * 8, 0x3003);
        }
        fake.word(0x2000, 0x5003);
        fake.word(0x3000 + 510 * 8, 0x4003);
        for page in 0..4u64 {
            fake.word(0x5000 + page * 8, (page << 21) | 0x83);
            let data = if page == 0 { 0 } else { 1 << 63 };
            fake.word(0x4000 + (((BASE >> 21) & 511) + page) * 8, (0x40_0000 + (page << 21)) | 0x83 | data);
        }
        fake.text();
        fake.put(BTF, &btf());
        for process in [OLD, BYSTANDER, WRITER] {
            fake.process(process);
        }
        fake.registers();
        fake
    }

    pub(super) fn armed() -> Self {
        let mut fake = Self::new();
        fake.arm();
        assert_eq!(fake.report().problem, None);
        assert!(fake.report().armed);
        fake
    }

    pub(super) fn arm(&mut self) {
        self.sky.arm();
        self.sce_engine.arm_if_asked(&mut self.cpu);
    }

    pub(super) fn report(&self) -> Report {
        self.sce_engine.publish();
        self.sky.report()
    }

    fn text(&mut self) {
        let mut text = vec![0x65, 0x48, 0x8b, 0x24, 0x25];
        text.extend(u32::try_from(STACK_TOP).unwrap().to_le_bytes());
        text.extend([0xe8, 0, 0, 0, 0, 0x0f, 0x1f, 0x44, 0, 0, 0x0f, 0x85]);
        let next = LSTAR + text.len() as u64 + 4;
        text.extend(u32::try_from(IRET - next).unwrap().to_le_bytes());
        text.extend([0x41, 0x5f]);
        self.put(LSTAR, &text);
        self.put(GATE, &[0x0f, 0x01, 0xca]);
        self.put(CR3_WRITE, &[0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00]);
        self.word(IDT + 96, (GATE & 0xffff) | (0x8e << 40) | (((GATE >> 16) & 0xffff) << 48));
        self.word(IDT + 104, GATE >> 32);
    }

    /// Lays down a task and all that hangs on it; file 3 is `/a.bin`, 12 KiB long, at position 8 KiB.
    fn process(&mut self, process: FakeProcess) {
        let task = OBJECTS + process.object * 0x1000;
        let (mm, files, table, slots, file, inode) =
            (task + 0x100, task + 0x200, task + 0x240, task + 0x280, task + 0x300, task + 0x340);
        let (superblock, dentry, root, mount, name) =
            (task + 0x380, task + 0x3c0, task + 0x400, task + 0x440, task + 0x480);
        let (exe, exe_dentry, exe_name) = (task + 0x4c0, task + 0x500, task + 0x540);
        let next = OBJECTS + (process.object + 1) % 3 * 0x1000;
        for (at, value) in [
            (task + 0x10, mm),
            (task + 0x18, files),
            (task + 0x20, if process == OLD { task + 0x20 } else { next + 0x20 }),
            (task + 0x30, 4242),
            (mm + 8, process.ctx_id),
            (mm + 0x18, exe),
            (exe + 8, exe_dentry),
            (exe_dentry + 8, exe_name),
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
            (dentry + 8, name),
            (dentry + 16, root),
            (mount, mount),
            (mount + 16, root),
        ] {
            self.word(at, value);
        }
        self.put(name, b"a.bin\0");
        self.put(exe_name, format!("{}\0", process.executable).as_bytes());
    }

    /// File 3 of `process` has another name.
    pub(super) fn set_file_name(&mut self, process: FakeProcess, name: &[u8]) {
        self.put(OBJECTS + process.object * 0x1000 + 0x480, name);
    }

    /// The task that runs in `process` has another process id.
    pub(super) fn set_pid(&mut self, process: FakeProcess, pid: u64) {
        self.word(OBJECTS + process.object * 0x1000 + 0x30, pid);
    }

    fn registers(&mut self) {
        self.cpu.sregs.cr3 = OLD.cr3;
        self.cpu.sregs.idt.base = IDT;
        self.cpu.msrs.extend([
            (EFER, 0xd01),
            (msr::STAR, 0x0023_0010 << 32),
            (msr::LSTAR, LSTAR),
            (msr::CSTAR, LSTAR + 0x800),
            (msr::FMASK, FMASK),
            (msr::GS_BASE, PER_CPU),
        ]);
        self.word(PER_CPU + CURRENT, OBJECTS);
        self.word(PER_CPU + STACK_TOP, THREAD_STACK);
    }

    /// The kernel loads another address space.
    pub(super) fn switch(&mut self, to: FakeProcess) {
        self.word(PER_CPU + CONTEXTS, to.ctx_id);
        let task = OBJECTS + to.object * 0x1000;
        self.word(task + 0x108, to.ctx_id);
        self.word(PER_CPU + CURRENT, task);
        self.word(PER_CPU + STACK_TOP, THREAD_STACK + to.object * 0x1000);
        self.cpu.regs.rdi = to.cr3;
        self.cpu.regs.rip = CR3_WRITE + 3;
        assert!(self.sce_engine.port_exit(&mut self.cpu, 0xe8).unwrap());
    }

    /// User code that is `text` faults.
    pub(super) fn invalid_opcode(&mut self, text: &[u8]) {
        self.put(USER_CODE, text);
        for (index, value) in [USER_CODE, 0x33, USER_FLAGS | RF, USER_STACK, 0x2b].into_iter().enumerate() {
            self.word(ENTRY_STACK + index as u64 * 8, value);
        }
        self.cpu.regs.rsp = ENTRY_STACK;
        self.cpu.regs.rip = GATE;
        assert!(self.sce_engine.port_exit(&mut self.cpu, 0xe8).unwrap());
    }

    pub(super) fn call(&mut self, number: u64, [rdi, rsi, rdx]: [u64; 3]) {
        self.cpu.regs = kvm_regs { rax: number, rdi, rsi, rdx, ..Default::default() };
        self.invalid_opcode(&[0x0f, 0x05]);
    }

    /// The current thread comes back from the dispatcher, to user address `ip`.
    pub(super) fn returns(&mut self, result: i64, ip: u64) {
        let top = self.get(PER_CPU + STACK_TOP);
        let saved = top - PtRegs::SIZE;
        for (offset, value) in
            [(0x30, USER_FLAGS | RF), (0x50, result.cast_unsigned()), (0x80, ip), (0x90, USER_FLAGS | RF)]
        {
            self.word(saved + offset, value);
        }
        self.cpu.regs.rsp = saved;
        self.cpu.regs.rip = LSTAR + 14;
        assert!(self.sce_engine.port_exit(&mut self.cpu, 0xe8).unwrap());
    }

    /// R11 and the flags that the thread will have in user mode.
    pub(super) fn saved_flags(&self) -> (u64, u64) {
        let saved = self.get(PER_CPU + STACK_TOP) - PtRegs::SIZE;
        (self.get(saved + 0x30), self.get(saved + 0x90))
    }

    pub(super) fn outstanding(&self) -> bool {
        self.sce_engine.armed.as_ref().is_some_and(|armed| !armed.calls.is_empty())
    }

    pub(super) fn sce(&self) -> u64 {
        self.cpu.msrs[&EFER] & 1
    }

    pub(super) fn returns_armed(&self) -> bool {
        self.get(LSTAR + 14) & 0xffff == 0xe8e6
    }
}

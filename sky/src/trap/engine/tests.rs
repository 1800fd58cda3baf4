//! The engine on a guest made by hand: page tables, text, BTF and a kernel's structures, and a CPU that is only
//! registers. Real guests are the business of the end-to-end tests; here every order of events can be tried.

use kvm_bindings::kvm_regs;
use proptest::prelude::*;
use sky_devices::io_class::IoClass;
use vm_memory::{Bytes, GuestAddress};

use super::fake::*;
use super::frames::RF;
use crate::trap::EFER;

const WRITE: u64 = 1;
const GETPID: u64 = 39;
const EXIT_GROUP: u64 = 231;
const OPENAT: u64 = 257;

#[test]
fn a_system_call_is_what_the_cpu_would_have_made_it() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    assert_eq!(fake.sce(), 0, "an address space that was not seen before is trapped");
    fake.cpu.regs = kvm_regs { rax: GETPID, rbx: 7, ..Default::default() };
    fake.invalid_opcode(&[0x0f, 0x05]);
    let regs = fake.cpu.regs;
    assert_eq!((regs.rip, regs.rsp), (LSTAR, USER_STACK));
    assert_eq!((regs.rcx, regs.r11), (USER_CODE + 2, USER_FLAGS | RF));
    assert_eq!(regs.rflags, (USER_FLAGS & !(FMASK | RF)) | 2);
    assert_eq!((regs.rax, regs.rbx), (GETPID, 7));
    assert_eq!(fake.report().processes, [("writer".to_owned(), 4242)]);
    assert!(!fake.returns_armed(), "nobody wants to know what getpid returns");
}

#[test]
fn another_invalid_opcode_is_the_guests_own() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    fake.cpu.regs = kvm_regs { rax: WRITE, rflags: 1 << 18, ..Default::default() };
    fake.invalid_opcode(&[0x0f, 0x0b]);
    assert_eq!(
        (fake.cpu.regs.rip, fake.cpu.regs.rflags),
        (GATE + 3, 0),
        "behind clac, as though nothing had been"
    );
    let stops = fake.report().stops;
    assert_eq!((stops.calls, stops.invalid_opcodes), (0, 1));
}

#[test]
fn a_write_is_followed_to_its_block_on_the_disk() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    let block = [0x5a; 4096];
    fake.put(USER_BUFFER, &block);
    fake.call(WRITE, [3, USER_BUFFER, 4096]);
    assert!(fake.returns_armed());
    assert_eq!(fake.sky.classifier().classify_write(4096, &[0; 4096]).class, IoClass::Unknown);
    fake.returns(4096, USER_CODE + 2);
    assert_eq!(fake.saved_flags(), (USER_FLAGS, USER_FLAGS), "as SYSCALL would have left R11 and the flags");
    fake.call(GETPID, [0; 3]);
    assert!(!fake.returns_armed());
    let tag = fake.sky.classifier().classify_write(8192, &block);
    let source = tag.source.unwrap();
    assert_eq!(
        (tag.class, &*source.path, source.offset, source.file_size),
        (IoClass::Data, "/a.bin", 8192, 12288)
    );
    let report = fake.report();
    assert_eq!((report.calls["write"].entered, report.calls["write"].returned), (1, 1));
}

#[test]
fn an_inode_that_is_used_again_is_another_file() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    let write = |fake: &mut Fake, content: u8| {
        fake.put(USER_BUFFER, &[content; 4096]);
        fake.call(WRITE, [3, USER_BUFFER, 4096]);
        fake.returns(4096, USER_CODE + 2);
    };
    write(&mut fake, 1);
    fake.set_file_name(WRITER, b"b.bin\0");
    write(&mut fake, 2);
    fake.call(OPENAT, [0; 3]);
    fake.returns(-2, USER_CODE + 2);
    write(&mut fake, 3);
    fake.call(OPENAT, [0; 3]);
    fake.returns(3, USER_CODE + 2);
    write(&mut fake, 4);
    let files = fake.report().files;
    let seen: Vec<(&str, u64)> = files.iter().map(|file| (file.path.as_str(), file.writes)).collect();
    assert_eq!(seen, [("/a.bin", 3), ("/b.bin", 1)]);
}

#[test]
fn a_write_that_failed_leaves_nothing_to_recognise() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    fake.put(USER_BUFFER, &[0x5a; 4096]);
    fake.call(WRITE, [3, USER_BUFFER, 4096]);
    fake.returns(-28, USER_CODE + 2);
    assert_eq!(fake.sky.classifier().classify_write(0, &[0x5a; 4096]).class, IoClass::Unknown);
}

#[test]
fn a_bystanders_call_costs_one_stop_and_then_none() {
    let mut fake = Fake::armed();
    fake.switch(BYSTANDER);
    fake.cpu.regs.rax = WRITE;
    fake.invalid_opcode(&[0x0f, 0x05]);
    assert_eq!((fake.sce(), fake.report().identified), (1, 1));
    assert_eq!(fake.cpu.regs.r11 & RF, RF, "its first call was trapped, so it must return by IRET");
    fake.switch(WRITER);
    fake.switch(BYSTANDER);
    assert_eq!(fake.sce(), 1);
}

#[test]
fn what_ran_before_is_left_alone() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    fake.switch(OLD);
    assert_eq!(fake.sce(), 1);
}

#[test]
fn the_frame_of_a_page_directory_is_no_identity() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    fake.call(GETPID, [0; 3]);
    // The same page directory, but another address space.
    fake.switch(FakeProcess { ctx_id: 77, ..WRITER });
    fake.cpu.regs.rax = GETPID;
    fake.invalid_opcode(&[0x0f, 0x05]);
    assert_eq!(fake.report().processes.len(), 2);
}

#[test]
fn a_kernel_without_a_site_runs_unwatched() {
    let mut fake = Fake::new();
    fake.put(GATE, &[0x48, 0x89, 0xe7]);
    fake.arm();
    let report = fake.report();
    assert!(!report.armed && report.problem.unwrap().contains("invalid opcodes"));
    assert!(!fake.sce_engine.port_exit(&mut fake.cpu, 0xe8).unwrap());
}

#[test]
fn the_guest_is_told_what_it_set() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    assert_eq!(fake.cpu.msrs[&EFER], 0xd00);
    assert_eq!(fake.sce_engine.rdmsr(&mut fake.cpu, EFER).unwrap().unwrap(), 0xd01);
    assert!(fake.sce_engine.rdmsr(&mut fake.cpu, 0x1b).is_none());
}

#[test]
fn ports_and_places_that_are_not_ours_are_not_taken() {
    let mut fake = Fake::armed();
    fake.cpu.regs.rip = GATE;
    assert!(!fake.sce_engine.port_exit(&mut fake.cpu, 0xe9).unwrap());
    fake.cpu.regs.rip = USER_CODE;
    assert!(!fake.sce_engine.port_exit(&mut fake.cpu, 0xe8).unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    Switch(usize),
    Call(u64),
    Return { result: i64, signalled: bool },
    Ud2,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4usize).prop_map(Step::Switch),
        prop_oneof![Just(WRITE), Just(GETPID), Just(EXIT_GROUP), Just(59), Just(3), any::<u64>()]
            .prop_map(Step::Call),
        (any::<i64>(), any::<bool>()).prop_map(|(result, signalled)| Step::Return { result, signalled }),
        Just(Step::Ud2),
    ]
}

proptest! {
    /// Whatever happens in whatever order: SYSCALL faults exactly for those that are not bystanders, the shared trap
    /// stands only where it is needed, and a call that was trapped never comes near SYSRET.
    #[test]
    fn any_order_of_events_keeps_the_promises(steps in proptest::collection::vec(step(), 1..60)) {
        let mut fake = Fake::armed();
        let all = [OLD, BYSTANDER, WRITER, FakeProcess { ctx_id: 99, ..WRITER }];
        let mut current = OLD;
        let mut identified = vec![OLD.ctx_id];
        let mut ended = Vec::new();
        for step in steps {
            match step {
                Step::Switch(to) => {
                    current = all[to];
                    fake.switch(current);
                }
                // Only a space that is trapped gets here by SYSCALL.
                Step::Call(number) if fake.sce() == 0 => {
                    fake.call(number, [3, USER_BUFFER, 4096]);
                    prop_assert_eq!((fake.cpu.regs.rip, fake.cpu.regs.r11 & RF), (LSTAR, RF));
                    identified.push(current.ctx_id);
                    if number == EXIT_GROUP && current.executable == "writer" {
                        ended.push(current.ctx_id);
                    }
                }
                Step::Return { result, signalled } if fake.returns_armed() && fake.outstanding() => {
                    fake.returns(result, if signalled { 0x40_0000 } else { USER_CODE + 2 });
                    prop_assert_eq!(fake.cpu.regs.rip, IRET);
                }
                Step::Ud2 => {
                    fake.invalid_opcode(&[0x0f, 0x0b]);
                    prop_assert_eq!(fake.cpu.regs.rip, GATE + 3);
                }
                _ => {}
            }
            let known = identified.contains(&current.ctx_id);
            let monitored = known && current.executable == "writer" && !ended.contains(&current.ctx_id);
            let bystander = known && !monitored;
            prop_assert_eq!(fake.sce(), u64::from(bystander));
            prop_assert!(!fake.returns_armed() || monitored, "a bystander would be stopped");
            prop_assert!(fake.returns_armed() || !monitored || !fake.outstanding(), "a return would be missed");
            prop_assert_eq!(fake.report().problem, None);
        }
    }
}

#[test]
fn hostile_structures_do_not_stop_the_guest() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    // The current task points to nowhere.
    fake.memory.write_obj(0xffff_8888_0000_0000u64, GuestAddress(Fake::physical(PER_CPU + CURRENT))).unwrap();
    fake.cpu.regs.rax = WRITE;
    fake.invalid_opcode(&[0x0f, 0x05]);
    assert_eq!(fake.cpu.regs.rip, LSTAR, "the call goes on");
    assert!(fake.report().problem.unwrap().contains("not mapped"));
    assert_eq!(fake.sce(), 1, "and no other one is trapped");
}

#[test]
fn a_switch_that_cannot_be_read_leaves_nobody_trapped() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    fake.call(WRITE, [3, USER_BUFFER, 4096]);
    // A page directory without the kernel in it.
    fake.switch(FakeProcess { cr3: 0xe_0000, ..BYSTANDER });
    assert_eq!((fake.sce(), fake.returns_armed()), (1, false));
    assert!(fake.report().problem.unwrap().contains("not mapped"));
    fake.switch(WRITER);
    assert_eq!((fake.sce(), fake.returns_armed()), (0, true));
}

#[test]
fn a_child_of_vfork_does_not_end_its_parent() {
    let mut fake = Fake::armed();
    fake.switch(WRITER);
    fake.call(WRITE, [3, USER_BUFFER, 4096]);
    fake.set_pid(WRITER, 4243);
    fake.call(EXIT_GROUP, [127, 0, 0]);
    assert_eq!((fake.sce(), fake.outstanding()), (0, true));
    fake.set_pid(WRITER, 4242);
    fake.call(EXIT_GROUP, [0; 3]);
    assert_eq!((fake.sce(), fake.outstanding(), fake.report().unreturned), (1, false, 1));
}

//! The engine on a guest made by hand, with both engines and both mechanisms. Real guests are the business of the
//! end-to-end tests; here every order of events can be tried.

use sky_devices::io_class::IoClass;

use super::fake::*;
use super::frames::RF;
use crate::Sky;
use crate::trap::EFER;

mod asking;
mod attach;
mod model;

const WRITE: u64 = 1;
const GETPID: u64 = 39;
const EXIT_GROUP: u64 = 231;
const UNLINK: u64 = 87;
const OPENAT: u64 = 257;
const WRITER: usize = 1;
const OTHER: usize = 2;

/// Runs a scenario with a writer and a shell that began after the traps were set, in all four combinations.
fn everywhere(scenario: impl Fn(&mut Fake)) {
    for combination in COMBINATIONS {
        scenario(&mut guest(Setup::of(combination)));
    }
}

fn guest(setup: Setup<'_>) -> Fake {
    let mut fake = Fake::armed(setup);
    fake.spawn(WRITER, INIT, "writer", "writer");
    fake.spawn(OTHER, INIT, "sh", "sh -c true");
    fake
}

fn write(fake: &mut Fake, content: u8) -> Ran {
    fake.kernel.put(USER_BUFFER, &[content; 4096]);
    fake.call(0, WRITE, [3, USER_BUFFER, 4096, 0, 0, 0])
}

#[test]
fn a_system_call_is_what_the_cpu_would_have_made_it() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        assert!(fake.watches(0), "an address space that was not seen before is watched");
        let before = fake.tasks[WRITER].user;
        assert_eq!(fake.call(0, GETPID, [1, 2, 3, 4, 5, 6]), Ran::Dispatcher);
        let words = [0, 0x08, 0x10, 0x18, 0x20, 0x28, 0x58, 0x80, 0x88, 0x98, 0xa0].map(|at| fake.get(0, at));
        let (rip, rsp) = (before.rip, before.rsp);
        let expected = [
            before.r15,
            before.r14,
            before.r13,
            before.r12,
            before.rbp,
            before.rbx,
            rip + 2,
            rip + 2,
            0x33,
            rsp,
            0x2b,
        ];
        assert_eq!(words, expected);
        let args = [0x70, 0x68, 0x60, 0x38, 0x48, 0x40].map(|at| fake.get(0, at));
        assert_eq!(
            (args, fake.get(0, 0x78), fake.get(0, 0x50).cast_signed()),
            ([1, 2, 3, 4, 5, 6], GETPID, -38)
        );
        let flags = (fake.get(0, 0x30) & !RF, fake.get(0, 0x90) & !RF);
        assert_eq!(flags, (USER_FLAGS, USER_FLAGS));
        let rf = fake.get(0, 0x90) & RF != 0;
        assert_eq!(rf, fake.report().engine == "sce", "what was trapped must return by IRET");
        assert_eq!(fake.finish(0, 42), Ran::User);
        let after = fake.tasks[WRITER].user;
        assert_eq!((after.rax, after.rip, after.rsp), (42, rip + 2, rsp));
        assert_eq!(
            (after.rbx, after.rbp, after.r12, after.r15),
            (before.rbx, before.rbp, before.r12, before.r15)
        );
        let pid = fake.tasks[WRITER].pid;
        assert_eq!(fake.report().processes, [("writer".to_owned(), pid)]);
        if fake.report().mechanism == "port" {
            assert_eq!(fake.report().stops.returns, 0, "nobody wants to know what getpid returns");
        }
    });
}

#[test]
fn another_invalid_opcode_is_the_guests_own() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        fake.cpus[0].mock.regs.rflags |= 1 << 18;
        assert_eq!(fake.fault(0, &[0x0f, 0x0b]), Ran::Fault);
        let regs = fake.cpus[0].mock.regs;
        assert_eq!((regs.rip, regs.rsp), (GATE + 3, entry_stack(0)));
        assert_eq!(regs.rflags & (1 << 18 | RF), 0, "behind clac, as though nothing had been");
        let (stops, sce) = (fake.report().stops, fake.report().engine == "sce");
        assert_eq!((stops.calls, stops.invalid_opcodes), (0, u64::from(sce)));
    });
}

#[test]
fn a_write_is_followed_to_its_block_on_the_disk() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        assert_eq!(write(fake, 0x5a), Ran::Dispatcher);
        assert_eq!(fake.report().outstanding, 1);
        assert_eq!(fake.sky.classifier(0).classify_write(4096, &[0; 4096], None).class, IoClass::Unknown);
        assert_eq!(fake.finish(0, 4096), Ran::User);
        let user = fake.tasks[WRITER].user;
        assert_eq!(
            (user.rflags, user.r11),
            (USER_FLAGS, USER_FLAGS),
            "as SYSCALL and SYSRET would have left them"
        );
        let tag = fake.sky.classifier(0).classify_write(8192, &[0x5a; 4096], None);
        let source = tag.source.unwrap();
        let named = (tag.class, &*source.path, source.offset, source.file_size);
        assert_eq!(named, (IoClass::Data, "/a.bin", 8192, 12288));
        let report = fake.report();
        assert_eq!((report.calls["write"].entered, report.calls["write"].returned), (1, 1));
        assert_eq!(report.outstanding, 0);
    });
}

#[test]
fn an_inode_that_is_used_again_is_another_file() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        for (content, name, generation, opened) in [
            (1, "a.bin\0", 7_u32, None),
            (2, "b.bin\0", 8, None),
            (3, "b.bin\0", 8, Some(-2)),
            (4, "b.bin\0", 8, Some(3)),
        ] {
            fake.kernel.put(object(WRITER) + 0x480, name.as_bytes());
            fake.kernel.put(object(WRITER) + 0x364, &generation.to_le_bytes());
            if let Some(result) = opened {
                fake.call(0, OPENAT, [0; 6]);
                fake.finish(0, result);
            }
            write(fake, content);
            fake.finish(0, 4096);
        }
        let files = fake.report().files;
        let seen: Vec<(&str, u64)> = files.iter().map(|file| (file.path.as_str(), file.writes)).collect();
        assert_eq!(seen, [("/a.bin", 3), ("/b.bin", 1)]);
    });
}

/// It keeps its blocks until nobody has it open any more, which no call says.
#[test]
fn a_file_that_is_deleted_while_it_is_open_is_still_written() {
    everywhere(|fake| {
        let (links, used, name) = (object(WRITER) + 0x360, object(WRITER) + 0x368, object(WRITER) + 0x480);
        let class = |fake: &mut Fake, content| {
            let disk = fake.sky.classifier(0);
            disk.classify_write(4096, &[content; 4096], None).class
        };
        fake.switch(0, WRITER);
        fake.kernel.put(used, &1u32.to_le_bytes());
        write(fake, 1);
        fake.finish(0, 4096);
        fake.kernel.put(links, &0u32.to_le_bytes());
        fake.call(0, UNLINK, [name, 0, 0, 0, 0, 0]);
        fake.finish(0, 0);
        assert_eq!(class(fake, 1), IoClass::Data);
        write(fake, 2);
        fake.finish(0, 4096);
        fake.kernel.put(used, &0u32.to_le_bytes());
        fake.call(0, OPENAT, [0; 6]);
        fake.finish(0, -2);
        assert_eq!(class(fake, 2), IoClass::Data, "a call that failed tells nothing");
        write(fake, 3);
        fake.finish(0, 4096);
        fake.call(0, UNLINK, [0; 6]);
        fake.finish(0, 0);
        assert_eq!(class(fake, 3), IoClass::Unknown);
    });
}

/// Somebody else has renamed it, or it has two names.
#[test]
fn a_file_that_is_opened_by_another_name_is_the_same() {
    for (links, path) in [(1_u32, "/b.bin"), (2, "/a.bin")] {
        everywhere(|fake| {
            fake.switch(0, WRITER);
            for name in ["a.bin\0", "b.bin\0"] {
                fake.kernel.put(object(WRITER) + 0x480, name.as_bytes());
                fake.kernel.put(object(WRITER) + 0x360, &links.to_le_bytes());
                fake.call(0, OPENAT, [0; 6]);
                fake.finish(0, 3);
                write(fake, 1);
                fake.finish(0, 4096);
            }
            let files = fake.report().files;
            let seen: Vec<(&str, u64)> = files.iter().map(|file| (file.path.as_str(), file.writes)).collect();
            assert_eq!(seen, [(path, 2)]);
        });
    }
}

#[test]
fn a_write_that_failed_leaves_nothing_to_recognise() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        write(fake, 0x5a);
        fake.finish(0, -28);
        assert_eq!(fake.sky.classifier(0).classify_write(0, &[0x5a; 4096], None).class, IoClass::Unknown);
    });
}

#[test]
fn a_bystanders_call_costs_one_stop_and_then_none() {
    everywhere(|fake| {
        fake.switch(0, OTHER);
        let stops = fake.cpus[0].stops;
        assert_eq!(fake.call(0, WRITE, [3, USER_BUFFER, 4096, 0, 0, 0]), Ran::Dispatcher);
        assert_eq!((fake.watches(0), fake.report().identified), (false, 1));
        assert_eq!(fake.finish(0, 1), Ran::User);
        assert_eq!(fake.cpus[0].stops, stops + 1);
        fake.switch(0, WRITER);
        fake.switch(0, OTHER);
        let stops = fake.cpus[0].stops;
        fake.call(0, WRITE, [3, USER_BUFFER, 4096, 0, 0, 0]);
        assert_eq!((fake.finish(0, 1), fake.cpus[0].stops), (Ran::User, stops));
        fake.switch(0, WRITER);
        fake.switch(0, INIT);
        assert!(!fake.watches(0), "what ran before is left alone");
    });
}

#[test]
fn the_frame_of_a_page_directory_is_no_identity() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        fake.call(0, GETPID, [0; 6]);
        fake.finish(0, 1);
        fake.kill(WRITER);
        // The same page directory and the same task, but another process.
        fake.spawn(WRITER, INIT, "writer", "writer");
        fake.switch(0, WRITER);
        fake.call(0, GETPID, [0; 6]);
        assert_eq!(fake.report().processes.len(), 2);
    });
}

#[test]
fn a_kernel_without_a_site_runs_unwatched() {
    for combination in COMBINATIONS {
        let mut fake = Fake::new(Setup::of(combination));
        let before = fake.kernel.bytes(LSTAR, 0x1_0000);
        fake.kernel.put(GATE, &[0x48, 0x89, 0xe7]);
        fake.arm();
        let report = fake.report();
        assert!(!report.armed && report.problem.unwrap().contains("invalid opcodes"));
        assert_eq!(fake.kernel.bytes(LSTAR, 0x1_0000), before);
        let FakeCpu { mock, vcpu, .. } = &mut fake.cpus[0];
        assert!(!vcpu.port_exit(mock, u16::from(PORT)).unwrap());
        assert!(!vcpu.debug_exit(mock, &Default::default()).unwrap());
    }
}

#[test]
fn the_guest_is_told_what_it_set() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        let FakeCpu { mock, vcpu, .. } = &mut fake.cpus[0];
        assert_eq!(vcpu.rdmsr(mock, EFER).unwrap().unwrap(), 0xd01);
        assert_eq!(vcpu.rdmsr(mock, crate::trap::LSTAR).unwrap().unwrap(), LSTAR);
        assert!(vcpu.rdmsr(mock, 0x1b).is_none());
    });
}

#[test]
fn ports_and_places_that_are_not_ours_are_not_taken() {
    everywhere(|fake| {
        let debug = fake.report().mechanism == "debug";
        let FakeCpu { mock, vcpu, .. } = &mut fake.cpus[0];
        mock.regs.rip = SWITCH;
        assert!(!vcpu.port_exit(mock, 0xe9).unwrap());
        mock.regs.rip = USER_CODE;
        assert!(!vcpu.port_exit(mock, 0xe8).unwrap());
        // A single step of the guest's own.
        let step = kvm_bindings::kvm_debug_exit_arch { dr6: 0x4000, pc: USER_CODE, ..Default::default() };
        assert!(vcpu.debug_exit(mock, &step).unwrap());
        assert_eq!(mock.given_back, [0x4000]);
        assert_eq!(fake.report().stops.debug_exceptions, 1, "{debug}");
    });
}

#[test]
fn hostile_structures_do_not_stop_the_guest() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        // The current task points to nowhere.
        fake.kernel.word(per_cpu(0) + CURRENT, 0xffff_8888_0000_0000);
        assert_eq!(write(fake, 1), Ran::Dispatcher, "the call goes on");
        assert!(fake.report().problem.unwrap().contains("not mapped"));
        assert!(!fake.watches(0), "and no other one is trapped");
        assert_eq!(fake.finish(0, 1), Ran::User);
    });
}

#[test]
fn an_instruction_that_is_gone_is_fetched_again() {
    let mut fake = guest(Setup::of(("sce", "port")));
    fake.switch(0, WRITER);
    // The page of the SYSCALL is unmapped by another thread behind the fault.
    fake.kernel.word(0x5000, 0);
    let before = fake.tasks[WRITER].user;
    assert_eq!(fake.fault(0, &[0x0f, 0x05]), Ran::User);
    let regs = fake.cpus[0].mock.regs;
    assert_eq!((regs.rip, regs.rsp), (before.rip, before.rsp), "at the instruction once more");
    assert_eq!(fake.report().refetched, 1);
}

#[test]
fn a_switch_that_cannot_be_read_leaves_nobody_watched() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        write(fake, 1);
        // A page directory without the kernel in it.
        let cr3 = directory(OTHER);
        let entry = fake.kernel.bytes(BASE + cr3 - 0x40_0000 + 511 * 8, 8);
        fake.kernel.put(BASE + cr3 - 0x40_0000 + 511 * 8, &[0; 8]);
        fake.cpus[0].vcpu.ctx_ids = Default::default();
        fake.switch(0, OTHER);
        assert!(!fake.watches(0));
        assert!(fake.report().problem.unwrap().contains("not mapped"));
        fake.kernel.put(BASE + cr3 - 0x40_0000 + 511 * 8, &entry);
        fake.switch(0, WRITER);
        assert!(fake.watches(0));
        assert_eq!((fake.finish(0, 4096), fake.report().outstanding), (Ran::User, 0));
    });
}

#[test]
fn a_child_of_vfork_does_not_end_its_parent() {
    everywhere(|fake| {
        fake.switch(0, WRITER);
        write(fake, 1);
        // The child runs in the same address space, with a task and a process id of its own.
        fake.thread(3, WRITER);
        fake.kernel.word(object(3) + 0x30, 99 | 99 << 32);
        fake.switch(0, 3);
        fake.call(0, EXIT_GROUP, [127, 0, 0, 0, 0, 0]);
        assert_eq!((fake.watches(0), fake.report().outstanding), (true, 1));
        fake.kill(3);
        fake.thread(4, WRITER);
        fake.switch(0, 4);
        fake.call(0, EXIT_GROUP, [0; 6]);
        // Its threads may make calls until they are gone.
        assert_eq!((fake.watches(0), fake.report().outstanding), (true, 1));
        [WRITER, 4].into_iter().for_each(|slot| fake.kill(slot));
        fake.switch(0, INIT);
        fake.cpus[0].vcpu.sweep();
        let report = fake.report();
        assert_eq!((fake.watches(0), report.outstanding, report.unreturned), (false, 0, 1));
    });
}

#[test]
fn calls_of_32_bit_code_stop_for_monitored_processes_only() {
    use crate::trap::CompatEntry::{Int80, Syscall, Sysenter};
    everywhere(|fake| {
        let port = fake.report().mechanism == "port";
        let entry = fake.report().engine == "entry";
        for slot in [WRITER, OTHER] {
            fake.switch(0, slot);
            // The first one tells whose they are.
            fake.compat_call(0, Int80);
            let stops = fake.cpus[0].stops;
            for (way, times) in [(Int80, 3), (Sysenter, 2), (Syscall, 4)] {
                for _ in 0..times {
                    assert_eq!(fake.compat_call(0, way), Ran::Compat);
                }
            }
            let stopped = match (slot, port) {
                (WRITER, true) => 5 + if entry { 4 } else { 0 },
                _ => 0,
            };
            assert_eq!(fake.cpus[0].stops - stops, stopped);
        }
        let seen = fake.report().compat_calls;
        let expected = if port { (4, 2, if entry { 4 } else { 0 }) } else { (0, 0, 0) };
        assert_eq!((seen.int80, seen.sysenter, seen.syscall), expected);
        if port {
            assert_eq!((fake.report().processes.len(), fake.report().identified), (1, 1));
        }
        let FakeCpu { mock, vcpu, .. } = &mut fake.cpus[0];
        for (index, own) in [(crate::trap::CSTAR, CSTAR), (crate::trap::SYSENTER_EIP, SYSENTER)] {
            assert_eq!(vcpu.rdmsr(mock, index).unwrap().unwrap(), own, "the guest sees its own");
        }
        fake.ask(Sky::detach).unwrap();
        let mock = &fake.cpus[0].mock;
        assert_eq!(mock.msrs[&crate::trap::CSTAR], CSTAR);
        assert_eq!(mock.msrs[&crate::trap::SYSENTER_EIP], SYSENTER);
        assert_eq!(fake.kernel.bytes(PADDING, 0x3000), [0xcc; 0x3000]);
        assert_eq!(fake.compat_call(0, Int80), Ran::Compat);
    });
}

/// The new program begins with a SYSCALL at the very place of the old one's, with the same stack pointer.
#[test]
fn an_execve_to_the_place_that_it_came_from_has_returned() {
    for combination in COMBINATIONS {
        let mut fake = guest(Setup { wants: &[59], ..Setup::of(combination) });
        fake.switch(0, WRITER);
        fake.call(0, 59, [0; 6]);
        fake.executes(0, WRITER, "writer");
        fake.kernel.word(fake.saved(0) + 0x80, USER_CODE);
        fake.kernel.word(fake.saved(0) + 0x98, user_stack(WRITER));
        assert_eq!(fake.finish(0, 0), Ran::User);
        let returned = Event::Returned { id: 1, outcome: crate::syscall::Outcome::Returned(0) };
        assert_eq!(fake.log().last(), Some(&returned));
    }
}

/// It has its new address space already when somebody looks for what was killed: while it waits for the disk, and once
/// more before the new program makes its first call.
#[test]
fn an_execve_on_its_way_is_not_the_end_of_its_process() {
    for combination in COMBINATIONS {
        let rules = "[[process]]\nexecutable = 'writer'\nchildren = true\n";
        let mut fake = guest(Setup { rules, wants: &[59], ..Setup::of(combination) });
        fake.switch(0, WRITER);
        fake.call(0, 59, [0; 6]);
        fake.executes(0, WRITER, "cat");
        fake.switch(0, INIT);
        fake.cpus[0].vcpu.sweep();
        assert_eq!(fake.report().outstanding, 1);
        fake.switch(0, WRITER);
        assert_eq!(fake.finish(0, 0), Ran::User);
        let returned = Event::Returned { id: 1, outcome: crate::syscall::Outcome::Returned(0) };
        assert_eq!(fake.log().last(), Some(&returned));
        fake.switch(0, INIT);
        fake.cpus[0].vcpu.sweep();
        fake.switch(0, WRITER);
        fake.call(0, GETPID, [0; 6]);
        let pid = fake.tasks[WRITER].pid;
        assert!(fake.watches(0), "it is of the family that is wanted");
        assert_eq!(fake.log().last(), Some(&Event::Begins(pid)));
        assert!(!fake.log().contains(&Event::Ends(pid)));
    }
}

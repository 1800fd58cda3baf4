//! The copy does what the original does, instruction by instruction, and lies where every CPU may run it.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;
use crate::trap::{Site, Skip, StopKind};

const BASE: u64 = 0xffff_ffff_8100_0000;
const LSTAR: u64 = BASE + 0x1_0080;
/// Padding fills two pages from here on.
const PADDING: u64 = BASE + 0x1_1000;
const KERNEL: u64 = 0x8000;
const USER: u64 = 0x9000;
const NO_EXECUTE: u64 = 1 << 63;

/// Maps 2 MiB at `BASE` by small pages, and the same in the page directory of user mode if `isolated`.
fn guest(isolated: bool) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
    for (root, tables) in [(KERNEL, 0x2_0000u64), (USER, 0x3_0000)] {
        if root == USER && !isolated {
            continue;
        }
        put(root + 511 * 8, tables | 3);
        put(tables + 510 * 8, (tables + 0x1000) | 3);
        put(tables + 0x1000 + ((BASE >> 21) & 511) * 8, (tables + 0x2000) | 3);
        for page in 0..512 {
            put(tables + 0x2000 + page * 8, (0x20_0000 + page * 4096) | 3);
        }
    }
    memory
}

/// Changes the entry of the page at `at` under one of the two directories.
fn map(memory: &GuestMemoryMmap, root: u64, at: u64, entry: u64) {
    let tables = if root == KERNEL { 0x2_2000u64 } else { 0x3_2000 };
    memory.write_obj(entry, GuestAddress(tables + ((at >> 12) & 511) * 8)).unwrap();
}

fn physical(at: u64) -> u64 {
    at - BASE + 0x20_0000
}

fn pad(memory: &GuestMemoryMmap, at: u64, length: usize) {
    memory.write_slice(&vec![INT3; length], GuestAddress(physical(at))).unwrap();
}

fn step(at: u64, bytes: &[u8], relative: Option<usize>) -> Step {
    Step { at: Gva(at), bytes: bytes.to_vec(), relative }
}

/// `swapgs; mov gs:[0x14], rsp; mov rsp, gs:[rip+x]; push 0x2b; mov rdi, rsp; movsxd rsi, eax; call`, apart from
/// each other as though jumps lay between.
fn path(load: i32, call: i32) -> Vec<Step> {
    let with = |head: &[u8], displacement: i32| [head, &displacement.to_le_bytes()].concat();
    vec![
        step(LSTAR + 4, &[0x0f, 0x01, 0xf8], None),
        step(LSTAR + 7, &[0x65, 0x48, 0x89, 0x24, 0x25, 0x14, 0x60, 0, 0], None),
        step(LSTAR + 40, &with(&[0x65, 0x48, 0x8b, 0x25], load), Some(4)),
        step(LSTAR + 48, &[0x6a, 0x2b], None),
        step(LSTAR + 80, &[0x48, 0x89, 0xe7], None),
        step(LSTAR + 83, &[0x48, 0x63, 0xf0], None),
        step(LSTAR + 86, &with(&[0xe8], call), Some(1)),
    ]
}

fn sites(entry_path: Vec<Step>) -> Sites {
    let site = |at, kind| Site { at: Gva(at), length: 0, kind, skip: Skip::Never };
    Sites {
        invalid_opcode: site(0, StopKind::InvalidOpcode),
        entered: site(LSTAR, StopKind::Entered),
        returned: site(LSTAR + 91, StopKind::Returned),
        dispatch: Gva(LSTAR + 86),
        iret_path: Gva(LSTAR + 0x100),
        stack_top: 0,
        user_rsp: None,
        int80: None,
        sysenter: None,
        compat_syscall: None,
        switches: vec![],
        entry_path,
        transit: vec![],
    }
}

fn plan(memory: &GuestMemoryMmap, entry_path: Vec<Step>) -> Result<Detour> {
    Detour::plan(&View::new(memory, KERNEL, false), &sites(entry_path), 0xe8)
}

fn decode(bytes: &[u8], at: u64) -> Instruction {
    let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
    assert!(!instruction.is_invalid());
    instruction
}

/// What an instruction does, wherever it stands: its opcode, operands, and the addresses that it means.
fn meaning(instruction: &Instruction) -> impl PartialEq + std::fmt::Debug {
    let operands: Vec<(OpKind, String)> = (0..instruction.op_count())
        .map(|at| {
            let value = match instruction.op_kind(at) {
                OpKind::Register => format!("{:?}", instruction.op_register(at)),
                OpKind::Memory => format!(
                    "{:?}:[{:?}+{:?}+{:#x}]",
                    instruction.memory_segment(),
                    instruction.memory_base(),
                    instruction.memory_index(),
                    // Of an operand relative to RIP this is the absolute address.
                    instruction.memory_displacement64()
                ),
                OpKind::NearBranch64 => format!("{:#x}", instruction.near_branch64()),
                _ => format!("{:#x}", instruction.immediate(at)),
            };
            (instruction.op_kind(at), value)
        })
        .collect();
    (instruction.code(), operands)
}

proptest! {
    /// Every instruction of the copy, as it lies in memory, does what that of the original does.
    #[test]
    fn the_copy_does_what_the_original_does(load: i32, call: i32) {
        let memory = guest(false);
        pad(&memory, PADDING, 0x2000);
        let path = path(load, call);
        let Ok(detour) = plan(&memory, path.clone()) else {
            // Only where a displacement is near the end of what 32 bits reach.
            let edge = i64::from(i32::MIN) + 0x2000;
            prop_assert!(i64::from(load) < edge || i64::from(call) < edge);
            return Ok(());
        };
        let view = View::new(&memory, KERNEL, false);
        detour.install(&view).unwrap();
        let mut bytes = [0; ROOM];
        view.read(detour.enter, &mut bytes).unwrap();
        prop_assert_eq!(&bytes[..2], &[0xe6, 0xe8]);
        let mut at = 2;
        for step in &path {
            let original = decode(&step.bytes, step.at.0);
            let copy = decode(&bytes[at..], detour.enter.0 + at as u64);
            prop_assert_eq!(meaning(&copy), meaning(&original));
            if copy.flow_control() == FlowControl::Call {
                prop_assert_eq!(copy.ip(), detour.dispatch.0);
                prop_assert_eq!(copy.next_ip(), detour.returned.0);
            }
            at += copy.len();
        }
        prop_assert_eq!(detour.path.0, detour.enter.0 + 2);
        prop_assert_eq!(&bytes[at..at + 2], &[0xe6, 0xe8], "the stop behind the call");
        prop_assert!(bytes[at + 2..].iter().all(|&byte| byte == INT3));
        detour.remove(&view).unwrap();
        view.read(detour.enter, &mut bytes).unwrap();
        prop_assert_eq!(bytes, [INT3; ROOM]);
    }
}

#[test]
fn a_displacement_that_does_not_reach_is_refused() {
    let memory = guest(false);
    pad(&memory, PADDING, 0x2000);
    // The copy lies further up: what is furthest below moves out of reach, what is furthest above comes nearer.
    for (load, call, fits) in
        [(0, i32::MIN, false), (i32::MIN, 0, false), (i32::MAX, i32::MAX, true), (i32::MIN + 0x2000, 0, true)]
    {
        let planned = plan(&memory, path(load, call));
        match planned {
            Ok(_) => assert!(fits, "{load:#x} {call:#x}"),
            Err(error) => assert!(!fits && error.to_string().contains("does not reach"), "{error}"),
        }
    }
}

#[test]
fn paths_that_cannot_be_moved_are_refused() {
    let memory = guest(false);
    pad(&memory, PADDING, 0x2000);
    let refused = |path: Vec<Step>, why: &str| {
        let error = plan(&memory, path).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(vec![], "not called directly");
    // call [rax]
    refused(vec![step(LSTAR, &[0xff, 0x10], None)], "not called directly");
    refused(vec![step(LSTAR, &[0xe8, 0, 0], Some(1))], "not 32 bits wide");
    let long = vec![step(LSTAR, &[0x90; 15], None); 40];
    refused([long, path(0, 0)].concat(), "too long");
}

#[test]
fn room_is_a_page_of_padding_behind_another() {
    let memory = guest(false);
    let error = plan(&memory, path(0, 0)).unwrap_err().to_string();
    assert!(error.contains("no padding"), "{error}");
    pad(&memory, PADDING, 0x1000);
    assert!(plan(&memory, path(0, 0)).is_err(), "one page alone may be anything");
    // Two pages, but not one behind the other.
    pad(&memory, PADDING + 0x2000, 0x1000);
    assert!(plan(&memory, path(0, 0)).is_err());
    pad(&memory, PADDING + 0x3000, 0xfff);
    assert!(plan(&memory, path(0, 0)).is_err(), "a page with one other byte");
    pad(&memory, PADDING + 0x3000, 0x1000);
    assert_eq!(plan(&memory, path(0, 0)).unwrap().enter, Gva(PADDING + 0x3000));
    map(&memory, KERNEL, PADDING + 0x3000, physical(PADDING + 0x3000) | 3 | NO_EXECUTE);
    assert!(plan(&memory, path(0, 0)).is_err(), "not executable");
    // Behind a page that is not mapped nothing is looked for.
    map(&memory, KERNEL, PADDING, 0);
    pad(&memory, PADDING + 0x4000, 0x2000);
    assert!(plan(&memory, path(0, 0)).is_err());
}

#[test]
fn under_isolation_user_mode_must_map_the_room_too() {
    let memory = guest(true);
    pad(&memory, PADDING, 0x2000);
    let view = View::new(&memory, KERNEL, false);
    let room = PADDING + 0x1000;
    assert!(isolated(&view, Gva(LSTAR)));
    assert_eq!(plan(&memory, path(0, 0)).unwrap().enter, Gva(room));
    for entry in [0, physical(room) | 3 | NO_EXECUTE, physical(room + 0x1000) | 3] {
        map(&memory, USER, room, entry);
        let error = plan(&memory, path(0, 0)).unwrap_err().to_string();
        assert!(error.contains("user mode maps too"), "{entry:#x}: {error}");
    }
}

#[test]
fn isolation_is_told_from_a_neighbour() {
    let lstar = Gva(LSTAR);
    let memory = guest(true);
    assert!(isolated(&View::new(&memory, KERNEL, false), lstar));
    assert!(!isolated(&View::new(&memory, USER, false), lstar), "that is the user's own");
    map(&memory, USER, LSTAR, physical(LSTAR & !0xfff) | 3 | NO_EXECUTE);
    assert!(!isolated(&View::new(&memory, KERNEL, false), lstar));
    map(&memory, USER, LSTAR, physical(BASE) | 3);
    assert!(!isolated(&View::new(&memory, KERNEL, false), lstar), "something else lies there");
    assert!(!isolated(&View::new(&guest(false), KERNEL, false), lstar));
}

#[test]
fn what_is_inside_is_known() {
    let memory = guest(false);
    pad(&memory, PADDING, 0x2000);
    let detour = plan(&memory, path(0, 0)).unwrap();
    for (rip, inside) in [
        (detour.enter.0 - 1, false),
        (detour.enter.0, true),
        (detour.dispatch.0, true),
        (detour.returned.0, true),
        (detour.returned.0 + 2, true),
        (detour.returned.0 + 3, false),
        (LSTAR, false),
    ] {
        assert_eq!(detour.contains(rip), inside, "{rip:#x}");
    }
}

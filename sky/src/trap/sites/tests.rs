//! Text as Debian's kernels have it, laid down by hand, and text that is not a kernel's.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const BASE: u64 = 0xffff_ffff_8100_0000;
const LSTAR: u64 = BASE + 0x1000;
const GATE: u64 = BASE + 0x2000;
const IDT: u64 = BASE + 0x3000;
const IRET: u64 = BASE + 0x1100;
const CSTAR: u64 = BASE + 0x1800;

/// Maps 2 MiB of memory at `BASE`.
fn guest() -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    for (at, entry) in [
        (0x1000 + 511 * 8, 0x2003u64),
        (0x2000 + 510 * 8, 0x3003),
        (0x3000 + ((BASE >> 21) & 511) * 8, 0x20_0083),
    ] {
        memory.write_obj(entry, GuestAddress(at)).unwrap();
    }
    memory
}

fn put(memory: &GuestMemoryMmap, at: u64, bytes: &[u8]) {
    memory.write_slice(bytes, GuestAddress(at - BASE + 0x20_0000)).unwrap();
}

fn gate(memory: &GuestMemoryMmap, text: &[u8]) {
    let low = (GATE & 0xffff) | (0x10 << 16) | (0x8e << 40) | (((GATE >> 16) & 0xffff) << 48);
    put(memory, IDT + 96, &low.to_le_bytes());
    put(memory, IDT + 104, &(GATE >> 32).to_le_bytes());
    put(memory, GATE, text);
}

fn find(memory: &GuestMemoryMmap) -> Result<Sites> {
    let view = View::new(memory, 0x1000, false);
    let image = KernelImage::around(&view, Gva(LSTAR))?;
    Sites::find(
        &view,
        &image,
        Anchors { idt: Gva(IDT), lstar: Gva(LSTAR), cstar: Gva(CSTAR), sysenter: Gva(0) },
    )
}

/// Where process switches are stopped.
fn switches(sites: &Sites) -> Vec<u64> {
    sites.switches.iter().map(|site| site.at.0).collect()
}

fn rel32(from_next: u64, to: u64) -> [u8; 4] {
    u32::try_from(to.wrapping_sub(from_next) & 0xffff_ffff).unwrap().to_le_bytes()
}

/// 6.1: `swapgs; mov rsp, gs:[0x1f0c]; call; call do_syscall_64; nop; mov; cmp; jne iret; pop r15`.
fn text_6_1(memory: &GuestMemoryMmap) -> u64 {
    let mut text = vec![0x0f, 0x01, 0xf8];
    text.extend([0x65, 0x48, 0x8b, 0x24, 0x25, 0x0c, 0x1f, 0, 0]);
    text.extend([0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0]);
    let post = LSTAR + text.len() as u64;
    text.extend([0x0f, 0x1f, 0x44, 0, 0]);
    text.extend([0x48, 0x8b, 0x4c, 0x24, 0x58, 0x4c, 0x39, 0xd9, 0x0f, 0x85]);
    let next = LSTAR + text.len() as u64 + 4;
    text.extend(rel32(next, IRET));
    text.extend([0x75, 0x10, 0x41, 0x5f, 0x48, 0x0f, 0x07]);
    put(memory, LSTAR, &text);
    post
}

/// 6.12: `endbr64`, the stack through RIP, `test al, al; jz iret; jmp +2`, and a jump into the middle.
fn text_6_12(memory: &GuestMemoryMmap) -> u64 {
    let mut text = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x65, 0x48, 0x8b, 0x25];
    let next = LSTAR + text.len() as u64 + 4;
    text.extend(rel32(next, 0x3_4010));
    text.extend([0xeb, 0x01, 0xcc]);
    text.extend([0xe8, 0, 0, 0, 0]);
    let post = LSTAR + text.len() as u64;
    text.extend([0x84, 0xc0, 0x0f, 0x84]);
    let next = LSTAR + text.len() as u64 + 4;
    text.extend(rel32(next, IRET));
    text.extend([0xeb, 0x02, 0x0f, 0x0b, 0x41, 0x5f, 0x0f, 0x01, 0xf8, 0x48, 0x0f, 0x07]);
    put(memory, LSTAR, &text);
    post
}

fn cr3(memory: &GuestMemoryMmap) {
    for at in [BASE + 0x8000, BASE + 0x9ffd] {
        put(memory, at, &[0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00]);
    }
}

#[test]
fn as_6_1_has_it() {
    let memory = guest();
    gate(&memory, &[0x0f, 0x01, 0xca, 0x6a, 0xff]);
    cr3(&memory);
    let post = text_6_1(&memory);
    let sites = find(&memory).unwrap();
    assert_eq!((sites.invalid_opcode.at, sites.invalid_opcode.skip), (Gva(GATE), Skip::Clac));
    assert_eq!((sites.returned.at, sites.dispatch), (Gva(post), Gva(post - 5)));
    assert_eq!((sites.entered.at, sites.entered.kind), (Gva(LSTAR), StopKind::Entered));
    assert_eq!((sites.iret_path, sites.stack_top), (Gva(IRET), 0x1f0c));
    assert_eq!(switches(&sites), [BASE + 0x8003, BASE + 0xa000]);
    let steps: Vec<(u64, usize, Option<usize>)> =
        sites.entry_path.iter().map(|step| (step.at.0 - LSTAR, step.bytes.len(), step.relative)).collect();
    assert_eq!(steps, [(0, 3, None), (3, 9, None), (12, 5, Some(1)), (17, 5, Some(1))]);
    assert_eq!(sites.entry_path[0].bytes, [0x0f, 0x01, 0xf8]);
    // From LSTAR to SYSRET, which is 45 bytes on; the way out by IRET is not in it.
    assert_eq!(sites.transit, [LSTAR..=LSTAR + 45]);
    assert!(sites.in_transit(LSTAR) && sites.in_transit(LSTAR + 45));
    assert!(!sites.in_transit(LSTAR - 1) && !sites.in_transit(LSTAR + 46) && !sites.in_transit(IRET));
}

#[test]
fn as_6_12_has_it() {
    let memory = guest();
    gate(&memory, &[0xf3, 0x0f, 0x1e, 0xfa, 0x90, 0x6a, 0xff]);
    cr3(&memory);
    let post = text_6_12(&memory);
    let sites = find(&memory).unwrap();
    assert_eq!((sites.invalid_opcode.at, sites.invalid_opcode.skip), (Gva(GATE + 5), Skip::Push(u64::MAX)));
    assert_eq!((sites.returned.at, sites.dispatch), (Gva(post), Gva(post - 5)));
    assert_eq!((sites.iret_path, sites.stack_top), (Gva(IRET), 0x3_4010));
    // Without the landing pad and the jump; the displacement of the load counts from its own end.
    let steps: Vec<(u64, Option<usize>)> =
        sites.entry_path.iter().map(|step| (step.at.0 - LSTAR, step.relative)).collect();
    assert_eq!(steps, [(4, Some(4)), (15, Some(1))]);
}

#[test]
fn the_way_of_32_bit_calls_is_transit_too() {
    let memory = guest();
    gate(&memory, &[0x0f, 0x01, 0xca]);
    cr3(&memory);
    text_6_1(&memory);
    assert_eq!(find(&memory).unwrap().transit.len(), 1, "a kernel without 32-bit calls");
    // swapgs; jmp back; sysretd: the range holds the jump's target as well.
    put(&memory, CSTAR, &[0x0f, 0x01, 0xf8, 0xeb, 0xeb]);
    put(&memory, CSTAR - 16, &[0x90, 0x0f, 0x07]);
    let sites = find(&memory).unwrap();
    assert_eq!(sites.transit[1], CSTAR - 16..=CSTAR + 3);
    assert!(sites.in_transit(CSTAR - 15));
}

#[test]
fn the_write_that_switches_processes_keeps_the_tlb_and_has_a_twin() {
    let memory = guest();
    gate(&memory, &[0x0f, 0x01, 0xca]);
    text_6_1(&memory);
    let write = [0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00];
    let keeping = BASE + 0x8000;
    for at in [keeping - TWIN_REACH, keeping - TWIN_REACH - 6, keeping, keeping + TWIN_REACH, BASE + 0x9000] {
        put(&memory, at, &write);
    }
    assert_eq!(switches(&find(&memory).unwrap()).len(), 5, "nothing tells them apart");
    put(&memory, keeping - 5, &[0x48, 0x0f, 0xba, 0xef, 0x3f]);
    let sites = find(&memory).unwrap();
    let places = [keeping - TWIN_REACH, keeping, keeping + TWIN_REACH].map(|at| at + 3);
    assert_eq!(switches(&sites), places);
    for site in &sites.switches {
        assert_eq!((site.length, site.kind, site.skip), (3, StopKind::SwitchedSpace, Skip::Nop));
    }
}

#[test]
fn what_is_missing_is_named() {
    let memory = guest();
    assert!(find(&memory).unwrap_err().to_string().contains("dispatcher"));
    text_6_1(&memory);
    assert!(find(&memory).unwrap_err().to_string().contains("gate 6 is not present"));
    gate(&memory, &[0x48, 0x89, 0xe7]);
    assert!(find(&memory).unwrap_err().to_string().contains("begins with Mov"));
    gate(&memory, &[0x0f, 0x01, 0xca]);
    assert!(find(&memory).unwrap_err().to_string().contains("CR3"));
    cr3(&memory);
    find(&memory).unwrap();
}

proptest! {
    /// Text of any bytes, jumps in circles included: an answer or an error, in bounded time.
    #[test]
    fn any_text_ends(text in proptest::collection::vec(any::<u8>(), 1..600), handler: [u8; 32]) {
        let memory = guest();
        gate(&memory, &handler);
        cr3(&memory);
        put(&memory, LSTAR, &text);
        let _ = find(&memory);
    }

    #[test]
    fn a_jump_to_itself_ends(distance in -20i8..20) {
        let memory = guest();
        gate(&memory, &[0x0f, 0x01, 0xca]);
        put(&memory, LSTAR + 64, &[0xeb, distance.to_le_bytes()[0]]);
        put(&memory, LSTAR, &[0xeb, 62]);
        prop_assert!(find(&memory).is_err());
    }
}

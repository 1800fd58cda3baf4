//! Text as Debian's kernels have it, laid down by hand, and text that is not a kernel's.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const BASE: u64 = 0xffff_ffff_8100_0000;
const LSTAR: u64 = BASE + 0x1000;
const GATE: u64 = BASE + 0x2000;
const IDT: u64 = BASE + 0x3000;
const IRET: u64 = BASE + 0x1100;

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
    Sites::find(&view, &image, Anchors { idt: Gva(IDT), lstar: Gva(LSTAR) })
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
    text.extend([0x75, 0x10, 0x41, 0x5f]);
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
    text.extend([0xeb, 0x02, 0x0f, 0x0b, 0x41, 0x5f]);
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
    assert_eq!((sites.returned.at, sites.returned.length), (Gva(post), 5));
    assert_eq!((sites.iret_path, sites.stack_top), (Gva(IRET), 0x1f0c));
    let places: Vec<Gva> = sites.cr3_writes.iter().map(|site| site.at).collect();
    assert_eq!(places, [Gva(BASE + 0x8003), Gva(BASE + 0xa000)]);
}

#[test]
fn as_6_12_has_it() {
    let memory = guest();
    gate(&memory, &[0xf3, 0x0f, 0x1e, 0xfa, 0x90, 0x6a, 0xff]);
    cr3(&memory);
    let post = text_6_12(&memory);
    let sites = find(&memory).unwrap();
    assert_eq!((sites.invalid_opcode.at, sites.invalid_opcode.skip), (Gva(GATE + 5), Skip::Push(u64::MAX)));
    assert_eq!((sites.returned.at, sites.returned.length), (Gva(post), 2));
    assert_eq!((sites.iret_path, sites.stack_top), (Gva(IRET), 0x3_4010));
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

//! What is written into the guest's text, and that it comes out again.

use vm_memory::GuestMemoryMmap;

use super::*;
use crate::trap::sites::{Sites, Step};

const ENTRY: u64 = 0x10_0000;
const PADDING: u64 = 0x10_2000;
const GATE: u64 = 0x9000;
const SWITCH: u64 = 0xa000;

/// Identity-maps the first 2 MiB: an entry path, padding behind it, a fault handler, a process switch.
fn guest() -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    for (at, entry) in [(0x1000u64, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83)] {
        memory.write_obj(entry, GuestAddress(at)).unwrap();
    }
    for (at, bytes) in [
        (ENTRY, &[0x0f, 0x01, 0xf8, 0xe8, 0, 0, 0, 0][..]),
        (ENTRY + 0x1000, &[0xcc; 0x2000]),
        (GATE, &[0x0f, 0x01, 0xca, 0x55]),
        (SWITCH, &[0x0f, 0x1f, 0x00, 0xc3]),
    ] {
        memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }
    memory
}

fn site(at: u64, length: u8, kind: StopKind, skip: Skip) -> Site {
    Site { at: Gva(at), length, kind, skip }
}

fn sites() -> Sites {
    let step = |at, bytes: &[u8], relative| Step { at: Gva(at), bytes: bytes.to_vec(), relative };
    Sites {
        invalid_opcode: site(GATE, 3, StopKind::InvalidOpcode, Skip::Clac),
        entered: site(ENTRY, 0, StopKind::Entered, Skip::Never),
        returned: site(ENTRY + 8, 0, StopKind::Returned, Skip::Never),
        dispatch: Gva(ENTRY + 3),
        iret_path: Gva(ENTRY + 0x100),
        stack_top: 0,
        user_rsp: None,
        int80: None,
        sysenter: None,
        compat_syscall: None,
        switches: vec![site(SWITCH, 3, StopKind::SwitchedSpace, Skip::Nop)],
        entry_path: vec![
            step(ENTRY, &[0x0f, 0x01, 0xf8], None),
            step(ENTRY + 3, &[0xe8, 0, 0, 0, 0], Some(1)),
        ],
        transit: vec![],
    }
}

fn image(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; 2 << 20];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

fn bytes(memory: &GuestMemoryMmap, at: u64) -> [u8; 4] {
    memory.read_obj(GuestAddress(at)).unwrap()
}

fn view(memory: &GuestMemoryMmap) -> View<'_> {
    View::new(memory, 0x1000, false)
}

#[test]
fn what_is_installed_comes_out_in_two_steps() {
    let (memory, sites) = (guest(), sites());
    let before = image(&memory);
    for (engine, lstar, gate) in [
        (Engine::Sce, None, [0xe6, 0xe8, 0x90, 0x55]),
        (Engine::Entry, Some(Gva(PADDING)), [0x0f, 0x01, 0xca, 0x55]),
    ] {
        let traps = PortTraps::plan(&view(&memory), &Plan { sites: &sites, engine }, 0xe8).unwrap();
        assert_eq!(image(&memory), before, "a plan writes nothing");
        traps.install(&view(&memory)).unwrap();
        assert_eq!(traps.lstar(), lstar);
        assert_eq!(bytes(&memory, GATE), gate);
        assert_eq!(bytes(&memory, SWITCH), [0xe6, 0xe8, 0x90, 0xc3]);
        assert_eq!(bytes(&memory, PADDING), [0xe6, 0xe8, 0x0f, 0x01]);
        assert_eq!(bytes(&memory, traps.detour.returned.0), [0xe6, 0xe8, 0xcc, 0xcc]);
        assert_eq!(bytes(&memory, ENTRY), [0x0f, 0x01, 0xf8, 0xe8], "the shared path is never touched");
        traps.remove(&view(&memory)).unwrap();
        assert_eq!(bytes(&memory, SWITCH), [0x0f, 0x1f, 0x00, 0xc3]);
        assert_eq!(bytes(&memory, GATE), gate, "a fault may be on its way there");
        assert_eq!(bytes(&memory, PADDING), [0xe6, 0xe8, 0x0f, 0x01], "and a call may be inside");
        traps.clear(&view(&memory)).unwrap();
        assert_eq!(image(&memory), before);
    }
}

#[test]
fn a_stop_is_known_by_its_address() {
    let (memory, sites) = (guest(), sites());
    let plan = Plan { sites: &sites, engine: Engine::Sce };
    let traps = PortTraps::plan(&view(&memory), &plan, 0xe8).unwrap();
    let kind = |rip| traps.site(rip).map(|site| site.kind);
    assert_eq!(kind(GATE), Some(StopKind::InvalidOpcode));
    assert_eq!(kind(SWITCH), Some(StopKind::SwitchedSpace));
    assert_eq!(kind(PADDING), Some(StopKind::Entered));
    // Behind `out`, `swapgs` and the call.
    let returned = PADDING + 2 + 3 + 5;
    assert_eq!(kind(returned), Some(StopKind::Returned));
    for rip in [GATE + 1, SWITCH + 2, ENTRY, ENTRY + 8, PADDING + 2, returned + 2] {
        assert_eq!(kind(rip), None, "{rip:#x}");
    }
    let ways = Ways { followed: Gva(PADDING + 2), passed: Gva(ENTRY), again: Gva(returned - 5) };
    assert_eq!(traps.ways(), ways);
    for (rip, inside) in
        [(PADDING - 1, false), (PADDING, true), (PADDING + 5, true), (returned, true), (GATE, true)]
    {
        assert_eq!(traps.contains(rip), inside, "{rip:#x}");
    }
    for (rip, over) in [(SWITCH - 1, false), (SWITCH, true), (SWITCH + 2, true), (SWITCH + 3, false)] {
        assert_eq!(traps.overwritten(rip), over, "{rip:#x}");
    }
}

#[test]
fn the_overwritten_instruction_is_carried_out() {
    let (memory, sites) = (guest(), sites());
    let plan = Plan { sites: &sites, engine: Engine::Sce };
    let traps = PortTraps::plan(&view(&memory), &plan, 0xe8).unwrap();
    let mut regs = kvm_regs { rip: 0x9000, rsp: 0x8000, rflags: AC | 2, ..Default::default() };
    let mut resume = |length, skip| {
        let site = site(regs.rip, length, StopKind::InvalidOpcode, skip);
        traps.resume(&view(&memory), &site, &mut regs).map(|()| regs)
    };
    let behind = resume(3, Skip::Clac).unwrap();
    assert_eq!((behind.rip, behind.rflags, behind.rsp), (0x9003, 2, 0x8000));
    let behind = resume(2, Skip::Push(u64::MAX)).unwrap();
    assert_eq!((behind.rip, behind.rsp), (0x9005, 0x7ff8));
    assert_eq!(view(&memory).read_u64(Gva(0x7ff8)).unwrap(), u64::MAX);
    let behind = resume(5, Skip::Nop).unwrap();
    assert_eq!((behind.rip, behind.rsp), (0x900a, 0x7ff8));
    assert!(resume(2, Skip::Never).is_err());
}

#[test]
fn sites_that_cannot_be_patched_are_refused() {
    let memory = guest();
    for (at, length) in [(0x9000, 1), (0x9fff, 2), (0x20_0000, 2), (0x9000, 16)] {
        let site = site(at, length, StopKind::InvalidOpcode, Skip::Nop);
        let sites = Sites { invalid_opcode: site, ..sites() };
        let plan = Plan { sites: &sites, engine: Engine::Sce };
        assert!(PortTraps::plan(&view(&memory), &plan, 0xe8).is_err(), "{at:#x} {length}");
        let plan = Plan { sites: &sites, engine: Engine::Entry };
        assert!(PortTraps::plan(&view(&memory), &plan, 0xe8).is_ok(), "not needed there");
    }
}

#[test]
fn a_return_is_moved_there_and_back() {
    const SLOT: Gva = Gva(0x8000);
    let (memory, sites) = (guest(), sites());
    let plan = Plan { sites: &sites, engine: Engine::Sce };
    let traps = PortTraps::plan(&view(&memory), &plan, 0xe8).unwrap();
    let (own, ours) = (ENTRY + 8, PADDING + 10);
    for (holds, stopped, moved, known) in [
        (own, true, ours, true),
        (ours, true, ours, true),
        (ours, false, own, true),
        (own, false, own, true),
        (0x1234, true, 0x1234, false),
        (0x1234, false, 0x1234, false),
    ] {
        view(&memory).write(SLOT, &holds.to_le_bytes()).unwrap();
        assert_eq!(traps.redirect(&view(&memory), SLOT, stopped).unwrap(), known);
        assert_eq!(view(&memory).read_u64(SLOT).unwrap(), moved, "{holds:#x} {stopped}");
    }
    assert!(traps.redirect(&view(&memory), Gva(0x20_0000), true).is_err());
}

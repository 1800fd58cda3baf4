//! Guest program: calls by the ways of 32-bit code.
//!
//! `compat int80 CALLS`: `int 0x80` in 64-bit code. `compat elf PATH`: writes a 32-bit program, which makes 100 calls by
//! the way that the kernel recommends for the processor and 50 by `int 0x80`, and ends by another one of these.

use std::arch::{asm, global_asm};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

// Linux leaves argc, argv, the environment and the auxiliary vector on the stack; AT_SYSINFO (32) is where the vDSO's
// `__kernel_vsyscall` begins. Numbers of calls are those of 32 bits: exit 1, getpid 20.
global_asm!(
    ".pushsection .rodata",
    ".global compat_code, compat_code_end",
    ".code32",
    "compat_code:",
    "mov eax, [esp]",
    "lea esi, [esp + eax * 4 + 8]",
    "2: lodsd",
    "test eax, eax",
    "jnz 2b",
    "3: mov eax, [esi]",
    "mov ebx, 1",
    "test eax, eax",
    "jz 6f",
    "mov edi, [esi + 4]",
    "add esi, 8",
    "cmp eax, 32",
    "jne 3b",
    "mov esi, 100",
    "4: mov eax, 20",
    "call edi",
    "dec esi",
    "jnz 4b",
    "mov esi, 50",
    "5: mov eax, 20",
    "int 0x80",
    "dec esi",
    "jnz 5b",
    "xor ebx, ebx",
    "6: mov eax, 1",
    "int 0x80",
    "compat_code_end:",
    ".code64",
    ".popsection",
);

unsafe extern "C" {
    static compat_code: u8;
    static compat_code_end: u8;
}

/// Where the program is loaded, and how long its headers are.
const BASE: u32 = 0x0804_8000;
const HEADERS: u32 = 52 + 32;

fn elf(code: &[u8]) -> io::Result<Vec<u8>> {
    let size = HEADERS + u32::try_from(code.len()).map_err(io::Error::other)?;
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // An executable for the 80386; then sizes of headers.
    file.extend([2u16, 3].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1, BASE + HEADERS, 52, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend([52u16, 32, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // One segment with all of the file, to be read and executed.
    file.extend([1, 0, BASE, BASE, size, size, 5, 0x1000].iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend(code);
    Ok(file)
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["int80", calls] => {
            for _ in 0..calls.parse::<u64>().map_err(io::Error::other)? {
                let pid: u64;
                // SAFETY: getpid changes nothing but RAX; the kernel clears R8 to R11 on some versions.
                unsafe {
                    asm!("int 0x80", inlateout("rax") 20u64 => pid, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
                }
                if pid != u64::from(std::process::id()) {
                    return Err(io::Error::other(format!("getpid gave {pid}")));
                }
            }
        }
        ["elf", path] => {
            let (start, end) = (&raw const compat_code, &raw const compat_code_end);
            // SAFETY: both symbols bound the same bytes, which nobody changes.
            let code = unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) };
            fs::write(path, elf(code)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        _ => return Err(io::Error::other("usage: compat int80 CALLS | elf PATH")),
    }
    Ok(())
}

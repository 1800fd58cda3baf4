//! Numbers of the model-specific registers that a VMM must know.

/// Fast string operations and other switches of the CPU.
pub const MISC_ENABLE: u32 = 0x1a0;
/// Default memory type.
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Extended features: long mode, no-execute, and whether `SYSCALL` is allowed.
pub const EFER: u32 = 0xc000_0080;
/// Selectors that `SYSCALL` and `SYSRET` load.
pub const STAR: u32 = 0xc000_0081;
/// Where `SYSCALL` of 64-bit code enters.
pub const LSTAR: u32 = 0xc000_0082;
/// Flags that `SYSCALL` clears.
pub const SYSCALL_MASK: u32 = 0xc000_0084;

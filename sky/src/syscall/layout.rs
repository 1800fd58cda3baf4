//! Structures in user memory, as x86-64 Linux lays them out (`include/uapi`, `arch/x86/include/uapi/asm/stat.h`).

use crate::guest::View;

use super::flags;
use super::memory::array;
use super::signature::Layout;
use super::value::Value;

/// The structure at `address`.
pub(super) fn read(view: &View<'_>, layout: Layout, address: u64) -> Value {
    if address == 0 {
        return Value::Address(0);
    }
    let value = match layout {
        Layout::Int => array(view, address).map(|bytes| pointee(i32::from_le_bytes(bytes))),
        Layout::Offset => array(view, address)
            .map(|bytes| Value::Pointee(Box::new(Value::Signed(i64::from_le_bytes(bytes))))),
        Layout::FdPair => array::<8>(view, address).map(|bytes| {
            let items = vec![Value::Signed(int(&bytes, 0).into()), Value::Signed(int(&bytes, 4).into())];
            Value::List { items, cut: false }
        }),
        Layout::Stat => array::<144>(view, address).map(|bytes| stat(&bytes)),
        Layout::Statx => array::<256>(view, address).map(|bytes| statx(&bytes)),
        Layout::Timespec => array::<16>(view, address).map(|bytes| pair(&bytes, "tv_sec", "tv_nsec")),
        Layout::Timeval => array::<16>(view, address).map(|bytes| pair(&bytes, "tv_sec", "tv_usec")),
        Layout::Timespecs => array::<32>(view, address).map(|bytes| {
            let items = vec![file_time(&bytes[..16]), file_time(&bytes[16..])];
            Value::List { items, cut: false }
        }),
        Layout::Rlimit => array::<16>(view, address).map(|bytes| rlimit(&bytes)),
        Layout::WaitStatus => array(view, address).map(|bytes| wait_status(i32::from_le_bytes(bytes))),
        Layout::OpenHow => array::<24>(view, address).map(|bytes| open_how(&bytes)),
        Layout::CloneArgs => array::<64>(view, address).map(|bytes| clone_args(&bytes)),
    };
    value.unwrap_or(Value::Absent(address))
}

/// The `int` at `offset`; 0 beyond the end, which callers do not ask for.
fn int(bytes: &[u8], offset: usize) -> i32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| i32::from_le_bytes(*chunk))
}

/// The `unsigned long` at `offset`.
fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn pointee(value: i32) -> Value {
    Value::Pointee(Box::new(Value::Signed(value.into())))
}

fn whole(members: Vec<(&'static str, Value)>) -> Value {
    Value::Struct { members, cut: false }
}

/// Two `long`s.
fn pair(bytes: &[u8], first: &'static str, second: &'static str) -> Value {
    let long = |offset| Value::Signed(word(bytes, offset).cast_signed());
    whole(vec![(first, long(0)), (second, long(8))])
}

/// A `struct timespec` of `utimensat`, whose nanoseconds have two special values (`include/linux/stat.h`).
fn file_time(bytes: &[u8]) -> Value {
    match word(bytes, 8) {
        0x3fff_ffff => Value::Name("UTIME_NOW"),
        0x3fff_fffe => Value::Name("UTIME_OMIT"),
        _ => pair(bytes, "tv_sec", "tv_nsec"),
    }
}

/// A device number inside the kernel's packing for user space (`new_decode_dev`, `include/linux/kdev_t.h`).
pub(super) fn device(packed: u32) -> Value {
    Value::Device((packed & 0xf_ff00) >> 8, (packed & 0xff) | ((packed >> 12) & 0xf_ff00))
}

/// `st_mode`: the type of the file and its permissions.
pub(super) fn file_mode(mode: u32) -> Value {
    let mut text = match mode & 0o170_000 {
        0o010_000 => "S_IFIFO",
        0o020_000 => "S_IFCHR",
        0o040_000 => "S_IFDIR",
        0o060_000 => "S_IFBLK",
        0o100_000 => "S_IFREG",
        0o120_000 => "S_IFLNK",
        0o140_000 => "S_IFSOCK",
        _ => return Value::Mode(mode),
    }
    .to_owned();
    for (bit, name) in [(0o4000, "|S_ISUID"), (0o2000, "|S_ISGID"), (0o1000, "|S_ISVTX")] {
        if mode & bit != 0 {
            text.push_str(name);
        }
    }
    Value::Flags(format!("{text}|{}", Value::Mode(mode & 0o777)))
}

fn stat(bytes: &[u8]) -> Value {
    let unsigned = |offset| Value::Unsigned(word(bytes, offset));
    let id = |offset| Value::Unsigned(int(bytes, offset).cast_unsigned().into());
    // Kernels use 32 bits of st_dev and st_rdev, and the fields are longer.
    let mut members = vec![
        ("st_dev", device(int(bytes, 0).cast_unsigned())),
        ("st_ino", unsigned(8)),
        ("st_mode", file_mode(int(bytes, 24).cast_unsigned())),
        ("st_nlink", unsigned(16)),
        ("st_uid", id(28)),
        ("st_gid", id(32)),
        ("st_blksize", unsigned(56)),
        ("st_blocks", unsigned(64)),
    ];
    members.push(match int(bytes, 24) & 0o170_000 {
        0o020_000 | 0o060_000 => ("st_rdev", device(int(bytes, 40).cast_unsigned())),
        _ => ("st_size", Value::Signed(word(bytes, 48).cast_signed())),
    });
    Value::Struct { members, cut: true }
}

/// `include/uapi/linux/stat.h`.
fn statx(bytes: &[u8]) -> Value {
    let half = |offset| int(bytes, offset).cast_unsigned();
    let unsigned = |offset| Value::Unsigned(word(bytes, offset));
    let members = vec![
        ("stx_mask", Value::Flags(flags::STATX.describe(half(0).into()))),
        ("stx_blksize", Value::Unsigned(half(4).into())),
        ("stx_nlink", Value::Unsigned(half(16).into())),
        ("stx_uid", Value::Unsigned(half(20).into())),
        ("stx_gid", Value::Unsigned(half(24).into())),
        ("stx_mode", file_mode(half(28) & 0xffff)),
        ("stx_ino", unsigned(32)),
        ("stx_size", unsigned(40)),
        ("stx_blocks", unsigned(48)),
        ("stx_dev", Value::Device(half(136), half(140))),
    ];
    Value::Struct { members, cut: true }
}

/// A limit, in the unit of its resource.
fn limit(value: u64) -> Value {
    if value == u64::MAX { Value::Name("RLIM64_INFINITY") } else { Value::Unsigned(value) }
}

fn rlimit(bytes: &[u8]) -> Value {
    whole(vec![("rlim_cur", limit(word(bytes, 0))), ("rlim_max", limit(word(bytes, 8)))])
}

/// The status of a process that stopped or ended (wait(2)).
fn wait_status(status: i32) -> Value {
    let signal = |number| flags::signal(number).to_string();
    let low = status & 0x7f;
    let high = (status >> 8) & 0xff;
    let text = match (low, status & 0xff) {
        (0, _) => format!("{{WIFEXITED(s) && WEXITSTATUS(s) == {high}}}"),
        _ if status == 0xffff => "{WIFCONTINUED(s)}".to_owned(),
        (_, 0x7f) => format!("{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}", signal(high)),
        // Signal 127 does not exist.
        (0x7f, _) => format!("{status:#x}"),
        _ if status & 0x80 != 0 => {
            format!("{{WIFSIGNALED(s) && WTERMSIG(s) == {} && WCOREDUMP(s)}}", signal(low))
        }
        _ => format!("{{WIFSIGNALED(s) && WTERMSIG(s) == {}}}", signal(low)),
    };
    Value::Pointee(Box::new(Value::Flags(text)))
}

fn open_how(bytes: &[u8]) -> Value {
    let flags = word(bytes, 0);
    let mut members = vec![("flags", Value::Flags(flags::OPEN.describe(flags)))];
    if flags::creates(flags) {
        members.push(("mode", Value::Mode(int(bytes, 8).cast_unsigned() & 0o177_777)));
    }
    members.push(("resolve", Value::Flags(flags::RESOLVE.describe(word(bytes, 16)))));
    whole(members)
}

/// `struct clone_args`: what decides about the kind of the new task.
fn clone_args(bytes: &[u8]) -> Value {
    let members = vec![
        ("flags", Value::Flags(flags::CLONE.describe(word(bytes, 0)))),
        ("exit_signal", flags::signal(int(bytes, 32))),
        ("stack", Value::Address(word(bytes, 40))),
        ("stack_size", Value::Hex(word(bytes, 48))),
    ];
    Value::Struct { members, cut: true }
}

//! The calls that may be made: those that only read, with typed arguments and answers.

use super::thread::Request;
use crate::syscall::RawCall;

/// `AT_FDCWD`: relative to the current directory.
const AT_FDCWD: i32 = -100;
/// What a path or a link may be long here. Linux allows 4096; the room lies below a thread's stack.
const PATH_ROOM: usize = 1024;
/// The most that [`Pread64`] reads at a time.
const READ_ROOM: usize = 4096;
const STAT_SIZE: usize = 144;
const AT_EMPTY_PATH: i32 = 0x1000;
const AT_SYMLINK_NOFOLLOW: i32 = 0x100;
const F_GETFL: u64 = 3;
const SEEK_CUR: u64 = 1;

/// A request that only this module can make, so that no other call can be made for us.
pub struct Sealed(pub(super) Request);

/// A system call that a thread may make for us.
pub trait InsightCall: Send {
    /// What the kernel answers.
    type Answer;

    #[doc(hidden)]
    fn request(&self) -> Sealed;

    #[doc(hidden)]
    fn answer(&self, result: i64, bytes: &[u8]) -> Option<Self::Answer>;
}

fn plain(number: u64, args: [u64; 6]) -> Sealed {
    let call = RawCall { number, args };
    Sealed(Request { call, input: vec![], room: 0, input_at: None, output_at: None })
}

/// The kernel takes an `int` from the low half of the register and extends its sign.
fn int(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

/// `getpid()`: the process id in the process's own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Getpid;

impl InsightCall for Getpid {
    type Answer = u32;

    fn request(&self) -> Sealed {
        plain(39, [0; 6])
    }

    fn answer(&self, result: i64, _: &[u8]) -> Option<u32> {
        u32::try_from(result).ok()
    }
}

/// `gettid()`: the thread id in the process's own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gettid;

impl InsightCall for Gettid {
    type Answer = u32;

    fn request(&self) -> Sealed {
        plain(186, [0; 6])
    }

    fn answer(&self, result: i64, _: &[u8]) -> Option<u32> {
        u32::try_from(result).ok()
    }
}

/// `getcwd(2)`: path of the current directory, up to 1023 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Getcwd;

impl InsightCall for Getcwd {
    type Answer = String;

    fn request(&self) -> Sealed {
        let call = RawCall { number: 79, args: [0, PATH_ROOM as u64, 0, 0, 0, 0] };
        Sealed(Request { call, input: vec![], room: PATH_ROOM, input_at: None, output_at: Some(0) })
    }

    fn answer(&self, result: i64, bytes: &[u8]) -> Option<String> {
        // The length counts the NUL.
        let length = usize::try_from(result).ok()?.checked_sub(1)?;
        Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
    }
}

/// What `fstat(2)` says of a file (`struct stat`, arch/x86/include/uapi/asm/stat.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// File type and permissions.
    pub mode: u32,
    /// Number of names.
    pub links: u64,
    /// Size in bytes.
    pub size: i64,
    /// Bytes that one transfer should have.
    pub block_size: i64,
    /// Units of 512 bytes that are allocated.
    pub blocks: i64,
}

impl Stat {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let mode = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?);
        Some(Self {
            device: word(0)?,
            inode: word(8)?,
            links: word(16)?,
            mode,
            size: word(48)?.cast_signed(),
            block_size: word(56)?.cast_signed(),
            blocks: word(64)?.cast_signed(),
        })
    }
}

/// `fstat(fd)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fstat {
    /// File descriptor.
    pub fd: i32,
}

impl InsightCall for Fstat {
    type Answer = Stat;

    fn request(&self) -> Sealed {
        let call = RawCall { number: 5, args: [int(self.fd), 0, 0, 0, 0, 0] };
        Sealed(Request { call, input: vec![], room: STAT_SIZE, input_at: None, output_at: Some(1) })
    }

    fn answer(&self, result: i64, bytes: &[u8]) -> Option<Stat> {
        if result == 0 { Stat::parse(bytes) } else { None }
    }
}

/// `newfstatat(dirfd, path)`; a link itself, not what it points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newfstatat {
    /// Directory that the path begins at; none is the current directory.
    pub directory: Option<i32>,
    /// The path; an empty one is the directory's descriptor itself.
    pub path: String,
}

impl InsightCall for Newfstatat {
    type Answer = Stat;

    fn request(&self) -> Sealed {
        let flags = if self.path.is_empty() { AT_EMPTY_PATH } else { AT_SYMLINK_NOFOLLOW };
        let directory = self.directory.unwrap_or(AT_FDCWD);
        let call = RawCall { number: 262, args: [int(directory), 0, 0, int(flags), 0, 0] };
        let input = c_string(&self.path);
        Sealed(Request { call, input, room: STAT_SIZE, input_at: Some(1), output_at: Some(2) })
    }

    fn answer(&self, result: i64, bytes: &[u8]) -> Option<Stat> {
        if result == 0 { Stat::parse(bytes) } else { None }
    }
}

/// Which link of `/proc/self` is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fd {
    /// `/proc/self/exe`: the executable.
    Executable,
    /// `/proc/self/fd/N`: what a descriptor refers to.
    Number(i32),
}

/// `readlinkat(AT_FDCWD, "/proc/self/...")`, up to 1024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readlinkat {
    /// The link.
    pub link: Fd,
}

impl InsightCall for Readlinkat {
    type Answer = String;

    fn request(&self) -> Sealed {
        let input = c_string(&match self.link {
            Fd::Executable => "/proc/self/exe".to_owned(),
            Fd::Number(fd) => format!("/proc/self/fd/{fd}"),
        });
        let call = RawCall { number: 267, args: [int(AT_FDCWD), 0, 0, PATH_ROOM as u64, 0, 0] };
        Sealed(Request { call, input, room: PATH_ROOM, input_at: Some(1), output_at: Some(2) })
    }

    fn answer(&self, result: i64, bytes: &[u8]) -> Option<String> {
        let length = usize::try_from(result).ok()?;
        Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
    }
}

/// `lseek(fd, 0, SEEK_CUR)`: where a descriptor stands, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lseek {
    /// File descriptor.
    pub fd: i32,
}

impl InsightCall for Lseek {
    type Answer = u64;

    fn request(&self) -> Sealed {
        plain(8, [int(self.fd), 0, SEEK_CUR, 0, 0, 0])
    }

    fn answer(&self, result: i64, _: &[u8]) -> Option<u64> {
        u64::try_from(result).ok()
    }
}

/// `pread64(fd, ..., count, offset)`: up to 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pread64 {
    /// File descriptor.
    pub fd: i32,
    /// How many bytes; more than 4096 are not read.
    pub count: u32,
    /// Where in the file, in bytes.
    pub offset: u64,
}

impl InsightCall for Pread64 {
    type Answer = Vec<u8>;

    fn request(&self) -> Sealed {
        let room = usize::try_from(self.count).unwrap_or(READ_ROOM).min(READ_ROOM);
        let call = RawCall { number: 17, args: [int(self.fd), 0, room as u64, self.offset, 0, 0] };
        Sealed(Request { call, input: vec![], room, input_at: None, output_at: Some(1) })
    }

    fn answer(&self, result: i64, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.get(..usize::try_from(result).ok()?)?.to_vec())
    }
}

/// `fcntl(fd, F_GETFL)`: the flags of open(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fcntl {
    /// File descriptor.
    pub fd: i32,
}

impl InsightCall for Fcntl {
    type Answer = u32;

    fn request(&self) -> Sealed {
        plain(72, [int(self.fd), F_GETFL, 0, 0, 0, 0])
    }

    fn answer(&self, result: i64, _: &[u8]) -> Option<u32> {
        u32::try_from(result).ok()
    }
}

fn c_string(text: &str) -> Vec<u8> {
    // A NUL inside would end the path early; there is none in a path that a kernel gave.
    text.bytes().take_while(|&byte| byte != 0).chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn numbers_and_constants_are_those_of_libc() {
        let number = |sealed: Sealed| sealed.0.call.number;
        let of = |number: libc::c_long| u64::try_from(number).unwrap();
        assert_eq!(number(Getpid.request()), of(libc::SYS_getpid));
        assert_eq!(number(Gettid.request()), of(libc::SYS_gettid));
        assert_eq!(number(Getcwd.request()), of(libc::SYS_getcwd));
        assert_eq!(number(Fstat { fd: 1 }.request()), of(libc::SYS_fstat));
        assert_eq!(
            number(Newfstatat { directory: None, path: "x".into() }.request()),
            of(libc::SYS_newfstatat)
        );
        assert_eq!(number(Readlinkat { link: Fd::Executable }.request()), of(libc::SYS_readlinkat));
        assert_eq!(number(Lseek { fd: 1 }.request()), of(libc::SYS_lseek));
        assert_eq!(number(Pread64 { fd: 1, count: 1, offset: 0 }.request()), of(libc::SYS_pread64));
        assert_eq!(number(Fcntl { fd: 1 }.request()), of(libc::SYS_fcntl));
        assert_eq!((AT_FDCWD, AT_EMPTY_PATH), (libc::AT_FDCWD, libc::AT_EMPTY_PATH));
        assert_eq!(AT_SYMLINK_NOFOLLOW, libc::AT_SYMLINK_NOFOLLOW);
        assert_eq!(F_GETFL, u64::try_from(libc::F_GETFL).unwrap());
        assert_eq!((STAT_SIZE, PATH_ROOM), (size_of::<libc::stat>(), 1024));
    }

    /// The same call, made here by hand with the request's numbers.
    fn here(sealed: Sealed) -> (i64, Vec<u8>) {
        let Sealed(request) = sealed;
        let mut output = vec![0u8; request.room];
        let mut args = request.call.args;
        if let Some(at) = request.input_at {
            args[at] = request.input.as_ptr() as u64;
        }
        if let Some(at) = request.output_at {
            args[at] = output.as_mut_ptr() as u64;
        }
        let number = i64::try_from(request.call.number).unwrap();
        let [a, b, c, d, ..] = args;
        // SAFETY: the addresses are those of live buffers of the sizes that the request names.
        let result = unsafe { libc::syscall(number, a, b, c, d) };
        (result, output)
    }

    #[test]
    fn this_kernel_understands_the_requests() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let metadata = file.metadata().unwrap();
        let exe = std::env::current_exe().unwrap();

        let (result, bytes) = here(Fstat { fd }.request());
        let stat = Fstat { fd }.answer(result, &bytes).unwrap();
        assert_eq!((stat.device, stat.inode, stat.mode), (metadata.dev(), metadata.ino(), metadata.mode()));
        assert_eq!((stat.size.cast_unsigned(), stat.links), (metadata.len(), metadata.nlink()));
        assert_eq!(stat.blocks.cast_unsigned(), metadata.blocks());

        let by_path = Newfstatat { directory: None, path: exe.display().to_string() };
        let (result, bytes) = here(by_path.request());
        assert_eq!(by_path.answer(result, &bytes), Some(stat));

        for link in [Fd::Executable, Fd::Number(fd)] {
            let (result, bytes) = here(Readlinkat { link }.request());
            assert_eq!(Readlinkat { link }.answer(result, &bytes).unwrap(), exe.display().to_string());
        }
        let (result, bytes) = here(Getcwd.request());
        let here_now = std::env::current_dir().unwrap().display().to_string();
        assert_eq!(Getcwd.answer(result, &bytes), Some(here_now));
        let read = Pread64 { fd, count: 4, offset: 0 };
        let (result, bytes) = here(read.request());
        assert_eq!(read.answer(result, &bytes).unwrap(), b"\x7fELF");
        assert_eq!(Getpid.answer(here(Getpid.request()).0, &[]), Some(std::process::id()));
        assert_eq!(Lseek { fd }.answer(here(Lseek { fd }.request()).0, &[]), Some(0));
    }

    #[test]
    fn answers_that_make_no_sense_are_none() {
        assert_eq!(Getcwd.answer(2000, &[0; 1024]), None);
        assert_eq!(Getcwd.answer(0, &[0; 1024]), None);
        assert_eq!(Fstat { fd: 1 }.answer(0, &[0; 10]), None);
        assert_eq!(Pread64 { fd: 1, count: 4, offset: 0 }.answer(5, &[0; 4]), None);
        assert_eq!(Getpid.answer(i64::MAX, &[]), None);
    }
}

//! Every form in which a program writes to a file, at odd places and in odd pieces.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr;

use crate::pattern;

/// Bytes of each file: neither whole blocks nor whole sectors.
pub const LENGTH: usize = 20_001;
/// Where the file-size limit cuts a write short.
pub const LIMIT: usize = 10_000;
/// Bytes in front of a page that is not there.
pub const READABLE: usize = 8192;
/// Where [`Form::Zero`] ends.
const ZERO_LENGTH: usize = 19_000;
/// What it fills with zeros, and with which mode of `fallocate`: parts of two blocks, twice, and of one. Of whole blocks the
/// file system only notes that they are zeros.
const ZEROS: [(Range<usize>, i32); 3] = [
    (3000..7000, libc::FALLOC_FL_ZERO_RANGE),
    (11_000..13_000, libc::FALLOC_FL_ZERO_RANGE),
    (17_000..18_000, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
];
const PAGE: usize = 4096;
const SEED: u64 = 77;
/// The number of the file of [`leave_mapped`], beyond those of the forms.
const FILE_LEFT_MAPPED: u64 = 99;

/// A way to write a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `writev` of pieces of any size.
    Writev,
    /// `pwritev`, from the end to the beginning.
    Pwritev,
    /// `pwritev2` with `RWF_APPEND`.
    Pwritev2,
    /// Small `write`s to a descriptor that only writes, and appends.
    Append,
    /// Small `write`s with `O_SYNC`.
    Sync,
    /// `O_DIRECT`, from an aligned buffer; the rest without it.
    Direct,
    /// A whole file first, then parts of it again.
    Patch,
    /// `copy_file_range` of the `writev` file.
    CopyFileRange,
    /// `sendfile` of the `pwritev` file.
    Sendfile,
    /// `splice` of the `pwritev2` file through a pipe.
    Splice,
    /// Through a shared mapping, in pieces.
    Mapped,
    /// `io_submit` of two writes.
    Aio,
    /// `io_uring_enter` of two writes.
    Uring,
    /// A `write` that the limit of the file's size cuts short.
    Limit,
    /// A `write` whose buffer ends early; and one that is refused.
    Fault,
    /// A whole file, parts of which `ftruncate` and `fallocate` fill with zeros, with `O_SYNC`.
    Zero,
}

impl Form {
    /// All of them, in the order in which they are used.
    pub const ALL: [Form; 16] = [
        Form::Writev,
        Form::Pwritev,
        Form::Pwritev2,
        Form::Append,
        Form::Sync,
        Form::Direct,
        Form::Patch,
        Form::CopyFileRange,
        Form::Sendfile,
        Form::Splice,
        Form::Mapped,
        Form::Aio,
        Form::Uring,
        Form::Limit,
        Form::Fault,
        Form::Zero,
    ];

    /// Name of the file.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The file that it copies.
    #[must_use]
    pub fn copies(self) -> Option<Form> {
        match self {
            Form::CopyFileRange => Some(Form::Writev),
            Form::Sendfile => Some(Form::Pwritev),
            Form::Splice => Some(Form::Pwritev2),
            _ => None,
        }
    }

    /// What the file holds in the end.
    #[must_use]
    pub fn content(self) -> Vec<u8> {
        if let Some(source) = self.copies() {
            return source.content();
        }
        let length = match self {
            Form::Limit => LIMIT,
            Form::Fault => READABLE,
            Form::Zero => ZERO_LENGTH,
            _ => LENGTH,
        };
        let mut bytes = pattern::file(SEED, self as u64, (LENGTH / PAGE + 1) as u64);
        bytes.truncate(length);
        if self == Form::Zero {
            ZEROS.into_iter().for_each(|(range, _)| bytes[range].fill(0));
        }
        bytes
    }

    fn write(self, dir: &Path) -> io::Result<()> {
        let content = self.content();
        let path = dir.join(self.name());
        let mut file = File::create(&path)?;
        let reopened = |flags| OpenOptions::new().write(true).custom_flags(flags).open(&path);
        match self {
            Form::Writev => {
                let mut rest = &content[..];
                while !rest.is_empty() {
                    let done = file.write_vectored(&pieces(rest, &[1, 4095, 100, 0, 3000, 3]))?;
                    rest = &rest[done..];
                }
            }
            Form::Pwritev => {
                for (number, chunk) in content.chunks(3333).enumerate().rev() {
                    positioned(&file, &pieces(chunk, &[7, 1000]), number * 3333, None)?;
                }
            }
            Form::Pwritev2 => {
                for chunk in content.chunks(2500) {
                    positioned(&file, &pieces(chunk, &[1200]), 0, Some(libc::RWF_APPEND))?;
                }
            }
            Form::Append => {
                let mut file = reopened(libc::O_APPEND)?;
                content.chunks(777).try_for_each(|chunk| file.write_all(chunk))?;
            }
            Form::Sync => {
                let mut file = reopened(libc::O_SYNC)?;
                content.chunks(3000).try_for_each(|chunk| file.write_all(chunk))?;
            }
            Form::Direct => direct(&reopened(libc::O_DIRECT)?, &content, &mut file)?,
            Form::Patch => {
                let mut first = content.clone();
                for at in [5000, 8190, 12_288] {
                    first[at..at + 100].fill(0);
                }
                file.write_all(&first)?;
                file.sync_all()?;
                for at in [5000, 8190, 12_288] {
                    file.write_all_at(&content[at..at + 100], at as u64)?;
                }
            }
            Form::CopyFileRange | Form::Sendfile | Form::Splice => {
                let source = File::open(dir.join(self.copies().unwrap_or(self).name()))?;
                self.copy(&source, &file)?;
            }
            Form::Mapped => mapped(&path, &content)?,
            Form::Aio => aio(&file, &content)?,
            Form::Uring => uring(&file, &content)?,
            Form::Limit => limited(&mut file)?,
            Form::Fault => faulting(&file, &path, &content)?,
            Form::Zero => zeroed(&mut file, &reopened(libc::O_SYNC)?)?,
        }
        file.sync_all()
    }

    fn copy(self, from: &File, to: &File) -> io::Result<()> {
        let (pipe_read, pipe_write) = io::pipe()?;
        let mut left = from.metadata()?.len().try_into().unwrap_or(0);
        while left > 0 {
            let done = match self {
                Form::CopyFileRange => between(libc::SYS_copy_file_range, from, to, left)?,
                Form::Sendfile => {
                    // SAFETY: the descriptors are open, and no offset is given.
                    let done =
                        unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), ptr::null_mut(), left) };
                    transferred(done)?
                }
                _ => {
                    let filled = between(libc::SYS_splice, from, &pipe_write, left.min(PAGE))?;
                    between(libc::SYS_splice, &pipe_read, to, filled)?
                }
            };
            left -= done;
        }
        Ok(())
    }
}

/// Writes a file in each form, and syncs it.
///
/// # Errors
/// The kernel refuses something.
pub fn write(dir: &Path) -> io::Result<()> {
    Form::ALL.into_iter().try_for_each(|form| {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", form.name()));
        form.write(dir).map_err(named)
    })
}

/// Splits `bytes` into pieces of the given lengths, as often as is needed.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<IoSlice<'a>> {
    let mut all = Vec::new();
    for &length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        all.push(IoSlice::new(piece));
        bytes = rest;
    }
    all
}

/// `copy_file_range` or `splice`, which take the same arguments.
fn between(number: libc::c_long, from: &impl AsRawFd, to: &impl AsRawFd, count: usize) -> io::Result<usize> {
    let none = ptr::null_mut::<i64>();
    // SAFETY: the descriptors are open, and no offset is given.
    let done = unsafe { libc::syscall(number, from.as_raw_fd(), none, to.as_raw_fd(), none, count, 0) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

fn transferred(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `pwritev`, or `pwritev2` if there are flags.
fn positioned(file: &File, pieces: &[IoSlice<'_>], at: usize, flags: Option<i32>) -> io::Result<()> {
    let number = if flags.is_some() { libc::SYS_pwritev2 } else { libc::SYS_pwritev };
    let (iov, count, flags) = (pieces.as_ptr(), pieces.len(), flags.unwrap_or(0));
    // SAFETY: an IoSlice is a struct iovec, and so many of them are borrowed for the call.
    let done = unsafe { libc::syscall(number, file.as_raw_fd(), iov, count, at, 0, flags) };
    match usize::try_from(done) {
        Ok(done) if done == pieces.iter().map(|piece| piece.len()).sum() => Ok(()),
        Ok(_) => Err(io::Error::other("a short write")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Whole pages past the page cache.
fn direct(direct: &File, content: &[u8], file: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; READABLE + PAGE];
    let aligned = buffer.as_ptr().align_offset(PAGE);
    let whole = content.len() / PAGE * PAGE;
    for (number, chunk) in content[..whole].chunks(READABLE).enumerate() {
        let part = &mut buffer[aligned..aligned + chunk.len()];
        part.copy_from_slice(chunk);
        direct.write_all_at(part, (number * READABLE) as u64)?;
    }
    file.write_all_at(&content[whole..], whole as u64)
}

/// Makes a new file of so many blocks and stores them in its pages. Who has them written must be somebody else: until
/// standard input ends, nothing more happens.
///
/// # Errors
/// The kernel refuses something.
pub fn leave_mapped(path: &Path, blocks: u64) -> io::Result<()> {
    let content = pattern::file(SEED, FILE_LEFT_MAPPED, blocks);
    File::create(path)?;
    let (_file, memory) = map_shared(path, content.len())?;
    // SAFETY: the mapping is as long as the content, and nobody else has the file mapped.
    unsafe { ptr::copy_nonoverlapping(content.as_ptr(), memory.cast(), content.len()) };
    println!("WRITER_MAPPED={blocks}");
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}

/// Maps a file that is to have this length.
fn map_shared(path: &Path, length: usize) -> io::Result<(File, *mut libc::c_void)> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    file.set_len(length as u64)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let memory =
        unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok((file, memory)) }
}

/// Stores bytes in the file's pages, and has them written by `msync`, by `fsync` of the file, and by `munmap`.
fn mapped(path: &Path, content: &[u8]) -> io::Result<()> {
    let (file, memory) = map_shared(path, content.len())?;
    for (number, part) in content.chunks(7000).enumerate() {
        // SAFETY: the mapping is as long as the content.
        let at = unsafe { memory.byte_add(number * 7000) };
        // SAFETY: as above, and nobody else has the file mapped.
        unsafe { ptr::copy_nonoverlapping(part.as_ptr(), at.cast(), part.len()) };
        match number {
            // SAFETY: the mapping is as long as that.
            0 => drop(unsafe { libc::msync(memory, content.len(), libc::MS_SYNC) }),
            1 => file.sync_all()?,
            _ => {}
        }
    }
    // SAFETY: nobody refers to it any more.
    unsafe { libc::munmap(memory, content.len()) };
    Ok(())
}

/// Splits the content in the middle of a block.
fn halves(content: &[u8]) -> [(&[u8], u64); 2] {
    let (first, second) = content.split_at(9000);
    [(first, 0), (second, 9000)]
}

fn system_call(number: libc::c_long, args: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: callers pass addresses of what the call reads and writes, which they have.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A structure of 64 bytes, as `struct iocb` and `struct io_uring_sqe` are, from its words.
type Words = [u64; 8];

fn aio(file: &File, content: &[u8]) -> io::Result<()> {
    const IOCB_CMD_PWRITE: u64 = 1;
    let mut context = 0usize;
    system_call(libc::SYS_io_setup, [8, &raw mut context as usize, 0, 0, 0, 0])?;
    let fd = u64::from(file.as_raw_fd().unsigned_abs());
    let iocbs: [Words; 2] = halves(content).map(|(part, at)| {
        [0, 0, IOCB_CMD_PWRITE | fd << 32, part.as_ptr() as u64, part.len() as u64, at, 0, 0]
    });
    let pointers = [&raw const iocbs[0], &raw const iocbs[1]];
    let submitted = system_call(libc::SYS_io_submit, [context, 2, pointers.as_ptr() as usize, 0, 0, 0])?;
    let mut events = [[0u64; 4]; 2];
    system_call(libc::SYS_io_getevents, [context, 2, 2, events.as_mut_ptr() as usize, 0, 0])?;
    system_call(libc::SYS_io_destroy, [context, 0, 0, 0, 0, 0])?;
    let written: u64 = events.iter().map(|event| event[2]).sum();
    if submitted == 2 && written == content.len() as u64 {
        Ok(())
    } else {
        Err(io::Error::other("a short write"))
    }
}

fn uring(file: &File, content: &[u8]) -> io::Result<()> {
    const IORING_OP_WRITE: u64 = 23;
    const IORING_ENTER_GETEVENTS: usize = 1;
    const IORING_OFF_SQES: i64 = 0x1000_0000;
    // Where things are in `struct io_uring_params`, in words of 32 bits: the offsets of the queue's tail and array.
    const TAIL: usize = 11;
    const ARRAY: usize = 16;
    let mut parameters = [0u32; 30];
    let ring = match system_call(libc::SYS_io_uring_setup, [4, parameters.as_mut_ptr() as usize, 0, 0, 0, 0])
    {
        // Some hosts of tests forbid it; guests do not.
        Err(error) if [Some(libc::EPERM), Some(libc::ENOSYS)].contains(&error.raw_os_error()) => {
            return file.write_all_at(content, 0);
        }
        ring => ring?,
    };
    let ring = i32::try_from(ring).map_err(io::Error::other)?;
    let map = |offset: i64| {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags, ring, offset) };
        if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(memory) }
    };
    let (rings, entries) = (map(0)?, map(IORING_OFF_SQES)?);
    let fd = u64::from(file.as_raw_fd().unsigned_abs());
    for (number, (part, at)) in halves(content).into_iter().enumerate() {
        let entry: Words =
            [IORING_OP_WRITE | fd << 32, at, part.as_ptr() as u64, part.len() as u64, 0, 0, 0, 0];
        // SAFETY: there is room for four entries.
        let slot = unsafe { entries.byte_add(number * size_of::<Words>()) };
        // SAFETY: as above.
        unsafe { slot.cast::<Words>().write_volatile(entry) };
        // SAFETY: the array has as many places.
        let place = unsafe { rings.byte_add(parameters[ARRAY] as usize + number * 4) };
        // SAFETY: as above.
        unsafe { place.cast::<u32>().write_volatile(number.try_into().unwrap_or(0)) };
    }
    // SAFETY: the kernel says where it is.
    let tail = unsafe { rings.byte_add(parameters[TAIL] as usize) };
    // SAFETY: as above; the kernel looks at it in the call below.
    unsafe { tail.cast::<u32>().write_volatile(2) };
    let ring = usize::try_from(ring).unwrap_or(0);
    let submitted = system_call(libc::SYS_io_uring_enter, [ring, 2, 2, IORING_ENTER_GETEVENTS, 0, 0])?;
    for memory in [rings, entries] {
        // SAFETY: nobody refers to it any more.
        unsafe { libc::munmap(memory, PAGE) };
    }
    if submitted == 2 { Ok(()) } else { Err(io::Error::other("not all was submitted")) }
}

/// Shortens a file, and fills parts of it with zeros: first what is on the disk, then what is on its way there.
fn zeroed(file: &mut File, sync: &File) -> io::Result<()> {
    file.write_all(&pattern::file(SEED, Form::Zero as u64, (LENGTH / PAGE + 1) as u64))?;
    file.sync_all()?;
    sync.set_len(ZERO_LENGTH as u64)?;
    for (range, mode) in ZEROS {
        let start = range.start.try_into().map_err(io::Error::other)?;
        let length = range.len().try_into().map_err(io::Error::other)?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::fallocate(sync.as_raw_fd(), mode, start, length) } != 0 {
            match io::Error::last_os_error() {
                // ext3 keeps no note of blocks that are zeros.
                error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    sync.write_all_at(&vec![0; range.len()], range.start as u64)?;
                }
                error => return Err(error),
            }
        }
        // What the other ranges will have in them for a while.
        ZEROS[1..]
            .iter()
            .filter(|(next, _)| next.start > range.end)
            .try_for_each(|(next, _)| file.write_all_at(&[1; 100], next.start as u64 + 500))?;
    }
    Ok(())
}

/// Writes more than the limit lets through.
fn limited(file: &mut File) -> io::Result<()> {
    let long = pattern::file(SEED, Form::Limit as u64, (LENGTH / PAGE) as u64);
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut before) };
    let limit = libc::rlimit { rlim_cur: LIMIT as u64, ..before };
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    let written = file.write(&long);
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const before) };
    if written? == LIMIT { Ok(()) } else { Err(io::Error::other("the limit did not hold")) }
}

/// Writes from memory whose end is not there, and to a descriptor that does not write.
fn faulting(file: &File, path: &Path, content: &[u8]) -> io::Result<()> {
    let length = READABLE + PAGE;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory at a place of the kernel's choice.
    let memory = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the memory is longer, and nobody else's.
    unsafe { ptr::copy_nonoverlapping(content.as_ptr(), memory.cast(), READABLE) };
    // SAFETY: the last page is within it.
    let end = unsafe { memory.byte_add(READABLE) };
    // SAFETY: nobody refers to it.
    unsafe { libc::mprotect(end, PAGE, libc::PROT_NONE) };
    // SAFETY: the kernel finds out by itself what cannot be read.
    let done = unsafe { libc::pwrite(file.as_raw_fd(), memory, length, 0) };
    let reader = File::open(path)?;
    // SAFETY: so much can be read.
    let refused = unsafe { libc::pwrite(reader.as_raw_fd(), memory, READABLE, 4096) };
    // SAFETY: nobody refers to it any more.
    unsafe { libc::munmap(memory, length) };
    if transferred(done)? == READABLE && refused < 0 { Ok(()) } else { Err(io::Error::other("no fault")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_what_is_said() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        write(dir.path()).unwrap();
        for form in Form::ALL {
            assert!(std::fs::read(dir.path().join(form.name())).unwrap() == form.content(), "{form:?}");
        }
    }
}

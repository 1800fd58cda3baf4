//! What is written down after each step: one block of text.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::kernel::{Memory, call, word};
use super::model::{BLOCK, Described, Model};
use super::step::Step;

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the call returned: an error as a negative number, as the kernel has it.
    pub result: i64,
    /// The checksum of what was read.
    pub sum: String,
    descriptors: Vec<Described>,
    step: String,
}

impl Record {
    /// What must be written down of a step that returned this, with the model as it is then.
    #[must_use]
    pub fn expected(model: &Model, step: &Step, result: i64, sum: String) -> Record {
        Record { result, sum, descriptors: model.describe(), step: format!("{step:?}") }
    }

    /// The same with what the kernel says of the descriptors.
    pub(super) fn told(model: &Model, step: &Step, result: i64, sum: String) -> Record {
        let descriptors = model.describe().iter().map(|known| super::kernel::describe(known.fd)).collect();
        Record { result, sum, descriptors, step: format!("{step:?}") }
    }
}

/// The result first, so that it can be read without the rest.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.result, self.sum, self.step)?;
        for Described { fd, position, size, links, cloexec } in &self.descriptors {
            writeln!(f, "{fd}: at {position} of {size}, {links} names, cloexec {}", u8::from(*cloexec))?;
        }
        f.write_char('\n')
    }
}

/// The result in what is written down of a step.
#[must_use]
pub fn result_in(text: &str) -> Option<i64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The disk that records are written to, one block for each step.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    memory: Memory,
}

impl Disk {
    /// Its descriptor is beyond those that the model uses.
    pub(super) fn open(path: &Path) -> io::Result<Disk> {
        const FD: i32 = 200;
        let low = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let fd =
            call(libc::SYS_fcntl, [word(low.as_raw_fd()), word(libc::F_DUPFD_CLOEXEC), word(FD), 0, 0, 0]);
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the descriptor is new, and nobody else's.
        let file = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        Ok(Disk { file, memory: Memory::new(1)? })
    }

    pub(super) fn write(&mut self, step: u64, record: &Record) -> io::Result<()> {
        let mut block = record.to_string().into_bytes();
        block.resize(usize::try_from(BLOCK).unwrap_or(0), 0);
        self.memory.fill(0, &block);
        self.file.write_all_at(self.memory.bytes(), step * BLOCK)
    }

    /// The result of a step that somebody else has made.
    pub(super) fn result(&mut self, step: u64) -> io::Result<i64> {
        self.file.read_exact_at(self.memory.bytes_mut(), step * BLOCK)?;
        let text = String::from_utf8_lossy(self.memory.bytes());
        result_in(&text).ok_or_else(|| io::Error::other(format!("step {step} was not written down")))
    }
}

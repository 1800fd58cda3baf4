//! What a step makes of the model, and what the kernel must return.

use libc::{EACCES, EBADF, EEXIST, EFAULT, EFBIG, EINVAL, ENOENT, ENOSPC};

use super::model::{FIRST_FD, File, Model, Name, Opened, Slot, Task};
use super::step::{Begin, Copy, CopyForm, OpenCall, Step, Write};
use crate::pattern::{self, Checksum};

/// What is not aligned to sectors cannot be written past the page cache.
const SECTOR: usize = 512;

type Answer = Result<i64, i32>;

/// What a write at a step writes: no two steps the same, and no two blocks of one.
pub(super) fn data(seed: u64, step: u64, count: usize) -> Vec<u8> {
    let blocks = count.div_ceil(pattern::BLOCK) as u64;
    let mut bytes: Vec<u8> = (0..blocks).flat_map(|block| pattern::block(seed, step, block)).collect();
    bytes.truncate(count);
    bytes
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Model {
    /// Makes step number `at`. Gives what the call must return, and the checksum of what it must have read. How much finds
    /// room on the small file system only the kernel knows: `said` is what it returned, and believed if it can be.
    pub fn apply(&mut self, at: u64, step: &Step, said: i64) -> (i64, String) {
        let mut sum = String::from("-");
        let answer = match *step {
            Step::Open(name, call, flags) => self.open(name, call, flags),
            Step::Close(fd) => self.table_mut().remove(&fd).map(|_| 0).ok_or(EBADF),
            Step::CloseRange(first, last, flags) => self.close_range(first, last, flags),
            Step::Dup(fd) => self.duplicate(fd, FIRST_FD, false),
            Step::Dup2(fd, to) if fd == to => self.slot(fd).map(|_| to.into()),
            Step::Dup2(fd, to) => self.replace(fd, to, false),
            Step::Dup3(fd, to, _) if fd == to => Err(EINVAL),
            Step::Dup3(fd, to, flags) => self.replace(fd, to, flags != 0),
            Step::Fcntl(fd, command, from) => self.duplicate(fd, from, command == libc::F_DUPFD_CLOEXEC),
            Step::Begin(begin) => self.begin(begin),
            Step::End => {
                self.tasks.pop();
                Ok(0)
            }
            Step::Exec => {
                self.table_mut().retain(|_, slot| !slot.cloexec);
                Ok(0)
            }
            Step::Seek(fd, offset, whence) => self.seek(fd, offset, whence),
            Step::Read { fd, at, vector: _, count } => self.read(fd, at, count, &mut sum),
            Step::Write(write) => self.write(at, write, said),
            Step::Copy(copy) => self.copy(copy),
            Step::Ftruncate(fd, size) => self.ftruncate(fd, size),
            Step::Truncate(name, size) => self.truncate(name, size),
            Step::Allocate(fd, mode, offset, length) => self.allocate(fd, mode, offset, length),
            Step::Map(fd, offset, count, _) => self.map(at, fd, offset, count),
            Step::Sync(fd, _) => self.slot(fd).map(|_| 0),
            Step::Rename(from, to) => self.rename(from, to),
            Step::Link(from, to) => self.link(from, to),
            Step::Unlink(name) => self.unlink(name),
            Step::RenameDirectory => {
                self.directory_moved = !self.directory_moved;
                Ok(0)
            }
        };
        (answer.unwrap_or_else(|error| -i64::from(error)), sum)
    }

    fn slot(&self, fd: i32) -> Result<Slot, i32> {
        self.table().get(&fd).copied().ok_or(EBADF)
    }

    fn opened_mut(&mut self, fd: i32) -> Result<&mut Opened, i32> {
        let slot = self.slot(fd)?;
        self.opened.get_mut(slot.opened).ok_or(EBADF)
    }

    /// The lowest number that is free, from `from` on.
    fn lowest(&self, from: i32) -> i32 {
        (from..).find(|fd| !self.table().contains_key(fd)).unwrap_or(i32::MAX)
    }

    fn new_slot(&mut self, from: i32, slot: Slot) -> i64 {
        let fd = self.lowest(from);
        self.table_mut().insert(fd, slot);
        fd.into()
    }

    fn open(&mut self, name: Name, call: OpenCall, flags: i32) -> Answer {
        let flags = match call {
            OpenCall::Creat => libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC,
            _ => flags,
        };
        let file = match self.names.get(&name) {
            Some(_) if flags & libc::O_EXCL != 0 => return Err(EEXIST),
            Some(&file) => file,
            None if flags & libc::O_CREAT == 0 => return Err(ENOENT),
            None => {
                let small = name == Name::SMALL;
                self.files.push(File { names: [name].into(), small, ..File::default() });
                self.names.insert(name, self.files.len() - 1);
                self.files.len() - 1
            }
        };
        if flags & libc::O_TRUNC != 0 {
            self.files[file].resize(0);
        }
        self.opened.push(Opened { file, position: 0, flags });
        let slot = Slot { opened: self.opened.len() - 1, cloexec: flags & libc::O_CLOEXEC != 0 };
        Ok(self.new_slot(FIRST_FD, slot))
    }

    fn close_range(&mut self, first: i32, last: i32, flags: u32) -> Answer {
        if first > last {
            return Err(EINVAL);
        }
        let table = self.table_mut();
        if flags & libc::CLOSE_RANGE_CLOEXEC != 0 {
            table.range_mut(first..=last).for_each(|(_, slot)| slot.cloexec = true);
        } else {
            table.retain(|fd, _| !(first..=last).contains(fd));
        }
        Ok(0)
    }

    fn duplicate(&mut self, fd: i32, from: i32, cloexec: bool) -> Answer {
        let slot = self.slot(fd)?;
        Ok(self.new_slot(from, Slot { cloexec, ..slot }))
    }

    fn replace(&mut self, fd: i32, to: i32, cloexec: bool) -> Answer {
        let slot = self.slot(fd)?;
        self.table_mut().insert(to, Slot { cloexec, ..slot });
        Ok(to.into())
    }

    fn begin(&mut self, begin: Begin) -> Answer {
        let task = match begin {
            Begin::Thread => Task { thread: true, ..self.task() },
            Begin::Fork => {
                self.tables.push(self.table().clone());
                Task { table: self.tables.len() - 1, thread: false }
            }
        };
        self.tasks.push(task);
        Ok(0)
    }

    fn seek(&mut self, fd: i32, offset: i64, whence: i32) -> Answer {
        let size = self.size(fd)?;
        let opened = self.opened_mut(fd)?;
        let base = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => opened.position.cast_signed(),
            _ => size.cast_signed(),
        };
        opened.position = u64::try_from(base.checked_add(offset).ok_or(EINVAL)?).map_err(|_| EINVAL)?;
        Ok(opened.position.cast_signed())
    }

    fn size(&self, fd: i32) -> Result<u64, i32> {
        Ok(self.files[self.opened(fd).ok_or(EBADF)?.file].size())
    }

    fn read(&mut self, fd: i32, at: Option<i64>, count: usize, sum: &mut String) -> Answer {
        // The call looks at its arguments before it looks at the descriptor.
        let at = at.map(u64::try_from).transpose().map_err(|_| EINVAL)?;
        let opened = *self.opened(fd).filter(|opened| opened.reads()).ok_or(EBADF)?;
        let bytes = self.files[opened.file].bytes(at.unwrap_or(opened.position), count);
        *sum = Checksum::of(bytes).to_string();
        let done = bytes.len();
        if at.is_none() {
            self.opened_mut(fd)?.position += done as u64;
        }
        Ok(signed(done))
    }

    fn write(&mut self, step: u64, write: Write, said: i64) -> Answer {
        let Write { fd, at, vector: _, flags, count, limit, readable } = write;
        let at = at.map(u64::try_from).transpose().map_err(|_| EINVAL)?;
        let opened = *self.opened(fd).filter(|opened| opened.writes()).ok_or(EBADF)?;
        let appends = opened.appends() || flags.is_some_and(|flags| flags & libc::RWF_APPEND != 0);
        let file = &self.files[opened.file];
        let start = if appends { file.size() } else { at.unwrap_or(opened.position) };
        let mut done = count;
        if count == 0 {
            return Ok(0);
        }
        if let Some(limit) = limit {
            let room = limit.checked_sub(start).filter(|&room| room > 0).ok_or(EFBIG)?;
            done = done.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        if opened.direct() && !done.is_multiple_of(SECTOR) {
            return Err(EINVAL);
        }
        match readable {
            Some(0) => return Err(EFAULT),
            Some(readable) => done = done.min(readable),
            None => {}
        }
        if file.small {
            let room = usize::try_from(said).map_err(|_| ENOSPC)?;
            done = done.min(room);
        }
        let bytes = data(self.seed, step, count);
        self.wrote(fd, start, &bytes[..done], at.is_none())
    }

    /// Something was written, through a call.
    fn wrote(&mut self, fd: i32, start: u64, bytes: &[u8], moves: bool) -> Answer {
        let opened = *self.opened(fd).ok_or(EBADF)?;
        let file = &mut self.files[opened.file];
        if !bytes.is_empty() {
            file.store(start, bytes);
            file.counts.writes += 1;
            file.counts.bytes += bytes.len() as u64;
        }
        if moves {
            self.opened_mut(fd)?.position = start + bytes.len() as u64;
        }
        Ok(signed(bytes.len()))
    }

    fn copy(&mut self, copy: Copy) -> Answer {
        let from = *self.opened(copy.from.0).filter(|from| from.reads()).ok_or(EBADF)?;
        let to = *self.opened(copy.to.0).filter(|to| to.writes()).ok_or(EBADF)?;
        if to.appends() {
            return Err(if copy.form == CopyForm::CopyFileRange { EBADF } else { EINVAL });
        }
        let start = copy.from.1.unwrap_or(from.position);
        let bytes = self.files[from.file].bytes(start, copy.count).to_vec();
        if copy.from.1.is_none() {
            self.opened_mut(copy.from.0)?.position += bytes.len() as u64;
        }
        // Both may share their position, which is looked at again.
        let to = *self.opened(copy.to.0).ok_or(EBADF)?;
        self.wrote(copy.to.0, copy.to.1.unwrap_or(to.position), &bytes, copy.to.1.is_none())
    }

    fn ftruncate(&mut self, fd: i32, size: i64) -> Answer {
        let size = u64::try_from(size).map_err(|_| EINVAL)?;
        let opened = *self.opened(fd).ok_or(EBADF)?;
        if !opened.writes() {
            return Err(EINVAL);
        }
        self.files[opened.file].resize(size);
        Ok(0)
    }

    fn truncate(&mut self, name: Name, size: i64) -> Answer {
        let size = u64::try_from(size).map_err(|_| EINVAL)?;
        let file = *self.names.get(&name).ok_or(ENOENT)?;
        self.files[file].resize(size);
        Ok(0)
    }

    fn allocate(&mut self, fd: i32, mode: i32, offset: i64, length: i64) -> Answer {
        self.slot(fd)?;
        let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
        let length = u64::try_from(length).ok().filter(|&length| length > 0).ok_or(EINVAL)?;
        let opened = *self.opened(fd).filter(|opened| opened.writes()).ok_or(EBADF)?;
        let file = &mut self.files[opened.file];
        let end = offset + length;
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && end > file.size() {
            file.resize(end);
        }
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            let zeros = vec![0; file.bytes(offset, usize::try_from(length).unwrap_or(0)).len()];
            if !zeros.is_empty() {
                file.store(offset, &zeros);
            }
        }
        Ok(0)
    }

    fn map(&mut self, step: u64, fd: i32, offset: u64, count: usize) -> Answer {
        let opened = *self.opened(fd).ok_or(EBADF)?;
        if !(opened.reads() && opened.writes()) {
            return Err(EACCES);
        }
        let bytes = data(self.seed, step, count);
        self.files[opened.file].store(offset, &bytes);
        Ok(0)
    }

    fn rename(&mut self, from: Name, to: Name) -> Answer {
        let file = *self.names.get(&from).ok_or(ENOENT)?;
        if self.names.get(&to) == Some(&file) {
            return Ok(0);
        }
        self.lose(to);
        self.names.remove(&from);
        self.names.insert(to, file);
        self.files[file].names.remove(&from);
        self.files[file].names.insert(to);
        Ok(0)
    }

    fn link(&mut self, from: Name, to: Name) -> Answer {
        let file = *self.names.get(&from).ok_or(ENOENT)?;
        if self.names.contains_key(&to) {
            return Err(EEXIST);
        }
        self.names.insert(to, file);
        self.files[file].names.insert(to);
        self.files[file].linked = true;
        Ok(0)
    }

    fn unlink(&mut self, name: Name) -> Answer {
        if self.lose(name) { Ok(0) } else { Err(ENOENT) }
    }

    fn lose(&mut self, name: Name) -> bool {
        match self.names.remove(&name) {
            Some(file) => self.files[file].names.remove(&name),
            None => false,
        }
    }
}

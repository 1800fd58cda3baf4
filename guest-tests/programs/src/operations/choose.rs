//! Which step comes next.

use super::model::{BLOCK, FIRST_FD, Model, Name, Opened};
use super::step::{Begin, Copy, CopyForm, MapEnd, OpenCall, Step, SyncForm, Write};

/// No file of the large file system is longer.
const LARGEST: u64 = 64 << 10;
/// What is written at once to a file of the small one, which is soon full.
const LARGE_WRITE: u64 = 400 << 10;
/// Descriptors of a process, above which more are closed than opened.
const MANY: usize = 9;
/// Tasks that wait for one another.
const DEPTH: usize = 3;
/// The end of the descriptors that steps name themselves.
const END_NAMED: i32 = 20;

/// Numbers that follow from the seed and the step (SplitMix64).
struct Random(u64);

impl Random {
    fn new(seed: u64, step: u64) -> Random {
        Random(seed.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ step.wrapping_mul(0xa076_1d64_78bd_642f))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn one_of<T: std::marker::Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    fn fd(&mut self) -> i32 {
        FIRST_FD + i32::try_from(self.below(u64::from((END_NAMED - FIRST_FD).unsigned_abs()))).unwrap_or(0)
    }

    /// Bytes of a transfer: any number, or whole blocks.
    fn length(&mut self) -> u64 {
        match self.below(3) {
            0 => self.below(300),
            1 => self.below(3 * BLOCK),
            _ => (1 + self.below(3)) * BLOCK,
        }
    }

    /// A place in a file of this size, or somewhat behind it.
    fn offset(&mut self, size: u64) -> u64 {
        let any = self.below((size + 3 * BLOCK).min(LARGEST));
        if self.once_in(3) { any - any % BLOCK } else { any }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn length(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Model {
    /// Step number `at`.
    #[must_use]
    pub fn choose(&self, at: u64) -> Step {
        let random = &mut Random::new(self.seed, at);
        let (few, many) = (self.table().len() < 2, self.table().len() > MANY);
        if few || (!many && random.once_in(9)) {
            return self.choose_open(random);
        }
        if many && random.once_in(2) {
            return Step::Close(self.fd(random));
        }
        match random.below(100) {
            0..=10 => self.choose_descriptors(random),
            11..=19 => self.choose_task(random),
            20..=25 => self.choose_seek(random),
            26..=35 => self.choose_read(random),
            36..=61 => self.choose_write(random),
            62..=68 => self.choose_copy(random),
            69..=74 => self.choose_size(random),
            75..=79 => self.choose_map(random),
            80..=89 => Step::Sync(self.fd(random), self.choose_sync(random)),
            _ => self.choose_names(random),
        }
    }

    /// A descriptor, mostly one that there is.
    fn fd(&self, random: &mut Random) -> i32 {
        if random.once_in(25) {
            return random.fd();
        }
        let fds: Vec<i32> = self.table().keys().copied().collect();
        if fds.is_empty() { random.fd() } else { random.one_of(&fds) }
    }

    /// One of those that refer to what is wanted; none if there is none.
    fn fd_where(&self, random: &mut Random, wanted: impl Fn(&Opened) -> bool) -> Option<i32> {
        let is_wanted = |fd: &i32| self.opened(*fd).is_some_and(&wanted);
        let fds: Vec<i32> = self.table().keys().copied().filter(is_wanted).collect();
        if fds.is_empty() { None } else { Some(random.one_of(&fds)) }
    }

    fn is_small(&self, opened: &Opened) -> bool {
        self.files[opened.file].small
    }

    fn choose_open(&self, random: &mut Random) -> Step {
        let name = random.one_of(&Name::ALL);
        let call = random.one_of(&[OpenCall::Open, OpenCall::Openat, OpenCall::Openat2, OpenCall::Creat]);
        let mode = random.one_of(&[libc::O_RDWR, libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY]);
        let mut flags = mode;
        for (flag, times) in
            [(libc::O_CREAT, 2), (libc::O_EXCL, 12), (libc::O_CLOEXEC, 3), (libc::O_APPEND, 5)]
        {
            flags |= if random.once_in(times) { flag } else { 0 };
        }
        // Without O_CREAT it means nothing.
        flags |= if flags & libc::O_EXCL != 0 { libc::O_CREAT } else { 0 };
        if mode != libc::O_RDONLY && random.once_in(6) {
            flags |= libc::O_TRUNC;
        }
        // Not on the small file system: what falls short there has been on the disk before anybody knows how short.
        if name != Name::SMALL && mode != libc::O_RDONLY {
            match random.below(8) {
                0 => flags |= libc::O_SYNC,
                1 => flags |= libc::O_DSYNC,
                2 if flags & libc::O_APPEND == 0 => flags |= libc::O_DIRECT,
                _ => {}
            }
        }
        Step::Open(name, call, flags)
    }

    fn choose_descriptors(&self, random: &mut Random) -> Step {
        let fd = self.fd(random);
        let to = if random.once_in(2) { self.fd(random) } else { random.fd() };
        match random.below(7) {
            0 => Step::Dup(fd),
            1 => Step::Dup2(fd, to),
            2 => Step::Dup3(fd, to, random.one_of(&[0, libc::O_CLOEXEC])),
            3 => Step::Fcntl(fd, random.one_of(&[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC]), random.fd()),
            4 => {
                let cloexec = if random.once_in(2) { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
                let first = random.fd();
                let last = if random.once_in(6) { first - 1 } else { first + i32::from(random.once_in(2)) };
                Step::CloseRange(first, last, cloexec)
            }
            _ => Step::Close(fd),
        }
    }

    fn choose_task(&self, random: &mut Random) -> Step {
        let depth = self.depth();
        match random.below(6) {
            0 if depth < DEPTH => Step::Begin(Begin::Thread),
            1 | 2 if depth < DEPTH => Step::Begin(Begin::Fork),
            3 if !self.task().thread => Step::Exec,
            _ if depth > 1 => Step::End,
            _ => Step::Sync(self.fd(random), self.choose_sync(random)),
        }
    }

    fn choose_sync(&self, random: &mut Random) -> SyncForm {
        let once = [SyncForm::Fdatasync, SyncForm::Range, SyncForm::Syncfs, SyncForm::Sync];
        if random.once_in(2) { SyncForm::Fsync } else { random.one_of(&once) }
    }

    fn choose_seek(&self, random: &mut Random) -> Step {
        let fd = self.fd(random);
        let size = self.opened(fd).map_or(0, |opened| self.files[opened.file].size());
        let whence = random.one_of(&[libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END]);
        let offset = signed(random.offset(size));
        // From where it stands, and from the end, mostly backwards; sometimes too far.
        Step::Seek(fd, if whence == libc::SEEK_SET { offset } else { 100 - offset.min(9000) }, whence)
    }

    fn choose_read(&self, random: &mut Random) -> Step {
        let fd = self.fd(random);
        let Some(opened) = self.opened(fd) else {
            return Step::Read { fd, at: None, vector: false, count: 100 };
        };
        let size = self.files[opened.file].size();
        if opened.direct() {
            let at = random.offset(size) / BLOCK * BLOCK;
            return Step::Read { fd, at: Some(signed(at)), vector: false, count: length(2 * BLOCK) };
        }
        let at = match random.below(12) {
            0 => Some(-1),
            1..=5 => Some(signed(random.offset(size))),
            _ => None,
        };
        Step::Read { fd, at, vector: random.once_in(2), count: length(random.length() + random.length()) }
    }

    fn choose_write(&self, random: &mut Random) -> Step {
        let fd = self.fd(random);
        let mut write =
            Write { fd, at: None, vector: false, flags: None, count: 100, limit: None, readable: None };
        let Some(opened) = self.opened(fd) else { return Step::Write(write) };
        let size = self.files[opened.file].size();
        if opened.direct() {
            // Less than a block past the page cache is only tried in vain.
            write.count = if random.once_in(6) { 100 } else { length((1 + random.below(3)) * BLOCK) };
            write.at = Some(signed(random.offset(size) / BLOCK * BLOCK));
            return Step::Write(write);
        }
        if self.is_small(opened) {
            write.count = length(random.below(LARGE_WRITE));
            return Step::Write(write);
        }
        write.count = length(random.length());
        write.vector = random.once_in(2);
        // Positions are kept from growing by what seeks do.
        if opened.position > LARGEST || random.once_in(2) {
            write.at = Some(signed(random.offset(size)));
        }
        if size > LARGEST && (opened.appends() || write.at.is_none()) {
            return Step::Ftruncate(fd, signed(random.below(LARGEST / 2)));
        }
        match random.below(24) {
            0..=3 => {
                let flags = [0, libc::RWF_APPEND, libc::RWF_DSYNC, libc::RWF_SYNC];
                (write.vector, write.flags) = (true, Some(random.one_of(&flags)));
            }
            4 if !opened.syncs() => write.limit = Some(random.below(size + BLOCK)),
            // Kernels differ in how long a file is when nothing could be read for what is behind its end.
            5 | 6 if !opened.syncs() && write.at.is_none() && opened.position <= size => {
                write.vector = false;
                write.readable = Some(if random.once_in(2) { 0 } else { random.index(write.count) });
            }
            7 => write.at = Some(-1),
            _ => {}
        }
        Step::Write(write)
    }

    fn choose_copy(&self, random: &mut Random) -> Step {
        let from = self.fd_where(random, |from| from.reads() && !from.direct() && !self.is_small(from));
        let to = self.fd_where(random, |to| to.writes() && !to.direct() && !self.is_small(to));
        let Some(((from, source), (to, target))) = from
            .and_then(|fd| Some((fd, self.opened(fd)?)))
            .zip(to.and_then(|fd| Some((fd, self.opened(fd)?))))
        else {
            return Step::Sync(self.fd(random), SyncForm::Fsync);
        };
        if source.file == target.file {
            return self.choose_seek(random);
        }
        let mut form = random.one_of(&[CopyForm::CopyFileRange, CopyForm::Sendfile, CopyForm::Splice]);
        let size = self.files[source.file].size();
        let mut from_at = random.once_in(2).then(|| random.offset(size));
        let start = from_at.unwrap_or(source.position);
        let appends = target.appends();
        if appends && form == CopyForm::Splice {
            form = CopyForm::Sendfile;
        }
        // Blocks of the copy are unlike those of the original.
        let unlike = |at: u64| if at % BLOCK == start % BLOCK { at + 1 + start % 1000 } else { at };
        let to_at = unlike(random.offset(self.files[target.file].size()));
        let stands = target.position;
        let mut at = Some(to_at);
        if form == CopyForm::Sendfile {
            at = None;
            if !appends && (stands % BLOCK == start % BLOCK || stands > LARGEST) {
                return Step::Seek(to, signed(to_at), libc::SEEK_SET);
            }
        }
        if start > LARGEST {
            from_at = Some(0);
            if at.is_none_or(|at| at % BLOCK == 0) {
                return Step::Seek(to, 77, libc::SEEK_SET);
            }
        }
        Step::Copy(Copy { form, from: (from, from_at), to: (to, at), count: length(random.length()) })
    }

    fn choose_size(&self, random: &mut Random) -> Step {
        if random.once_in(5) {
            let name = Name::ALL[random.index(Name::LARGE)];
            let size = self.names.get(&name).map_or(0, |&file| self.files[file].size());
            return Step::Truncate(name, signed(random.offset(size)));
        }
        let Some(fd) = self.fd_where(random, |opened| !self.is_small(opened)) else {
            return Step::Close(self.fd(random));
        };
        let size = self.opened(fd).map_or(0, |opened| self.files[opened.file].size());
        let (offset, count) = (signed(random.offset(size)), signed(random.length()));
        let (keep, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        match random.below(9) {
            0 => Step::Ftruncate(fd, -1),
            1..=3 => Step::Ftruncate(fd, offset),
            4 => Step::Allocate(fd, 0, offset, count),
            5 => Step::Allocate(fd, keep, offset, count),
            6 => Step::Allocate(fd, zero | random.one_of(&[0, keep]), offset, count),
            _ => Step::Allocate(fd, punch | keep, offset, count),
        }
    }

    fn choose_map(&self, random: &mut Random) -> Step {
        let fd = self.fd_where(random, |opened| !self.is_small(opened) && self.files[opened.file].size() > 0);
        let Some(fd) = fd else { return Step::Dup(self.fd(random)) };
        let size = self.opened(fd).map_or(1, |opened| self.files[opened.file].size());
        let at = random.below(size);
        let count = random.length().clamp(1, size - at);
        let end = random.one_of(&[MapEnd::Msync, MapEnd::Fsync, MapEnd::Munmap]);
        Step::Map(fd, at, length(count), end)
    }

    fn choose_names(&self, random: &mut Random) -> Step {
        let [from, to] = [(); 2].map(|()| Name::ALL[random.index(Name::LARGE)]);
        match random.below(10) {
            0 => Step::RenameDirectory,
            1..=4 => Step::Rename(from, to),
            5 | 6 => Step::Link(from, to),
            7 if random.once_in(2) => Step::Unlink(Name::SMALL),
            _ => Step::Unlink(from),
        }
    }
}

//! Lines that `strace -v -s 32` (6.1, x86-64) printed of a program that made these calls, and the same calls here.
//!
//! strace's padding before `=` is taken out. Its lines of `stat` go on with the times, ours stop there.

use libc::*;

use super::guest::{CWD, Guest, int, raw};
use crate::syscall::{Moment, Outcome};

#[test]
fn files() {
    let guest = Guest::new();
    let s = |text| guest.string(text);
    let line = |number, args: &[u64], result| guest.line(number, args, result);
    let error = |errno: i32| -i64::from(errno);

    assert_eq!(
        line(SYS_openat, &[CWD, s("data"), int(O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC), 0o644], 3),
        r#"openat(AT_FDCWD, "data", O_RDWR|O_CREAT|O_TRUNC|O_CLOEXEC, 0644) = 3"#
    );
    let nonblock = O_DIRECTORY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW;
    assert_eq!(
        line(SYS_openat, &[CWD, s("/tmp"), int(nonblock)], 13),
        r#"openat(AT_FDCWD, "/tmp", O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC|O_DIRECTORY) = 13"#
    );
    assert_eq!(
        line(SYS_openat, &[CWD, s("/tmp/x"), int(O_TMPFILE | O_WRONLY), 0o600], 12),
        r#"openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_TMPFILE, 0600) = 12"#
    );
    let sync = O_WRONLY | O_SYNC | O_APPEND | O_CREAT | O_EXCL;
    assert_eq!(
        line(SYS_openat, &[CWD, s("x"), int(sync), 0], 14),
        r#"openat(AT_FDCWD, "x", O_WRONLY|O_CREAT|O_EXCL|O_APPEND|O_SYNC, 000) = 14"#
    );
    assert_eq!(line(SYS_lseek, &[3, 0, 0], 0), "lseek(3, 0, SEEK_SET) = 0");
    assert_eq!(
        line(SYS_fallocate, &[3, 3, 0, 4096], 0),
        "fallocate(3, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 0, 4096) = 0"
    );
    assert_eq!(
        line(SYS_sync_file_range, &[3, 0, 0, 3], 0),
        "sync_file_range(3, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE|SYNC_FILE_RANGE_WRITE) = 0"
    );
    assert_eq!(line(SYS_sendfile, &[1, 3, guest.words(&[5]), 0], 0), "sendfile(1, 3, [5], 0) = 0");
    assert_eq!(
        line(SYS_copy_file_range, &[3, guest.words(&[0]), 3, guest.words(&[50]), 10, 0], 10),
        "copy_file_range(3, [0], 3, [50], 10, 0) = 10"
    );
    assert_eq!(
        line(SYS_splice, &[4, 0, 3, 0, 0, 3], 0),
        "splice(4, NULL, 3, NULL, 0, SPLICE_F_MOVE|SPLICE_F_NONBLOCK) = 0"
    );
    assert_eq!(
        line(SYS_fcntl, &[3, int(F_SETFL), int(O_NONBLOCK | O_APPEND)], 0),
        "fcntl(3, F_SETFL, O_RDONLY|O_APPEND|O_NONBLOCK) = 0"
    );
    assert_eq!(line(SYS_fcntl, &[3, int(F_SETFD), 1], 0), "fcntl(3, F_SETFD, FD_CLOEXEC) = 0");
    assert_eq!(line(SYS_fcntl, &[3, int(F_DUPFD_CLOEXEC), 10], 11), "fcntl(3, F_DUPFD_CLOEXEC, 10) = 11");
    // Here strace explains the result.
    assert_eq!(line(SYS_fcntl, &[3, int(F_GETFL)], 0x8c02), "fcntl(3, F_GETFL) = 35842");
    assert_eq!(
        line(SYS_linkat, &[CWD, s("data2"), CWD, s("data3"), int(AT_SYMLINK_FOLLOW)], 0),
        r#"linkat(AT_FDCWD, "data2", AT_FDCWD, "data3", AT_SYMLINK_FOLLOW) = 0"#
    );
    assert_eq!(
        line(SYS_unlinkat, &[CWD, s("nodir"), int(AT_REMOVEDIR)], error(ENOENT)),
        r#"unlinkat(AT_FDCWD, "nodir", AT_REMOVEDIR) = -1 ENOENT (No such file or directory)"#
    );
    assert_eq!(line(SYS_mkdir, &[s("d1"), 0o755], 0), r#"mkdir("d1", 0755) = 0"#);
    assert_eq!(
        line(SYS_mknod, &[s("ff"), 0o010_600, 0], 0),
        r#"mknod("ff", S_IFIFO|0600, makedev(0, 0)) = 0"#
    );
    assert_eq!(line(SYS_chown, &[s("data2"), int(-1), 0], 0), r#"chown("data2", -1, 0) = 0"#);
    assert_eq!(line(SYS_umask, &[0o22], 0o22), "umask(022) = 022");
    assert_eq!(line(SYS_access, &[s("/etc/passwd"), 6], 0), r#"access("/etc/passwd", R_OK|W_OK) = 0"#);
    assert_eq!(
        line(SYS_access, &[s("/x"), 0], error(ENOENT)),
        r#"access("/x", F_OK) = -1 ENOENT (No such file or directory)"#
    );
    assert_eq!(
        line(SYS_readlink, &[s("sl"), guest.bytes(b"data2\xff\xff"), 100], 5),
        r#"readlink("sl", "data2", 100) = 5"#
    );
    assert_eq!(line(SYS_getcwd, &[s("/srv/here"), 100], 10), r#"getcwd("/srv/here", 100) = 10"#);
    assert_eq!(line(SYS_flock, &[3, int(LOCK_EX | LOCK_NB)], 0), "flock(3, LOCK_EX|LOCK_NB) = 0");
    assert_eq!(line(SYS_dup3, &[3, 20, int(O_CLOEXEC)], 20), "dup3(3, 20, O_CLOEXEC) = 20");
    let times = guest.words(&[0, UTIME_NOW.cast_unsigned(), 5, 6]);
    assert_eq!(
        line(SYS_utimensat, &[CWD, s("data2"), times, 0], 0),
        r#"utimensat(AT_FDCWD, "data2", [UTIME_NOW, {tv_sec=5, tv_nsec=6}], 0) = 0"#
    );
    assert_eq!(
        line(SYS_setxattr, &[s("data2"), s("user.a"), guest.bytes(b"v\0w"), 3, 1], 0),
        r#"setxattr("data2", "user.a", "v\0w", 3, XATTR_CREATE) = 0"#
    );
    assert_eq!(
        line(SYS_getxattr, &[s("data2"), s("user.a"), guest.bytes(b"v\0wrest"), 100], 3),
        r#"getxattr("data2", "user.a", "v\0w", 100) = 3"#
    );
}

#[test]
fn data() {
    let guest = Guest::new();
    let line = |number, args: &[u64], result| guest.line(number, args, result);
    let text = guest.bytes(b"one\ntwo\t\"three\"\\\0\x01\x018\xff\0");
    assert_eq!(
        line(SYS_write, &[3, text, 22], 22),
        r#"write(3, "one\ntwo\t\"three\"\\\0\1\18\377\0", 22) = 22"#
    );
    let letters = guest.bytes(b"abcdefghijklmnopqrstuvwxyz0123456789");
    assert_eq!(
        line(SYS_pwrite64, &[3, letters, 36, 4096], 36),
        r#"pwrite64(3, "abcdefghijklmnopqrstuvwxyz012345"..., 36, 4096) = 36"#
    );
    assert_eq!(line(SYS_read, &[3, text, 10], 10), r#"read(3, "one\ntwo\t\"t", 10) = 10"#);
    assert_eq!(
        line(SYS_pread64, &[3, letters, 100, 4096], 100),
        r#"pread64(3, "abcdefghijklmnopqrstuvwxyz012345"..., 100, 4096) = 100"#
    );
    let elf = guest.bytes(b"\x7fELF\x02\x01\x01\x03\0\0\0\0\0\0\0\0\x03\0>\0\x01\0\0\0\x10t\x02\0\0\0\0\0@");
    assert_eq!(
        line(SYS_read, &[3, elf, 832], 832),
        r#"read(3, "\177ELF\2\1\1\3\0\0\0\0\0\0\0\0\3\0>\0\1\0\0\0\20t\2\0\0\0\0\0"..., 832) = 832"#
    );
    let vectors = guest.words(&[guest.bytes(b"ab"), 2, guest.bytes(b"cde"), 3, text, 0]);
    assert_eq!(
        line(SYS_writev, &[3, vectors, 3], 5),
        r#"writev(3, [{iov_base="ab", iov_len=2}, {iov_base="cde", iov_len=3}, {iov_base="", iov_len=0}], 3) = 5"#
    );
    let vectors = guest.words(&[letters, 4, letters + 4, 50]);
    assert_eq!(
        line(SYS_readv, &[3, vectors, 2], 54),
        "readv(3, [{iov_base=\"abcd\", iov_len=4}, \
         {iov_base=\"efghijklmnopqrstuvwxyz0123456789\"..., iov_len=50}], 2) = 54"
    );
    // What strace prints of a short one.
    assert_eq!(
        line(SYS_readv, &[3, vectors, 2], 3),
        r#"readv(3, [{iov_base="abc", iov_len=4}, {iov_base="", iov_len=50}], 2) = 3"#
    );
    assert_eq!(
        line(SYS_openat, &[CWD, 1, 0], -i64::from(EFAULT)),
        "openat(AT_FDCWD, 0x1 /* absent */, O_RDONLY) = -1 EFAULT (Bad address)"
    );
    assert_eq!(
        line(SYS_write, &[3, 1, 4], -i64::from(EFAULT)),
        "write(3, 0x1 /* absent */, 4) = -1 EFAULT (Bad address)"
    );
}

#[test]
fn status() {
    let guest = Guest::new();
    let mut regular = [0u64; 18];
    // struct stat of x86-64: dev, ino, nlink, mode and uid, gid, rdev, size, blksize, blocks.
    regular[..9].copy_from_slice(&[0xfe00, 10_158_516, 1, 0o100_644, 0, 0, 8197, 4096, 24]);
    let buffer = guest.words(&regular);
    let tail = "{st_dev=makedev(0xfe, 0), st_ino=10158516, st_mode=S_IFREG|0644, st_nlink=1, st_uid=0, st_gid=0, \
                st_blksize=4096, st_blocks=24, st_size=8197, ...}";
    assert_eq!(
        guest.line(SYS_newfstatat, &[CWD, guest.string("data"), buffer, 0x100], 0),
        format!("newfstatat(AT_FDCWD, \"data\", {tail}, AT_SYMLINK_NOFOLLOW) = 0")
    );
    // The program had left other bits in the high half of the register.
    assert_eq!(guest.line(SYS_fstat, &[0x1_0000_0003, buffer], 0), format!("fstat(3, {tail}) = 0"));
    let mut null = [0u64; 18];
    null[..9].copy_from_slice(&[6, 3, 1, 0o020_666, 0, 0x103, 0, 4096, 0]);
    assert_eq!(
        guest.line(SYS_stat, &[guest.string("/dev/null"), guest.words(&null)], 0),
        "stat(\"/dev/null\", {st_dev=makedev(0, 0x6), st_ino=3, st_mode=S_IFCHR|0666, st_nlink=1, st_uid=0, \
         st_gid=0, st_blksize=4096, st_blocks=0, st_rdev=makedev(0x1, 0x3), ...}) = 0"
    );
    assert_eq!(
        guest.line(SYS_lstat, &[guest.string("/nonexistent"), 0x7fff_54a4_77c0], -2),
        r#"lstat("/nonexistent", 0x7fff54a477c0) = -1 ENOENT (No such file or directory)"#
    );
}

#[test]
fn memory_and_processes() {
    let guest = Guest::new();
    let line = |number, args: &[u64], result| guest.line(number, args, result);
    assert_eq!(
        line(SYS_mmap, &[0, 8192, 3, 0x22, u64::MAX, 0], 0x7fe7_b751_7000),
        "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7fe7b7517000"
    );
    assert_eq!(
        line(SYS_mmap, &[0x7fb7_2f0b_2000, 1_400_832, 5, 0x812, 3, 0x26000], 0x7fb7_2f0b_2000),
        "mmap(0x7fb72f0b2000, 1400832, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE, 3, 0x26000) \
         = 0x7fb72f0b2000"
    );
    assert_eq!(
        line(SYS_mprotect, &[0x7fe7_b751_7000, 4096, 0], 0),
        "mprotect(0x7fe7b7517000, 4096, PROT_NONE) = 0"
    );
    assert_eq!(
        line(SYS_madvise, &[0x7fe7_b751_7000, 4096, 4], 0),
        "madvise(0x7fe7b7517000, 4096, MADV_DONTNEED) = 0"
    );
    assert_eq!(line(SYS_brk, &[0], 0x557f_2085_d000), "brk(NULL) = 0x557f2085d000");
    assert_eq!(
        line(SYS_arch_prctl, &[0x1002, 0x7fb7_2f08_9740], 0),
        "arch_prctl(ARCH_SET_FS, 0x7fb72f089740) = 0"
    );
    let status = |value: i32| guest.bytes(&value.to_le_bytes());
    assert_eq!(
        line(SYS_wait4, &[10381, status(0x300), 0, 0], 10381),
        "wait4(10381, [{WIFEXITED(s) && WEXITSTATUS(s) == 3}], 0, NULL) = 10381"
    );
    assert_eq!(
        line(SYS_wait4, &[10382, status(9), 0, 0], 10382),
        "wait4(10382, [{WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL}], 0, NULL) = 10382"
    );
    assert_eq!(
        line(SYS_wait4, &[u64::MAX, 0x7fff_54a4_767c, 1, 0], -10),
        "wait4(-1, 0x7fff54a4767c, WNOHANG, NULL) = -1 ECHILD (No child processes)"
    );
    // With WNOHANG and children that still run nothing is stored.
    assert_eq!(
        line(SYS_wait4, &[u64::MAX, status(9), 1, 0], 0),
        format!("wait4(-1, {:#x}, WNOHANG, NULL) = 0", status(9) - 16)
    );
    assert_eq!(line(SYS_kill, &[10382, 9], 0), "kill(10382, SIGKILL) = 0");
    assert_eq!(
        line(SYS_nanosleep, &[guest.words(&[0, 1000]), 0], 0),
        "nanosleep({tv_sec=0, tv_nsec=1000}, NULL) = 0"
    );
    assert_eq!(
        line(SYS_prlimit64, &[0, 7, 0, guest.words(&[20000, u64::MAX])], 0),
        "prlimit64(0, RLIMIT_NOFILE, NULL, {rlim_cur=20000, rlim_max=RLIM64_INFINITY}) = 0"
    );
    assert_eq!(
        line(SYS_clone, &[0x10_0200 | 17, 0, 0, 0, 0], 10383),
        "clone(CLONE_FS|CLONE_PARENT_SETTID|SIGCHLD, NULL, NULL, NULL, NULL) = 10383"
    );
    let argv = guest.words(&[guest.string("/bin/true"), guest.string("a b"), 0]);
    let envp = guest.words(&[guest.string("A=1"), 0]);
    assert_eq!(
        line(SYS_execve, &[guest.string("/nonexistent"), argv, envp], -2),
        r#"execve("/nonexistent", ["/bin/true", "a b"], ["A=1"]) = -1 ENOENT (No such file or directory)"#
    );
    let unknown = raw(999, &[1, 2, 0x7fe7_b742_f829, 7, 7, 7]);
    assert_eq!(
        guest.decode(&unknown, Moment::Returned(Outcome::Returned(-38))).line().to_string(),
        "syscall_0x3e7(0x1, 0x2, 0x7fe7b742f829, 0x7, 0x7, 0x7) = -1 ENOSYS (Function not implemented)"
    );
    let exit = guest.decode(&raw(SYS_exit_group, &[3]), Moment::Entered);
    assert_eq!(exit.line().to_string(), "exit_group(3) = ?");
    let pause = guest.decode(&raw(SYS_pause, &[]), Moment::Entered);
    assert_eq!(pause.line().to_string(), "pause() <unfinished ...>");
    let restarts = guest.decode(&raw(SYS_pause, &[]), Moment::Returned(Outcome::Restarts));
    assert_eq!(restarts.line().to_string(), "pause() = ? (to be restarted)");
}

#[test]
fn sockets() {
    let guest = Guest::new();
    let line = |number, args: &[u64], result| guest.line(number, args, result);
    let pair = |a: i32, b: i32| guest.bytes(&[a.to_le_bytes(), b.to_le_bytes()].concat());
    assert_eq!(line(SYS_pipe, &[pair(4, 5)], 0), "pipe([4, 5]) = 0");
    assert_eq!(line(SYS_socket, &[1, 0o2_000_001, 0], 6), "socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = 6");
    assert_eq!(
        line(SYS_socketpair, &[1, 2, 0, pair(8, 9)], 0),
        "socketpair(AF_UNIX, SOCK_DGRAM, 0, [8, 9]) = 0"
    );
    let path = guest.bytes(b"\x01\0/nonexistent/sock\0\0\0");
    assert_eq!(
        line(SYS_connect, &[6, path, 22], -2),
        "connect(6, {sa_family=AF_UNIX, sun_path=\"/nonexistent/sock\"}, 22) \
         = -1 ENOENT (No such file or directory)"
    );
    let inet = guest.bytes(&[2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        line(SYS_connect, &[7, inet, 16], -115),
        "connect(7, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr(\"127.0.0.1\")}, 16) \
         = -1 EINPROGRESS (Operation now in progress)"
    );
    let size = guest.bytes(&16i32.to_le_bytes());
    assert_eq!(
        line(SYS_accept, &[7, inet, size], 8),
        "accept(7, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr(\"127.0.0.1\")}, [16]) = 8"
    );
    assert_eq!(
        line(SYS_sendto, &[8, guest.bytes(b"hello"), 5, 0x4040, 0, 0], 5),
        r#"sendto(8, "hello", 5, MSG_DONTWAIT|MSG_NOSIGNAL, NULL, 0) = 5"#
    );
    assert_eq!(
        line(SYS_recvfrom, &[9, guest.bytes(b"hello"), 100, 2, 0, 0], 5),
        r#"recvfrom(9, "hello", 100, MSG_PEEK, NULL, NULL) = 5"#
    );
    assert_eq!(line(SYS_shutdown, &[8, 1], 0), "shutdown(8, SHUT_WR) = 0");
}

//! Flags of calls on files and directories.

use super::{Choice, Flag, FlagSet, choice, flags};

flags! {
    /// `open(2)`: `include/uapi/asm-generic/fcntl.h`.
    OPEN, wide = false:
    O_RDONLY = 0 in 0o3, O_WRONLY = 0o1 in 0o3, O_RDWR = 0o2 in 0o3,
    O_CREAT = 0o100, O_EXCL = 0o200, O_NOCTTY = 0o400, O_TRUNC = 0o1000, O_APPEND = 0o2000, O_NONBLOCK = 0o4000,
    O_SYNC = 0o4010000, O_ASYNC = 0o20000, O_DSYNC = 0o10000, O_DIRECT = 0o40000, O_LARGEFILE = 0o100000,
    O_NOFOLLOW = 0o400000, O_NOATIME = 0o1000000, O_CLOEXEC = 0o2000000, O_PATH = 0o10000000,
    O_TMPFILE = 0o20200000, O_DIRECTORY = 0o200000,
}

flags! {
    /// `pipe2(2)`, `dup3(2)`, `eventfd2(2)` and others that take a few of `open`'s.
    FD, wide = false: O_NONBLOCK = 0o4000, O_DIRECT = 0o40000, O_CLOEXEC = 0o2000000,
}

flags! {
    /// `AT_*` of `fstatat(2)`, `linkat(2)`, `statx(2)`: `include/uapi/linux/fcntl.h`.
    AT, wide = false:
    AT_SYMLINK_NOFOLLOW = 0x100, AT_SYMLINK_FOLLOW = 0x400, AT_NO_AUTOMOUNT = 0x800, AT_EMPTY_PATH = 0x1000,
    AT_STATX_FORCE_SYNC = 0x2000, AT_STATX_DONT_SYNC = 0x4000, AT_RECURSIVE = 0x8000,
}

flags! {
    /// What `statx(2)` is asked for, and what it found: `include/uapi/linux/stat.h`.
    STATX, wide = false:
    STATX_BASIC_STATS = 0x7ff, STATX_TYPE = 0x1, STATX_MODE = 0x2, STATX_NLINK = 0x4, STATX_UID = 0x8,
    STATX_GID = 0x10, STATX_ATIME = 0x20, STATX_MTIME = 0x40, STATX_CTIME = 0x80, STATX_INO = 0x100,
    STATX_SIZE = 0x200, STATX_BLOCKS = 0x400, STATX_BTIME = 0x800, STATX_MNT_ID = 0x1000, STATX_DIOALIGN = 0x2000,
}

flags! {
    /// `unlinkat(2)`.
    UNLINK_AT, wide = false: AT_REMOVEDIR = 0x200,
}

flags! {
    /// `faccessat2(2)`: 0x200 means another thing here.
    ACCESS_AT, wide = false: AT_EACCESS = 0x200, AT_SYMLINK_NOFOLLOW = 0x100, AT_EMPTY_PATH = 0x1000,
}

flags! {
    /// `access(2)`.
    ACCESS, wide = false: F_OK = 0 in 0xffff_ffff, R_OK = 4, W_OK = 2, X_OK = 1,
}

flags! {
    /// `renameat2(2)`: `include/uapi/linux/fs.h`.
    RENAME, wide = false: RENAME_NOREPLACE = 1, RENAME_EXCHANGE = 2, RENAME_WHITEOUT = 4,
}

flags! {
    /// `fallocate(2)`: `include/uapi/linux/falloc.h`.
    FALLOCATE, wide = false:
    FALLOC_FL_KEEP_SIZE = 0x1, FALLOC_FL_PUNCH_HOLE = 0x2, FALLOC_FL_NO_HIDE_STALE = 0x4,
    FALLOC_FL_COLLAPSE_RANGE = 0x8, FALLOC_FL_ZERO_RANGE = 0x10, FALLOC_FL_INSERT_RANGE = 0x20,
    FALLOC_FL_UNSHARE_RANGE = 0x40,
}

flags! {
    /// `sync_file_range(2)`.
    SYNC_FILE_RANGE, wide = false:
    SYNC_FILE_RANGE_WAIT_BEFORE = 1, SYNC_FILE_RANGE_WRITE = 2, SYNC_FILE_RANGE_WAIT_AFTER = 4,
}

flags! {
    /// `splice(2)`, `tee(2)`, `vmsplice(2)`: `include/linux/splice.h`.
    SPLICE, wide = false: SPLICE_F_MOVE = 1, SPLICE_F_NONBLOCK = 2, SPLICE_F_MORE = 4, SPLICE_F_GIFT = 8,
}

flags! {
    /// `preadv2(2)`, `pwritev2(2)`: `include/uapi/linux/fs.h`.
    RWF, wide = false:
    RWF_HIPRI = 0x1, RWF_DSYNC = 0x2, RWF_SYNC = 0x4, RWF_NOWAIT = 0x8, RWF_APPEND = 0x10, RWF_NOAPPEND = 0x20,
    RWF_ATOMIC = 0x40,
}

flags! {
    /// `openat2(2)`'s `resolve`.
    RESOLVE, wide = true:
    RESOLVE_NO_XDEV = 0x1, RESOLVE_NO_MAGICLINKS = 0x2, RESOLVE_NO_SYMLINKS = 0x4, RESOLVE_BENEATH = 0x8,
    RESOLVE_IN_ROOT = 0x10, RESOLVE_CACHED = 0x20,
}

flags! {
    /// `flock(2)`.
    FLOCK, wide = false: LOCK_SH = 1, LOCK_EX = 2, LOCK_UN = 8, LOCK_NB = 4,
}

flags! {
    /// `fcntl(F_SETFD)`.
    FD_FLAGS, wide = false: FD_CLOEXEC = 1,
}

flags! {
    /// `memfd_create(2)`.
    MEMFD, wide = false:
    MFD_CLOEXEC = 0x1, MFD_ALLOW_SEALING = 0x2, MFD_HUGETLB = 0x4, MFD_NOEXEC_SEAL = 0x8, MFD_EXEC = 0x10,
}

flags! {
    /// `setxattr(2)`.
    XATTR, wide = false: XATTR_CREATE = 1, XATTR_REPLACE = 2,
}

flags! {
    /// `mount(2)`: `include/uapi/linux/mount.h`.
    MOUNT, wide = true:
    MS_MGC_VAL = 0xc0ed_0000 in 0xffff_0000,
    MS_RDONLY = 0x1, MS_NOSUID = 0x2, MS_NODEV = 0x4, MS_NOEXEC = 0x8, MS_SYNCHRONOUS = 0x10, MS_REMOUNT = 0x20,
    MS_MANDLOCK = 0x40, MS_DIRSYNC = 0x80, MS_NOATIME = 0x400, MS_NODIRATIME = 0x800, MS_BIND = 0x1000,
    MS_MOVE = 0x2000, MS_REC = 0x4000, MS_SILENT = 0x8000, MS_POSIXACL = 0x10000, MS_UNBINDABLE = 0x20000,
    MS_PRIVATE = 0x40000, MS_SLAVE = 0x80000, MS_SHARED = 0x10_0000, MS_RELATIME = 0x20_0000,
    MS_STRICTATIME = 0x100_0000, MS_LAZYTIME = 0x200_0000,
}

flags! {
    /// `umount2(2)`.
    UMOUNT, wide = false: MNT_FORCE = 1, MNT_DETACH = 2, MNT_EXPIRE = 4, UMOUNT_NOFOLLOW = 8,
}

flags! {
    /// `epoll_create1(2)`.
    EPOLL, wide = false: EPOLL_CLOEXEC = 0o2000000,
}

flags! {
    /// `io_uring_enter(2)`: `include/uapi/linux/io_uring.h`.
    URING_ENTER, wide = false:
    IORING_ENTER_GETEVENTS = 1, IORING_ENTER_SQ_WAKEUP = 2, IORING_ENTER_SQ_WAIT = 4, IORING_ENTER_EXT_ARG = 8,
    IORING_ENTER_REGISTERED_RING = 16, IORING_ENTER_ABS_TIMER = 32,
}

choice! {
    /// `lseek(2)`.
    WHENCE: SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2, SEEK_DATA = 3, SEEK_HOLE = 4,
}

choice! {
    /// `fcntl(2)`.
    FCNTL:
    F_DUPFD = 0, F_GETFD = 1, F_SETFD = 2, F_GETFL = 3, F_SETFL = 4, F_GETLK = 5, F_SETLK = 6, F_SETLKW = 7,
    F_SETOWN = 8, F_GETOWN = 9, F_SETSIG = 10, F_GETSIG = 11, F_SETOWN_EX = 15, F_GETOWN_EX = 16,
    F_OFD_GETLK = 36, F_OFD_SETLK = 37, F_OFD_SETLKW = 38, F_SETLEASE = 1024, F_GETLEASE = 1025, F_NOTIFY = 1026,
    F_DUPFD_CLOEXEC = 1030, F_SETPIPE_SZ = 1031, F_GETPIPE_SZ = 1032, F_ADD_SEALS = 1033, F_GET_SEALS = 1034,
    F_GET_RW_HINT = 1035, F_SET_RW_HINT = 1036, F_GET_FILE_RW_HINT = 1037, F_SET_FILE_RW_HINT = 1038,
}

choice! {
    /// `posix_fadvise(2)`.
    FADVISE:
    POSIX_FADV_NORMAL = 0, POSIX_FADV_RANDOM = 1, POSIX_FADV_SEQUENTIAL = 2, POSIX_FADV_WILLNEED = 3,
    POSIX_FADV_DONTNEED = 4, POSIX_FADV_NOREUSE = 5,
}

choice! {
    /// `epoll_ctl(2)`.
    EPOLL_CTL: EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3,
}

//! Names, numbers, shapes and constants.

use super::guest::raw;
use crate::syscall::flags::*;
use crate::syscall::{HINT_MAGIC, Kind, Outcome, RawCall, errno_name, table};

fn call(number: u64) -> RawCall {
    RawCall { number, args: [0; 6] }
}

/// What a 6.12 kernel's own system-call metadata (`__syscalls_metadata`, CONFIG_FTRACE_SYSCALLS) says: number, name, and
/// for each argument `i` (32 bits), `m` (16 bits), `l` (64 bits) or `p` (pointer). Calls that it does not implement are
/// not in it.
const KERNEL: &str = include_str!("linux-6.12.txt");

#[test]
fn arguments_are_those_of_the_kernel() {
    let mut seen = 0;
    for line in KERNEL.lines() {
        let [number, name, widths] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let signature = call(number.parse().unwrap()).signature().unwrap_or_else(|| panic!("no {name}"));
        let ours: String = signature.args.iter().map(|argument| width(argument.kind)).collect();
        assert_eq!((signature.name, signature.args.len()), (name, widths.trim_matches('-').len()));
        for (index, (ours, theirs)) in ours.chars().zip(widths.trim_matches('-').chars()).enumerate() {
            let why = format!("{name}, argument {index}: {ours} is not {theirs}");
            let kind = signature.args[index].kind;
            match (ours, theirs) {
                // Declared long, used as unsigned int: fget(), fdget().
                ('i', 'l') => assert!(matches!(kind, Kind::Fd), "{why}"),
                // The memory calls and some others declare addresses as unsigned long.
                ('p', 'l') => assert!(matches!(kind, Kind::Address), "{why}"),
                // An int of which 9 bits are used.
                ('m', 'i') => assert_eq!(name, "umask", "{why}"),
                _ => assert_eq!(ours, theirs, "{why}"),
            }
        }
        seen += 1;
    }
    assert!(seen > 350, "{seen}");
}

/// The width that the decoder gives a kind.
fn width(kind: Kind) -> char {
    match kind {
        Kind::Fd | Kind::DirFd | Kind::Int | Kind::UInt | Kind::Pid | Kind::Uid | Kind::Device => 'i',
        Kind::Signal | Kind::Hex | Kind::Enum(_) => 'i',
        Kind::Mode | Kind::FileMode | Kind::CreateMode { .. } => 'm',
        Kind::Long | Kind::ULong | Kind::Size | Kind::Offset | Kind::HexLong => 'l',
        Kind::FcntlArgument { .. } => 'l',
        Kind::Flags(set) => {
            if set.wide {
                'l'
            } else {
                'i'
            }
        }
        _ => 'p',
    }
}

#[test]
fn names_and_numbers_agree_with_the_syscalls_crate() {
    let mut known = 0;
    for number in (0..=334).chain(424..=463) {
        let call = call(number);
        let signature = call.signature().unwrap_or_else(|| panic!("no signature: {number}"));
        assert_eq!(call.name(), Some(signature.name), "{number}");
        known += 1;
    }
    assert_eq!(known, 375);
    assert!(call(400).signature().is_none() && call(400).name().is_none());
    assert!(call(u64::MAX).name().is_none() && call(512).signature().is_none());
}

#[test]
fn positions_lie_inside_their_signature_and_names_are_unique() {
    for number in 0..u64::try_from(table::END).unwrap() {
        let Some(signature) = call(number).signature() else { continue };
        let args = signature.args;
        for (index, argument) in args.iter().enumerate() {
            assert!(args[..index].iter().all(|other| other.name != argument.name), "{}", signature.name);
            let (at, right) = match argument.kind {
                Kind::PathOut { length } | Kind::BytesIn { length } | Kind::BytesOut { length } => {
                    (length, "ULong Size Int")
                }
                Kind::IovecIn { count } | Kind::IovecOut { count } | Kind::Iovec { count } => {
                    (count, "ULong Size")
                }
                Kind::SockaddrIn { length } => (length, "Int"),
                Kind::SockaddrOut { length } => (length, "StructOut(Int)"),
                Kind::CreateMode { flags } => {
                    assert!(matches!(args[flags].kind, Kind::Flags(set) if set.name == "OPEN"));
                    continue;
                }
                Kind::FcntlArgument { command } => {
                    assert!(matches!(args[command].kind, Kind::Enum(set) if set.name == "FCNTL"));
                    continue;
                }
                _ => continue,
            };
            let kind = format!("{:?}", args[at].kind);
            assert!(right.split(' ').any(|right| right == kind), "{}: {index}", signature.name);
        }
    }
}

#[test]
fn numbers_are_those_of_libc() {
    macro_rules! check {
        ($($name:ident)*) => { [$((libc::$name, stringify!($name))),*] };
    }
    let all = check![
        SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat SYS_lseek SYS_mmap SYS_munmap SYS_brk SYS_ioctl
        SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_access SYS_pipe SYS_select SYS_mremap SYS_msync SYS_madvise
        SYS_dup SYS_nanosleep SYS_getpid SYS_sendfile SYS_socket SYS_connect SYS_accept SYS_sendto SYS_recvfrom
        SYS_clone SYS_fork SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill SYS_fcntl SYS_flock SYS_fsync
        SYS_fdatasync SYS_truncate SYS_ftruncate SYS_getdents SYS_getcwd SYS_rename SYS_mkdir SYS_link SYS_unlink
        SYS_readlink SYS_chmod SYS_chown SYS_umask SYS_gettimeofday SYS_getuid SYS_mknod SYS_prctl SYS_arch_prctl
        SYS_sync SYS_mount SYS_umount2 SYS_reboot SYS_gettid SYS_readahead SYS_setxattr SYS_futex SYS_io_setup
        SYS_io_submit SYS_getdents64 SYS_fadvise64 SYS_exit_group SYS_epoll_ctl SYS_tgkill SYS_waitid SYS_openat
        SYS_mkdirat SYS_newfstatat SYS_unlinkat SYS_renameat SYS_splice SYS_tee SYS_sync_file_range SYS_vmsplice
        SYS_utimensat SYS_fallocate SYS_accept4 SYS_dup3 SYS_pipe2 SYS_preadv SYS_pwritev SYS_prlimit64 SYS_syncfs
        SYS_renameat2 SYS_getrandom SYS_memfd_create SYS_bpf SYS_execveat SYS_copy_file_range SYS_preadv2
        SYS_pwritev2 SYS_statx SYS_rseq SYS_io_uring_setup SYS_io_uring_enter SYS_clone3 SYS_close_range SYS_openat2
        SYS_faccessat2 SYS_futex_waitv SYS_fchmodat2 SYS_mseal
    ];
    for (number, name) in all {
        let call = raw(number, &[]);
        assert_eq!(call.name(), name.strip_prefix("SYS_"));
        assert_eq!(call.signature().unwrap().name, call.name().unwrap());
        assert_eq!(call.returns(), !["SYS_exit", "SYS_exit_group"].contains(&name));
    }
}

/// The other half of RAX does not count, says the kernel that runs this.
#[test]
fn the_number_is_the_low_half() {
    // SAFETY: getpid has no arguments and no effects.
    let pid = unsafe { libc::syscall(libc::SYS_getpid | (1 << 40)) };
    assert_eq!(pid, i64::from(std::process::id()));
    assert_eq!(raw(libc::SYS_getpid | (1 << 40), &[]).name(), Some("getpid"));
}

/// The kernel that runs this ignores the registers of a hint, those of `preadv`'s high half too.
#[test]
fn hints_ride_where_nobody_looks() {
    let class = 77u64;
    let memory = std::io::Read::bytes(std::fs::File::open("/proc/self/exe").unwrap());
    let head: Vec<u8> = memory.take(4).map(Result::unwrap).collect();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let mut buffer = [0u8; 4];
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 4 };
    // SAFETY: the vector names a buffer that outlives the call.
    let count = unsafe { libc::syscall(libc::SYS_preadv, fd, &vector, 1, 0, HINT_MAGIC, class) };
    assert_eq!((count, buffer.as_slice()), (4, head.as_slice()));

    for number in 0..470 {
        let hinted = RawCall { number, args: [3, 0, 0, 0, HINT_MAGIC, class] };
        let carries = matches!(
            hinted.name(),
            Some(
                "read"
                    | "write"
                    | "pread64"
                    | "pwrite64"
                    | "readv"
                    | "writev"
                    | "preadv"
                    | "pwritev"
                    | "fsync"
            )
        );
        assert_eq!(hinted.hint().map(|hint| hint.class), carries.then_some(77), "{number}");
    }
    let hint = |r8, r9| RawCall { number: 1, args: [0, 0, 0, 0, r8, r9] }.hint();
    assert_eq!(HINT_MAGIC.to_be_bytes(), *b"SKYHINT1");
    assert_eq!(hint(HINT_MAGIC, u64::from(u32::MAX)).unwrap().class, u32::MAX);
    assert!(hint(HINT_MAGIC, 1 << 32).is_none() && hint(HINT_MAGIC + 1, 1).is_none());
}

#[test]
fn flags_have_the_values_of_libc() {
    macro_rules! check {
        ($($set:ident: $($name:ident)*;)*) => { $($(
            // Constants are of several integer types; a negative one is bit 31 of an int.
            let value = i128::from(libc::$name);
            let value = u64::try_from(if value < 0 { value + (1 << 32) } else { value }).unwrap();
            let flag = $set.flag(stringify!($name)).unwrap();
            assert_eq!(flag.value, value, stringify!($name));
            assert_eq!(flag.value & !flag.mask, 0, stringify!($name));
            assert!($set.describe(value).split('|').any(|name| name == stringify!($name)));
        )*)* };
    }
    check! {
        OPEN: O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_NOCTTY O_TRUNC O_APPEND O_NONBLOCK O_SYNC O_ASYNC
            O_DSYNC O_DIRECT O_NOFOLLOW O_NOATIME O_CLOEXEC O_PATH O_TMPFILE O_DIRECTORY;
        FD: O_NONBLOCK O_DIRECT O_CLOEXEC;
        AT: AT_SYMLINK_NOFOLLOW AT_SYMLINK_FOLLOW AT_NO_AUTOMOUNT AT_EMPTY_PATH AT_STATX_FORCE_SYNC
            AT_STATX_DONT_SYNC AT_RECURSIVE;
        STATX: STATX_BASIC_STATS STATX_TYPE STATX_MODE STATX_NLINK STATX_UID STATX_GID STATX_ATIME STATX_MTIME
            STATX_CTIME STATX_INO STATX_SIZE STATX_BLOCKS STATX_BTIME STATX_MNT_ID STATX_DIOALIGN;
        UNLINK_AT: AT_REMOVEDIR;
        ACCESS_AT: AT_SYMLINK_NOFOLLOW AT_EMPTY_PATH;
        ACCESS: F_OK R_OK W_OK X_OK;
        RENAME: RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT;
        FALLOCATE: FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE FALLOC_FL_COLLAPSE_RANGE FALLOC_FL_ZERO_RANGE
            FALLOC_FL_INSERT_RANGE FALLOC_FL_UNSHARE_RANGE;
        SYNC_FILE_RANGE: SYNC_FILE_RANGE_WAIT_BEFORE SYNC_FILE_RANGE_WRITE SYNC_FILE_RANGE_WAIT_AFTER;
        SPLICE: SPLICE_F_MOVE SPLICE_F_NONBLOCK SPLICE_F_MORE SPLICE_F_GIFT;
        RWF: RWF_HIPRI RWF_DSYNC RWF_SYNC RWF_NOWAIT RWF_APPEND RWF_NOAPPEND RWF_ATOMIC;
        RESOLVE: RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT
            RESOLVE_CACHED;
        FLOCK: LOCK_SH LOCK_EX LOCK_UN LOCK_NB;
        FD_FLAGS: FD_CLOEXEC;
        XATTR: XATTR_CREATE XATTR_REPLACE;
        MOUNT: MS_MGC_VAL MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC MS_SYNCHRONOUS MS_REMOUNT MS_MANDLOCK
            MS_DIRSYNC MS_NOATIME MS_NODIRATIME MS_BIND MS_MOVE MS_REC MS_SILENT MS_POSIXACL MS_UNBINDABLE
            MS_PRIVATE MS_SLAVE MS_SHARED MS_RELATIME MS_STRICTATIME MS_LAZYTIME;
        UMOUNT: MNT_FORCE MNT_DETACH MNT_EXPIRE UMOUNT_NOFOLLOW;
        EPOLL: EPOLL_CLOEXEC;
        PROT: PROT_NONE PROT_READ PROT_WRITE PROT_EXEC PROT_GROWSDOWN PROT_GROWSUP;
        MAP: MAP_SHARED MAP_PRIVATE MAP_SHARED_VALIDATE MAP_FIXED MAP_ANONYMOUS MAP_32BIT MAP_NORESERVE
            MAP_POPULATE MAP_NONBLOCK MAP_GROWSDOWN MAP_DENYWRITE MAP_EXECUTABLE MAP_LOCKED MAP_STACK
            MAP_HUGETLB MAP_SYNC;
        MREMAP: MREMAP_MAYMOVE MREMAP_FIXED MREMAP_DONTUNMAP;
        MSYNC: MS_ASYNC MS_INVALIDATE MS_SYNC;
        MLOCKALL: MCL_CURRENT MCL_FUTURE MCL_ONFAULT;
        CLONE: CLONE_VM CLONE_FS CLONE_FILES CLONE_SIGHAND CLONE_PIDFD CLONE_PTRACE CLONE_VFORK
            CLONE_PARENT CLONE_THREAD CLONE_NEWNS CLONE_SYSVSEM CLONE_SETTLS CLONE_PARENT_SETTID
            CLONE_CHILD_CLEARTID CLONE_DETACHED CLONE_UNTRACED CLONE_CHILD_SETTID CLONE_NEWCGROUP
            CLONE_NEWUTS CLONE_NEWIPC CLONE_NEWUSER CLONE_NEWPID CLONE_NEWNET CLONE_IO
            SIGCHLD;
        SETNS: CLONE_NEWNS CLONE_NEWCGROUP CLONE_NEWUTS CLONE_NEWIPC CLONE_NEWUSER CLONE_NEWPID CLONE_NEWNET;
        WAIT: WNOHANG WUNTRACED WEXITED WCONTINUED WNOWAIT __WNOTHREAD __WALL __WCLONE;
        MSG: MSG_OOB MSG_PEEK MSG_DONTROUTE MSG_CTRUNC MSG_TRUNC MSG_DONTWAIT MSG_EOR MSG_WAITALL
            MSG_CONFIRM MSG_ERRQUEUE MSG_NOSIGNAL MSG_MORE MSG_WAITFORONE MSG_ZEROCOPY MSG_FASTOPEN
            MSG_CMSG_CLOEXEC;
        GETRANDOM: GRND_NONBLOCK GRND_RANDOM GRND_INSECURE;
        FUTEX: FUTEX_WAIT FUTEX_WAKE FUTEX_FD FUTEX_REQUEUE FUTEX_CMP_REQUEUE FUTEX_WAKE_OP FUTEX_LOCK_PI
            FUTEX_UNLOCK_PI FUTEX_TRYLOCK_PI FUTEX_WAIT_BITSET FUTEX_WAKE_BITSET FUTEX_WAIT_REQUEUE_PI
            FUTEX_CMP_REQUEUE_PI FUTEX_LOCK_PI2 FUTEX_PRIVATE_FLAG FUTEX_CLOCK_REALTIME;
        TIMER: TIMER_ABSTIME;
    }
}

#[test]
fn choices_have_the_values_of_libc() {
    macro_rules! check {
        ($($set:ident: $($name:ident)*;)*) => { $($(
            let value = i32::try_from(libc::$name).unwrap();
            assert_eq!($set.describe(value), Some(stringify!($name)));
        )*)* };
    }
    check! {
        WHENCE: SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE;
        FCNTL: F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN F_GETOWN
            F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW F_SETLEASE F_GETLEASE F_NOTIFY F_DUPFD_CLOEXEC
            F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_GET_SEALS;
        FADVISE: POSIX_FADV_NORMAL POSIX_FADV_RANDOM POSIX_FADV_SEQUENTIAL POSIX_FADV_WILLNEED
            POSIX_FADV_DONTNEED POSIX_FADV_NOREUSE;
        EPOLL_CTL: EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD;
        DOMAIN: AF_UNSPEC AF_UNIX AF_INET AF_AX25 AF_IPX AF_APPLETALK AF_X25 AF_INET6 AF_KEY AF_NETLINK
            AF_PACKET AF_RDS AF_PPPOX AF_CAN AF_TIPC AF_BLUETOOTH AF_ALG AF_NFC AF_VSOCK AF_XDP;
        MADVISE: MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED MADV_FREE MADV_REMOVE
            MADV_DONTFORK MADV_DOFORK MADV_MERGEABLE MADV_UNMERGEABLE MADV_HUGEPAGE MADV_NOHUGEPAGE
            MADV_DONTDUMP MADV_DODUMP MADV_WIPEONFORK MADV_KEEPONFORK MADV_COLD MADV_PAGEOUT
            MADV_POPULATE_READ MADV_POPULATE_WRITE MADV_DONTNEED_LOCKED MADV_COLLAPSE MADV_HWPOISON
            MADV_SOFT_OFFLINE;
        SIGMASK: SIG_BLOCK SIG_UNBLOCK SIG_SETMASK;
        WAIT_ID: P_ALL P_PID P_PGID P_PIDFD;
        RLIMIT: RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC
            RLIMIT_NOFILE RLIMIT_MEMLOCK RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE
            RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME;
        RUSAGE: RUSAGE_SELF;
        CLOCK: CLOCK_REALTIME CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_THREAD_CPUTIME_ID
            CLOCK_MONOTONIC_RAW CLOCK_REALTIME_COARSE CLOCK_MONOTONIC_COARSE CLOCK_BOOTTIME
            CLOCK_REALTIME_ALARM CLOCK_BOOTTIME_ALARM CLOCK_TAI;
        SIGNAL: SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2
            SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG
            SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS;
    }
}

#[test]
fn every_bit_is_written() {
    assert_eq!(PROT.describe(0), "PROT_NONE");
    assert_eq!(PROT.describe(0x11), "PROT_READ|0x10");
    assert_eq!(MAP.describe(0x20), "MAP_ANONYMOUS");
    assert_eq!(AT.describe(0), "0");
    assert_eq!(AT.describe(0xffff_ffff_0000_0001), "0x1");
    assert_eq!(CLONE.describe(0x8_0000_0011), "SIGCHLD|0x800000000");
    assert_eq!(OPEN.describe(3), "0x3");
    assert_eq!(FUTEX.describe(0x80), "FUTEX_WAIT|FUTEX_PRIVATE_FLAG");
}

#[test]
fn errors_have_the_names_and_numbers_of_libc() {
    macro_rules! check {
        ($($name:ident)*) => { [$((libc::$name, stringify!($name))),*] };
    }
    let all = check![
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
        EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM
        ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG
        EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME ENOSR ENONET
        ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG
        ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE
        EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE
        EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
        ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM
        ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED
        EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON
    ];
    for (number, name) in all {
        assert_eq!(errno_name(number.into()), Some(name), "{number}");
    }
    assert_eq!(all.len(), 131, "1 to 133 without the two second names");
    for not in [i64::MIN, -1, 0, 41, 58, 134, 512, i64::MAX] {
        assert_eq!(errno_name(not), None);
    }
}

#[test]
fn outcomes() {
    let value = |rax: i64| Outcome::from_register(rax.cast_unsigned());
    assert_eq!((value(7).value(), value(7).errno()), (Some(7), None));
    assert_eq!((value(-4095).value(), value(-4095).errno()), (None, Some(4095)));
    assert_eq!((value(-4096).value(), value(-4096).errno()), (Some(-4096), None));
    assert_eq!(value(i64::MIN).errno(), None);
    // The three of include/linux/errno.h, and ERESTART_RESTARTBLOCK; 515 is ENOIOCTLCMD.
    for restart in [512, 513, 514, 516] {
        assert_eq!(value(-restart), Outcome::Restarts);
    }
    assert_eq!(value(-515), Outcome::Returned(-515));
}

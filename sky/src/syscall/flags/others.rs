//! Flags of calls on memory, processes, sockets and time.

use super::{Choice, Flag, FlagSet, choice, flags};

flags! {
    /// `mmap(2)`, `mprotect(2)`: `include/uapi/asm-generic/mman-common.h`.
    PROT, wide = true:
    PROT_NONE = 0 in 0xffff_ffff_ffff_ffff, PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, PROT_SEM = 8,
    PROT_GROWSDOWN = 0x100_0000, PROT_GROWSUP = 0x200_0000,
}

flags! {
    /// `mmap(2)`.
    MAP, wide = true:
    MAP_SHARED = 1 in 0xf, MAP_PRIVATE = 2 in 0xf, MAP_SHARED_VALIDATE = 3 in 0xf,
    MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MAP_32BIT = 0x40, MAP_NORESERVE = 0x4000, MAP_POPULATE = 0x8000,
    MAP_NONBLOCK = 0x1_0000, MAP_GROWSDOWN = 0x100, MAP_DENYWRITE = 0x800, MAP_EXECUTABLE = 0x1000,
    MAP_LOCKED = 0x2000, MAP_STACK = 0x2_0000, MAP_HUGETLB = 0x4_0000, MAP_SYNC = 0x8_0000,
    MAP_FIXED_NOREPLACE = 0x10_0000,
}

flags! {
    /// `mremap(2)`.
    MREMAP, wide = true: MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2, MREMAP_DONTUNMAP = 4,
}

flags! {
    /// `msync(2)`.
    MSYNC, wide = false: MS_ASYNC = 1, MS_INVALIDATE = 2, MS_SYNC = 4,
}

flags! {
    /// `mlockall(2)`.
    MLOCKALL, wide = false: MCL_CURRENT = 1, MCL_FUTURE = 2, MCL_ONFAULT = 4,
}

flags! {
    /// `clone(2)`, `clone3(2)`, `unshare(2)`: `include/uapi/linux/sched.h`.
    CLONE, wide = true:
    CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800, CLONE_PIDFD = 0x1000,
    CLONE_PTRACE = 0x2000, CLONE_VFORK = 0x4000, CLONE_PARENT = 0x8000, CLONE_THREAD = 0x1_0000,
    CLONE_NEWNS = 0x2_0000, CLONE_SYSVSEM = 0x4_0000, CLONE_SETTLS = 0x8_0000, CLONE_PARENT_SETTID = 0x10_0000,
    CLONE_CHILD_CLEARTID = 0x20_0000, CLONE_DETACHED = 0x40_0000, CLONE_UNTRACED = 0x80_0000,
    CLONE_CHILD_SETTID = 0x100_0000, CLONE_NEWCGROUP = 0x200_0000, CLONE_NEWUTS = 0x400_0000,
    CLONE_NEWIPC = 0x800_0000, CLONE_NEWUSER = 0x1000_0000, CLONE_NEWPID = 0x2000_0000,
    CLONE_NEWNET = 0x4000_0000, CLONE_IO = 0x8000_0000, CLONE_CLEAR_SIGHAND = 0x1_0000_0000,
    CLONE_INTO_CGROUP = 0x2_0000_0000,
    SIGCHLD = 17 in 0xff,
}

flags! {
    /// `setns(2)`: an `int`.
    SETNS, wide = false:
    CLONE_NEWTIME = 0x80, CLONE_NEWNS = 0x2_0000, CLONE_NEWCGROUP = 0x200_0000, CLONE_NEWUTS = 0x400_0000,
    CLONE_NEWIPC = 0x800_0000, CLONE_NEWUSER = 0x1000_0000, CLONE_NEWPID = 0x2000_0000, CLONE_NEWNET = 0x4000_0000,
}

flags! {
    /// `wait4(2)`, `waitid(2)`: `include/uapi/linux/wait.h`.
    WAIT, wide = false:
    WNOHANG = 1, WUNTRACED = 2, WEXITED = 4, WCONTINUED = 8, WNOWAIT = 0x100_0000, __WNOTHREAD = 0x2000_0000,
    __WALL = 0x4000_0000, __WCLONE = 0x8000_0000,
}

flags! {
    /// `socket(2)`, `socketpair(2)`: the type and two flags.
    SOCKET_TYPE, wide = false:
    SOCK_STREAM = 1 in 0xf, SOCK_DGRAM = 2 in 0xf, SOCK_RAW = 3 in 0xf, SOCK_RDM = 4 in 0xf,
    SOCK_SEQPACKET = 5 in 0xf, SOCK_DCCP = 6 in 0xf, SOCK_PACKET = 10 in 0xf,
    SOCK_CLOEXEC = 0o2000000, SOCK_NONBLOCK = 0o4000,
}

flags! {
    /// `accept4(2)`.
    ACCEPT, wide = false: SOCK_CLOEXEC = 0o2000000, SOCK_NONBLOCK = 0o4000,
}

flags! {
    /// `send(2)`, `recv(2)`: `include/linux/socket.h`.
    MSG, wide = false:
    MSG_OOB = 0x1, MSG_PEEK = 0x2, MSG_DONTROUTE = 0x4, MSG_CTRUNC = 0x8, MSG_TRUNC = 0x20, MSG_DONTWAIT = 0x40,
    MSG_EOR = 0x80, MSG_WAITALL = 0x100, MSG_CONFIRM = 0x800, MSG_ERRQUEUE = 0x2000, MSG_NOSIGNAL = 0x4000,
    MSG_MORE = 0x8000, MSG_WAITFORONE = 0x1_0000, MSG_ZEROCOPY = 0x400_0000, MSG_FASTOPEN = 0x2000_0000,
    MSG_CMSG_CLOEXEC = 0x4000_0000,
}

flags! {
    /// `getrandom(2)`.
    GETRANDOM, wide = false: GRND_NONBLOCK = 1, GRND_RANDOM = 2, GRND_INSECURE = 4,
}

flags! {
    /// `futex(2)`'s operation: `include/uapi/linux/futex.h`.
    FUTEX, wide = false:
    FUTEX_WAIT = 0 in 0x7f, FUTEX_WAKE = 1 in 0x7f, FUTEX_FD = 2 in 0x7f, FUTEX_REQUEUE = 3 in 0x7f,
    FUTEX_CMP_REQUEUE = 4 in 0x7f, FUTEX_WAKE_OP = 5 in 0x7f, FUTEX_LOCK_PI = 6 in 0x7f,
    FUTEX_UNLOCK_PI = 7 in 0x7f, FUTEX_TRYLOCK_PI = 8 in 0x7f, FUTEX_WAIT_BITSET = 9 in 0x7f,
    FUTEX_WAKE_BITSET = 10 in 0x7f, FUTEX_WAIT_REQUEUE_PI = 11 in 0x7f, FUTEX_CMP_REQUEUE_PI = 12 in 0x7f,
    FUTEX_LOCK_PI2 = 13 in 0x7f,
    FUTEX_PRIVATE_FLAG = 128, FUTEX_CLOCK_REALTIME = 256,
}

flags! {
    /// `clock_nanosleep(2)`, `timer_settime(2)`.
    TIMER, wide = false: TIMER_ABSTIME = 1,
}

choice! {
    /// Kinds of addresses, `socket(2)`.
    DOMAIN:
    AF_UNSPEC = 0, AF_UNIX = 1, AF_INET = 2, AF_AX25 = 3, AF_IPX = 4, AF_APPLETALK = 5, AF_X25 = 9, AF_INET6 = 10,
    AF_KEY = 15, AF_NETLINK = 16, AF_PACKET = 17, AF_RDS = 21, AF_PPPOX = 24, AF_CAN = 29, AF_TIPC = 30,
    AF_BLUETOOTH = 31, AF_ALG = 38, AF_NFC = 39, AF_VSOCK = 40, AF_XDP = 44,
}

choice! {
    /// `shutdown(2)`.
    SHUTDOWN: SHUT_RD = 0, SHUT_WR = 1, SHUT_RDWR = 2,
}

choice! {
    /// `madvise(2)`: `include/uapi/asm-generic/mman-common.h`.
    MADVISE:
    MADV_NORMAL = 0, MADV_RANDOM = 1, MADV_SEQUENTIAL = 2, MADV_WILLNEED = 3, MADV_DONTNEED = 4, MADV_FREE = 8,
    MADV_REMOVE = 9, MADV_DONTFORK = 10, MADV_DOFORK = 11, MADV_MERGEABLE = 12, MADV_UNMERGEABLE = 13,
    MADV_HUGEPAGE = 14, MADV_NOHUGEPAGE = 15, MADV_DONTDUMP = 16, MADV_DODUMP = 17, MADV_WIPEONFORK = 18,
    MADV_KEEPONFORK = 19, MADV_COLD = 20, MADV_PAGEOUT = 21, MADV_POPULATE_READ = 22, MADV_POPULATE_WRITE = 23,
    MADV_DONTNEED_LOCKED = 24, MADV_COLLAPSE = 25, MADV_HWPOISON = 100, MADV_SOFT_OFFLINE = 101,
}

choice! {
    /// `rt_sigprocmask(2)`.
    SIGMASK: SIG_BLOCK = 0, SIG_UNBLOCK = 1, SIG_SETMASK = 2,
}

choice! {
    /// `waitid(2)`.
    WAIT_ID: P_ALL = 0, P_PID = 1, P_PGID = 2, P_PIDFD = 3,
}

choice! {
    /// `getrlimit(2)`.
    RLIMIT:
    RLIMIT_CPU = 0, RLIMIT_FSIZE = 1, RLIMIT_DATA = 2, RLIMIT_STACK = 3, RLIMIT_CORE = 4, RLIMIT_RSS = 5,
    RLIMIT_NPROC = 6, RLIMIT_NOFILE = 7, RLIMIT_MEMLOCK = 8, RLIMIT_AS = 9, RLIMIT_LOCKS = 10,
    RLIMIT_SIGPENDING = 11, RLIMIT_MSGQUEUE = 12, RLIMIT_NICE = 13, RLIMIT_RTPRIO = 14, RLIMIT_RTTIME = 15,
}

choice! {
    /// `getrusage(2)`.
    RUSAGE: RUSAGE_SELF = 0, RUSAGE_CHILDREN = -1, RUSAGE_THREAD = 1,
}

choice! {
    /// `clock_gettime(2)`.
    CLOCK:
    CLOCK_REALTIME = 0, CLOCK_MONOTONIC = 1, CLOCK_PROCESS_CPUTIME_ID = 2, CLOCK_THREAD_CPUTIME_ID = 3,
    CLOCK_MONOTONIC_RAW = 4, CLOCK_REALTIME_COARSE = 5, CLOCK_MONOTONIC_COARSE = 6, CLOCK_BOOTTIME = 7,
    CLOCK_REALTIME_ALARM = 8, CLOCK_BOOTTIME_ALARM = 9, CLOCK_TAI = 11,
}

choice! {
    /// `arch_prctl(2)`: `arch/x86/include/uapi/asm/prctl.h`.
    ARCH_PRCTL:
    ARCH_SET_GS = 0x1001, ARCH_SET_FS = 0x1002, ARCH_GET_FS = 0x1003, ARCH_GET_GS = 0x1004,
    ARCH_GET_CPUID = 0x1011, ARCH_SET_CPUID = 0x1012,
}

choice! {
    /// Signals, `include/uapi/asm-generic/signal.h`; those from 32 on are counted.
    SIGNAL:
    SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9,
    SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15, SIGSTKFLT = 16,
    SIGCHLD = 17, SIGCONT = 18, SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22, SIGURG = 23, SIGXCPU = 24,
    SIGXFSZ = 25, SIGVTALRM = 26, SIGPROF = 27, SIGWINCH = 28, SIGIO = 29, SIGPWR = 30, SIGSYS = 31,
}

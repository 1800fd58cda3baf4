//! Reads what `strace -f -o FILE -e raw=all -e signal=none` writes: an independent account of a program's calls.
//!
//! ```text
//! 6085  read(0x5, 0x7ffcd600483c, 0x1)    = -1 ERESTARTSYS (Unknown error 512)
//! 6085  pipe2(0x7ffcd6004838, 0x80000 <unfinished ...>
//! 6086  exit_group(0x2a)                  = ?
//! 6085  <... pipe2 resumed>)              = 0
//! 6086  +++ exited with 42 +++
//! ```
//!
//! Names and arguments are the kernel's: `raw=all` gives registers, in hexadecimal but for zero, and as many of them
//! as the call has arguments. Lines that are none of these forms are kept apart, never guessed at.

use std::collections::HashMap;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this; what looks like an error number is one of the next two.
    Value(u64),
    /// It failed with this error number, a positive one.
    Error(i32),
    /// A signal ended it, with the kernel's own number (512 to 516): it is restarted, or fails with `EINTR`.
    Restart(i32),
    /// It did not return, or strace did not see it: `= ?`, or the end of the file.
    Unknown,
    /// The thread was being killed by another's `exit_group` when strace looked for its call. The kernel then says
    /// "no call" and fills in nothing more (`ptrace_get_syscall_info` in kernel/ptrace.c), and strace 6.1 takes what it
    /// asked for before, its static `ptrace_sci` in src/syscall.c, for the call: name and arguments are the other
    /// thread's. If both are of one process, the true ones are not known, only that the call did not return; if not,
    /// two processes ended one after the other.
    ///
    /// If it has not asked for another call meanwhile that it could show, it shows `???`.
    Repeated {
        /// The other thread; the thread itself for `???`.
        of: i32,
    },
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The kernel's name of it.
    pub name: String,
    /// The registers of its arguments.
    pub args: Vec<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited, with this status.
    Exited(i32),
    /// A signal killed it; strace names the signal, see [`Thread::killed_by`].
    Killed,
    /// Another thread of its process made `execve` and took over its number. The calls behind this are the new
    /// program's, under the same number.
    Superseded(i32),
}

/// A thread, in the order in which threads first appear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub tid: i32,
    /// Its calls in the order of their entries.
    pub calls: Vec<Call>,
    /// Its end. A number that is used again, or superseded, has several, and gives a thread of its own for each but
    /// the last kind.
    pub ends: Vec<End>,
    /// The signal that killed it.
    pub killed_by: Option<String>,
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// All threads.
    pub threads: Vec<Thread>,
    /// Lines that could not be read.
    pub strange: Vec<String>,
}

impl Trace {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Trace {
        let mut reader = Reader::default();
        for line in text.lines() {
            if reader.line(line).is_none() {
                reader.trace.strange.push(line.to_string());
            }
        }
        reader.trace
    }

    /// How often a call was entered, by all threads.
    pub fn entered(&self, name: &str) -> u64 {
        self.count(|call| call.name == name)
    }

    /// How often a call was entered whose end is not known.
    pub fn unreturned(&self, name: &str) -> u64 {
        let open = |outcome| matches!(outcome, Outcome::Unknown | Outcome::Repeated { .. });
        self.count(|call| call.name == name && open(call.outcome))
    }

    fn count(&self, wanted: impl Fn(&Call) -> bool) -> u64 {
        self.threads.iter().flat_map(|thread| &thread.calls).filter(|call| wanted(call)).count() as u64
    }
}

#[derive(Default)]
struct Reader {
    trace: Trace,
    /// Which thread has a number now.
    threads: HashMap<i32, usize>,
    /// The call that each thread is in.
    open: HashMap<i32, usize>,
    /// Numbers that another thread has just taken over, and by `execve` from which number.
    taken: HashMap<i32, i32>,
    /// What strace asked the kernel for last, if it was a thread's `exit_group`, and the thread.
    exit: Option<(i32, Call)>,
}

impl Reader {
    /// Takes in one line; none if it has no known form.
    fn line(&mut self, line: &str) -> Option<()> {
        let (tid, rest) = line.trim_start().split_once(|c: char| !c.is_ascii_digit())?;
        let tid = tid.parse().ok()?;
        let rest = rest.trim();
        if let Some(end) = rest.strip_prefix("+++ ") {
            return self.end(tid, end);
        }
        let exit = self.exit.take();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (name, rest) = resumed.split_once(" resumed>")?;
            // More arguments may follow what was printed at the entry.
            let (args, rest) = rest.split_once(')')?;
            let args = arguments(args.trim_start_matches(','))?;
            return self.resume(tid, name, args, outcome(rest.trim().strip_prefix('=')?)?);
        }
        let (name, rest) = rest.split_once('(')?;
        let unread = name == "???";
        if name.is_empty() || !unread && !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let (args, outcome) = match rest.strip_suffix("<unfinished ...>") {
            Some(args) => (arguments(args.trim_end().trim_end_matches(','))?, None),
            None => {
                let (args, rest) = rest.split_once(')')?;
                (arguments(args)?, Some(outcome(rest.trim().strip_prefix('=')?)?))
            }
        };
        let open = if unread { Outcome::Repeated { of: tid } } else { Outcome::Unknown };
        let mut call = Call { name: name.to_string(), args, outcome: outcome.unwrap_or(open) };
        if call.name == "exit_group" && call.outcome == Outcome::Unknown {
            self.exit = Some((tid, call.clone()));
            match exit {
                Some((of, before)) if of != tid && before == call => call.outcome = Outcome::Repeated { of },
                _ => {}
            }
        }
        self.enter(tid, call);
        if outcome.is_some() {
            self.open.remove(&tid);
        }
        Some(())
    }

    fn thread(&mut self, tid: i32) -> Option<&mut Thread> {
        let threads = &mut self.trace.threads;
        let at = *self.threads.entry(tid).or_insert_with(|| {
            threads.push(Thread { tid, ..Thread::default() });
            threads.len() - 1
        });
        threads.get_mut(at)
    }

    fn enter(&mut self, tid: i32, call: Call) {
        let Some(thread) = self.thread(tid) else { return };
        thread.calls.push(call);
        let at = thread.calls.len() - 1;
        self.open.insert(tid, at);
    }

    fn resume(&mut self, tid: i32, name: &str, more: Vec<u64>, outcome: Outcome) -> Option<()> {
        // Behind `execve` the thread that made the call has the number of its process.
        let entered_by = match self.taken.get(&tid) {
            Some(other) if name == "execve" => *other,
            _ => tid,
        };
        if entered_by != tid {
            self.taken.remove(&tid);
        }
        let at = *self.open.get(&entered_by)?;
        let call = self.thread(entered_by)?.calls.get_mut(at)?;
        if call.name != name {
            return None;
        }
        call.args.extend(more);
        if !(matches!(call.outcome, Outcome::Repeated { .. }) && outcome == Outcome::Unknown) {
            call.outcome = outcome;
        }
        self.open.remove(&entered_by);
        Some(())
    }

    fn end(&mut self, tid: i32, text: &str) -> Option<()> {
        let text = text.strip_suffix(" +++")?;
        if let Some(other) = text.strip_prefix("superseded by execve in pid ") {
            let other = other.parse().ok()?;
            self.thread(tid)?.ends.push(End::Superseded(other));
            self.open.remove(&tid);
            self.taken.insert(tid, other);
            return Some(());
        }
        let (end, signal) = match text.strip_prefix("killed by ") {
            Some(signal) => {
                let name = signal.trim_end_matches(" (core dumped)");
                (End::Killed, Some(name.to_string()))
            }
            None => (End::Exited(text.strip_prefix("exited with ")?.parse().ok()?), None),
        };
        let thread = self.thread(tid)?;
        thread.ends.push(end);
        thread.killed_by = signal;
        self.open.remove(&tid);
        // The number may be used again.
        self.threads.remove(&tid);
        Some(())
    }
}

fn arguments(text: &str) -> Option<Vec<u64>> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(number).collect()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn outcome(text: &str) -> Option<Outcome> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('?') {
        // `? ERESTARTSYS (To be restarted)`, where strace decodes results.
        return match rest.split_whitespace().next() {
            None => Some(Outcome::Unknown),
            Some(name) => error(name, rest),
        };
    }
    if let Some(rest) = text.strip_prefix("-1 ") {
        return error(rest.split_whitespace().next()?, rest);
    }
    // A comment may follow, in brackets.
    number(text.split_whitespace().next()?).map(Outcome::Value)
}

/// By the error's name, or by what strace says where it knows none: `ENAME (Unknown error 512)`.
fn error(name: &str, text: &str) -> Option<Outcome> {
    let restart = ["ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND", "ERESTART_RESTARTBLOCK"];
    if let Some(at) = restart.iter().position(|known| *known == name) {
        return Some(Outcome::Restart([512, 513, 514, 516][at]));
    }
    if let Some((_, number)) = ERRORS.iter().find(|(known, _)| *known == name) {
        return Some(Outcome::Error(*number));
    }
    let (_, number) = text.split_once("Unknown error ")?;
    number.trim_end_matches(')').parse().ok().map(Outcome::Error)
}

macro_rules! errors {
    ($($name:ident)*) => {
        /// The errors of system calls.
        const ERRORS: &[(&str, i32)] = &[$((stringify!($name), libc::$name)),*];
    };
}

errors! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK
    ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT
    EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV
    ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX
    ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT
    ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET
    ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN
    EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE
    ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON
}

#[cfg(test)]
mod tests;

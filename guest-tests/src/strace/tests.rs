//! The lines are those that strace 6.1 wrote.

use proptest::prelude::*;

use super::*;

fn call(name: &str, args: &[u64], outcome: Outcome) -> Call {
    Call { name: name.into(), args: args.to_vec(), outcome }
}

#[test]
fn whole_lines() {
    let text = "\
23118 openat(0xffffff9c, 0x558d98becd20, 0x80000, 0) = -1 ENOENT (No such file or directory)
23118 openat(0xffffff9c, 0x558d98bece00, 0x80000, 0) = 0x3
23118 close(0x3)                        = 0
23118 getpid()                          = 0x5a4e
23118 rt_sigreturn()                    = -1 EINTR (Interrupted system call)
23118 exit_group(0)                     = ?
23118 +++ exited with 0 +++
";
    let trace = Trace::parse(text);
    assert_eq!(trace.strange, Vec::<String>::new());
    let [thread] = &trace.threads[..] else { panic!("{trace:?}") };
    assert_eq!(
        thread.calls,
        [
            call("openat", &[0xffff_ff9c, 0x558d_98be_cd20, 0x80000, 0], Outcome::Error(libc::ENOENT)),
            call("openat", &[0xffff_ff9c, 0x558d_98be_ce00, 0x80000, 0], Outcome::Value(3)),
            call("close", &[3], Outcome::Value(0)),
            call("getpid", &[], Outcome::Value(0x5a4e)),
            call("rt_sigreturn", &[], Outcome::Error(libc::EINTR)),
            call("exit_group", &[0], Outcome::Unknown),
        ]
    );
    assert_eq!((thread.tid, &thread.ends[..]), (23118, &[End::Exited(0)][..]));
    assert_eq!((trace.entered("openat"), trace.unreturned("openat")), (2, 0));
    assert_eq!((trace.entered("exit_group"), trace.unreturned("exit_group")), (1, 1));
}

#[test]
fn unfinished_and_resumed() {
    let text = "\
23116 rt_sigsuspend(0x7fff420ac5f0, 0x8 <unfinished ...>
23118 close(0xb <unfinished ...>
23118 <... close resumed>)              = 0
23116 <... rt_sigsuspend resumed>)      = -1 ERESTARTNOHAND (Unknown error 514)
6085  read(0x5, 0x7ffcd600483c, 0x1)    = -1 ERESTARTSYS (Unknown error 512)
6085  nanosleep(0x7ffcd6004840, 0x7ffcd6004850) = -1 ERESTART_RESTARTBLOCK (Unknown error 516)
6094  restart_syscall()                 = 0
6093  pause( <unfinished ...>
6093  <... pause resumed>)              = ?
6093  +++ killed by SIGKILL +++
";
    let trace = Trace::parse(text);
    assert_eq!(trace.strange, Vec::<String>::new());
    let tids: Vec<i32> = trace.threads.iter().map(|thread| thread.tid).collect();
    assert_eq!(tids, [23116, 23118, 6085, 6094, 6093]);
    let outcomes = |at: usize| trace.threads[at].calls.iter().map(|call| call.outcome).collect::<Vec<_>>();
    assert_eq!(outcomes(0), [Outcome::Restart(514)]);
    assert_eq!(outcomes(1), [Outcome::Value(0)]);
    assert_eq!(outcomes(2), [Outcome::Restart(512), Outcome::Restart(516)]);
    assert_eq!(trace.threads[4].calls, [call("pause", &[], Outcome::Unknown)]);
    assert_eq!(trace.threads[4].killed_by.as_deref(), Some("SIGKILL"));
}

#[test]
fn a_thread_that_executes_takes_the_number_of_the_first() {
    let text = "\
6495  execve(0x7f6815b84d90, 0x7f680c000f90, 0x7f6814d3ffe8 <unfinished ...>
6493  pause( <unfinished ...>
6491  pause( <unfinished ...>
6493  <... pause resumed>)              = ?
6491  <... pause resumed>)              = ?
6493  +++ exited with 0 +++
6491  +++ superseded by execve in pid 6495 +++
6491  <... execve resumed>)             = 0
6491  brk(0)                            = 0x555578a04000
";
    let trace = Trace::parse(text);
    assert_eq!(trace.strange, Vec::<String>::new());
    let args = [0x7f68_15b8_4d90, 0x7f68_0c00_0f90, 0x7f68_14d3_ffe8];
    assert_eq!(trace.threads[0].calls, [call("execve", &args, Outcome::Value(0))]);
    let first = &trace.threads[2];
    assert_eq!(first.ends, [End::Superseded(6495)]);
    assert_eq!(
        first.calls,
        [call("pause", &[], Outcome::Unknown), call("brk", &[0], Outcome::Value(0x5555_78a0_4000))]
    );
}

#[test]
fn what_strace_repeats_of_another_thread_is_no_call() {
    let text = "\
146   exit_group(0 <unfinished ...>
142   exit_group(0 <unfinished ...>
146   <... exit_group resumed>)         = ?
142   <... exit_group resumed>)         = ?
142   +++ exited with 0 +++
146   +++ exited with 0 +++
";
    let last = |text: &str| {
        let trace = Trace::parse(text);
        assert_eq!(trace.strange, Vec::<String>::new());
        trace.threads.iter().map(|thread| thread.calls.last().unwrap().outcome).collect::<Vec<_>>()
    };
    assert_eq!(last(text), [Outcome::Unknown, Outcome::Repeated { of: 146 }]);
    // Anything that strace asked for in between would be what it shows.
    let between = text.replace("\n142   exit_group(0 <", "\n7 getpid() = 0x7\n142   exit_group(0 <");
    assert_eq!(last(&between), [Outcome::Unknown, Outcome::Value(7), Outcome::Unknown]);
    let other = text.replace("142   exit_group(0 <", "142   exit_group(0x1 <");
    assert_eq!(last(&other), [Outcome::Unknown, Outcome::Unknown]);
    let unread = "186   ???( <unfinished ...>\n186   <... ??? resumed>)                = ?\n";
    assert_eq!(last(unread), [Outcome::Repeated { of: 186 }]);
    assert_eq!(
        last("7 exit_group(0) = ?\n8 exit_group(0) = ?\n"),
        [Outcome::Unknown, Outcome::Repeated { of: 7 }]
    );
}

#[test]
fn numbers_are_used_again() {
    let text = "7 +++ exited with 3 +++\n7 getpid() = 0x7\n7 +++ killed by SIGSEGV (core dumped) +++\n";
    let trace = Trace::parse(text);
    assert_eq!(trace.threads.len(), 2);
    assert_eq!(trace.threads[0].ends, [End::Exited(3)]);
    assert_eq!(trace.threads[1].killed_by.as_deref(), Some("SIGSEGV"));
}

#[test]
fn what_has_no_known_form_is_kept_apart() {
    for line in [
        "strace: Process 7 attached",
        "7 --- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---",
        "7 read(3, \"abc\", 3) = 3",
        "7 read(0x3, 0x1, 0x1) 3",
        "7 <... read resumed>) = 0",
        "7 read(0x3) = -1 ENOSUCHERROR",
        "7 +++ exited with x +++",
        "99999999999 getpid() = 0",
        "",
        "7",
    ] {
        let trace = Trace::parse(&format!("{line}\n"));
        assert_eq!(trace.strange, [line], "{trace:?}");
    }
}

#[test]
fn every_error_of_the_c_library_is_known() {
    for (name, number) in ERRORS {
        let line = format!("1 close(0x3) = -1 {name} (words)\n");
        assert_eq!(Trace::parse(&line).threads[0].calls[0].outcome, Outcome::Error(*number));
    }
    let unknown = "1 close(0x3) = -1 ENOIOCTLCMD (Unknown error 515)\n";
    assert_eq!(Trace::parse(unknown).threads[0].calls[0].outcome, Outcome::Error(515));
}

proptest! {
    #[test]
    fn garbage_is_read_to_the_end(text in any::<String>()) {
        Trace::parse(&text);
    }

    #[test]
    fn likely_garbage_is_read_to_the_end(words in proptest::collection::vec(prop_oneof![
        Just("7"), Just("8"), Just(" "), Just("\n"), Just("read("), Just("execve("), Just(")"), Just("<unfinished ...>"),
        Just("<... "), Just("read"), Just("execve"), Just(" resumed>"), Just(" = "), Just("?"), Just("0x3"), Just(", "), Just("-1 "),
        Just("ERESTARTSYS"), Just("+++ "), Just(" +++"), Just("superseded by execve in pid "), Just("exited with ")
    ], 0..60)) {
        let text = words.concat();
        let trace = Trace::parse(&text);
        let calls: usize = trace.threads.iter().map(|thread| thread.calls.len()).sum();
        prop_assert!(calls + trace.strange.len() <= text.lines().count());
    }

    #[test]
    fn what_is_written_is_read(calls in proptest::collection::vec((0i32..4, "[a-z][a-z0-9_]{0,12}", proptest::collection::vec(any::<u64>(), 0..7), any::<u32>(), any::<bool>()), 0..40)) {
        let mut text = String::new();
        for (tid, name, args, result, split) in &calls {
            let args: Vec<String> = args.iter().map(|arg| format!("{arg:#x}")).collect();
            let (tid, args) = (tid + 1, args.join(", "));
            text += &if *split {
                format!("{tid} {name}({args} <unfinished ...>\n{tid} <... {name} resumed>) = {result:#x}\n")
            } else {
                format!("{tid} {name}({args}) = {result:#x}\n")
            };
        }
        let trace = Trace::parse(&text);
        prop_assert!(trace.strange.is_empty());
        for thread in &trace.threads {
            let wanted: Vec<Call> = calls.iter().filter(|(tid, ..)| tid + 1 == thread.tid)
                .map(|(_, name, args, result, _)| call(name, args, Outcome::Value((*result).into()))).collect();
            prop_assert_eq!(&thread.calls, &wanted);
        }
    }
}

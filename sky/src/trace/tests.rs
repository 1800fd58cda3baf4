//! The lines of a few calls of a hand-made guest, and what becomes of calls that do not return, and of errors.

use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{SYS_close, SYS_exit_group, SYS_openat, SYS_read, SYS_write};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::guest::Gva;

const PAGE: u64 = 0x7f00_0000_0000;

/// One user page.
struct Guest(GuestMemoryMmap);

impl Guest {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        for (level, table) in [(39, 0x1000u64), (30, 0x2000), (21, 0x3000), (12, 0x4000)] {
            let entry = (table + 0x1000) | 7;
            memory.write_obj(entry, GuestAddress(table + ((PAGE >> level) & 0x1ff) * 8)).unwrap();
        }
        Self(memory)
    }

    fn view(&self) -> View<'_> {
        View::new(&self.0, 0x1000, false)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> u64 {
        self.view().write(Gva(PAGE + offset), bytes).unwrap();
        PAGE + offset
    }
}

/// What was written, as everybody who holds it sees it.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

struct Log {
    guest: Guest,
    log: TraceLog,
    paper: Paper,
}

impl Log {
    fn new(format: TraceFormat) -> Self {
        let paper = Paper::default();
        let log = TraceLog::new(Box::new(paper.clone()), format).unwrap();
        Self { guest: Guest::new(), log, paper }
    }

    fn enter(&self, id: u64, number: i64, args: &[u64]) {
        let view = self.guest.view();
        self.log.shared.entered(CallId(id), caller(id), &raw(number, args), &view);
    }

    fn leave(&self, id: u64, number: i64, args: &[u64], result: i64) {
        let outcome = Outcome::Returned(result);
        let view = self.guest.view();
        self.log.shared.returned(CallId(id), caller(id), &raw(number, args), &view, outcome);
    }

    fn lines(&self) -> Vec<String> {
        self.log.finish().unwrap();
        self.paper.lines()
    }
}

fn caller(id: u64) -> Caller {
    Caller { pid: 40, tid: u32::try_from(40 + id).unwrap(), vcpu: 1 }
}

fn raw(number: i64, args: &[u64]) -> RawCall {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    RawCall { number: number.cast_unsigned(), args: all }
}

#[test]
fn calls_are_written_as_strace_writes_them_when_they_end() {
    let log = Log::new(TraceFormat::Strace);
    let path = log.guest.put(0, b"/etc/passwd\0");
    log.enter(1, SYS_openat, &[0xffff_ff9c, path, 0o2_000_000]);
    log.enter(2, SYS_close, &[9]);
    // The path is what it was at the entry, whatever another thread does.
    log.guest.put(0, b"/etc/shadow\0");
    log.leave(2, SYS_close, &[9], -9);
    log.leave(1, SYS_openat, &[0xffff_ff9c, path, 0o2_000_000], 3);
    assert_eq!(
        log.lines(),
        [
            "42 close(9) = -1 EBADF (Bad file descriptor)",
            r#"41 openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3"#,
        ]
    );
}

#[test]
fn what_the_kernel_stored_is_in_the_line() {
    let log = Log::new(TraceFormat::Strace);
    let buffer = log.guest.put(64, b"before");
    log.enter(1, SYS_read, &[0, buffer, 6]);
    log.guest.put(64, b"after.");
    log.leave(1, SYS_read, &[0, buffer, 6], 5);
    assert_eq!(log.lines(), [r#"41 read(0, "after", 6) = 5"#]);
}

#[test]
fn calls_that_never_return_are_written_once_and_forgotten() {
    let log = Log::new(TraceFormat::Strace);
    log.enter(1, SYS_read, &[0, 0x10, 6]);
    log.enter(2, SYS_close, &[3]);
    log.log.shared.abandoned(CallId(1));
    log.log.shared.abandoned(CallId(1));
    log.enter(3, SYS_exit_group, &[7]);
    assert_eq!(log.log.shared.lock().pending.len(), 1);
    let expected =
        ["41 read(0, 0x10, 6 <unfinished ...>", "43 exit_group(7) = ?", "42 close(3 <unfinished ...>"];
    assert_eq!(log.lines(), expected);
    assert_eq!(log.lines(), expected, "the end comes once");
}

#[test]
fn a_call_that_was_on_its_way_is_decoded_at_its_return() {
    let log = Log::new(TraceFormat::Strace);
    let buffer = log.guest.put(64, b"piped");
    log.leave(9, SYS_read, &[5, buffer, 100], 5);
    assert_eq!(log.lines(), [r#"49 read(5, "piped", 100) = 5"#]);
}

#[test]
fn processes_begin_and_end() {
    let begins = ProcessEvent::Begins { pid: 7, executable: "a\u{1b}\n7 close(3) = 0".into() };
    let ends = ProcessEvent::Ends { pid: 7 };
    let log = Log::new(TraceFormat::Strace);
    log.log.process(&begins);
    log.log.process(&ends);
    assert_eq!(log.lines(), [r#"7 +++ begins "a\33\n7 close(3) = 0" +++"#, "7 +++ ends +++"]);

    let log = Log::new(TraceFormat::Json);
    log.log.process(&begins);
    log.log.process(&ends);
    let lines = log.lines();
    assert_eq!(lines.len(), 2);
    let first: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((&first["event"], &first["pid"]), (&"begins".into(), &7.into()));
    assert_eq!(first["executable"], "a\u{1b}\n7 close(3) = 0");
    assert!(lines[1].ends_with(r#""pid":7,"event":"ends"}"#), "{}", lines[1]);
}

#[test]
fn json_has_one_object_for_each_call() {
    let log = Log::new(TraceFormat::Json);
    let data = log.guest.put(0, b"two\nlines");
    log.enter(1, SYS_write, &[1, data, 9]);
    log.enter(2, SYS_read, &[0, 0x10, 6]);
    log.leave(1, SYS_write, &[1, data, 9], 9);
    log.leave(3, SYS_close, &[3], -9);
    let lines = log.lines();
    let values: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 3);
    let write = &values[0];
    assert_eq!((&write["pid"], &write["tid"], &write["vcpu"]), (&40.into(), &41.into(), &1.into()));
    assert!(write["time_ns"].is_u64() && write["took_ns"].is_u64());
    assert_eq!(write["call"]["name"], "write");
    assert_eq!(write["call"]["args"]["buf"], "two\\nlines");
    assert_eq!(write["call"]["result"], serde_json::json!({"value": 9}));
    assert_eq!(values[1]["call"]["result"]["errno"], "EBADF");
    assert!(values[1].get("took_ns").is_none(), "its entry was not seen");
    assert_eq!(values[2]["call"]["name"], "read");
    assert!(values[2].get("took_ns").is_none() && values[2]["call"].get("result").is_none());
}

#[test]
fn a_guest_with_too_many_calls_on_their_way_loses_the_oldest() {
    let log = Log::new(TraceFormat::Strace);
    for id in 1..=MAX_PENDING as u64 + 2 {
        log.enter(id, SYS_close, &[id]);
    }
    assert_eq!(log.log.shared.lock().pending.len(), MAX_PENDING);
    log.leave(1, SYS_close, &[1], 0);
    log.leave(3, SYS_close, &[3], 0);
    let lines = log.lines();
    assert_eq!(lines[..2], ["41 close(1 <unfinished ...>", "42 close(2 <unfinished ...>"]);
    assert_eq!(lines[2..4], ["41 close(1) = 0", "43 close(3) = 0"]);
}

#[test]
fn lines_appear_without_being_asked_for() {
    let log = Log::new(TraceFormat::Strace);
    log.enter(1, SYS_close, &[9]);
    log.leave(1, SYS_close, &[9], 0);
    let started = Instant::now();
    while log.paper.lines().is_empty() {
        assert!(started.elapsed() < FLUSH * 20, "nothing was flushed");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(log.paper.lines(), ["41 close(9) = 0"]);
}

/// A disk that is full.
struct Full(Arc<AtomicUsize>);

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_ends_the_trace_and_is_told_once() {
    let tries = Arc::new(AtomicUsize::new(0));
    let log = TraceLog::new(Box::new(Full(Arc::clone(&tries))), TraceFormat::Strace).unwrap();
    let guest = Guest::new();
    for id in 1..20_000 {
        log.shared.returned(
            CallId(id),
            caller(id),
            &raw(SYS_close, &[3]),
            &guest.view(),
            Outcome::Returned(0),
        );
    }
    log.shared.entered(CallId(7), caller(7), &raw(SYS_close, &[3]), &guest.view());
    assert!(log.shared.lock().pending.is_empty(), "nothing is kept for nobody");
    assert_eq!(log.finish().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    log.finish().unwrap();
    drop(log);
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

#[test]
fn formats_have_names() {
    assert_eq!("strace".parse(), Ok(TraceFormat::Strace));
    assert_eq!("json".parse(), Ok(TraceFormat::Json));
    assert_eq!("xml".parse::<TraceFormat>(), Err("`xml` is no format of a trace: strace or json".to_owned()));
}

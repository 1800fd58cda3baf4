//! Writes down every system call of the monitored processes: as strace does for people, as JSON for programs.
//!
//! ```text
//!   entered(..) ──▶ decoded, kept by its CallId ──returned(..)──▶ one line
//!                                               ──abandoned(..)──▶ one line, "<unfinished ...>"
//! ```
//!
//! A [`TraceLog`] is an [`Observer`] of all calls. It decodes a call at its entry, because the kernel or another thread
//! may change what the arguments point to, and adds at the return what the kernel has stored. Lines stand in the order
//! in which calls end. They are buffered; a thread flushes them about every second. If writing fails, that is told once
//! and nothing more is written; the guest does not notice.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::guest::View;
use crate::observer::{Call, CallId, CallSet, Inquiry, Observer, ProcessEvent};
use crate::syscall::{Decoded, Limits, Moment, Outcome, RawCall, decode};

mod line;
#[cfg(test)]
mod tests;

use line::{Entry, Event};

/// How often buffered lines are written.
const FLUSH: Duration = Duration::from_secs(1);
/// Calls on their way that are remembered. A guest that has more of them loses the oldest: they are written as
/// unfinished. At a few hundred bytes each, with a path of 4 KiB at the worst.
const MAX_PENDING: usize = 1 << 14;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceFormat {
    /// `PID name(args) = result`, as `strace -f -o FILE` writes it. PID is the thread's.
    #[default]
    Strace,
    /// One JSON object per line; see [`TraceLog`].
    Json,
}

impl FromStr for TraceFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strace" => Ok(Self::Strace),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no format of a trace: strace or json")),
        }
    }
}

/// Writes a line for every call that ends, and for every process that begins or ends to be monitored.
///
/// [`TraceFormat::Strace`]:
///
/// ```text
/// 42 +++ begins "writer" +++
/// 42 openat(AT_FDCWD, "/mnt/a.bin", O_WRONLY|O_CREAT, 0644) = 3
/// 43 read(0, 0x7ffc1e70 <unfinished ...>
/// 42 exit_group(0) = ?
/// 42 +++ ends +++
/// ```
///
/// [`TraceFormat::Json`]; times are nanoseconds, `time_ns` counts from when the log was made to the call's entry:
///
/// ```text
/// {"time_ns":81,"pid":42,"tid":42,"vcpu":0,"took_ns":9,"call":{"number":3,"name":"close","args":{"fd":3},..}}
/// {"time_ns":99,"pid":42,"event":"ends"}
/// ```
///
/// A call that never returned has neither `took_ns` nor a `result` in its `call`. One that was on its way already when
/// its process began to be monitored is decoded at its return, and has no `took_ns`.
#[derive(Debug)]
pub struct TraceLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    format: TraceFormat,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    /// None after an error, and after the end.
    out: Option<BufWriter<Box<dyn Write + Send>>>,
    pending: BTreeMap<CallId, Entry>,
    /// Why nothing is written any more.
    error: Option<io::Error>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("pending", &self.pending.len()).field("error", &self.error).finish()
    }
}

/// Whose call it is, and where.
#[derive(Clone, Copy, Debug)]
struct Caller {
    pid: u32,
    tid: u32,
    vcpu: u32,
}

impl From<&Call<'_>> for Caller {
    fn from(call: &Call<'_>) -> Self {
        Self { pid: call.pid, tid: call.tid, vcpu: call.vcpu }
    }
}

impl TraceLog {
    /// Writes to `out`, which needs no buffer of its own. While `out` blocks, so do the threads that are traced.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn new(out: Box<dyn Write + Send>, format: TraceFormat) -> io::Result<Self> {
        let state = State {
            out: Some(BufWriter::with_capacity(1 << 16, out)),
            pending: BTreeMap::new(),
            error: None,
        };
        let shared = Arc::new(Shared { format, started: Instant::now(), state: Mutex::new(state) });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new().name("sky-trace".into()).spawn(move || flush_regularly(&weak))?;
        Ok(Self { shared })
    }

    /// Writes the calls that have not returned, and all that is buffered. What comes later is not written.
    ///
    /// # Errors
    /// The first error of all the writing, once.
    pub fn finish(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        while let Some((_, entry)) = state.pending.pop_first() {
            self.shared.write(&mut state, &entry);
        }
        self.shared.flush(&mut state);
        state.out = None;
        state.error.take().map_or(Ok(()), Err)
    }
}

impl Drop for TraceLog {
    fn drop(&mut self) {
        // It was told when it happened.
        let _ = self.finish();
    }
}

fn flush_regularly(shared: &Weak<Shared>) {
    loop {
        thread::sleep(FLUSH);
        let Some(shared) = shared.upgrade() else { return };
        let mut state = shared.lock();
        if state.out.is_none() {
            return;
        }
        shared.flush(&mut state);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A line that was cut by a panic harms nobody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn write(&self, state: &mut State, entry: &Entry) {
        attempt(state, |out| entry.write(out, self.format));
    }

    fn flush(&self, state: &mut State) {
        attempt(state, Write::flush);
    }

    fn entered(&self, id: CallId, caller: Caller, raw: &RawCall, view: &View<'_>) {
        let time = self.now();
        let decoded = decode(raw, view, Moment::Entered, Limits::default());
        let entry = Entry { time, caller, took: None, decoded };
        let mut state = self.lock();
        if state.out.is_none() {
            return;
        }
        if !raw.returns() {
            self.write(&mut state, &entry);
            return;
        }
        if state.pending.len() >= MAX_PENDING
            && let Some((_, oldest)) = state.pending.pop_first()
        {
            self.write(&mut state, &oldest);
        }
        state.pending.insert(id, entry);
    }

    fn returned(&self, id: CallId, caller: Caller, raw: &RawCall, view: &View<'_>, outcome: Outcome) {
        let now = self.now();
        let found = self.lock().pending.remove(&id);
        let entry = match found {
            Some(mut entry) => {
                entry.decoded.returned(view, outcome);
                entry.took = Some(now.saturating_sub(entry.time));
                entry
            }
            // It began before its process was monitored.
            None => {
                let decoded: Decoded = decode(raw, view, Moment::Returned(outcome), Limits::default());
                Entry { time: now, caller, took: None, decoded }
            }
        };
        self.write(&mut self.lock(), &entry);
    }

    fn abandoned(&self, id: CallId) {
        let mut state = self.lock();
        if let Some(entry) = state.pending.remove(&id) {
            self.write(&mut state, &entry);
        }
    }

    fn process(&self, event: &ProcessEvent) {
        let event = Event { time: self.now(), event };
        attempt(&mut self.lock(), |out| event.write(out, self.format));
    }
}

/// Writes, and stops for good when that fails.
fn attempt(state: &mut State, write: impl FnOnce(&mut BufWriter<Box<dyn Write + Send>>) -> io::Result<()>) {
    let Some(out) = &mut state.out else { return };
    if let Err(error) = write(out) {
        warn!(%error, "the trace ends here, it cannot be written");
        state.error = Some(error);
        state.pending.clear();
        // A BufWriter that is dropped would try again.
        if let Some(out) = state.out.take() {
            drop(out.into_parts());
        }
    }
}

impl Observer for TraceLog {
    fn wants(&self) -> CallSet {
        CallSet::all()
    }

    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        self.shared.entered(call.id, call.into(), &call.raw, &call.view);
        None
    }

    fn returned(&self, call: &Call<'_>, outcome: Outcome) -> Option<Inquiry> {
        self.shared.returned(call.id, call.into(), &call.raw, &call.view, outcome);
        None
    }

    fn abandoned(&self, id: CallId) {
        self.shared.abandoned(id);
    }

    fn process(&self, event: &ProcessEvent) {
        self.shared.process(event);
    }
}

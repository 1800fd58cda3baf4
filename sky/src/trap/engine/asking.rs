//! Inquiries of observers: the insight-calls that a thread makes before, or behind, a call of its own.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::task::{Context, Poll, Waker};

use crate::Result;
use crate::call::{Frames, Refused, Request, Scratch, Thread};
use crate::guest::{Gva, View};
use crate::observer::Inquiry;
use crate::process::Pending;
use crate::syscall::RawCall;
use crate::trap::engine::frames::PtRegs;

/// Insight-calls for one call of a thread's own. An inquiry that has no end must not hold the thread for ever.
const MAX_CALLS: u32 = 64;
/// How often an insight-call is made again when signals interrupt it.
const MAX_TRIES: u32 = 8;
/// Bytes of SYSCALL.
pub(super) const SYSCALL_LENGTH: u64 = 2;
/// Threads that a signal kept from a call of theirs, and that may never come back to it.
pub(super) const MAX_SUSPENDED: usize = 1024;

/// What the engine notes of a call on its way.
#[derive(Debug, Default)]
pub(super) struct Note {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) task: Gva,
    /// The observers that were told of its entry, a bit each.
    pub(super) observers: u32,
    pub(super) asking: Option<Box<Asking>>,
}

/// What happens when all is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The thread makes its own call.
    Call,
    /// The thread's own call has returned this, and it goes on.
    Leave(i64),
}

/// Inquiries that wait for answers.
pub(super) struct Asking {
    thread: Thread,
    inquiries: VecDeque<Inquiry>,
    pub(super) then: Then,
    request: Option<Request>,
    scratch: Option<Scratch>,
    calls: u32,
    tries: u32,
    /// Whether somebody in the guest would notice.
    observed: bool,
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking")
            .field("thread", &self.thread)
            .field("then", &self.then)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// A call that a thread was interrupted before it could make, and that it will make when its handlers have returned.
pub(super) type Suspended = (Gva, Pending<Note>);

/// Insight-calls, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct InsightCounts {
    /// Made.
    pub made: u64,
    /// Made again after a signal.
    pub retried: u64,
    /// Not made: somebody in the guest would have noticed, or there was no memory for the result.
    pub refused: u64,
    /// Given up because signals kept coming.
    pub given_up: u64,
}

impl AddAssign for InsightCounts {
    fn add_assign(&mut self, more: Self) {
        self.made += more.made;
        self.retried += more.retried;
        self.refused += more.refused;
        self.given_up += more.given_up;
    }
}

/// How it goes on behind an insight-call.
pub(super) enum Next {
    /// The thread makes this call: another one for us, or its own.
    Dispatch(RawCall),
    /// The thread's own call is dispatched, and nothing is left to be asked.
    Own,
    /// The thread goes on to user mode.
    Leave,
    /// It goes on to a handler; its own call comes later.
    Suspend,
}

impl Asking {
    pub(super) fn new(thread: Thread, inquiries: VecDeque<Inquiry>, then: Then, observed: bool) -> Self {
        let (request, scratch) = (None, None);
        Self { thread, inquiries, then, request, scratch, calls: 0, tries: 0, observed }
    }

    /// The next call that is to be made for us; none when all inquiries have ended. Its scratch memory lies below
    /// `rsp`.
    pub(super) fn next(&mut self, view: &View<'_>, rsp: u64, counts: &mut InsightCounts) -> Option<RawCall> {
        loop {
            let request = match self.request.take() {
                Some(request) => request,
                None => self.poll()?,
            };
            self.calls += 1;
            if self.calls > MAX_CALLS {
                self.close();
                return None;
            }
            let prepared =
                if self.observed { Err(Refused::Observed) } else { Scratch::prepare(view, rsp, &request) };
            match prepared {
                Ok((scratch, call)) => {
                    counts.made += 1;
                    self.scratch = Some(scratch);
                    self.request = Some(request);
                    return Some(call);
                }
                Err(refused) => {
                    counts.refused += 1;
                    self.thread.answer(Err(refused));
                }
            }
        }
    }

    /// Polls the inquiries, one after the other, until one asks.
    fn poll(&mut self) -> Option<Request> {
        let mut context = Context::from_waker(Waker::noop());
        while let Some(inquiry) = self.inquiries.front_mut() {
            if let Poll::Pending = inquiry.as_mut().poll(&mut context)
                && let Some(request) = self.thread.take_request()
            {
                return Some(request);
            }
            // It has ended, or it waits for something that will not come.
            self.inquiries.pop_front();
        }
        None
    }

    /// No more calls: the inquiries run to their ends without.
    pub(super) fn close(&mut self) {
        self.thread.close();
        let _ = self.poll();
        self.inquiries.clear();
        self.request = None;
    }

    /// The insight-call has come back: its answer is delivered and the next step found. `own` is the thread's own
    /// call, `back` where it resumes and its stack.
    pub(super) fn returned(
        &mut self,
        view: &View<'_>,
        registers: &PtRegs<'_>,
        own: &RawCall,
        back: Frames,
        counts: &mut InsightCounts,
    ) -> Result<Next> {
        let (ip, sp) = (registers.ip()?, registers.sp()?);
        let output = self.scratch.take().map(|scratch| {
            let output = scratch.output(view);
            scratch.restore(view);
            output
        });
        let before = back.resumes_at.wrapping_sub(SYSCALL_LENGTH);
        if sp == back.rsp && ip == back.resumes_at {
            self.request = None;
            let answer = match output {
                Some(Ok(bytes)) => Ok((registers.ax()?, bytes)),
                Some(Err(refused)) => Err(refused),
                None => Err(Refused::NotNow),
            };
            self.thread.answer(answer);
        } else if sp == back.rsp && ip == before {
            // The kernel would make the insight-call again by itself; we make it here, with a fresh result.
            registers.set_ip(back.resumes_at)?;
            self.interrupted(counts);
        } else {
            return self.signalled(view, sp, own, back, counts);
        }
        match self.next(view, back.rsp, counts) {
            Some(call) => {
                registers.before(&call)?;
                Ok(Next::Dispatch(call))
            }
            None => self.finish(registers, own),
        }
    }

    /// Nothing more is asked: the thread's own registers come back.
    fn finish(&self, registers: &PtRegs<'_>, own: &RawCall) -> Result<Next> {
        match self.then {
            Then::Call => registers.before(own).map(|()| Next::Own),
            Then::Leave(result) => registers.after(own, result).map(|()| Next::Leave),
        }
    }

    /// A handler runs before the thread goes on. The registers that it will return to are in a frame on the user's
    /// stack.
    fn signalled(
        &mut self,
        view: &View<'_>,
        sp: u64,
        own: &RawCall,
        back: Frames,
        counts: &mut InsightCounts,
    ) -> Result<Next> {
        let frame = back.find(view, sp)?;
        match self.then {
            Then::Call => {
                self.interrupted(counts);
                let before = back.resumes_at.wrapping_sub(SYSCALL_LENGTH);
                frame.rewrite(view, own, before, own.number)?;
                Ok(Next::Suspend)
            }
            Then::Leave(result) => {
                counts.given_up += 1;
                self.close();
                frame.rewrite(view, own, back.resumes_at, result.cast_unsigned())?;
                Ok(Next::Leave)
            }
        }
    }

    /// One more try, or none.
    fn interrupted(&mut self, counts: &mut InsightCounts) {
        self.tries += 1;
        if self.tries > MAX_TRIES {
            counts.given_up += 1;
            self.close();
        } else {
            counts.retried += 1;
        }
    }
}

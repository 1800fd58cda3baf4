//! The handle by which an inquiry makes a thread call, and how the engine answers it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::calls::InsightCall;
use crate::syscall::RawCall;

/// Why an insight-call was not made, or has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The kernel refused; the number is that of errno(3).
    #[error("the guest's kernel refused (errno {0})")]
    Errno(i32),
    /// A tracer, a filter or an audit rule of the guest would have noticed.
    #[error("somebody in the guest watches the thread's system calls")]
    Observed,
    /// There is no memory for the result that can be put back as it was.
    #[error("no place for the result below the thread's stack")]
    NoScratch,
    /// Signals kept coming.
    #[error("interrupted by signals")]
    Interrupted,
    /// The answer makes no sense.
    #[error("the answer is malformed")]
    Malformed,
    /// The thread makes a call that cannot wait for another, or has ended.
    #[error("the thread cannot make calls now")]
    NotNow,
}

/// A call that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) call: RawCall,
    /// Bytes for the kernel to read, at the beginning of the scratch memory.
    pub(crate) input: Vec<u8>,
    /// Bytes of scratch memory in all.
    pub(crate) room: usize,
    /// Which argument is the address of the input, if any, and which that of the room behind it.
    pub(crate) input_at: Option<usize>,
    pub(crate) output_at: Option<usize>,
}

/// What the kernel said, and the bytes of the room behind the input.
pub(crate) type Answer = Result<(i64, Vec<u8>), Refused>;

#[derive(Debug, Default)]
enum Mailbox {
    #[default]
    Empty,
    Asked(Request),
    Waiting,
    Answered(Answer),
    Closed,
}

/// A thread that stands still for an inquiry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Thread {
    pid: u32,
    tid: u32,
    mailbox: Arc<Mutex<Mailbox>>,
}

impl Thread {
    pub(crate) fn new(pid: u32, tid: u32) -> Self {
        Self { pid, tid, mailbox: Arc::default() }
    }

    /// Process id in the initial namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Thread id in the initial namespace.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// Lets the thread make `call`, as many as are needed one after the other.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn call<C: InsightCall>(&self, call: C) -> Result<C::Answer, Refused> {
        let (result, bytes) = Asked { thread: self, request: Some(call.request().0) }.await?;
        match i32::try_from(result) {
            Ok(errno) if (-4095..0).contains(&errno) => Err(Refused::Errno(-errno)),
            _ => call.answer(result, &bytes).ok_or(Refused::Malformed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        // Each change is one assignment.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine takes what was asked for.
    pub(crate) fn take_request(&self) -> Option<Request> {
        let mut mailbox = self.lock();
        match std::mem::replace(&mut *mailbox, Mailbox::Waiting) {
            Mailbox::Asked(request) => Some(request),
            other => {
                *mailbox = other;
                None
            }
        }
    }

    /// The engine answers.
    pub(crate) fn answer(&self, answer: Answer) {
        *self.lock() = Mailbox::Answered(answer);
    }

    /// No more calls: whoever asks is refused at once.
    pub(crate) fn close(&self) {
        *self.lock() = Mailbox::Closed;
    }
}

struct Asked<'a> {
    thread: &'a Thread,
    request: Option<Request>,
}

impl Future for Asked<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Answer> {
        let thread = self.thread;
        let mut mailbox = thread.lock();
        if let Mailbox::Closed = *mailbox {
            return Poll::Ready(Err(Refused::NotNow));
        }
        // The engine polls again when it has the answer, and only then: nobody needs to be woken.
        if let Some(request) = self.request.take() {
            *mailbox = Mailbox::Asked(request);
            return Poll::Pending;
        }
        match std::mem::take(&mut *mailbox) {
            Mailbox::Answered(answer) => Poll::Ready(answer),
            other => {
                *mailbox = other;
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::{Getpid, Gettid};
    use super::*;

    #[test]
    fn an_inquiry_goes_on_with_each_answer() {
        let thread = Thread::new(7, 8);
        let handle = thread.clone();
        let mut inquiry = Box::pin(async move {
            let pid = handle.call(Getpid).await;
            (pid, handle.call(Gettid).await)
        });
        let mut context = Context::from_waker(Waker::noop());
        assert!(inquiry.as_mut().poll(&mut context).is_pending());
        assert_eq!(thread.take_request().unwrap().call.number, 39);
        assert_eq!(thread.take_request(), None, "asked once");
        assert!(inquiry.as_mut().poll(&mut context).is_pending(), "not answered yet");
        thread.answer(Ok((1234, vec![])));
        assert!(inquiry.as_mut().poll(&mut context).is_pending());
        assert_eq!(thread.take_request().unwrap().call.number, 186);
        thread.answer(Ok((-4, vec![])));
        let Poll::Ready(answers) = inquiry.as_mut().poll(&mut context) else { panic!("not ready") };
        assert_eq!(answers, (Ok(1234), Err(Refused::Errno(4))));
    }

    #[test]
    fn a_closed_thread_refuses() {
        let thread = Thread::new(7, 8);
        thread.close();
        let mut inquiry = Box::pin(thread.call(Getpid));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(inquiry.as_mut().poll(&mut context), Poll::Ready(Err(Refused::NotNow)));
    }
}

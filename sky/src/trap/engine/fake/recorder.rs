//! An observer that writes down what it is told.

use std::sync::{Arc, Mutex};

use crate::call::{Fstat, Getpid};
use crate::observer::{Call, CallId, CallSet, Inquiry, Observer, ProcessEvent};
use crate::syscall::Outcome;

/// What an observer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::trap::engine) enum Event {
    Entered { id: u64, pid: u32, tid: u32, number: u64 },
    Returned { id: u64, outcome: Outcome },
    Abandoned(u64),
    Begins(u32),
    Ends(u32),
    Answers(Vec<String>),
}

/// Writes down what it is told, and asks if it is to.
#[derive(Debug)]
pub(in crate::trap::engine) struct Recorder {
    pub(in crate::trap::engine) wants: Vec<u64>,
    pub(in crate::trap::engine) asks: bool,
    pub(in crate::trap::engine) log: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    fn tell(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }

    fn inquiry(&self, call: &Call<'_>) -> Option<Inquiry> {
        let (thread, log) = (call.thread(), Arc::clone(&self.log));
        self.asks.then(|| {
            Box::pin(async move {
                let pid = thread.call(Getpid).await.map(|pid| pid.to_string());
                let size = thread.call(Fstat { fd: 3 }).await.map(|stat| stat.size.to_string());
                let answers = [pid, size].map(|answer| answer.unwrap_or_else(|refused| refused.to_string()));
                log.lock().unwrap().push(Event::Answers(answers.to_vec()));
            }) as Inquiry
        })
    }
}

impl Observer for Recorder {
    fn wants(&self) -> CallSet {
        self.wants.iter().copied().collect()
    }

    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        let (id, pid, tid, number) = (call.id.0, call.pid, call.tid, call.raw.number);
        self.tell(Event::Entered { id, pid, tid, number });
        self.inquiry(call)
    }

    fn returned(&self, call: &Call<'_>, outcome: Outcome) -> Option<Inquiry> {
        self.tell(Event::Returned { id: call.id.0, outcome });
        self.inquiry(call)
    }

    fn abandoned(&self, id: CallId) {
        self.tell(Event::Abandoned(id.0));
    }

    fn process(&self, event: &ProcessEvent) {
        self.tell(match event {
            ProcessEvent::Begins { pid, .. } => Event::Begins(*pid),
            ProcessEvent::Ends { pid } => Event::Ends(*pid),
        });
    }
}

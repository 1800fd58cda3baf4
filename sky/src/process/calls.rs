//! System calls that were entered and have not returned.
//!
//! A thread is known by the top of its kernel stack, which is the same at entry and at return, on whatever virtual
//! CPU that is and whatever the thread did in between.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::guest::Gva;
use crate::observer::CallId;
use crate::syscall::RawCall;

/// A guest has fewer threads than this; beyond it the table forgets rather than grows.
const MAX_OUTSTANDING: usize = 1 << 16;

/// A call on its way.
#[derive(Debug)]
pub struct Pending<T> {
    /// Which one.
    pub id: CallId,
    /// Number and arguments at its entry.
    pub call: RawCall,
    /// Number of the address space it was made in.
    pub ctx_id: u64,
    /// User address it returns to.
    pub resumes_at: u64,
    /// The thread's RSP at its entry.
    pub rsp: u64,
    /// What the engine wants to find again at the return.
    pub note: T,
}

/// Hashes the address of a stack in one multiplication. A guest that made stacks collide would slow down itself.
#[derive(Clone, Copy, Debug, Default)]
struct StackHasher(u64);

impl Hasher for StackHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        // Stacks are aligned: what differs are the middle bits, which the swap brings down to where buckets are chosen.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes();
    }
}

/// Calls on their way, by thread.
#[derive(Debug)]
pub struct Outstanding<T> {
    by_stack: HashMap<Gva, Pending<T>, BuildHasherDefault<StackHasher>>,
}

impl<T> Default for Outstanding<T> {
    fn default() -> Self {
        Self { by_stack: HashMap::default() }
    }
}

impl<T> Outstanding<T> {
    /// Files a call under its thread. Gives back the thread's last call if that never returned: the thread it
    /// belonged to is gone and its stack has a new owner.
    pub fn enter(&mut self, stack_top: Gva, pending: Pending<T>) -> Option<Pending<T>> {
        if self.by_stack.len() >= MAX_OUTSTANDING {
            self.by_stack.clear();
        }
        self.by_stack.insert(stack_top, pending)
    }

    /// Takes the call that returns on a thread.
    pub fn take(&mut self, stack_top: Gva) -> Option<Pending<T>> {
        self.by_stack.remove(&stack_top)
    }

    /// Takes the calls for which `gone` says so.
    pub fn drain(&mut self, mut gone: impl FnMut(Gva, &Pending<T>) -> bool) -> Vec<(Gva, Pending<T>)> {
        let stacks: Vec<Gva> = self
            .by_stack
            .iter()
            .filter(|(stack_top, pending)| gone(**stack_top, pending))
            .map(|(&stack_top, _)| stack_top)
            .collect();
        stacks
            .into_iter()
            .filter_map(|stack_top| Some((stack_top, self.by_stack.remove(&stack_top)?)))
            .collect()
    }

    /// Takes the calls of an address space whose process ends.
    pub fn drain_space(&mut self, ctx_id: u64) -> Vec<(Gva, Pending<T>)> {
        self.drain(|_, pending| pending.ctx_id == ctx_id)
    }

    /// Whether a call is on its way for which `is` says so.
    #[must_use]
    pub fn any(&self, is: impl FnMut(&Pending<T>) -> bool) -> bool {
        self.by_stack.values().any(is)
    }

    /// Whether no call is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_stack.is_empty()
    }

    /// How many calls are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_stack.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(ctx_id: u64, number: u64) -> Pending<()> {
        let call = RawCall { number, args: [0; 6] };
        Pending { id: CallId(number), call, ctx_id, resumes_at: 0, rsp: 0, note: () }
    }

    #[test]
    fn calls_return_on_their_own_thread_in_any_order() {
        let mut calls = Outstanding::default();
        for thread in 1..=3 {
            assert!(calls.enter(Gva(thread), pending(9, thread)).is_none());
        }
        for thread in [2, 3, 1] {
            assert_eq!(calls.take(Gva(thread)).unwrap().call.number, thread);
        }
        assert!(calls.take(Gva(1)).is_none() && calls.is_empty());
    }

    #[test]
    fn a_call_that_never_returned_comes_back_at_the_next() {
        let mut calls = Outstanding::default();
        calls.enter(Gva(1), pending(9, 1));
        assert_eq!(calls.enter(Gva(1), pending(9, 2)).unwrap().call.number, 1);
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn a_process_that_ends_leaves_nothing() {
        let mut calls = Outstanding::default();
        calls.enter(Gva(1), pending(9, 1));
        calls.enter(Gva(2), pending(8, 2));
        calls.enter(Gva(3), pending(9, 3));
        assert_eq!(calls.drain_space(9).len(), 2);
        assert_eq!(calls.take(Gva(2)).unwrap().ctx_id, 8);
    }
}

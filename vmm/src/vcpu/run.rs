//! The loop of a vCPU's thread: run, and answer why it stopped.

use std::sync::Arc;

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::counters::{Counters, Tally};
use super::hook::{Handled, HookResult, VcpuHook};
use super::kick::Kicker;
use super::statistics;
use crate::bus::{Mmio, Ports};
use crate::exit::ExitReason;
use crate::machine::control::Control;

/// A vCPU with everything that its thread needs.
pub(crate) struct Vcpu {
    pub(crate) index: u32,
    pub(crate) fd: VcpuFd,
    pub(crate) kicker: Arc<Kicker>,
    pub(crate) hook: Box<dyn VcpuHook>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) mmio: Arc<Mmio>,
    pub(crate) control: Arc<Control>,
    pub(crate) counters: Counters,
}

impl Vcpu {
    /// Runs until the machine ends, whoever ends it.
    pub(crate) fn run(mut self) -> Tally {
        self.kicker.enter();
        // A panic in here must not leave the others running.
        let _bomb = EndOnPanic(Arc::clone(&self.control), self.index);
        while !self.control.is_ending() {
            match self.step() {
                Ok(None) => {}
                Ok(Some(reason)) => self.control.end(reason),
                Err(error) => {
                    let message = format!("vCPU {}: {error}", self.index);
                    self.control.end(ExitReason::Internal { message });
                }
            }
        }
        Tally {
            kvm_exits: statistics::of_vcpu(&self.fd, statistics::EXITS),
            userspace_exits: self.counters.total(),
            exits: self.counters,
        }
    }

    /// Runs the guest until it stops, and answers.
    fn step(&mut self) -> HookResult<Option<ExitReason>> {
        self.hook.before_run(&mut self.fd)?;
        let counters = &mut self.counters;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, &[value])) => {
                if self.hook.io_out(&mut self.fd, port, value)? == Handled::Yes {
                    counters.hook += 1;
                } else {
                    counters.io_out += 1;
                    return Ok(self.ports.write(port, &[value]));
                }
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                counters.io_out += 1;
                return Ok(self.ports.write(port, data));
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                counters.io_in += 1;
                self.ports.read(port, data);
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                counters.mmio_read += 1;
                self.mmio.read(address, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                counters.mmio_write += 1;
                self.mmio.write(address, data);
            }
            Ok(VcpuExit::X86Rdmsr(exit)) => {
                counters.msr += 1;
                let index = exit.index;
                let answer = self.hook.read_msr(&mut self.fd, index)?;
                answer_msr(self.fd.get_kvm_run(), answer);
            }
            Ok(VcpuExit::X86Wrmsr(exit)) => {
                counters.msr += 1;
                let (index, value) = (exit.index, exit.data);
                let handled = self.hook.write_msr(&mut self.fd, index, value)?;
                answer_msr(self.fd.get_kvm_run(), (handled == Handled::Yes).then_some(value));
            }
            Ok(VcpuExit::Debug(stop)) => {
                counters.debug += 1;
                if self.hook.debug(&mut self.fd, &stop)? == Handled::No {
                    let message = format!("vCPU {}: nobody wanted a stop at {:#x}", self.index, stop.pc);
                    return Ok(Some(ExitReason::Internal { message }));
                }
            }
            Ok(VcpuExit::Shutdown) => {
                counters.other += 1;
                return Ok(Some(ExitReason::TripleFault { vcpu: self.index }));
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => counters.interrupted += 1,
            Ok(VcpuExit::FailEntry(reason, _)) => {
                counters.other += 1;
                return Ok(Some(
                    self.internal(&format!("the CPU refused to enter the guest (reason {reason:#x})")),
                ));
            }
            Ok(VcpuExit::InternalError) => {
                counters.other += 1;
                let detail = internal_error(self.fd.get_kvm_run());
                return Ok(Some(self.internal(&detail)));
            }
            Ok(other) => {
                counters.other += 1;
                let text = format!("an exit that has no meaning here: {other:?}");
                return Ok(Some(self.internal(&text)));
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                counters.interrupted += 1;
                self.kicker.acknowledge();
            }
            Err(error) => {
                counters.other += 1;
                return Ok(Some(self.internal(&format!("KVM_RUN failed: {error}"))));
            }
        }
        Ok(None)
    }

    /// The end of a guest that KVM cannot go on with, and where it was.
    fn internal(&self, what: &str) -> ExitReason {
        let place =
            self.fd.get_regs().map_or("an unknown place".to_owned(), |regs| format!("RIP {:#x}", regs.rip));
        ExitReason::Internal { message: format!("vCPU {} at {place}: {what}", self.index) }
    }
}

/// Answers the access to an MSR that the last exit was about; `None` makes it fault.
fn answer_msr(run: &mut kvm_run, answer: Option<u64>) {
    // SAFETY: every field of the union is plain data, and the exit says that it is the one in use.
    let msr = unsafe { &mut run.__bindgen_anon_1.msr };
    msr.error = u8::from(answer.is_none());
    msr.data = answer.unwrap_or(0);
}

fn internal_error(run: &mut kvm_run) -> String {
    // SAFETY: every field of the union is plain data, and the exit says that it is the one in use.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let what = match internal.suberror {
        1 => "KVM could not emulate an instruction",
        2 => "a fault while an event was delivered",
        3 => "KVM could not deliver an event",
        4 => "an exit that KVM does not know",
        _ => "KVM reports an internal error",
    };
    let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX).min(internal.data.len());
    format!("{what} (suberror {}, data {:x?})", internal.suberror, &internal.data[..count])
}

struct EndOnPanic(Arc<Control>, u32);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(ExitReason::Internal { message: format!("the thread of vCPU {} panicked", self.1) });
        }
    }
}

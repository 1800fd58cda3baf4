//! Sky in a virtual machine monitor of one's own: everything that an embedder has to do, and nothing else.
//!
//! The guest here is twelve bytes that look at EFER and end; a real one has a kernel and a disk. See docs/embedding.md.
//!
//!     cargo run --package sky --example embed [MONITOR.toml]

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use kvm_bindings::{kvm_regs, kvm_run, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, ReadMsrExit, VcpuExit, VcpuFd, WriteMsrExit};
use sky::call::Fstat;
use sky::observer::{Call, CallSet, Inquiry, Observer};
use sky::syscall::{Limits, Moment, Outcome, decode};
use sky::trap::KvmCpu;
use sky::{Config, Sky, Vcpu};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MEMORY: usize = 1 << 20;
const CODE: GuestAddress = GuestAddress(0x1000);
/// A write to it stands for the moment at which a guest's disk driver is ready, to the next for the guest's end.
const READY: u16 = 0x80;
const POWER: u16 = 0xf4;

/// Prints every `open` and `openat` of the monitored processes, and how large the file is: the thread that has opened
/// it is asked before it goes on.
struct Opens;

impl Observer for Opens {
    fn wants(&self) -> CallSet {
        [libc::SYS_open, libc::SYS_openat].iter().map(|number| number.unsigned_abs()).collect()
    }

    fn returned(&self, call: &Call<'_>, outcome: Outcome) -> Option<Inquiry> {
        let decoded = decode(&call.raw, &call.view, Moment::Returned(outcome), Limits::default());
        println!("{} {}", call.tid, decoded.line());
        let fd = i32::try_from(outcome.value()?).ok()?;
        let thread = call.thread();
        Some(Box::pin(async move {
            let size = thread.call(Fstat { fd }).await.map(|stat| stat.size);
            println!("{} descriptor {fd} has this many bytes: {size:?}", thread.tid());
        }))
    }
}

thread_local! {
    /// The shared page of the virtual CPU that runs on this thread.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(std::ptr::null_mut()) };
}

/// A kick arrives on the virtual CPU's own thread: inside `KVM_RUN` the signal ends it, before it the flag does.
extern "C" fn kicked(_: libc::c_int) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: set by this thread to the mapping of the virtual CPU that it owns.
        unsafe { (*run).immediate_exit = 1 };
    }
}

fn main() -> Result<()> {
    let config = std::env::args().nth(1).map(|path| Config::load(Path::new(&path)));
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0))?.expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the mapping outlives the VM, and it is the only region.
    unsafe { vm.set_user_memory_region(region) }?;
    // mov ecx, EFER; rdmsr; out READY, al; out POWER, al
    let code = [0x66, 0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0xe6, 0x80, 0xe6, 0xf4];
    memory.write_slice(&code, CODE)?;
    let fd = vm.create_vcpu(0)?;
    let sregs = fd.get_sregs()?;
    fd.set_sregs(&kvm_sregs { cs: kvm_segment { base: 0, selector: 0, ..sregs.cs }, ..sregs })?;
    fd.set_regs(&kvm_regs { rip: CODE.0, rflags: 2, ..Default::default() })?;

    // SAFETY: the handler only touches its own thread's memory.
    unsafe { libc::signal(libc::SIGRTMIN(), kicked as *const () as libc::sighandler_t) };
    let vcpu_thread = Arc::new(AtomicI32::new(0));
    let target = Arc::clone(&vcpu_thread);
    let kick = Box::new(move || {
        let (process, thread) = (std::process::id(), target.load(Ordering::Acquire));
        // SAFETY: a signal that has a handler; a thread that is gone, or not there yet (0), is only an error.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGRTMIN()) };
    });
    let sky = Sky::with_observers(config.transpose()?.unwrap_or_default(), vec![Arc::new(Opens)]);
    sky.attach(&vm, memory.clone(), 1, kick)?;
    // A disk would ask sky.classifier(0) what the blocks mean that it writes.
    let (vcpu, on_thread) = (sky.vcpu(0)?, Arc::clone(&sky));
    let runner = thread::spawn(move || {
        // SAFETY: gettid has no preconditions.
        vcpu_thread.store(unsafe { libc::gettid() }, Ordering::Release);
        run(fd, vcpu, &on_thread)
    });
    // Here, and on no virtual CPU's thread, sky.add(..), remove(..), list() and detach() may be called.
    runner.join().map_err(|_| "the thread of the virtual CPU panicked")??;
    print!("{}", sky.report());
    println!("What is missing is Linux in the guest; sky-vmm boots it, and embeds Sky in the same way.");
    Ok(())
}

/// Runs the guest until it switches itself off.
fn run(mut fd: VcpuFd, mut vcpu: Vcpu, sky: &Sky) -> Result<()> {
    RUN.set(std::ptr::from_mut(fd.get_kvm_run()));
    KvmCpu::prepare(&mut fd);
    loop {
        vcpu.before_run(&mut KvmCpu::new(&mut fd))?;
        match fd.run() {
            Ok(VcpuExit::IoOut(port, _)) => match port {
                _ if vcpu.port_exit(&mut KvmCpu::new(&mut fd), port)? => {}
                READY => sky.arm(),
                POWER => break,
                _ => {}
            },
            // False means that a debugger of the embedder's own has asked for the stop. There is none.
            Ok(VcpuExit::Debug(stop)) => _ = vcpu.debug_exit(&mut KvmCpu::new(&mut fd), &stop)?,
            Ok(VcpuExit::X86Rdmsr(ReadMsrExit { index, .. })) => {
                let value = vcpu.rdmsr(&mut KvmCpu::new(&mut fd), index).and_then(sky::Result::ok);
                answer(fd.get_kvm_run(), value);
            }
            Ok(VcpuExit::X86Wrmsr(WriteMsrExit { index, data: value, .. })) => {
                let done = vcpu.wrmsr(&mut KvmCpu::new(&mut fd), index, value);
                answer(fd.get_kvm_run(), done.and_then(sky::Result::ok).map(|()| value));
            }
            Ok(other) => return Err(format!("an exit that is not handled here: {other:?}").into()),
            Err(error) if error.errno() == libc::EINTR => fd.set_kvm_immediate_exit(0),
            Err(error) => return Err(error.into()),
        }
    }
    RUN.set(std::ptr::null_mut());
    Ok(())
}

/// Answers the access to an MSR; `None` is a general-protection fault in the guest.
fn answer(run: &mut kvm_run, value: Option<u64>) {
    // SAFETY: every field of the union is plain data, and the exit says that it is the one in use.
    let msr = unsafe { &mut run.__bindgen_anon_1.msr };
    msr.error = u8::from(value.is_none());
    msr.data = value.unwrap_or(0);
}

//! A functional self-test of `/dev/kvm`: not what it says it can do, but what a tiny guest can do on it.
//!
//! A `/dev/kvm` may be present and still unable to run an ordinary guest: under some hypervisors and in some containers
//! `SYSCALL` ends a guest at once, under some emulators debug registers never stop one. Each test runs in a fresh VM
//! and on a thread of its own, and is ended when it does not finish in time.
//!
//! ```text
//!   self_test ──▶ supervisor (one thread and a leash per test) ──▶ TinyGuest ──▶ Report
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;

use kvm_ioctls::Kvm;

use guest::Leash;

mod debug;
mod guest;
mod interrupts;
mod long_mode;
mod msr_filter;
mod port;
mod report;
mod supervisor;
mod sync_regs;
mod syscall;

pub use report::{Mechanism, Report, TestResult};

/// Why a test failed, for the eyes of a user.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    fn ioctl(name: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self(format!("{name} failed: {}", io::Error::from_raw_os_error(error.errno())))
    }

    fn memory(error: impl fmt::Display) -> Self {
        Self(format!("guest memory: {error}"))
    }

    fn before(self, meaning: &str) -> Self {
        Self(format!("{} before {meaning}", self.0))
    }
}

/// A test: opens what it needs, and says in a few words what it saw.
type Body = fn(&Kvm, Arc<Leash>) -> Result<String, Failure>;

/// One line of the table.
pub(crate) struct Test {
    name: &'static str,
    body: Body,
}

const LONG_MODE: Test = Test { name: "64-bit mode", body: long_mode::test };
const INTERRUPTS: Test = Test { name: "interrupt controllers", body: interrupts::test };
const SYSCALL: Test = Test { name: "SYSCALL and SYSRET", body: syscall::round_trip };
const SYSCALL_TRAP: Test = Test { name: "SYSCALL faults when off", body: syscall::trap };
const PORT: Test = Test { name: "port traps", body: port::test };
const DEBUG: Test = Test { name: "debug registers", body: debug::test };
const MSR_FILTER: Test = Test { name: "MSR filter", body: msr_filter::test };
const SYNC_REGS: Test = Test { name: "shared registers", body: sync_regs::test };

/// What any guest needs.
const BASIC: [Test; 3] = [LONG_MODE, INTERRUPTS, SYSCALL];
/// What trapping a guest's system calls needs besides.
const TRAPS: [Test; 5] = [SYSCALL_TRAP, PORT, DEBUG, MSR_FILTER, SYNC_REGS];

/// Runs all tests. Takes milliseconds where everything works, and never hangs.
#[must_use]
pub fn self_test() -> Report {
    run(BASIC.iter().chain(&TRAPS))
}

/// Runs only the tests of what every guest needs; says nothing of trap mechanisms.
#[must_use]
pub fn quick_test() -> Report {
    run(BASIC.iter())
}

fn run<'a>(tests: impl Iterator<Item = &'a Test>) -> Report {
    let mut results = vec![];
    if let Err(error) = crate::vcpu::kick::install() {
        results.push(TestResult::failed(report::DEVICE, format!("no signal handler: {error}")));
        return Report::new(results);
    }
    match open() {
        Ok(detail) => results.push(TestResult::passed(report::DEVICE, detail)),
        Err(failure) => {
            results.push(TestResult::failed(report::DEVICE, failure.0));
            return Report::new(results);
        }
    }
    results.extend(tests.map(supervisor::supervise));
    Report::new(results)
}

fn open() -> Result<String, Failure> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => Failure::new(
            "there is no /dev/kvm: no hardware virtualization, or the kvm modules are not loaded",
        ),
        libc::EACCES | libc::EPERM => {
            Failure::new("no permission to open /dev/kvm: join its group (often `kvm`), or be root")
        }
        errno => Failure::new(format!("/dev/kvm: {}", io::Error::from_raw_os_error(errno))),
    })?;
    match kvm.get_api_version() {
        12 => Ok("API version 12".to_owned()),
        version => Err(Failure::new(format!("/dev/kvm speaks API version {version}, not 12"))),
    }
}

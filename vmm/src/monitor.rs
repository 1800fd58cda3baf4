//! Sky in this VMM: what `--monitor` embeds. All that an embedder has to do is here.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use kvm_bindings::kvm_debug_exit_arch;
use kvm_ioctls::VcpuFd;
use sky::observer::Observer;
use sky::trace::TraceLog;
use sky::trap::KvmCpu;
use sky::{Config, Report, Sky, Vcpu};
use sky_devices::io_class::Classifier;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use crate::block_log::BlockLog;
use crate::config::TraceSpec;
use crate::vcpu::hook::{Extension, Handled, HookResult, Parts, VcpuHook};

/// The extension.
#[derive(Debug)]
pub struct Monitor {
    sky: Arc<Sky>,
    log: Option<Arc<BlockLog>>,
}

impl Monitor {
    /// Watches what `config` names, and tells `observers`.
    #[must_use]
    pub fn new(config: Config, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self { sky: Sky::with_observers(config, observers), log: None }
    }

    /// Also notes what blocks are taken for, from the time that disks ask for their classifiers.
    #[must_use]
    pub fn with_log(self, log: Arc<BlockLog>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.sky.report()
    }

    /// To change what is monitored while the guest runs.
    #[must_use]
    pub fn sky(&self) -> &Arc<Sky> {
        &self.sky
    }
}

/// Opens what `--trace` names; `-` is standard error.
///
/// # Errors
/// The file cannot be written.
pub fn open_trace(spec: &TraceSpec) -> io::Result<TraceLog> {
    let out: Box<dyn Write + Send> = if spec.path.as_os_str() == "-" {
        Box::new(io::stderr())
    } else {
        Box::new(File::create(&spec.path)?)
    };
    TraceLog::new(out, spec.format)
}

impl Extension for Monitor {
    fn attach(&self, parts: &Parts) -> HookResult<()> {
        let memory = GuestMemoryMmap::clone(&parts.memory.memory());
        let kickers = parts.kickers.clone();
        let vcpus = u32::try_from(kickers.len())?;
        Ok(self.sky.attach(
            &parts.vm,
            memory,
            vcpus,
            Box::new(move || kickers.iter().for_each(|kicker| kicker.kick())),
        )?)
    }

    fn hook(&self, index: u32) -> Box<dyn VcpuHook> {
        Box::new(Hook { sky: Arc::clone(&self.sky), index, vcpu: None })
    }

    fn classifier(&self, index: usize) -> Arc<dyn Classifier> {
        // There are far fewer disks than numbers for them.
        let disk = u16::try_from(index).unwrap_or(u16::MAX);
        let classifier = self.sky.classifier(disk);
        match &self.log {
            Some(log) => log.wrap(disk, classifier),
            None => classifier,
        }
    }

    fn driver_ok(&self, _index: usize) {
        self.sky.arm();
    }

    fn statistics(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self.report()).ok()
    }
}

/// Sky on one virtual CPU, from its first run on.
#[derive(Debug)]
struct Hook {
    sky: Arc<Sky>,
    index: u32,
    vcpu: Option<Vcpu>,
}

impl Hook {
    fn vcpu(&mut self) -> HookResult<&mut Vcpu> {
        self.vcpu.as_mut().ok_or_else(|| Box::<dyn Error + Send + Sync>::from("a stop before the first run"))
    }
}

fn handled(ours: bool) -> Handled {
    if ours { Handled::Yes } else { Handled::No }
}

impl VcpuHook for Hook {
    fn before_run(&mut self, fd: &mut VcpuFd) -> HookResult<()> {
        let vcpu = match &mut self.vcpu {
            Some(vcpu) => vcpu,
            None => {
                KvmCpu::prepare(fd);
                self.vcpu.insert(self.sky.vcpu(self.index)?)
            }
        };
        Ok(vcpu.before_run(&mut KvmCpu::new(fd))?)
    }

    fn io_out(&mut self, fd: &mut VcpuFd, port: u16, _value: u8) -> HookResult<Handled> {
        Ok(handled(self.vcpu()?.port_exit(&mut KvmCpu::new(fd), port)?))
    }

    fn debug(&mut self, fd: &mut VcpuFd, stop: &kvm_debug_exit_arch) -> HookResult<Handled> {
        Ok(handled(self.vcpu()?.debug_exit(&mut KvmCpu::new(fd), stop)?))
    }

    // A value that KVM refuses is the guest's mistake: it gets the fault.
    fn read_msr(&mut self, fd: &mut VcpuFd, index: u32) -> HookResult<Option<u64>> {
        Ok(self.vcpu()?.rdmsr(&mut KvmCpu::new(fd), index).and_then(Result::ok))
    }

    fn write_msr(&mut self, fd: &mut VcpuFd, index: u32, value: u64) -> HookResult<Handled> {
        let done = self.vcpu()?.wrmsr(&mut KvmCpu::new(fd), index, value);
        Ok(handled(matches!(done, Some(Ok(())))))
    }
}

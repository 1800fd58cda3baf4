//! Sky in this VMM: what `--monitor` embeds. All that an embedder has to do is here.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use kvm_ioctls::{VcpuFd, VmFd};
use sky::trap::KvmCpu;
use sky::trap::sce::Sce;
use sky::{Config, Report, Sky};
use sky_devices::io_class::Classifier;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use crate::vcpu::hook::{Extension, Handled, HookResult, Parts, VcpuHook};

/// The extension.
#[derive(Debug)]
pub struct Monitor {
    sky: Arc<Sky>,
    memory: Arc<OnceLock<GuestMemoryMmap>>,
}

impl Monitor {
    /// Reads the file behind `--monitor`.
    ///
    /// # Errors
    /// The file is missing or wrong.
    pub fn load(path: &Path) -> sky::Result<Self> {
        Ok(Self { sky: Sky::new(Config::load(path)?), memory: Arc::default() })
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.sky.report()
    }
}

impl Extension for Monitor {
    fn attach(&self, parts: &Parts) -> HookResult<()> {
        let vcpus = parts.kickers.len();
        if vcpus != 1 {
            return Err(format!("--monitor works on guests with one CPU so far, this one has {vcpus}").into());
        }
        // Attached once: the memory of the first machine stays.
        let _ = self.memory.set(GuestMemoryMmap::clone(&parts.memory.memory()));
        let vm: &VmFd = &parts.vm;
        Ok(self.sky.hide(vm)?)
    }

    fn hook(&self, _index: u32) -> Box<dyn VcpuHook> {
        Box::new(Hook { sky: Arc::clone(&self.sky), memory: Arc::clone(&self.memory), engine: None })
    }

    fn classifier(&self, _index: usize) -> Arc<dyn Classifier> {
        self.sky.classifier()
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
    memory: Arc<OnceLock<GuestMemoryMmap>>,
    engine: Option<Sce>,
}

impl Hook {
    fn engine(&mut self) -> HookResult<&mut Sce> {
        self.engine
            .as_mut()
            .ok_or_else(|| Box::<dyn Error + Send + Sync>::from("a stop before the first run"))
    }
}

impl VcpuHook for Hook {
    fn before_run(&mut self, vcpu: &mut VcpuFd) -> HookResult<()> {
        let engine = match &mut self.engine {
            Some(engine) => engine,
            None => {
                let memory = self.memory.get().ok_or("Sky was not attached to a machine")?.clone();
                KvmCpu::prepare(vcpu);
                self.engine.insert(self.sky.vcpu(memory))
            }
        };
        engine.arm_if_asked(&mut KvmCpu::new(vcpu));
        Ok(())
    }

    fn io_out(&mut self, vcpu: &mut VcpuFd, port: u16, _value: u8) -> HookResult<Handled> {
        let ours = self.engine()?.port_exit(&mut KvmCpu::new(vcpu), port)?;
        Ok(if ours { Handled::Yes } else { Handled::No })
    }

    // A value that KVM refuses is the guest's mistake: it gets the fault.
    fn read_msr(&mut self, vcpu: &mut VcpuFd, index: u32) -> HookResult<Option<u64>> {
        Ok(self.engine()?.rdmsr(&mut KvmCpu::new(vcpu), index).and_then(Result::ok))
    }

    fn write_msr(&mut self, vcpu: &mut VcpuFd, index: u32, value: u64) -> HookResult<Handled> {
        let done = self.engine()?.wrmsr(&mut KvmCpu::new(vcpu), index, value);
        Ok(if matches!(done, Some(Ok(()))) { Handled::Yes } else { Handled::No })
    }
}

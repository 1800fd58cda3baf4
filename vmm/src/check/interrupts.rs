//! Test: the parts of a machine that KVM itself provides: interrupt controllers, timer, event descriptors.

use std::sync::Arc;

use kvm_bindings::kvm_pit_config;
use kvm_ioctls::{Cap, Kvm};

use super::Failure;
use super::guest::Leash;

const NEEDED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "interrupt controllers in the kernel"),
    (Cap::Pit2, "a timer in the kernel"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::UserMemory, "user memory"),
    (Cap::MpState, "states of several CPUs"),
    (Cap::ImmediateExit, "immediate exit"),
];

pub(super) fn test(kvm: &Kvm, _leash: Arc<Leash>) -> Result<String, Failure> {
    if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(Failure::new(format!("KVM has no {name}")));
    }
    let vm = kvm.create_vm().map_err(Failure::ioctl("KVM_CREATE_VM"))?;
    vm.create_irq_chip().map_err(Failure::ioctl("KVM_CREATE_IRQCHIP"))?;
    vm.create_pit2(kvm_pit_config::default()).map_err(Failure::ioctl("KVM_CREATE_PIT2"))?;
    vm.create_vcpu(0).map_err(Failure::ioctl("KVM_CREATE_VCPU"))?;
    Ok("interrupt controllers, timer and event descriptors".to_owned())
}

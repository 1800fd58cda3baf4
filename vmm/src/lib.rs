//! A minimal virtual machine monitor on KVM, and the example of how to embed Sky.

pub mod check;
pub mod config;
pub mod vcpu;

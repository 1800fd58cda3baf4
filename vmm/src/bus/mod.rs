//! Where accesses to ports and to device registers go. Nothing is registered at run time: a machine's devices are
//! known when it is built, so finding one is arithmetic and takes no lock.

mod mmio;
mod ports;

pub use mmio::Mmio;
pub use ports::Ports;

//! What is asserted here comes from elsewhere: the kernel's own metadata, libc's constants, strace's lines.

mod guest;
mod hostile;
mod lines;
mod moments;
mod names;
mod structures;

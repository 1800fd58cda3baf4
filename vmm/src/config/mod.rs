//! What a user asks for, from the command line or a file, and whether it makes sense.
//!
//! ```text
//!   command line ─┐
//!                 ├─▶ Options (all optional) ──▶ VmConfig (complete and checked)
//!   --config file ┘
//! ```
//!
//! Nothing here opens a kernel or a disk; those errors come from whoever opens them.

use std::path::PathBuf;
use std::time::Duration;

use sky::trace::TraceFormat;

mod disk;
mod error;
mod file;
mod host;
mod keys;
mod size;

pub use disk::DiskSpec;
pub use error::{ConfigError, Result};
pub use size::{format_size, parse_size};

/// Command line of the kernel when the user gives none.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 reboot=k panic=1";
/// Memory when the user names no size.
pub const DEFAULT_MEMORY: u64 = 512 << 20;
/// Less does not hold a kernel and anything beside it.
pub const MIN_MEMORY: u64 = 32 << 20;
/// More is taken for a slip of the pen.
pub const MAX_MEMORY: u64 = 1 << 40;
/// Most virtual CPUs of a guest.
pub const MAX_CPUS: u32 = 32;
/// Most disks of a guest: each has an interrupt line of its own.
pub const MAX_DISKS: usize = 8;

/// What was asked for, before defaults and checks. The keys of a configuration file have the names of these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Linux kernel, a bzImage or an ELF vmlinux.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel, instead of [`DEFAULT_CMDLINE`].
    pub cmdline: Option<String>,
    /// Number of virtual CPUs.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Disks in the order of the guest's `/dev/vda`, `/dev/vdb`, ... (key `disk`).
    pub disks: Vec<DiskSpec>,
    /// What to monitor.
    pub monitor: Option<PathBuf>,
    /// Where to write the monitored processes' system calls; `-` is standard error.
    pub trace: Option<PathBuf>,
    /// What a line of that looks like.
    pub trace_format: Option<TraceFormat>,
    /// Where to write what blocks were taken for.
    pub block_log: Option<PathBuf>,
    /// Where to listen for requests to change what is monitored.
    pub control: Option<PathBuf>,
    /// Where to write counters at the end.
    pub stats: Option<PathBuf>,
    /// Seconds between two lines about what was seen.
    pub report_every: Option<u32>,
}

impl Options {
    /// These options, and `file`'s where these say nothing. Disks are taken from one side or the other, never mixed.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            cmdline: self.cmdline.or(file.cmdline),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            disks: if self.disks.is_empty() { file.disks } else { self.disks },
            monitor: self.monitor.or(file.monitor),
            trace: self.trace.or(file.trace),
            trace_format: self.trace_format.or(file.trace_format),
            block_log: self.block_log.or(file.block_log),
            control: self.control.or(file.control),
            stats: self.stats.or(file.stats),
            report_every: self.report_every.or(file.report_every),
        }
    }

    /// Fills in the defaults and checks everything that can be checked without opening files.
    ///
    /// # Errors
    /// The first thing that does not make sense.
    pub fn complete(self) -> Result<VmConfig> {
        let kernel = self.kernel.ok_or(ConfigError::NoKernel)?;
        let cpus = self.cpus.unwrap_or(1);
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(ConfigError::Cpus { cpus, most: MAX_CPUS });
        }
        let memory = self.memory.unwrap_or(DEFAULT_MEMORY);
        check_memory(memory, host::memory())?;
        if self.disks.len() > MAX_DISKS {
            return Err(ConfigError::TooManyDisks { disks: self.disks.len(), most: MAX_DISKS });
        }
        let cmdline = self.cmdline.unwrap_or_else(|| DEFAULT_CMDLINE.to_owned());
        if cmdline.contains('\0') {
            return Err(ConfigError::CmdlineNul);
        }
        if self.trace.is_some() && self.monitor.is_none() && self.control.is_none() {
            return Err(ConfigError::NothingToTrace);
        }
        if self.block_log.is_some() && self.monitor.is_none() && self.control.is_none() {
            return Err(ConfigError::NothingToLog);
        }
        if self.report_every.is_some() && self.monitor.is_none() && self.control.is_none() {
            return Err(ConfigError::NothingToReport);
        }
        let format = self.trace_format.unwrap_or_default();
        Ok(VmConfig {
            kernel,
            initrd: self.initrd,
            cmdline,
            cpus,
            memory,
            disks: self.disks,
            monitor: self.monitor,
            trace: self.trace.map(|path| TraceSpec { path, format }),
            block_log: self.block_log,
            control: self.control,
            stats: self.stats,
            report_every: self.report_every.map(|seconds| Duration::from_secs(seconds.max(1).into())),
        })
    }
}

fn check_memory(memory: u64, host: Option<u64>) -> Result<()> {
    if memory < MIN_MEMORY {
        Err(ConfigError::TooLittleMemory { memory, least: MIN_MEMORY })
    } else if memory > MAX_MEMORY {
        Err(ConfigError::TooMuchMemory {
            memory,
            most: MAX_MEMORY,
            reason: "the most this program gives a guest",
        })
    } else if let Some(most) = host.filter(|most| memory > *most) {
        Err(ConfigError::TooMuchMemory { memory, most, reason: "the host's memory and swap" })
    } else if !memory.is_multiple_of(4096) {
        Err(ConfigError::MemoryNotPages { memory })
    } else {
        Ok(())
    }
}

/// A complete description of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Linux kernel, a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel.
    pub cmdline: String,
    /// Number of virtual CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Memory in bytes, whole pages.
    pub memory: u64,
    /// Disks in the order of the guest's `/dev/vda`, `/dev/vdb`, ...
    pub disks: Vec<DiskSpec>,
    /// What to monitor.
    pub monitor: Option<PathBuf>,
    /// Where to write the monitored processes' system calls.
    pub trace: Option<TraceSpec>,
    /// Where to write what blocks were taken for.
    pub block_log: Option<PathBuf>,
    /// Where to listen for requests to change what is monitored.
    pub control: Option<PathBuf>,
    /// Where to write counters at the end.
    pub stats: Option<PathBuf>,
    /// Time between two lines about what was seen.
    pub report_every: Option<Duration>,
}

/// Where and how system calls are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpec {
    /// The file; `-` is standard error.
    pub path: PathBuf,
    /// What a line looks like.
    pub format: TraceFormat,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { kernel: Some("bzImage".into()), ..Default::default() }
    }

    #[test]
    fn defaults_are_filled_in() {
        let config = options().complete().unwrap();
        assert_eq!((config.cpus, config.memory), (1, DEFAULT_MEMORY));
        assert_eq!(config.cmdline, DEFAULT_CMDLINE);
        assert_eq!(Options::default().complete(), Err(ConfigError::NoKernel));
    }

    #[test]
    fn a_given_command_line_replaces_the_default() {
        let config = Options { cmdline: Some("quiet".into()), ..options() }.complete().unwrap();
        assert_eq!(config.cmdline, "quiet");
    }

    #[test]
    fn cpus_have_a_range() {
        for cpus in [0, 33, 300, u32::MAX] {
            let error = Options { cpus: Some(cpus), ..options() }.complete().unwrap_err();
            assert_eq!(error, ConfigError::Cpus { cpus, most: MAX_CPUS });
        }
        for cpus in [1, 2, 32] {
            assert_eq!(Options { cpus: Some(cpus), ..options() }.complete().unwrap().cpus, cpus);
        }
    }

    #[test]
    fn memory_has_a_range() {
        let check = |memory| check_memory(memory, Some(64 << 30));
        assert!(check(MIN_MEMORY).is_ok());
        assert!(check(64 << 30).is_ok());
        assert!(matches!(check(MIN_MEMORY - 4096), Err(ConfigError::TooLittleMemory { .. })));
        assert!(
            matches!(check((64 << 30) + 4096), Err(ConfigError::TooMuchMemory { most, .. }) if most == 64 << 30)
        );
        assert!(matches!(check(u64::MAX), Err(ConfigError::TooMuchMemory { most: MAX_MEMORY, .. })));
        assert!(matches!(check(MIN_MEMORY + 1), Err(ConfigError::MemoryNotPages { .. })));
    }

    #[test]
    fn a_trace_needs_something_to_trace() {
        let traced = Options { trace: Some("-".into()), ..options() };
        assert_eq!(traced.clone().complete(), Err(ConfigError::NothingToTrace));
        let monitored = Options { monitor: Some("m.toml".into()), ..traced.clone() }.complete().unwrap();
        assert_eq!(monitored.trace, Some(TraceSpec { path: "-".into(), format: TraceFormat::Strace }));
        let json = Options { trace_format: Some(TraceFormat::Json), control: Some("c".into()), ..traced };
        assert_eq!(json.complete().unwrap().trace.unwrap().format, TraceFormat::Json);
        let logged = Options { block_log: Some("b".into()), ..options() };
        assert_eq!(logged.complete(), Err(ConfigError::NothingToLog));
        let reported = Options { report_every: Some(5), ..options() };
        assert_eq!(reported.complete(), Err(ConfigError::NothingToReport));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = Options {
            cpus: Some(4),
            memory: Some(1 << 30),
            kernel: Some("old".into()),
            ..Default::default()
        };
        let both = Options { cpus: Some(2), ..options() }.or(file);
        assert_eq!((both.cpus, both.memory, both.kernel), (Some(2), Some(1 << 30), Some("bzImage".into())));
    }
}

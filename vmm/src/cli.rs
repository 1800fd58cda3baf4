//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use sky::trace::TraceFormat;

use crate::config::{DiskSpec, Options, Result, parse_size};
use crate::exit::{MONITOR_STATUS_TABLE, STATUS_TABLE};

mod disk;
mod monitor;

pub use disk::Disk;
pub use monitor::{Action, Add, Monitor, Remove};

/// A minimal virtual machine monitor on KVM
#[derive(Debug, Parser)]
#[command(name = "sky-vmm", version, after_help = STATUS_TABLE)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on standard error; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a Linux kernel and run it until it powers off
    #[command(after_help = STATUS_TABLE)]
    Run(Box<Run>),
    /// Change or show what a running sky-vmm monitors
    #[command(after_help = MONITOR_STATUS_TABLE)]
    Monitor(Box<Monitor>),
    /// Look into the disks of a running sky-vmm
    #[command(after_help = MONITOR_STATUS_TABLE)]
    Disk(Box<Disk>),
    /// Test with tiny guests what this machine's /dev/kvm can do
    Check {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Boot a Linux kernel.
///
/// The serial console is on standard input and output. On a terminal every key goes to the guest; Ctrl-A x ends the
/// run, Ctrl-A Ctrl-A sends one Ctrl-A.
#[derive(Debug, Args)]
pub struct Run {
    /// Linux kernel: a bzImage, or an ELF vmlinux
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel, in place of the default "console=ttyS0 reboot=k panic=1"
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Number of virtual CPUs, 1 to 32 [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory, with K, M, G or T behind the number [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// A disk; may be given up to 8 times, for the guest's /dev/vda, /dev/vdb, ...
    ///
    /// Keys: path (needed), format (raw, selfie, or qcow2 with readonly=on; never guessed) [default: raw], readonly
    /// (on or off), direct (on or off: whether the host's page cache is bypassed) [default: on for selfie, off for raw],
    /// backing (on opens the backing images that the image names) [default: off], serial (up to 20 characters), queues
    /// (1 to 16). A comma inside a value is written twice. The file is locked while the guest runs.
    ///
    /// Above the image: layers (cache, dedup or cache+dedup). For a cache: cache (path of its fast tier), cache-size (of
    /// a fast tier that is to be made), cache-mode (through, back or around) [default: through], cache-classes (file of
    /// classes as OpenCAS has them) [default: those of the paper]. For a disk of `sky-img create --dedup`: dedup-memory
    /// (for its index) [default: 32M].
    #[arg(long = "disk", value_name = "path=FILE[,format=selfie][,readonly=on][,serial=NAME][,queues=N]")]
    pub disks: Vec<DiskSpec>,
    /// What to monitor (TOML)
    #[arg(long, value_name = "FILE")]
    pub monitor: Option<PathBuf>,
    /// Write the system calls of the monitored processes there, one per line; `-` is standard error
    ///
    /// The guest waits while this is written.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// What a line of --trace looks like: as strace writes it, or one JSON object [default: strace]
    #[arg(long, value_name = "strace|json")]
    pub trace_format: Option<TraceFormat>,
    /// Write there what each block that is read or written was taken for (JSON lines), and what is known in the end
    #[arg(long, value_name = "FILE")]
    pub block_log: Option<PathBuf>,
    /// Listen on a socket there for `sky-vmm monitor` and `sky-vmm disk`; it is removed in the end
    ///
    /// Without --monitor nothing is monitored until somebody asks for it.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Write counters of the run there at its end (JSON)
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Say on standard error every so many seconds what was seen so far, in one line
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub report_every: Option<u32>,
    /// Read options from a TOML file with the keys kernel, initrd, cmdline, cpus, memory, monitor, trace,
    /// trace_format, block_log, control, stats, report_every, and one `[[disk]]` table per disk; what is given on the
    /// command line wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Report the end of the run, or what is wrong, as one line of JSON on standard error
    #[arg(long)]
    pub json: bool,
}

impl Run {
    /// The options of the command line, with those of the configuration file behind them.
    ///
    /// # Errors
    /// The configuration file cannot be read or makes no sense.
    pub fn options(&self) -> Result<Options> {
        let options = Options {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            cpus: self.cpus,
            memory: self.memory,
            disks: self.disks.clone(),
            monitor: self.monitor.clone(),
            trace: self.trace.clone(),
            trace_format: self.trace_format,
            block_log: self.block_log.clone(),
            control: self.control.clone(),
            stats: self.stats.clone(),
            report_every: self.report_every,
        };
        Ok(match &self.config {
            Some(path) => options.or(Options::from_file(path)?),
            None => options,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::{DEFAULT_CMDLINE, DEFAULT_MEMORY, MAX_CPUS, MAX_DISKS, TraceSpec};

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_tells_the_truth() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        assert!(help.contains(&format!("the default \"{DEFAULT_CMDLINE}\"")));
        assert!(help.contains(&format!("1 to {MAX_CPUS} ")));
        assert!(help.contains(&format!("up to {MAX_DISKS} times")));
        assert_eq!(parse_size("512M"), Ok(DEFAULT_MEMORY));
    }

    #[test]
    fn options_reach_the_configuration() {
        let cli = Cli::try_parse_from(
            "sky-vmm run --kernel k --memory 1G --cpus 2 --disk path=a --disk path=b,readonly=on --json \
             --control c --trace - --trace-format json"
                .split(' '),
        )
        .unwrap();
        let Command::Run(run) = cli.command else { panic!("not a run") };
        let config = run.options().unwrap().complete().unwrap();
        assert_eq!((config.memory, config.cpus, config.disks.len()), (1 << 30, 2, 2));
        assert!(config.disks[1].image.read_only);
        assert_eq!(config.control, Some("c".into()));
        assert_eq!(config.trace, Some(TraceSpec { path: "-".into(), format: TraceFormat::Json }));
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for arguments in [
            "run --kernel k --memory lots",
            "run --kernel k --disk path=a,redonly=on",
            "run --frobnicate",
            "run --trace-format xml",
        ] {
            let error = Cli::try_parse_from(["sky-vmm"].into_iter().chain(arguments.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2);
        }
    }
}

//! What can be wrong with a configuration, in the words that the user reads.

use std::path::PathBuf;

use sky_devices::layers::LayerError;

use super::size::format_size;

/// Result of reading or checking a configuration.
pub type Result<T> = std::result::Result<T, ConfigError>;

/// Something in a configuration does not make sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nothing to boot.
    #[error("no kernel given: use --kernel PATH, or the key `kernel` in the --config file")]
    NoKernel,
    /// Too few or too many virtual CPUs.
    #[error("{cpus} virtual CPUs: a guest has 1 to {most}")]
    Cpus {
        /// What was asked for.
        cpus: u32,
        /// The most that are possible.
        most: u32,
    },
    /// Not enough memory to boot anything.
    #[error("memory of {} is too little: a guest needs at least {}", format_size(*memory), format_size(*least))]
    TooLittleMemory {
        /// What was asked for, in bytes.
        memory: u64,
        /// The least that is possible, in bytes.
        least: u64,
    },
    /// More memory than there can be.
    #[error("memory of {} is too much: {reason} is {}", format_size(*memory), format_size(*most))]
    TooMuchMemory {
        /// What was asked for, in bytes.
        memory: u64,
        /// The most that is possible, in bytes.
        most: u64,
        /// What sets the limit.
        reason: &'static str,
    },
    /// Memory is handed out in pages.
    #[error("memory of {memory} bytes is not a multiple of 4096")]
    MemoryNotPages {
        /// What was asked for, in bytes.
        memory: u64,
    },
    /// More disks than interrupt lines.
    #[error("{disks} disks: a guest has at most {most}")]
    TooManyDisks {
        /// How many were asked for.
        disks: usize,
        /// The most that are possible.
        most: usize,
    },
    /// A NUL byte would end the command line early.
    #[error("the kernel's command line contains a NUL character")]
    CmdlineNul,
    /// Calls are to be written down, and nobody is watched.
    #[error(
        "--trace needs --monitor, which says whose system calls to write, or --control, by which that is said later"
    )]
    NothingToTrace,
    /// A log of blocks is asked for, but nobody who would know them.
    #[error(
        "--block-log needs --monitor, which says whose blocks to know, or --control, by which that is said later"
    )]
    NothingToLog,
    /// Lines about what was seen are asked for, but nobody is watched.
    #[error(
        "--report-every needs --monitor, which says whom to watch, or --control, by which that is said later"
    )]
    NothingToReport,
    /// A size that is not one.
    #[error("`{text}` is not a size: write a number, with K, M, G or T behind it for KiB, MiB, GiB or TiB")]
    Size {
        /// What was written.
        text: String,
    },
    /// A key that nobody knows.
    #[error("unknown key `{key}` in {place}{}", hint(suggestion.as_deref(), known))]
    UnknownKey {
        /// What was written.
        key: String,
        /// Where.
        place: String,
        /// The key that was probably meant.
        suggestion: Option<String>,
        /// All keys of that place.
        known: &'static [&'static str],
    },
    /// A key twice.
    #[error("key `{key}` appears twice in {place}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where.
        place: String,
    },
    /// A piece of an option without `=`.
    #[error("`{piece}` in {place} is not of the form KEY=VALUE")]
    NotKeyValue {
        /// What was written.
        piece: String,
        /// Where.
        place: String,
    },
    /// A value that the key cannot have.
    #[error("`{value}` is no value for key `{key}` in {place}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// Where.
        place: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Layers of a disk that do not go together.
    #[error("{place}: {error}")]
    Layers {
        /// Where it was written.
        place: String,
        /// What is wrong.
        error: LayerError,
    },
    /// A disk without a file.
    #[error("a disk needs a path: --disk path=FILE")]
    DiskWithoutPath,
    /// The configuration file could not be read.
    #[error("cannot read configuration file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configuration file is not TOML.
    #[error("configuration file {} is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
}

fn hint(suggestion: Option<&str>, known: &[&str]) -> String {
    match suggestion {
        Some(key) => format!(" (did you mean `{key}`?)"),
        None => format!(" (known keys: {})", known.join(", ")),
    }
}

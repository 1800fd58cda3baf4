//! The command line of `sky-vmm disk`.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::parse_size;
use crate::control::{CacheAction, Request};

/// Look into the disks of a running guest, and tell a cache what to do.
///
/// Speaks to a `sky-vmm run --control PATH`.
#[derive(Debug, Args)]
pub struct Disk {
    /// The socket of the running sky-vmm
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,
    /// Which disk: 0 is the first
    #[arg(long, value_name = "N", default_value_t = 0, global = true)]
    disk: usize,
    /// Print the reply as one line of JSON, an error as one on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

/// What to do with the disks of a running guest.
#[derive(Debug, Subcommand)]
enum Action {
    /// What the layers of all disks have done, and what they hold
    Stats,
    /// List the blocks that a cache holds
    List,
    /// Write back what is only in a cache
    Flush,
    /// Write back, and empty a cache
    Clear,
    /// Have a cache use more or fewer bytes of its fast tier, which grows if it is a file
    Resize {
        /// The new size: bytes, or a number with K, M, G or T
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Give a cache the classes of a file as OpenCAS has them (ioclass.csv)
    Classes {
        /// The file
        file: PathBuf,
    },
}

impl Disk {
    /// The request to make.
    ///
    /// # Errors
    /// The file of classes cannot be read.
    pub fn request(&self) -> io::Result<Request> {
        let action = match &self.action {
            Action::Stats => return Ok(Request::Disks {}),
            Action::List => CacheAction::List,
            Action::Flush => CacheAction::Flush,
            Action::Clear => CacheAction::Clear,
            Action::Resize { size } => CacheAction::Resize(*size),
            Action::Classes { file } => {
                let named = |error| io::Error::other(format!("cannot read {}: {error}", file.display()));
                CacheAction::Classes(fs::read_to_string(file).map_err(named)?)
            }
        };
        Ok(Request::Cache { disk: self.disk, action })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn request(arguments: &str) -> io::Result<Request> {
        let words = "sky-vmm disk --control s ".split(' ').filter(|word| !word.is_empty());
        let cli = Cli::try_parse_from(words.chain(arguments.split(' '))).unwrap();
        let Command::Disk(disk) = cli.command else { panic!("not disk") };
        disk.request()
    }

    #[test]
    fn requests_are_what_was_asked_for() {
        assert_eq!(request("stats").unwrap(), Request::Disks {});
        let cache = |disk, action| Request::Cache { disk, action };
        assert_eq!(request("flush --disk 2").unwrap(), cache(2, CacheAction::Flush));
        assert_eq!(request("clear").unwrap(), cache(0, CacheAction::Clear));
        assert_eq!(request("list").unwrap(), cache(0, CacheAction::List));
        assert_eq!(request("resize 2G --disk 1").unwrap(), cache(1, CacheAction::Resize(2 << 30)));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "IO class id").unwrap();
        let classes = CacheAction::Classes("IO class id".into());
        assert_eq!(request(&format!("classes {}", file.path().display())).unwrap(), cache(0, classes));
        let error = request("classes /nonexistent").unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nonexistent: "), "{error}");
    }
}

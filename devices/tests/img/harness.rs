//! Running the programs, and making disks for them.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A folder of images.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of all files there, hidden ones as well.
    pub(crate) fn names(&self) -> Vec<String> {
        let name =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// `sky-img` with arguments that are separated by spaces, in this folder.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sky-img"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).stdin(Stdio::null());
        command
    }

    pub(crate) fn sky_img(&self, arguments: &str) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// The same, which must go well.
    pub(crate) fn sky_img_ok(&self, arguments: &str) -> Ran {
        let ran = self.sky_img(arguments);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "sky-img {arguments}: {ran:?}");
        ran
    }

    pub(crate) fn qemu_img(&self, arguments: &str) -> Ran {
        qemu_utils();
        let mut command = Command::new("qemu-img");
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).stdin(Stdio::null());
        command.output().unwrap().into()
    }

    pub(crate) fn qemu_img_ok(&self, arguments: &str) -> Ran {
        let ran = self.qemu_img(arguments);
        assert_eq!(ran.status, 0, "qemu-img {arguments}: {ran:?}");
        ran
    }

    /// Two disks are the same to QEMU, in size as well.
    ///
    /// Its strict comparison asks for the same holes, too, and is not meant.
    pub(crate) fn same(&self, first_format: &str, first: &str, second_format: &str, second: &str) {
        self.qemu_img_ok(&format!("compare -f {first_format} -F {second_format} {first} {second}"));
        let size = |format: &str, file: &str| {
            self.qemu_img_ok(&format!("info --output=json -f {format} {file}")).json()["virtual-size"].clone()
        };
        assert_eq!(size(first_format, first), size(second_format, second), "{first} and {second}");
    }

    /// A guest's writes, made by QEMU.
    pub(crate) fn qemu_io(&self, format: &str, file: &str, commands: &[&str]) {
        qemu_utils();
        let mut command = Command::new("qemu-io");
        command.current_dir(self.0.path()).args(["-f", format]);
        for text in commands {
            command.args(["-c", text]);
        }
        let ran = Ran::from(command.arg(file).output().unwrap());
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(!ran.stdout.contains("failed"), "{ran:?}");
    }

    /// A sparse raw disk of 64 MiB plus one sector: text, noise, zeros that were written, and holes between them.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(64 * MIB + 512).unwrap();
        let noise = noise(3 * 1024 * 1024 + 512);
        file.write_all_at(&b"a line of text, and again: ".repeat(20_000), 0).unwrap();
        file.write_all_at(&vec![0; 4 * 1024 * 1024], 8 * MIB).unwrap();
        file.write_all_at(&noise, 20 * MIB - 512).unwrap();
        file.write_all_at(&noise[..4096], 40 * MIB + 64 * KIB).unwrap();
        file.write_all_at(&noise[..512], 64 * MIB).unwrap();
        path
    }
}

/// Bytes that do not compress, the same every time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[7]
    })
    .take(length)
    .collect()
}

/// Bytes that a file takes.
pub(crate) fn allocated(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    // Until then a file system may count what it means to allocate.
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

/// Installs qemu-utils if it is missing, once.
fn qemu_utils() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let there = |program: &str| {
            Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(std::env::temp_dir().join("sky-tests-apt.lock"))
            .unwrap();
        // SAFETY: the descriptor is open for as long as the lock is needed.
        assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
        if there("qemu-img") && there("qemu-io") {
            return;
        }
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["-o", "DPkg::Lock::Timeout=300"])
                .args(arguments);
            command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let install = ["install", "-y", "--no-install-recommends", "qemu-utils"];
        // Lists may be missing or old.
        let installed = apt(&install) || (apt(&["update"]) && apt(&install));
        assert!(installed && there("qemu-img"), "these tests need qemu-img; run: apt-get install qemu-utils");
    });
}

//! The CD that the machine boots from: GRUB, a kernel, and an initramfs that holds all the machine will ever have.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::console::{EXIT, FAILED, MARK, STARTED};
use super::machine::CD;
use super::program::Program;
use crate::error::{Error, Result};
use crate::initramfs::Initramfs;
use crate::packages::{self, Flavour, Kernel};
use crate::{command, modules, place};

const MODULES: [&str; 2] = ["kvm", "kvm_intel"];

/// `reboot=t` makes every reset a triple fault, at which Bochs ends instead of booting again. The mitigations would
/// guard nothing here, and each is emulated.
const GRUB: &str = "set timeout=0
linux /boot/vmlinuz console=ttyS0,115200 panic=0 reboot=t mitigations=off quiet
initrd /boot/initrd
boot
";

/// Makes the CD in `dir`.
pub(super) fn write(dir: &Path, program: &Program) -> Result<()> {
    let tools = packages::bochs()?;
    let kernel = Kernel::get(Flavour::Cloud61)?;
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(Error::file("remove", dir))?;
    }
    let boot = dir.join("cd/boot");
    let grub = boot.join("grub");
    fs::create_dir_all(&grub).map_err(Error::file("create", &grub))?;
    let put = |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(Error::file("write", path));
    put(&grub.join("grub.cfg"), GRUB.as_bytes())?;
    put(&boot.join("initrd"), &initramfs(&kernel, program)?)?;
    let vmlinuz = boot.join("vmlinuz");
    fs::copy(kernel.bzimage(), &vmlinuz).map_err(Error::file("write", &vmlinuz))?;
    let mut make = std::process::Command::new(tools.mkrescue);
    command::run(make.arg("-o").arg(dir.join(CD)).arg(dir.join("cd"))).map(drop)
}

fn initramfs(kernel: &Kernel, program: &Program) -> Result<Vec<u8>> {
    let mut image = Initramfs::new();
    image.copy("bin/busybox", &packages::busybox()?)?;
    image.symlink("bin/sh", "busybox");
    for (name, source) in &program.files {
        image.copy(name, source)?;
    }
    modules::add(&mut image, kernel, &MODULES)?;
    for dir in ["proc", "sys", "tmp"] {
        image.directory(dir);
    }
    image.file("init", &init(&program.words));
    Ok(image.finish())
}

/// The machine's process 1. What it has to say goes through the kernel's log, at a level that `quiet` lets pass; the
/// command has two serial ports that pass its bytes unchanged. Closing a port waits until it is empty.
fn init(words: &[impl AsRef<OsStr>]) -> Vec<u8> {
    let in_lab = place::IN_LAB;
    let mut script = format!(
        "#!/bin/sh
export PATH=/bin HOME=/ {in_lab}=1
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
say() {{ echo \"<2>{MARK}$1\" > /dev/kmsg; }}
for module in /modules/*.ko; do insmod $module || say \"{FAILED}$module cannot be loaded\"; done
[ -c /dev/kvm ] || say '{FAILED}there is no /dev/kvm'
for port in /dev/ttyS1 /dev/ttyS2; do stty -F $port 115200 raw -echo; done
say '{STARTED}'
"
    )
    .into_bytes();
    for word in words {
        script.extend(quoted(word.as_ref()));
        script.push(b' ');
    }
    let end = format!("< /dev/null > /dev/ttyS1 2> /dev/ttyS2\nsay \"{EXIT}$?\"\npoweroff -f\n");
    script.extend(end.into_bytes());
    script
}

/// A word as the shell has to read it to get it back.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_shell_gives_every_word_back() {
        let words: [&[u8]; 8] =
            [b"", b"a b", b"it's", b"'", b"$HOME `id` \\ \"x\"", b"*", b"\xff\xfe\x01", b"two\nlines"];
        let mut script = b"printf '%s\\0'".to_vec();
        for word in words {
            script.push(b' ');
            script.extend(quoted(OsStr::from_bytes(word)));
        }
        let output = Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
        let expected: Vec<u8> = words.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
        assert_eq!(output.stdout, expected);
    }

    #[test]
    fn the_shell_can_read_the_init() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        fs::write(&path, init(&["sh", "-c", "echo it's ) done; exit 3"])).unwrap();
        let output = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let script = String::from_utf8(fs::read(path).unwrap()).unwrap();
        assert!(script.contains("\n'sh' '-c' 'echo it'\\''s ) done; exit 3' < /dev/null > /dev/ttyS1"));
    }

    #[test]
    fn the_console_understands_the_init() {
        // The words that `say` is called with, as the kernel would log them.
        use super::super::console::{Console, Event};
        let script = String::from_utf8(init(&["true"])).unwrap();
        let said: String = script
            .lines()
            .filter_map(|line| line.strip_prefix("say ").map(|word| word.trim_matches(['\'', '"'])))
            .map(|word| format!("[    1.000000] {MARK}{}\n", word.replace("$?", "7")))
            .collect();
        assert_eq!(Console::default().push(said.as_bytes()), [Event::Started, Event::Exit(7)]);
    }
}

//! `cargo demo`: a guest with monitored processes and one that is not, and what Sky saw of them. Runs wherever KVM
//! works.

use std::process::ExitCode;

use clap::Parser;
use guest_tests::disk::Disk;
use guest_tests::guest::{self, Finished, GuestRun, MOUNT_ROOTFS, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::pattern::Checksum;
use guest_tests::place::{Place, inside_lab, place};
use guest_tests::workload::Files;
use guest_tests::{Error, Result, e2e, lab::Lab, programs, progress};

/// Boot a guest with monitored processes and one that is not, and print what Sky saw.
#[derive(Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

const WRITER: Files = Files { prefix: "w", seed: 1, files: 4, blocks: 16 };
const BYSTANDER: Files = Files { prefix: "b", seed: 2, files: 4, blocks: 16 };
/// `writer` and `bystander` at once; then a copy by the kernel, an encrypted file, and one whose writer gives hints.
const SCRIPT: &str = "mount -t ext4 /dev/vdb /root-fs/mnt
    bystander files /root-fs/mnt 2 4 16 & writer /root-fs/mnt 1 4 16; wait
    inside /bin/cp /mnt/w0.dat /mnt/copy.dat; echo CP=$?
    inside gpg --batch --quiet --pinentry-mode loopback --passphrase sky --s2k-count 1024 --symmetric \\
        -o /mnt/secret.gpg /mnt/w1.dat; echo GPG=$?; inside gpgconf --kill gpg-agent
    inside /usr/bin/env LD_PRELOAD=/mnt/libiwrite.so 'IWRITE_RULES=*.db=3' \\
        sqlite3 /mnt/hinted.db 'create table t(n); insert into t values(20),(22);'; echo SQLITE=$?
    sync; umount /root-fs/mnt";
const MONITOR: &str = "[[process]]\nexecutable = 'writer'\n[[process]]\nexecutable = 'cp'\n
[[process]]\nexecutable = 'gpg'\n[[process]]\nexecutable = 'sqlite3'\n
[insight]\nfiles = ['/root-fs/mnt']\n";

fn main() -> ExitCode {
    let args = Args::parse();
    let result = guest::prepare().and_then(|()| match place()? {
        Place::Native => show(args.json).map(|()| 0),
        Place::Lab => {
            let args: &[String] = if args.json { &["--json".into()] } else { &[] };
            e2e::rerun_in_lab(&Lab::connect_or_start()?, args)
        }
    });
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(json: bool) -> Result<()> {
    let kernel = Kernel::get(Flavour::Cloud61)?;
    let scratch = Scratch::new()?;
    let contents = Scratch::new()?;
    let [library, _] = programs::hints()?;
    let inside = contents.path("libiwrite.so");
    std::fs::copy(&library, &inside).map_err(Error::file("write", &inside))?;
    let disk = Disk::ext4(scratch.path("disk.img"), 64, Some(&contents.path(".")))?;
    let script = format!("ROOTFS=/dev/vda\n{MOUNT_ROOTFS}{SCRIPT}");
    let initramfs = scratch.initramfs(&kernel, &script)?;
    let monitor = scratch.path("monitor.toml");
    std::fs::write(&monitor, MONITOR).map_err(Error::file("write", &monitor))?;
    let stats = scratch.path("stats.json");
    progress::note(&format!("booting a guest with Linux {} ...", kernel.release()));
    let finished = GuestRun::new(&kernel.bzimage(), &initramfs)
        .rootfs()?
        .disk(&disk)
        .monitor(&monitor)
        .option("--stats", &stats)
        .run()?
        .ok()?;
    if json {
        print!("{}", std::fs::read_to_string(&stats).map_err(Error::file("read", &stats))?);
        return Ok(());
    }
    let place = if inside_lab() {
        "in the lab: an unmodified KVM on an AMD processor that QEMU emulates"
    } else {
        "on this machine's KVM"
    };
    println!("This ran {place}.");
    println!(
        "The guest, Linux {} as Debian ships it, booted in {:.1} s. Its processes wrote to the same ext4 disk: writer, cp, gpg \
         and sqlite3 are monitored, bystander is not.\n",
        kernel.release(),
        finished.init_after.unwrap_or_default().as_secs_f64()
    );
    print!("{}", finished.messages);
    println!();
    for key in ["CP", "GPG", "SQLITE"] {
        if finished.marker(key)? != "0" {
            let problem = format!("{key} failed in the guest");
            return Err(Error::Guest { problem, output: finished.serial.clone() });
        }
    }
    compare(&disk, &finished, &WRITER, "WRITER_CHECKSUM")?;
    compare(&disk, &finished, &BYSTANDER, "BYSTANDER_CHECKSUM")
}

/// Traps must not change what a guest does: its own checksum against the image, read from outside.
fn compare(disk: &Disk, finished: &Finished, files: &Files, key: &str) -> Result<()> {
    let inside = finished.marker(key)?;
    let mut outside = Checksum::default();
    for number in 0..files.files {
        outside.add(&disk.cat(&files.name(number))?);
    }
    println!("{}*.dat: checksum {inside} in the guest, {outside} in the disk image", files.prefix);
    if inside == outside.to_string() {
        Ok(())
    } else {
        Err(Error::Guest { problem: "the two differ".into(), output: finished.serial.clone() })
    }
}

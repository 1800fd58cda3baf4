//! `cargo demo`: a guest writes files to a disk, and the disk is read from outside. Runs wherever KVM works.

use std::process::ExitCode;

use clap::Parser;
use guest_tests::disk::Disk;
use guest_tests::guest::{self, GuestRun, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::pattern::Checksum;
use guest_tests::place::{Place, place};
use guest_tests::workload::Files;
use guest_tests::{Error, Result, e2e, lab::Lab};

/// Boot a guest that writes files, and look at its disk from outside.
#[derive(Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
struct Args;

const FILES: Files = Files { prefix: "w", seed: 1, files: 4, blocks: 16 };
const SCRIPT: &str = "mount -t ext4 /dev/vda /mnt && writer /mnt 1 4 16; umount /mnt";

fn main() -> ExitCode {
    let Args = Args::parse();
    let result = guest::prepare().and_then(|()| match place()? {
        Place::Native => show().map(|()| 0),
        Place::Lab => e2e::rerun_in_lab(&Lab::connect_or_start()?, &[]),
    });
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let kernel = Kernel::get(Flavour::Cloud61)?;
    let scratch = Scratch::new()?;
    let disk = Disk::ext4(scratch.path("disk.img"), 64, None)?;
    let initramfs = scratch.initramfs(&kernel, SCRIPT)?;
    println!("A guest with Linux {} writes {} files to its disk ...", kernel.release(), FILES.files);
    let finished = GuestRun::new(&kernel.vmlinux()?, &initramfs).disk(&disk).run()?.ok()?;
    let inside = finished.marker("WRITER_CHECKSUM")?;
    let mut outside = Checksum::default();
    for number in 0..FILES.files {
        outside.add(&disk.cat(&FILES.name(number))?);
    }
    println!("The guest says that it wrote   {inside}\nThe disk, read from outside:   {outside}");
    if inside == outside.to_string() {
        Ok(())
    } else {
        Err(Error::Guest { problem: "the two differ".into(), output: finished.serial })
    }
}

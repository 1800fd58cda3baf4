//! `cargo demo`: a guest with one monitored process and one that is not, and what Sky saw of it. Runs wherever KVM
//! works.

use std::process::ExitCode;

use clap::Parser;
use guest_tests::disk::Disk;
use guest_tests::guest::{self, Finished, GuestRun, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::pattern::Checksum;
use guest_tests::place::{Place, inside_lab, place};
use guest_tests::workload::Files;
use guest_tests::{Error, Result, e2e, lab::Lab, progress};

/// Boot a guest with a monitored and an unmonitored process, and print what Sky saw.
#[derive(Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

const WRITER: Files = Files { prefix: "w", seed: 1, files: 4, blocks: 16 };
const BYSTANDER: Files = Files { prefix: "b", seed: 2, files: 4, blocks: 16 };
const SCRIPT: &str = "mount -t ext4 /dev/vda /mnt
    bystander files /mnt 2 4 16 & writer /mnt 1 4 16; wait
    sync; umount /mnt";
const MONITOR: &str = "[[process]]\nexecutable = 'writer'\n";

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
    let disk = Disk::ext4(scratch.path("disk.img"), 64, None)?;
    let initramfs = scratch.initramfs(&kernel, SCRIPT)?;
    let monitor = scratch.path("monitor.toml");
    std::fs::write(&monitor, MONITOR).map_err(Error::file("write", &monitor))?;
    let stats = scratch.path("stats.json");
    progress::note(&format!("booting a guest with Linux {} ...", kernel.release()));
    let finished = GuestRun::new(&kernel.bzimage(), &initramfs)
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
        "The guest, Linux {} as Debian ships it, booted in {:.1} s. Two of its processes wrote to the same ext4 disk: \
         writer is monitored, bystander is not.\n",
        kernel.release(),
        finished.init_after.unwrap_or_default().as_secs_f64()
    );
    print!("{}", finished.messages);
    println!();
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

//! Guests of `sky-vmm`: every kernel in both forms, one and several CPUs, and the disk seen from both sides.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use guest_tests::disk::Disk;
use guest_tests::e2e;
use guest_tests::guest::{Finished, GuestRun, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::pattern::Checksum;
use guest_tests::workload::Files;

/// Counts CPUs in the guest in two ways: what is online, and what a scheduler would use.
const COUNT_CPUS: &str =
    "echo NPROC=$(nproc); echo ONLINE=$(grep -c ^processor /proc/cpuinfo); echo RELEASE=$(uname -r)";

fn boot(flavour: Flavour, elf: bool, cpus: u32) {
    let kernel = Kernel::get(flavour).unwrap();
    let scratch = Scratch::new().unwrap();
    let initramfs = scratch.initramfs(&kernel, COUNT_CPUS).unwrap();
    let image = if elf { kernel.vmlinux().unwrap() } else { kernel.bzimage() };
    let finished = GuestRun::new(&image, &initramfs).cpus(cpus).run().unwrap().ok().unwrap();
    assert_eq!(finished.marker("NPROC").unwrap(), cpus.to_string());
    assert_eq!(finished.marker("ONLINE").unwrap(), cpus.to_string());
    assert_eq!(finished.marker("RELEASE").unwrap(), kernel.release());
    println!("{} elf={elf} cpus={cpus}: init after {:?}", flavour.name(), finished.init_after.unwrap());
}

#[test]
fn boots_6_1_from_an_elf_file_on_four_cpus() {
    e2e("boots_6_1_from_an_elf_file_on_four_cpus", || boot(Flavour::Cloud61, true, 4));
}

#[test]
fn boots_6_12_from_a_bzimage_on_four_cpus() {
    e2e("boots_6_12_from_a_bzimage_on_four_cpus", || boot(Flavour::Cloud612, false, 4));
}

#[test]
#[ignore = "for time"]
fn boots_every_kernel_in_both_forms_on_one_two_and_four_cpus() {
    e2e("boots_every_kernel_in_both_forms_on_one_two_and_four_cpus", || {
        for flavour in Flavour::GUESTS {
            for elf in [false, true] {
                [1, 2, 4].into_iter().for_each(|cpus| boot(flavour, elf, cpus));
            }
        }
    });
}

/// Boots the 6.1 kernel with a disk and a script; one that ends badly is the test's failure.
fn with_disk(disk: &Disk, scratch: &Scratch, cpus: u32, script: &str) -> Finished {
    let kernel = Kernel::get(Flavour::Cloud61).unwrap();
    let initramfs = scratch.initramfs(&kernel, script).unwrap();
    GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs).cpus(cpus).disk(disk).run().unwrap().ok().unwrap()
}

#[test]
fn what_a_guest_writes_is_on_the_disk() {
    e2e("what_a_guest_writes_is_on_the_disk", || {
        let scratch = Scratch::new().unwrap();
        let disk = Disk::ext4(scratch.path("disk.img"), 64, None).unwrap();
        let finished = with_disk(
            &disk,
            &scratch,
            2,
            "mount -t ext4 /dev/vda /mnt && { writer /mnt 5 6 20 & bystander files /mnt 9 3 10; wait; }
             umount /mnt",
        );
        for (files, key) in [
            (Files { prefix: "w", seed: 5, files: 6, blocks: 20 }, "WRITER_CHECKSUM"),
            (Files { prefix: "b", seed: 9, files: 3, blocks: 10 }, "BYSTANDER_CHECKSUM"),
        ] {
            let mut sum = Checksum::default();
            for number in 0..files.files {
                sum.add(&disk.cat(&files.name(number)).unwrap());
            }
            // Against what the guest says, and against what the formula says.
            assert_eq!(finished.marker(key).unwrap(), sum.to_string());
            assert_eq!(sum, files.checksum());
        }
        disk.check().unwrap();
    });
}

#[test]
fn what_is_on_the_disk_is_what_a_guest_reads() {
    e2e("what_is_on_the_disk_is_what_a_guest_reads", || {
        let scratch = Scratch::new().unwrap();
        let contents = scratch.path("contents");
        std::fs::create_dir(&contents).unwrap();
        let bytes = guest_tests::pattern::file(3, 2, 300);
        std::fs::write(contents.join("given"), &bytes).unwrap();
        let disk = Disk::ext4(scratch.path("disk.img"), 64, Some(&contents)).unwrap();
        std::fs::write(scratch.path("expected"), &bytes).unwrap();
        let expected =
            guest_tests::command::run(std::process::Command::new("sha256sum").arg(scratch.path("expected")))
                .unwrap();
        let expected = String::from_utf8(expected).unwrap();
        let finished = with_disk(
            &disk,
            &scratch,
            1,
            "mount -t ext4 -o ro /dev/vda /mnt && set -- $(sha256sum /mnt/given); echo SUM=$1; umount /mnt",
        );
        assert_eq!(finished.marker("SUM").unwrap(), expected.split_whitespace().next().unwrap());
    });
}

#[test]
fn discarded_blocks_return_to_the_host() {
    e2e("discarded_blocks_return_to_the_host", || {
        let scratch = Scratch::new().unwrap();
        let disk = Disk::blank(scratch.path("disk.img"), 64).unwrap();
        let full = "dd if=/dev/urandom of=/dev/vda bs=1M count=48 conv=fsync 2>/dev/null && echo FILLED=yes";
        let finished = with_disk(&disk, &scratch, 1, full);
        assert_eq!(finished.marker("FILLED").unwrap(), "yes");
        let before = disk.allocated().unwrap();
        assert!(before >= 48 << 20, "{before}");
        let finished = with_disk(
            &disk,
            &scratch,
            1,
            "blkdiscard -o 1048576 -l 33554432 /dev/vda && echo DISCARDED=yes
             echo ZEROES=$(dd if=/dev/vda bs=1M skip=1 count=32 2>/dev/null | tr -d '\\000' | wc -c)",
        );
        assert_eq!(finished.marker("DISCARDED").unwrap(), "yes");
        assert_eq!(finished.marker("ZEROES").unwrap(), "0");
        let after = disk.allocated().unwrap();
        assert!(after <= before - (32 << 20), "{before} before, {after} after");
    });
}

#[test]
fn genuine_invalid_opcodes_reach_the_guest() {
    e2e("genuine_invalid_opcodes_reach_the_guest", || {
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let scratch = Scratch::new().unwrap();
        let initramfs = scratch.initramfs(&kernel, "ud2; getpid-loop 1000").unwrap();
        let finished = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs).run().unwrap().ok().unwrap();
        assert_eq!(finished.marker("UD2").unwrap(), "ok");
        assert_eq!(finished.marker("GETPID_CALLS").unwrap(), "1000");
    });
}

#[test]
fn a_guest_that_reboots_ends_the_run() {
    e2e("a_guest_that_reboots_ends_the_run", || {
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let scratch = Scratch::new().unwrap();
        let initramfs = scratch.initramfs(&kernel, "reboot -f").unwrap();
        let finished = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs).run().unwrap().ok().unwrap();
        assert_eq!(finished.serial.matches(guest_tests::guest::INIT_MARKER).count(), 1);
    });
}

#[test]
fn a_guest_that_panics_ends_the_run() {
    e2e("a_guest_that_panics_ends_the_run", || {
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let scratch = Scratch::new().unwrap();
        let initramfs = scratch.initramfs(&kernel, "exit 1").unwrap();
        let finished = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs).run().unwrap();
        assert!(finished.serial.contains("Kernel panic"), "{}", finished.serial);
        assert_eq!(finished.status.signal(), None);
    });
}

/// How far guests can be relied on where this runs, without anything of ours in their way: how they ended, counted.
#[test]
#[ignore = "takes a quarter of an hour"]
fn guests_end_well_many_times() {
    const GUESTS: usize = 150;
    const TIME: Duration = Duration::from_secs(900);
    e2e("guests_end_well_many_times", || {
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let scratch = Scratch::new().unwrap();
        let busy = "for n in $(seq 6); do (getpid-loop 50 >/dev/null) & getpid-loop 50 >/dev/null; done; wait; echo DONE=yes";
        let initramfs = scratch.initramfs(&kernel, busy).unwrap();
        let image = kernel.vmlinux().unwrap();
        let start = Instant::now();
        let (mut tried, mut failures) = (0, Vec::new());
        while tried < GUESTS && start.elapsed() < TIME {
            tried += 1;
            let run = GuestRun::new(&image, &initramfs).cpus(2).timeout(Duration::from_secs(120)).run();
            match run.and_then(Finished::ok).and_then(|finished| finished.marker("DONE").map(drop)) {
                Ok(()) => {}
                Err(error) => {
                    println!("guest {tried}, after {:?}: {error}", start.elapsed());
                    failures.push(tried);
                }
            }
        }
        println!("{tried} guests in {:?}, of which failed: {failures:?}", start.elapsed());
        assert!(failures.is_empty(), "{failures:?}");
    });
}

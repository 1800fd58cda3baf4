//! What `sky-vmm run` says when it is asked for what cannot be: a message that names the mistake, and a status.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::{self, File};

use guest_tests::disk::Disk;
use guest_tests::e2e;
use guest_tests::guest::{GuestRun, Scratch};
use guest_tests::packages::{Flavour, Kernel};

/// Clap's status for a command line that it does not understand.
const USAGE: i32 = 2;
const ERROR: i32 = 1;

/// A run that must fail with this status, must not panic, and must mention all of `words`.
fn refused(run: GuestRun, status: i32, words: &[&str]) {
    let finished = run.run().unwrap();
    let said = &finished.messages;
    assert_eq!(finished.status.code(), Some(status), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "no \"{word}\" in: {said}");
    }
}

/// A run that would work but for what is added to it.
fn valid(kernel: &Kernel, scratch: &Scratch) -> GuestRun {
    GuestRun::new(&kernel.bzimage(), &scratch.initramfs(kernel, "").unwrap())
}

fn kernel() -> Kernel {
    Kernel::get(Flavour::Cloud61).unwrap()
}

#[test]
fn kernels_that_are_none() {
    e2e("kernels_that_are_none", || {
        let scratch = Scratch::new().unwrap();
        let initramfs = scratch.initramfs(&kernel(), "").unwrap();
        let missing = scratch.path("missing");
        refused(GuestRun::new(&missing, &initramfs), ERROR, &["missing", "No such file"]);
        let text = scratch.path("text");
        fs::write(&text, "not a kernel\n".repeat(1000)).unwrap();
        refused(GuestRun::new(&text, &initramfs), ERROR, &["text", "kernel"]);
        let empty = scratch.path("empty");
        File::create(&empty).unwrap();
        refused(GuestRun::new(&empty, &initramfs), ERROR, &["empty"]);
        refused(GuestRun::bare(), ERROR, &["no kernel given"]);
    });
}

#[test]
fn truncated_kernels() {
    e2e("truncated_kernels", || {
        let scratch = Scratch::new().unwrap();
        let kernel = kernel();
        let initramfs = scratch.initramfs(&kernel, "").unwrap();
        for (name, image) in [("bz", kernel.bzimage()), ("elf", kernel.vmlinux().unwrap())] {
            let whole = fs::read(image).unwrap();
            for length in [0x1ff, whole.len() / 2] {
                let path = scratch.path(&format!("{name}{length}"));
                fs::write(&path, &whole[..length]).unwrap();
                refused(GuestRun::new(&path, &initramfs), ERROR, &[&format!("{name}{length}")]);
            }
        }
    });
}

#[test]
fn initramfs_that_is_missing() {
    e2e("initramfs_that_is_missing", || {
        let scratch = Scratch::new().unwrap();
        let run = GuestRun::new(&kernel().bzimage(), &scratch.path("nowhere"));
        refused(run, ERROR, &["nowhere", "No such file"]);
    });
}

#[test]
fn disks_that_cannot_be_used() {
    e2e("disks_that_cannot_be_used", || {
        let scratch = Scratch::new().unwrap();
        let kernel = kernel();
        let with = |option: String| valid(&kernel, &scratch).option("--disk", option);
        let missing = scratch.path("missing.img");
        refused(with(format!("path={}", missing.display())), ERROR, &["missing.img", "No such file"]);
        let directory = scratch.path("directory");
        fs::create_dir(&directory).unwrap();
        refused(with(format!("path={}", directory.display())), ERROR, &["directory"]);
        // Root may write everything but what lies on a file system that is mounted read-only: /sys/kernel is one that
        // refuses writing in any case.
        refused(with("path=/sys/kernel/notes".into()), ERROR, &["/sys/kernel/notes"]);
    });
}

#[test]
fn disks_that_are_in_use() {
    e2e("disks_that_are_in_use", || {
        let scratch = Scratch::new().unwrap();
        let kernel = kernel();
        let disk = Disk::blank(scratch.path("disk.img"), 8).unwrap();
        let initramfs = scratch.path("waiting");
        guest_tests::guest::initramfs(&kernel, "read go", &initramfs).unwrap();
        let first = GuestRun::new(&kernel.bzimage(), &initramfs).disk(&disk).beside_another();
        let _turn = guest_tests::guest::Turn::wait(2).unwrap();
        let mut first = first.spawn().unwrap();
        first.wait_for(guest_tests::guest::INIT_MARKER).unwrap();
        let second = valid(&kernel, &scratch).disk(&disk).beside_another();
        refused(second, ERROR, &["disk.img", "another instance"]);
        first.say("go").unwrap();
        first.finish().unwrap().ok().unwrap();
    });
}

#[test]
fn sizes_and_numbers_out_of_range() {
    e2e("sizes_and_numbers_out_of_range", || {
        let scratch = Scratch::new().unwrap();
        let kernel = kernel();
        let initramfs = scratch.initramfs(&kernel, "").unwrap();
        let with = |name: &str, value: &str| {
            GuestRun::bare()
                .option("--kernel", kernel.bzimage())
                .option("--initrd", &initramfs)
                .option(name, value)
        };
        refused(with("--cpus", "0"), ERROR, &["0 virtual CPUs", "1 to"]);
        refused(with("--cpus", "300"), ERROR, &["300 virtual CPUs", "1 to"]);
        refused(with("--cpus", "many"), USAGE, &["many", "--cpus"]);
        refused(with("--memory", "1M"), ERROR, &["too little"]);
        refused(with("--memory", "16777216T"), USAGE, &["16777216T"]);
        refused(with("--memory", "900T"), ERROR, &["too much"]);
        refused(with("--memory", "lots"), USAGE, &["lots", "not a size"]);
    });
}

#[test]
fn keys_that_are_unknown() {
    e2e("keys_that_are_unknown", || {
        let scratch = Scratch::new().unwrap();
        let kernel = kernel();
        let disk = Disk::blank(scratch.path("disk.img"), 8).unwrap();
        let run = valid(&kernel, &scratch);
        let option = format!("path={},redonly=on", disk.path().display());
        refused(run.option("--disk", option), USAGE, &["redonly", "did you mean `readonly`"]);
        let config = scratch.path("vm.toml");
        fs::write(&config, "kernal = \"/boot/vmlinuz\"\n").unwrap();
        refused(GuestRun::bare().option("--config", &config), ERROR, &["kernal", "did you mean `kernel`"]);
        fs::write(&config, "kernel = [\n").unwrap();
        refused(GuestRun::bare().option("--config", &config), ERROR, &["vm.toml", "not TOML"]);
    });
}

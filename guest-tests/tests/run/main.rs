//! Running guests: signals, memory, several disks, and the console in both directions.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use guest_tests::disk::Disk;
use guest_tests::guest::{CMDLINE, GuestRun, Scratch, Turn};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::{e2e, programs};
use sky_devices::block::{BlockDevice, FileOptions, FileStorage};
use sky_devices::selfie::{self, CreateOptions, OpenOptions, Selfie};

mod layers;
mod qemu;
mod root;

/// Starts a guest whose console is a pair of pipes.
fn start(scratch: &Scratch, script: &str, disk: &Path, format: &str) -> Child {
    let kernel = Kernel::get(Flavour::Cloud61).unwrap();
    let initramfs = scratch.initramfs(&kernel, script).unwrap();
    Command::new(programs::sky_vmm().unwrap())
        .arg("run")
        .arg("--kernel")
        .arg(kernel.vmlinux().unwrap())
        .arg("--initrd")
        .arg(initramfs)
        .args(["--cmdline", CMDLINE, "--memory", "256M", "--stats"])
        .arg(scratch.path("stats.json"))
        .arg("--disk")
        .arg(format!("path={},format={format}", disk.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads the guest's console until a line begins with `marker`, and gives the rest of that line.
fn wait_for(console: &mut impl BufRead, marker: &str) -> String {
    for line in console.lines().map_while(Result::ok) {
        if let Some(rest) = line.strip_prefix(marker) {
            return rest.trim().to_owned();
        }
    }
    panic!("the guest ended without {marker}");
}

/// What a Selfie image of 256 MiB holds that nobody has open, and that was closed.
fn contents(path: &Path) -> Vec<u8> {
    let storage = FileStorage::open(FileOptions::new(path)).unwrap();
    let report = selfie::check(&storage).unwrap();
    assert!(report.is_clean() && !report.dirty, "{report:?}");
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let image = Selfie::open(Arc::new(storage), options, None).unwrap();
    let mut bytes = vec![1; 256 << 20];
    image.read(0, &mut bytes, &[]).unwrap();
    bytes
}

#[test]
fn a_selfie_disk_is_written_and_closed() {
    e2e("a_selfie_disk_is_written_and_closed", || {
        let scratch = Scratch::new().unwrap();
        let image = scratch.path("disk.selfie");
        let storage = FileStorage::create(FileOptions::new(&image)).unwrap();
        selfie::create(&storage, &CreateOptions::new(256 << 20)).unwrap();
        drop(storage);
        let write = "yes sky | dd of=/dev/vda bs=64k count=64 seek=16 iflag=fullblock 2>/dev/null";
        // Once it powers off by itself, once it is ended while it runs; neither flushes.
        for (after, signal) in [("", None), ("while true; do :; done", Some(libc::SIGTERM))] {
            let _turn = Turn::wait(1).unwrap();
            let script =
                format!("head -c 4 /dev/vda | od -An -c; {write} oflag=direct; echo WRITTEN; {after}");
            let mut child = start(&scratch, &script, &image, "selfie");
            let mut console = BufReader::new(child.stdout.take().unwrap());
            wait_for(&mut console, "WRITTEN");
            if let Some(signal) = signal {
                let pid = i32::try_from(child.id()).unwrap();
                // SAFETY: kill has no preconditions, and the child has not been waited for.
                assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
            }
            // Whatever else it says is read, or it could not end.
            std::io::copy(&mut console, &mut std::io::sink()).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(if signal.is_some() { 143 } else { 0 }));
            let bytes = contents(&image);
            let expected = b"sky\n".repeat(1 << 20);
            assert!(bytes[1 << 20..5 << 20] == expected, "what the guest wrote is there");
            assert!(bytes[..1 << 20].iter().chain(&bytes[5 << 20..]).all(|&byte| byte == 0));
        }
    });
}

#[test]
fn signals_end_a_run_and_leave_the_disk_whole() {
    e2e("signals_end_a_run_and_leave_the_disk_whole", || {
        for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
            let scratch = Scratch::new().unwrap();
            let disk = Disk::blank(scratch.path("disk.img"), 16).unwrap();
            let script =
                "yes sky | dd of=/dev/vda bs=4096 count=1024 oflag=direct iflag=fullblock 2>/dev/null
                echo WRITTEN; while true; do :; done";
            let _turn = Turn::wait(1).unwrap();
            let mut child = start(&scratch, script, disk.path(), "raw");
            wait_for(&mut BufReader::new(child.stdout.take().unwrap()), "WRITTEN");
            let pid = i32::try_from(child.id()).unwrap();
            // SAFETY: kill has no preconditions, and the child has not been waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
            assert_eq!(child.wait().unwrap().code(), Some(status));
            let mut bytes = vec![0; 4 << 20];
            std::fs::File::open(disk.path()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes.chunks(4).all(|word| word == b"sky\n"));
            let stats: serde_json::Value =
                serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap();
            assert_eq!((&stats["exit"], &stats["status"]), (&"signal".into(), &status.into()));
            assert_eq!(stats["disks"][0]["bytes_written"], 4 << 20);
        }
    });
}

#[test]
fn the_console_works_both_ways() {
    e2e("the_console_works_both_ways", || {
        let scratch = Scratch::new().unwrap();
        let disk = Disk::blank(scratch.path("disk.img"), 16).unwrap();
        let script = "echo READY; while read line; do echo \"GOT $line\"; [ \"$line\" = end ] && break; done";
        let _turn = Turn::wait(1).unwrap();
        let mut child = start(&scratch, script, disk.path(), "raw");
        let mut input = child.stdin.take().unwrap();
        let mut console = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut console, "READY");
        // More than the 16 bytes that the 16550's buffer holds.
        for line in
            ["short", "a line that is longer than the buffer of a 16550, which holds sixteen bytes", "end"]
        {
            writeln!(input, "{line}").unwrap();
            assert_eq!(wait_for(&mut console, "GOT "), line);
        }
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn memory_lies_on_both_sides_of_the_hole() {
    e2e("memory_lies_on_both_sides_of_the_hole", || {
        let scratch = Scratch::new().unwrap();
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let script = "set -- $(grep MemTotal /proc/meminfo); echo TOTAL=$2
            echo HIGH=$(grep 'System RAM' /proc/iomem | grep -c ^1[0-9a-f]*-1)";
        let initramfs = scratch.initramfs(&kernel, script).unwrap();
        let run = |memory: &str| {
            let run = GuestRun::bare()
                .option("--kernel", kernel.vmlinux().unwrap())
                .option("--initrd", &initramfs)
                .option("--cmdline", CMDLINE)
                .option("--memory", memory);
            let finished = run.run().unwrap().ok().unwrap();
            let total: u64 = finished.marker("TOTAL").unwrap().parse().unwrap();
            (total >> 10, finished.marker("HIGH").unwrap().to_owned())
        };
        let (below, high) = run("1G");
        assert!((900..1024).contains(&below) && high == "0", "{below} MiB, {high} above 4 GiB");
        let (both, high) = run("3500M");
        assert!((3300..3500).contains(&both) && high == "1", "{both} MiB, {high} above 4 GiB");
    });
}

#[test]
fn disks_are_what_the_options_say() {
    e2e("disks_are_what_the_options_say", || {
        let scratch = Scratch::new().unwrap();
        let kernel = Kernel::get(Flavour::Cloud612).unwrap();
        let script = "for disk in vda vdb vdc; do
                echo $disk | tr a-z A-Z | tr '\\n' =
                echo $(cat /sys/block/$disk/serial) ro $(cat /sys/block/$disk/ro) size $(cat /sys/block/$disk/size) \
                    queues $(ls /sys/block/$disk/mq | wc -l) flush $(cat /sys/block/$disk/queue/write_cache)
            done
            dd if=/dev/zero of=/dev/vdb count=1 conv=fsync 2>/dev/null || echo REFUSED=yes";
        let initramfs = scratch.initramfs(&kernel, script).unwrap();
        let disks: Vec<Disk> =
            (1..=3).map(|n| Disk::blank(scratch.path(&format!("{n}.img")), 8 * n).unwrap()).collect();
        let path = |at: usize| disks[at].path().display().to_string();
        let finished = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs)
            .cpus(2)
            .option("--disk", format!("path={},format=raw,serial=first-of-three", path(0)))
            .option("--disk", format!("path={},format=raw,readonly=on", path(1)))
            .option("--disk", format!("path={},queues=2,serial=third", path(2)))
            .run()
            .unwrap()
            .ok()
            .unwrap();
        for (key, expected) in [
            ("VDA", "first-of-three ro 0 size 16384 queues 1 flush write back"),
            ("VDB", "sky-1 ro 1 size 32768 queues 1 flush write back"),
            ("VDC", "third ro 0 size 49152 queues 2 flush write back"),
            ("REFUSED", "yes"),
        ] {
            assert_eq!(finished.marker(key).unwrap(), expected);
        }
    });
}

//! Sky on real guests: what it sees of a monitored process, and what the guest does not see of it.

use guest_tests::disk::Disk;
use guest_tests::e2e;
use guest_tests::guest::{GuestRun, Scratch};
use guest_tests::packages::{Flavour, Kernel};

#[test]
fn first() {
    e2e("first", || {
        let scratch = Scratch::new().unwrap();
        let kernel = Kernel::get(Flavour::GUESTS[0]).unwrap();
        let disk = Disk::ext4(scratch.path("disk"), 64, None).unwrap();
        std::fs::write(scratch.path("monitor.toml"), "[[process]]\nexecutable = 'writer'\n").unwrap();
        let script = "mount -t ext4 /dev/vda /mnt; bystander /mnt; writer /mnt; sync; umount /mnt";
        let initramfs = scratch.initramfs(&kernel, script).unwrap();
        let run = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs)
            .disk(&disk)
            .monitor(&scratch.path("monitor.toml"))
            .option("--stats", scratch.path("stats.json"))
            .run()
            .unwrap();
        println!("{}\n{}\n{:?}", run.serial, run.messages, run.status);
        println!("{}", std::fs::read_to_string(scratch.path("stats.json")).unwrap_or_default());
        run.ok().unwrap();
    });
}

#[test]
fn ticks() {
    e2e("ticks", || {
        let scratch = Scratch::new().unwrap();
        let kernel = Kernel::get(Flavour::GUESTS[0]).unwrap();
        for returns in ["decoded", "all"] {
            let disk = Disk::ext4(scratch.path("disk"), 16, None).unwrap();
            std::fs::write(
                scratch.path("monitor.toml"),
                format!("[[process]]\nexecutable = 'getpid-loop'\n[trap]\nreturns='{returns}'"),
            )
            .unwrap();
            let script = "for i in 1 2 3; do bystander getpid 2000; getpid-loop 2000; done";
            let initramfs = scratch.initramfs(&kernel, script).unwrap();
            let run = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs)
                .disk(&disk)
                .monitor(&scratch.path("monitor.toml"))
                .run()
                .unwrap();
            println!("{returns}\n{}\n{}\n{:?}", run.serial, run.messages, run.status);
        }
    });
}

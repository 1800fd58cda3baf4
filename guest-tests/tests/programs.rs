//! Debian's own programs in guests, unmonitored: they work, and strace's account of them can be read.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use guest_tests::disk::Disk;
use guest_tests::e2e;
use guest_tests::guest::{GuestRun, MOUNT_ROOTFS, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::strace::{End, Outcome, Trace};

/// Prints `KEY=value`. Output that is not asked for would only make the console slow.
const SCRIPT: &str = r#"
mount -t ext4 /dev/vdb /mnt
strace="strace -f -e raw=all -e signal=none"
inside $strace -o /tmp/ls /bin/ls / > /tmp/said && echo LS=$(grep -c '^usr$' /tmp/said)
cp /root-fs/tmp/ls /mnt/ls.strace

inside sh -c 'mkdir /tmp/a && seq 1000 > /tmp/a/one && seq 2000 > /tmp/a/two && tar -czf /tmp/a.tgz -C /tmp a &&
    mkdir /tmp/b && tar -xzf /tmp/a.tgz -C /tmp/b && cmp /tmp/a/two /tmp/b/a/two' && echo TAR=$?
echo SQLITE=$(inside sqlite3 /tmp/x.db 'create table t(n); insert into t values(20),(22); select sum(n) from t')

inside sh -c 'echo the secret > /tmp/plain && mkdir -m 700 /root/.gnupg &&
    gpg --batch --quiet --pinentry-mode loopback --passphrase sky --s2k-count 1024 --symmetric -o /tmp/gpg /tmp/plain &&
    gpg --batch --quiet --pinentry-mode loopback --passphrase sky -d /tmp/gpg > /tmp/clear && gpgconf --kill gpg-agent'
echo GPG=$(cat /root-fs/tmp/clear)
echo GPG_HIDES=$(grep -c secret /root-fs/tmp/gpg)

inside sh -c 'git init -q /tmp/git && cd /tmp/git && cp /tmp/a/one . && git add one &&
    git -c user.name=me -c user.email=me@here commit -q -m first'
echo GIT=$(inside git -C /tmp/git log --format=%s%an)
umount /mnt
"#;

#[test]
fn debian_programs_work_in_a_guest() {
    e2e("debian_programs_work_in_a_guest", || {
        let scratch = Scratch::new().unwrap();
        let disk = Disk::ext4(scratch.path("disk.img"), 32, None).unwrap();
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let script = format!("ROOTFS=/dev/vda\n{MOUNT_ROOTFS}{SCRIPT}");
        let initramfs = scratch.initramfs(&kernel, &script).unwrap();
        let run = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs);
        let finished = run.rootfs().unwrap().disk(&disk).run().unwrap().ok().unwrap();
        for (key, value) in [
            ("LS", "1"),
            ("TAR", "0"),
            ("SQLITE", "42"),
            ("GPG", "the secret"),
            ("GPG_HIDES", "0"),
            ("GIT", "firstme"),
        ] {
            assert_eq!(finished.marker(key).unwrap(), value, "{key}\n{}", finished.serial);
        }
        check_trace(&String::from_utf8(disk.cat("/ls.strace").unwrap()).unwrap());
    });
}

fn check_trace(text: &str) {
    let trace = Trace::parse(text);
    assert_eq!(trace.strange, Vec::<String>::new());
    let [thread] = &trace.threads[..] else { panic!("ls has one thread: {:?}", trace.threads) };
    assert_eq!(thread.ends, [End::Exited(0)]);
    assert_eq!(thread.calls[0].name, "execve");
    assert_eq!(thread.calls.last().unwrap().name, "exit_group");
    assert!(trace.entered("getdents64") >= 2 && trace.entered("openat") > 3);
    let unknown = thread.calls.iter().filter(|call| call.outcome == Outcome::Unknown).count();
    assert_eq!(unknown, 1, "only exit_group does not return");
}

/// Without any traps: what a failure of the same program with traps is to be compared with.
#[test]
fn torture_is_right_in_a_guest() {
    e2e("torture_is_right_in_a_guest", || {
        for (flavour, cpus, threads) in [(Flavour::Cloud61, 1, 2), (Flavour::Cloud612, 4, 4)] {
            let scratch = Scratch::new().unwrap();
            let kernel = Kernel::get(flavour).unwrap();
            let script = format!(
                "torture --rounds 12 --threads {threads} --storm 5000; torture trace; nproc=$(nproc); echo NPROC=$nproc"
            );
            let initramfs = scratch.initramfs(&kernel, &script).unwrap();
            let run = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs).cpus(cpus);
            let finished = run.run().unwrap().ok().unwrap();
            assert_eq!(finished.marker("TORTURE").unwrap(), "ok");
            assert_eq!(finished.marker("TRACE").unwrap(), "ok");
            assert_eq!(finished.marker("NPROC").unwrap(), cpus.to_string());
            assert_eq!(finished.marker("TORTURE_COUNT_PAUSE").unwrap(), (threads * 4).to_string());
        }
    });
}

//! A guest of QEMU, which knows nothing of us, on a Selfie disk that is served to it over vhost-user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use guest_tests::disk::Disk;
use guest_tests::guest::{self, CMDLINE, Scratch};
use guest_tests::initramfs::Initramfs;
use guest_tests::packages::{Flavour, Kernel, Qemu};
use guest_tests::{command, modules};
use sky_devices::block::BlockDevice;
use sky_devices::image::{Format, Image, ImageSpec};
use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier, vhost_user};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::root::convert;

const FILES: usize = 30;

/// Writes files of every size, some of which compress, gives space back, and says what it wrote.
const SCRIPT: &str = "
mount -t ext4 /dev/vda /mnt || exit
mkdir /mnt/files
cd /mnt/files
head -c 3000000 /dev/urandom > doomed; sync
i=0
while [ $i -lt COUNT ]; do
    if [ $((i % 3)) = 0 ]; then from=/dev/zero; else from=/dev/urandom; fi
    { yes line $i | head -c $((i * 500)); head -c $((i * 1000 + 1)) $from; } > file-$i
    i=$((i + 1))
    [ $((i % 10)) != 0 ] || sync
done
rm doomed; sync
fstrim /mnt && echo TRIMMED=yes
sha256sum * > /sums
cd /; umount /mnt && mount -t ext4 -o ro /dev/vda /mnt
cd /mnt/files && sha256sum -c -s /sums && echo READ_BACK=same
sed s/^/SUM=/ /sums
cd /; umount /mnt
";

/// An initramfs with the drivers for virtio disks on PCI besides.
fn initramfs(scratch: &Scratch, kernel: &Kernel) -> std::path::PathBuf {
    let path = scratch.path("initramfs");
    guest::initramfs(kernel, &SCRIPT.replace("COUNT", &FILES.to_string()), &path).unwrap();
    let mut more = Initramfs::new();
    modules::add(&mut more, kernel, &["virtio_pci"]).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(more.finish());
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_guest_of_qemu_uses_a_selfie_disk_over_vhost_user() {
    let scratch = Scratch::new().unwrap();
    let kernel = Kernel::get(Flavour::Cloud61).unwrap();
    let initramfs = initramfs(&scratch, &kernel);
    let (raw, path, socket) = (scratch.path("raw"), scratch.path("selfie"), scratch.path("socket"));
    Disk::ext4(&raw, 256, None).unwrap();
    convert(&raw, Format::Raw, &path, Format::Selfie);

    let image = Arc::new(Image::open(&ImageSpec::new(&path, Format::Selfie)).unwrap());
    let spec = BlkSpec { serial: "qemu".to_owned(), num_queues: 2, queue_size: 128 };
    let device = Blk::new(spec, Arc::clone(&image) as Arc<dyn BlockDevice>, Arc::new(NoClassifier)).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap();
    let output = thread::scope(|scope| {
        let server = scope.spawn(|| vhost_user::serve(&device, listener, &stop));
        let mut qemu = Qemu::get().unwrap().command();
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.args(["-machine", "q35,memory-backend=memory", "-accel", "tcg", "-cpu", "max", "-m", "512"]);
        // vhost-user shares the guest's memory by descriptor.
        qemu.args(["-object", "memory-backend-memfd,id=memory,size=512M,share=on"]);
        qemu.arg("-kernel").arg(kernel.bzimage()).arg("-initrd").arg(&initramfs).args(["-append", CMDLINE]);
        qemu.arg("-chardev").arg(format!("socket,id=disk,path={}", socket.display()));
        qemu.args(["-device", "vhost-user-blk-pci,chardev=disk,num-queues=2"]);
        let output = command::run_with_timeout(&mut qemu, guest::LIMIT);
        stop.write(1).unwrap();
        server.join().unwrap().unwrap();
        output.unwrap()
    });
    let stats = device.stats().snapshot();
    assert!(stats.discards > 0 && stats.flushes > 0 && stats.errors == 0, "{stats:?}");
    drop(device);
    Arc::into_inner(image).unwrap().close().unwrap();

    let console = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{console}");
    let answers = |key: &'static str| console.lines().filter_map(move |line| line.trim().strip_prefix(key));
    assert_eq!(answers("READ_BACK=").next(), Some("same"), "{console}");
    assert_eq!(answers("TRIMMED=").next(), Some("yes"), "{console}");
    let sums: BTreeMap<&str, &str> =
        answers("SUM=").map(|line| line.split_once("  ").unwrap()).map(|(sum, name)| (name, sum)).collect();
    assert_eq!(sums.len(), FILES, "{console}");

    super::root::check(&path, false);
    convert(&path, Format::Selfie, &raw, Format::Raw);
    let disk = Disk::existing(&raw);
    disk.check().unwrap();
    let found = scratch.path("found");
    fs::create_dir(&found).unwrap();
    disk.extract("/files", &found).unwrap();
    let mut sha256sum = Command::new("sha256sum");
    let names: Vec<String> = (0..FILES).map(|number| format!("file-{number}")).collect();
    let output = command::run(sha256sum.current_dir(found.join("files")).args(&names)).unwrap();
    for line in String::from_utf8(output).unwrap().lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        assert_eq!(sums[name], sum, "{name}");
    }
}

//! A guest on a disk with every layer: iCache over iDedup over Selfie, told by Sky what its blocks mean. It unpacks a
//! tree, looks for a file, copies the tree, encrypts a file, and is killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use guest_tests::disk::Disk;
use guest_tests::guest::{GuestRun, MOUNT_ROOTFS, Scratch};
use guest_tests::packages::{Flavour, Kernel, Tool, ensure};
use guest_tests::{cache, command, e2e, paths};
use serde_json::Value;
use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup;
use sky_devices::image::{Format, Image, ImageSpec, NewImageOptions};
use sky_devices::layers::{DeviceStorage, LayerKeys, NewDedup, Stack, StackSpec, create_dedup};
use sky_vmm::control::{CacheAction, Request, ask};

use super::root::check;

const DISK: u64 = 192 << 20;
const BLOCK: u64 = 4096;
/// Bytes of the file that is encrypted.
const PLAIN: usize = 3 << 20;

/// Everybody who writes is monitored, so that what nobody wrote is the file system's.
const MONITOR: &str = "
process = [
    { executable = 'tar' }, { executable = 'find' }, { executable = 'cp' }, { executable = 'gpg' },
]
[insight]
assume = 'complete'
";

/// Programs have paths: what busybox starts by its name alone is busybox itself if it can.
const WORK: &str = "
mount -t ext4 /dev/vdb /root-fs/mnt || exit
inside /bin/tar -xf /dev/vdc -C /mnt && sync || exit
inside /usr/bin/find /mnt -name missing
inside /bin/cp -r /mnt/netfilter /mnt/copy && sync || exit
inside /bin/dash -c 'mkdir -p /root/.gnupg; gpg --batch -q --pinentry-mode loopback --passphrase sky -z 0 \
    --s2k-count 1024 -c -o /mnt/plain.gpg /mnt/plain; gpgconf --kill gpg-agent' && sync && echo DONE=all
while true; do sleep 1; done
";

/// The modules of a kernel's netfilter, and a file that does not compress.
fn archive() -> PathBuf {
    let kernel = Kernel::get(Flavour::Cloud61).unwrap();
    let path = paths::lab().join("kernels").join(format!("netfilter-{}.tar", kernel.release()));
    let made = cache::once(&path, |partial| {
        let folder = tempfile::tempdir().unwrap();
        let mut state = 1_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        let bytes: Vec<u8> = words.take(PLAIN / 8).flat_map(u64::to_le_bytes).collect();
        fs::write(folder.path().join("plain"), bytes).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--format=gnu", "--sort=name", "-cf"]).arg(partial);
        tar.arg("-C").arg(kernel.modules().join("kernel/net")).arg("netfilter");
        command::run(tar.arg("-C").arg(folder.path()).arg("plain")).map(drop)
    });
    made.unwrap()
}

fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
            }
        }
    }
    files
}

/// A disk of all layers, with an ext4 file system on it.
fn make(scratch: &Scratch) -> StackSpec {
    let image = NewImageOptions::new(scratch.path("disk.selfie"), Format::Selfie, DISK);
    create_dedup(&NewDedup { image, capacity: None }).unwrap();
    let mut keys = LayerKeys::default();
    let fast = scratch.path("fast");
    for (key, value) in [("layers", "cache+dedup"), ("cache", fast.to_str().unwrap()), ("cache-size", "32M")]
    {
        assert!(keys.set(key, value).unwrap());
    }
    let image = ImageSpec::new(scratch.path("disk.selfie"), Format::Selfie);
    let spec = StackSpec { image, layers: keys.build().unwrap() };
    let raw = Disk::ext4(scratch.path("raw"), DISK >> 20, None).unwrap();
    let content = fs::read(raw.path()).unwrap();
    let disk = Stack::open(&spec).unwrap();
    for (at, block) in (0..).zip(content.chunks(4096)).filter(|(_, block)| block.iter().any(|&b| b != 0)) {
        disk.write(at * BLOCK, block, &[]).unwrap();
    }
    disk.close().unwrap();
    spec
}

/// The disk's content in a file, read through all layers.
fn copy_out(spec: &StackSpec, to: &Path) -> Value {
    let disk = Stack::open(spec).unwrap();
    let stats = serde_json::to_value(disk.stats()).unwrap();
    let mut file = File::create(to).unwrap();
    file.set_len(DISK).unwrap();
    let mut bytes = vec![0; 1 << 20];
    for at in (0..DISK).step_by(1 << 20) {
        disk.read(at, &mut bytes, &[]).unwrap();
        if bytes.iter().any(|&byte| byte != 0) {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&bytes).unwrap();
        }
    }
    disk.close().unwrap();
    stats
}

fn held(cache: &Value, class: &str) -> u64 {
    let classes = cache["classes"].as_array().unwrap();
    classes.iter().find(|found| found["name"] == class).map_or(0, |found| found["lines"].as_u64().unwrap())
}

fn check_dedup(spec: &StackSpec) {
    let image = Arc::new(Image::open(&spec.image.clone().read_only()).unwrap());
    let storage: Arc<dyn Storage> = Arc::new(DeviceStorage(image));
    let report = idedup::check(&storage).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

fn kill_on_all_layers() {
    let (scratch, archive) = (Scratch::new().unwrap(), archive());
    let kernel = Kernel::get(Flavour::Cloud61).unwrap();
    let tree = files_below(&kernel.modules().join("kernel/net/netfilter"));
    let spec = make(&scratch);
    let initramfs = scratch.initramfs(&kernel, &format!("ROOTFS=/dev/vda{MOUNT_ROOTFS}{WORK}")).unwrap();
    let (config, control) = (scratch.path("monitor.toml"), scratch.path("control"));
    fs::write(&config, MONITOR).unwrap();
    let disk = format!(
        "path={},format=selfie,layers=cache+dedup,cache={}",
        spec.image.path.display(),
        scratch.path("fast").display()
    );
    let mut guest = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs)
        .rootfs()
        .unwrap()
        .option("--disk", disk)
        .option("--disk", format!("path={},format=raw,readonly=on", archive.display()))
        .option("--control", &control)
        .monitor(&config)
        .spawn()
        .unwrap();
    assert_eq!(guest.wait_for("DONE=").unwrap(), "all");
    let disks = ask(&control, &Request::Disks {}).unwrap();
    // What was being written would not be kept.
    ask(&control, &Request::Cache { disk: 1, action: CacheAction::Flush }).unwrap();
    guest.signal(libc::SIGKILL);
    guest.finish().unwrap();

    let disk = disks["disks"].as_array().unwrap().iter().find(|disk| disk["dedup"].is_object()).unwrap();
    let count = |key: &str| disk["dedup"][key].as_u64().unwrap();
    let blocks: u64 = tree.values().map(|content| (content.len() as u64).div_ceil(BLOCK)).sum();
    // The tail of a file is written with what the page cache has behind it, zeros, and is found all the same.
    assert!(count("answered_copies") * 100 >= blocks * 95, "of {blocks} blocks: {disks}");
    assert!(count("saved_bytes") >= blocks * BLOCK * 95 / 100, "{disks}");
    let encrypted = PLAIN as u64 / BLOCK;
    assert!((encrypted..encrypted + 8).contains(&count("unique_blocks")), "{encrypted}: {disks}");
    for class in ["metadata", "file_size:lt:1048576"] {
        assert!(held(&disk["cache"], class) > 0, "{class}: {disks}");
    }

    check(&spec.image.path, true);
    check_dedup(&spec);
    let raw = scratch.path("raw");
    let recovered = copy_out(&spec, &raw);
    println!("what was held when it was killed: {}", disk["cache"]);
    println!("what is held after recovery: {}", recovered["cache"]);
    let kept = |class: &str| held(&recovered["cache"], class) * 100 / held(&disk["cache"], class);
    assert!(kept("file_size:lt:1048576") >= 90 && kept("metadata") > 0, "it came back warm: {recovered}");
    check(&spec.image.path, false);
    check_dedup(&spec);
    let mut e2fsck = ensure(Tool::E2fsck).unwrap();
    let replayed = e2fsck.args(["-f", "-p"]).arg(&raw).output().unwrap();
    assert!(matches!(replayed.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&replayed.stdout));
    let found = scratch.path("found");
    fs::create_dir(&found).unwrap();
    for name in ["netfilter", "copy"] {
        Disk::existing(&raw).extract(&format!("/{name}"), &found).unwrap();
        assert!(files_below(&found.join(name)) == tree, "{name} is not what was unpacked");
    }
}

#[test]
fn layers_outlive_a_killed_guest_and_know_what_it_did() {
    // Made here, because the lab can only read it.
    archive();
    e2e("layers::layers_outlive_a_killed_guest_and_know_what_it_did", kill_on_all_layers);
}

//! A guest whose root file system is on a Selfie disk, killed while it unpacks a large archive there.
//!
//! The guest says what is durable: at every checkpoint of `tar` it calls `sync` and prints how much of the archive has
//! been read. Whatever happens to the VMM after that line, every file that ended before has to be there.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use guest_tests::disk::Disk;
use guest_tests::guest::{GuestRun, Scratch};
use guest_tests::packages::{self, Flavour, Kernel, Tool, ensure};
use guest_tests::{cache, command, e2e, paths};
use sky_devices::block::{FileOptions, FileStorage};
use sky_devices::image::{CopyOptions, Format, Image, ImageSpec, NewImage, NewImageOptions, Work, copy};
use sky_devices::selfie;

/// What `tar` reads at once, which it counts its checkpoints in.
const RECORD: usize = 10_240;
/// How many times the guest calls `sync` if it can unpack all of an archive.
const CHECKPOINTS: usize = 60;

/// What init in the initramfs does: as Debian's does, it mounts the root file system and hands over.
const HAND_OVER: &str = "
mkdir /root-fs && mount -t ext4 /dev/vda /root-fs || exit
cat > /root-fs/unpack << 'END'
echo ROOT=$(busybox grep -c '^/dev/vda / ext4 rw' /proc/mounts)
mkdir /unpacked-$1
tar -xf /dev/vdb -C /unpacked-$1 --checkpoint=RECORDS --checkpoint-action=exec='sync; echo DURABLE=$TAR_CHECKPOINT.'
echo UNPACKED=all
END
for each in proc sys dev; do mount --move /$each /root-fs/$each; done
";

/// An archive, and its files: their content, by name.
struct Archive {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Archive {
    /// The modules of a kernel: some thousand files of every size, half of which compresses.
    fn of(flavour: Flavour) -> Archive {
        let kernel = Kernel::get(flavour).unwrap();
        let path = paths::lab().join("kernels").join(format!("modules-{}.tar", kernel.release()));
        let path = cache::once(&path, |partial| {
            let mut tar = Command::new("tar");
            tar.args(["--format=gnu", "--sort=name", "-cf"]).arg(partial);
            command::run(tar.arg("-C").arg(kernel.modules()).arg(".")).map(drop)
        });
        let path = path.unwrap();
        Archive { bytes: fs::read(&path).unwrap(), path }
    }

    /// The regular files of which nothing lies behind byte `end` of the archive.
    fn files(&self, end: usize) -> BTreeMap<PathBuf, &[u8]> {
        let (mut files, mut at, mut long) = (BTreeMap::new(), 0, None);
        while let Some(header) = self.bytes.get(at..at + 512).filter(|header| header[0] != 0) {
            let text = |field: &[u8]| {
                String::from_utf8(field.split(|&byte| byte == 0).next().unwrap().to_vec()).unwrap()
            };
            let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).unwrap();
            let content = &self.bytes[at + 512..at + 512 + size];
            let name = long.take().unwrap_or_else(|| text(&header[..100]));
            at += 512 + size.next_multiple_of(512);
            match header[156] {
                b'L' => long = Some(text(content)),
                b'0' if at <= end => drop(files.insert(PathBuf::from(name), content)),
                _ => {}
            }
        }
        files
    }
}

/// Copies a disk into a new image.
pub(super) fn convert(from: &Path, format: Format, to: &Path, new_format: Format) {
    let source = Image::open(&ImageSpec::new(from, format).read_only()).unwrap();
    let options = NewImageOptions { replace: true, ..NewImageOptions::new(to, new_format, source.size()) };
    let new = NewImage::create(&options).unwrap();
    let options = CopyOptions { granularity: new.image().cluster_size(), zeroed: new.is_zeroed() };
    let (threads, stop) = (NonZeroUsize::MIN, AtomicBool::new(false));
    copy(&source, new.image(), options, Work { threads, stop: &stop, progress: &|_| {} }).unwrap();
    new.finish().unwrap();
}

pub(super) fn check(image: &Path, dirty: bool) {
    let options = FileOptions { read_only: true, ..FileOptions::new(image) };
    let report = selfie::check(&FileStorage::open(options).unwrap()).unwrap();
    assert!(report.is_clean() && report.dirty == dirty, "{report:?}");
}

/// Boots from `image`, unpacks the archive and kills the VMM `delay` after checkpoint number `checkpoint`. Gives how
/// much of the archive the guest has called durable.
fn boot_and_kill(
    scratch: &Scratch,
    image: &Path,
    archive: &Archive,
    round: usize,
    checkpoint: usize,
    delay: Duration,
) -> usize {
    let records = archive.bytes.len() / RECORD / CHECKPOINTS;
    let kernel = Kernel::get(Flavour::Cloud61).unwrap();
    let script = HAND_OVER.replace("RECORDS", &records.to_string())
        + &format!("exec switch_root /root-fs /bin/sh /unpack {round}");
    let initramfs = scratch.initramfs(&kernel, &script).unwrap();
    let mut guest = GuestRun::new(&kernel.vmlinux().unwrap(), &initramfs)
        .option("--disk", format!("path={},format=selfie", image.display()))
        .option("--disk", format!("path={},format=raw,readonly=on", archive.path.display()))
        .spawn()
        .unwrap();
    assert_eq!(guest.wait_for("ROOT=").unwrap(), "1", "the root file system is the disk's");
    for _ in 0..checkpoint {
        guest.wait_for("DURABLE=").unwrap();
    }
    std::thread::sleep(delay);
    guest.signal(libc::SIGKILL);
    let finished = guest.finish().unwrap();
    assert!(finished.marker("UNPACKED").is_err(), "it was killed too late");
    // The dot tells a line that is whole.
    let mut said =
        finished.serial.lines().filter_map(|line| line.trim().strip_prefix("DURABLE=")?.strip_suffix('.'));
    let last: usize = said.next_back().unwrap().parse().unwrap();
    // Its own record has been read, but perhaps not been written.
    (last - 1) * RECORD
}

/// Kills a guest at each of these moments, one boot after the other on the same disk, and looks at what is left.
fn kill_at(flavour: Flavour, mebibytes: u64, moments: &[(usize, Duration)]) {
    let archive = Archive::of(flavour);
    let scratch = Scratch::new().unwrap();
    let (raw, image) = (scratch.path("root.raw"), scratch.path("root.selfie"));
    fs::copy(packages::rootfs().unwrap(), &raw).unwrap();
    fs::File::options().write(true).open(&raw).unwrap().set_len(mebibytes << 20).unwrap();
    command::run(ensure(Tool::Resize2fs).unwrap().arg(&raw)).unwrap();
    convert(&raw, Format::Raw, &image, Format::Selfie);
    let mut durable = Vec::new();
    for (round, &(checkpoint, delay)) in moments.iter().enumerate() {
        let end = boot_and_kill(&scratch, &image, &archive, round, checkpoint, delay);
        durable.push(archive.files(end));
        println!("boot {round}: {} files are durable", durable[round].len());
        // Nothing has been recovered yet, and nothing is while it is only read.
        check(&image, true);
        convert(&image, Format::Selfie, &raw, Format::Raw);
        look_at(&scratch, &raw, &durable);
    }
    Image::open(&ImageSpec::new(&image, Format::Selfie)).unwrap().close().unwrap();
    check(&image, false);
}

/// The file system is whole, and holds what each boot has made durable.
fn look_at(scratch: &Scratch, raw: &Path, durable: &[BTreeMap<PathBuf, &[u8]>]) {
    // Replays the journal, and refuses to mend anything that a crash does not explain.
    let mut e2fsck = ensure(Tool::E2fsck).unwrap();
    let replayed = e2fsck.args(["-f", "-p"]).arg(raw).output().unwrap();
    assert!(matches!(replayed.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&replayed.stdout));
    let disk = Disk::existing(raw);
    disk.check().unwrap();
    let found = scratch.path("found");
    for (round, files) in durable.iter().enumerate() {
        fs::create_dir(&found).unwrap();
        disk.extract(&format!("/unpacked-{round}"), &found).unwrap();
        for (name, content) in files {
            let path = found.join(format!("unpacked-{round}")).join(name);
            let there = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(there == *content, "{} is not what it was", path.display());
        }
        fs::remove_dir_all(&found).unwrap();
    }
}

#[test]
fn a_root_disk_outlives_its_killed_guest() {
    // Made here, because the lab can only read it.
    Archive::of(Flavour::Cloud61);
    e2e("root::a_root_disk_outlives_its_killed_guest", || {
        kill_at(Flavour::Cloud61, 256, &[(3, Duration::from_millis(30))]);
    });
}

#[test]
#[ignore = "for time"]
fn a_root_disk_outlives_guests_killed_at_many_moments() {
    Archive::of(Flavour::Cloud61);
    e2e("root::a_root_disk_outlives_guests_killed_at_many_moments", || {
        let moments: Vec<_> = [(2, 70), (17, 0), (40, 130), (9, 300), (28, 10)]
            .map(|(at, ms)| (at, Duration::from_millis(ms)))
            .into();
        kill_at(Flavour::Cloud61, 768, &moments);
    });
}

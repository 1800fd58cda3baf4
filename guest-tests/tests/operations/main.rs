//! Random operations on files, as a kernel makes them, as a model has them, and as Sky says that they were.
//!
//! `SKY_OPERATIONS_SEED` sets the seed, which is printed, and `SKY_OPERATIONS_STEPS` how far it goes. With the same seed
//! fewer steps are the beginning of more: the step at which something goes wrong is where to end.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod history;
mod judge;

use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use guest_tests::disk::Disk;
use guest_tests::guest::{CMDLINE, GuestRun, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::programs::Program;
use guest_tests::{command, e2e};
use history::{BLOCK, History};
use judge::Judged;
use serde_json::Value;

const STEPS: u64 = 200;
const LIMIT: Duration = Duration::from_secs(600);
/// Sizes of the disks in MiB: one with room for all, a small one, and one for the records of some thousand steps.
const ROOM: u64 = 64;
const SMALL: u64 = 1;
const RECORDS: u64 = 16;

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn steps() -> u64 {
    setting("SKY_OPERATIONS_STEPS").unwrap_or(STEPS).min((RECORDS << 20) / BLOCK as u64)
}

/// These, unless one is asked for.
fn seeds(usual: impl IntoIterator<Item = u64>) -> Vec<u64> {
    setting("SKY_OPERATIONS_SEED").map_or_else(|| usual.into_iter().collect(), |seed| vec![seed])
}

/// Without a guest: the kernel of this machine, on the file system of the target directory.
#[test]
fn the_model_is_right_here() {
    for seed in seeds(1..5) {
        println!("SKY_OPERATIONS_SEED={seed}");
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for sub in ["files", "files/d", "files/s"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let records = Disk::blank(dir.path().join("records"), RECORDS).unwrap();
        let mut writer = Command::new(Program::Writer.path().unwrap());
        writer.arg("operations").arg(dir.path().join("files")).arg(records.path());
        let output =
            command::run_with_timeout(writer.args([seed, steps()].map(|n| n.to_string())), LIMIT).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("OPERATIONS={}", steps())), "{said}");
        let history = History::of(seed, steps(), &std::fs::read(records.path()).unwrap());
        for file in history.model.files() {
            for &name in &file.names {
                let path = dir.path().join("files").join(history.model.path(name));
                assert!(std::fs::read(&path).unwrap() == file.content, "{}", path.display());
            }
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Nothing is written but what the steps want written, so that no block is on its way while it is written again. The
/// small file system is mounted with these options.
fn script(seed: u64, options: &str) -> String {
    format!(
        "echo 0 > /proc/sys/vm/dirty_writeback_centisecs; echo 100000 > /proc/sys/vm/dirty_expire_centisecs
        mount -t ext4 -o noauto_da_alloc,commit=1000 /dev/vda /mnt; mkdir /mnt/d /mnt/s
        mount -t ext4 -o {options} /dev/vdb /mnt/s; sync
        writer operations /mnt /dev/vdc {seed} {}; echo STATUS=$?; umount /mnt/s /mnt",
        steps()
    )
}

fn operations_are_followed(flavour: Flavour, seed: u64, options: &str) -> Judged {
    println!("SKY_OPERATIONS_SEED={seed} on {} {options}", flavour.name());
    let scratch = Scratch::new().unwrap();
    let kernel = Kernel::get(flavour).unwrap();
    let large = Disk::ext4(scratch.path("large.img"), ROOM, None).unwrap();
    let small = Disk::ext4(scratch.path("small.img"), SMALL, None).unwrap();
    let records = Disk::blank(scratch.path("records.img"), RECORDS).unwrap();
    let monitor = scratch.path("monitor.toml");
    std::fs::write(&monitor, "[[process]]\nexecutable = 'writer'\n").unwrap();
    let (log, stats) = (scratch.path("blocks.json"), scratch.path("stats.json"));
    let finished = GuestRun::bare()
        .option("--kernel", kernel.bzimage())
        .option("--initrd", scratch.initramfs(&kernel, &script(seed, options)).unwrap())
        .option("--cmdline", CMDLINE)
        .option("--stats", &stats)
        .option("--block-log", &log)
        .disk(&large)
        .disk(&small)
        .disk(&records)
        .monitor(&monitor)
        .run()
        .unwrap()
        .ok()
        .unwrap();
    // Its records say more than its end, if they say something else.
    let history = History::of(seed, steps(), &read(records.path()));
    assert_eq!(finished.marker("STATUS").unwrap(), "0", "{}", finished.serial);
    assert_eq!(finished.marker("OPERATIONS").unwrap(), steps().to_string());
    for file in history.model.files() {
        for &name in &file.names {
            let path = history.model.path(name);
            let on_disk = match path.strip_prefix('s') {
                Some(below) => small.cat(below),
                None => large.cat(&format!("/{path}")),
            };
            assert!(on_disk.unwrap() == file.content, "{}", history.story(steps() - 1, &path));
        }
    }
    for disk in [&large, &small] {
        disk.check().unwrap();
    }
    let stats: Value = serde_json::from_slice(&read(&stats)).unwrap();
    judge::report(&history, &stats["monitor"]);
    let log = String::from_utf8(read(&log)).unwrap();
    let judged = judge::blocks(&history, &log, &[read(large.path()), read(small.path())]);
    println!("{judged:?}");
    assert_eq!(judged.data, stats["monitor"]["blocks"]["data"].as_u64().unwrap());
    judged
}

/// With a seed that has many blocks written.
fn many_blocks_are_followed(flavour: Flavour, seed: u64, options: &str) {
    let judged = operations_are_followed(flavour, seeds([seed])[0], options);
    assert!(judged.held > steps() / 8, "{judged:?}");
}

#[test]
fn operations_are_followed_on_6_1() {
    e2e("operations_are_followed_on_6_1", || many_blocks_are_followed(Flavour::Cloud61, 1, "async"));
}

#[test]
fn operations_are_followed_on_6_12() {
    e2e("operations_are_followed_on_6_12", || many_blocks_are_followed(Flavour::Cloud612, 2, "async"));
}

/// Every write is on the disk when it returns, though its descriptor does not say so.
#[test]
fn operations_that_write_through_are_followed() {
    e2e("operations_that_write_through_are_followed", || {
        many_blocks_are_followed(Flavour::Cloud612, 3, "sync");
    });
}

/// Seeds that nobody chose.
#[test]
#[ignore = "takes ten minutes"]
fn many_operations_are_followed() {
    e2e("many_operations_are_followed", || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let seeds = seeds(now..now + 20);
        let kinds = ["async", "sync"]
            .into_iter()
            .flat_map(|options| Flavour::GUESTS.map(|flavour| (flavour, options)));
        let all = seeds.iter().zip(kinds.collect::<Vec<_>>().into_iter().cycle());
        let held: u64 =
            all.map(|(&seed, (flavour, options))| operations_are_followed(flavour, seed, options).held).sum();
        assert!(held > seeds.len() as u64 * steps() / 8, "{held}");
    });
}

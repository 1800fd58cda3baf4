//! Selfie images through the tool: round trips, overlays, and what becomes of them.

use std::os::unix::fs::FileExt;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Folder, KIB, MIB, Ran, allocated, noise};

/// [`MIB`] as lengths of buffers are counted.
const MIB_BYTES: usize = 1 << 20;

/// A disk that a guest could have written to: the image opened in this process, and closed.
fn write(folder: &Folder, name: &str, writes: &[(u64, &[u8])]) {
    use sky_devices::block::BlockDevice;
    use sky_devices::image::{BackingPolicy, Format, Image, ImageSpec};
    let spec = ImageSpec::new(folder.path(name), Format::Selfie).backing(BackingPolicy::Open);
    let image = Image::open(&spec).unwrap();
    for (offset, bytes) in writes {
        image.write(*offset, bytes, &[]).unwrap();
    }
    image.close().unwrap();
}

fn check_clean(folder: &Folder, name: &str) -> Value {
    let report = folder.sky_img_ok(&format!("check --json -f selfie {name}")).json();
    assert_eq!((&report["errors"], &report["dirty"]), (&Value::Array(Vec::new()), &false.into()));
    report
}

/// Compares two disks; where they differ is worth more than that they do.
#[track_caller]
fn assert_same(found: &[u8], expected: &[u8], when: &str) {
    assert_eq!(found.len(), expected.len(), "{when}");
    let difference = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let count = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
    assert_eq!(difference, None, "first of {count} bytes that differ, {when}");
}

/// The disk of an image as it is with all that is below.
fn content(folder: &Folder, name: &str) -> Vec<u8> {
    folder.sky_img_ok(&format!("convert --force --with-backing -f selfie -O raw {name} content.raw"));
    std::fs::read(folder.path("content.raw")).unwrap()
}

#[test]
fn a_disk_goes_there_and_back() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.qemu_img_ok("convert -q -c -f raw -O qcow2 a.raw a.qcow2");
    for (format, threads) in [("raw", 1), ("qcow2", 4)] {
        folder.sky_img_ok(&format!(
            "convert --threads {threads} -f {format} -O selfie a.{format} {format}.selfie"
        ));
        check_clean(&folder, &format!("{format}.selfie"));
        folder.sky_img_ok(&format!("convert -f selfie -O raw {format}.selfie {format}.back"));
        folder.same("raw", "a.raw", "raw", &format!("{format}.back"));
        folder.sky_img_ok(&format!("compare -s -f selfie -F {format} {format}.selfie a.{format}"));
        folder.sky_img_ok(&format!("convert -f selfie -O selfie {format}.selfie {format}.again"));
        folder.sky_img_ok(&format!("compare -s -f selfie -F raw {format}.again a.raw"));
        assert!(allocated(&folder.path(&format!("{format}.back"))) <= 4 * MIB + 64 * KIB, "zeros take space");
    }
}

#[test]
fn a_new_image_takes_little_and_is_known_to_no_qemu() {
    let folder = Folder::new();
    let ran = folder.sky_img_ok("create --json -f selfie a.img 100G --max-size 1T");
    assert_eq!(ran.json()["virtual-size"], 100_u64 << 30);
    let info = folder.sky_img_ok("info --json -f selfie a.img").json();
    assert_eq!((&info["virtual-size"], &info["dirty-flag"]), (&(100_u64 << 30).into(), &false.into()));
    assert_eq!(info["format-specific"]["data"]["max_size"], 1_u64 << 40);
    assert!(allocated(&folder.path("a.img")) <= MIB);
    check_clean(&folder, "a.img");
    let map = folder.sky_img_ok("map --json -f selfie a.img").json();
    assert_eq!(
        (&map[0]["length"], &map[0]["kind"], map.as_array().unwrap().len()),
        (&(100_u64 << 30).into(), &"zero".into(), 1)
    );
    let ran = folder.sky_img("info -f raw a.img");
    assert_eq!(ran.status, 0, "as a raw disk it is one, for whoever says so: {ran:?}");
    let ran = folder.sky_img("info -f qcow2 a.img");
    assert!(ran.status == 1 && ran.stderr.contains("does not begin as a qcow2 image does"), "{ran:?}");
}

#[test]
fn a_disk_grows_as_far_as_it_was_made_for() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.sky_img_ok("convert -f raw -O selfie a.raw a.img");
    folder.sky_img_ok("resize -f selfie a.img +64M");
    folder.sky_img_ok("compare -f selfie -F raw a.img a.raw");
    assert_eq!(folder.sky_img_ok("info --json -f selfie a.img").json()["virtual-size"], 128 * MIB + 512);
    folder.sky_img_ok("create -f selfie b.img 1M --max-size 2M");
    let ran = folder.sky_img("resize -f selfie b.img 3M");
    assert!(ran.status == 1 && ran.stderr.contains("b.img"), "{ran:?}");
    let ran = folder.sky_img("resize -f selfie a.img 1M");
    assert!(ran.status == 1 && ran.stderr.contains("would cut off data"), "{ran:?}");
}

#[test]
fn a_snapshot_keeps_what_was() {
    let folder = Folder::new();
    let before = std::fs::read(folder.disk("base.raw")).unwrap();
    folder.sky_img_ok("snapshot -f raw base.raw mid.img");
    write(&folder, "mid.img", &[(21 * MIB, &noise(100_000 / 512 * 512)), (50 * MIB + 512, &[7; 512])]);
    folder.sky_img_ok("snapshot -f selfie mid.img top.img");
    write(&folder, "top.img", &[(0, &[9; 4096]), (50 * MIB + 1024, &[8; 512])]);
    let mut expected = before.clone();
    let mut put = |offset: u64, bytes: &[u8]| {
        let offset = usize::try_from(offset).unwrap();
        expected[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(21 * MIB, &noise(100_000 / 512 * 512));
    put(50 * MIB + 512, &[7; 512]);
    put(0, &[9; 4096]);
    put(50 * MIB + 1024, &[8; 512]);
    assert_same(&content(&folder, "top.img"), &expected, "at the end");
    assert!(std::fs::read(folder.path("base.raw")).unwrap() == before);
    let ran = folder.sky_img("convert -f selfie -O raw top.img out.raw");
    assert!(ran.status == 1 && ran.stderr.contains("--with-backing opens it"), "{ran:?}");
    let map = folder.sky_img_ok("map --json --with-backing -f selfie top.img").json();
    let depths: Vec<_> = map.as_array().unwrap().iter().filter(|line| line["data"] == true).collect();
    for depth in 0..3 {
        assert!(depths.iter().any(|line| line["depth"] == depth), "nothing from depth {depth}: {map}");
    }
    let alone = folder.sky_img_ok("map --json -f selfie top.img").json();
    assert_eq!((&alone[0]["kind"], &alone[0]["length"]), (&"data".into(), &4096.into()));
    assert_eq!(alone[1]["kind"], "backing");
}

#[test]
fn a_parent_that_has_changed_is_refused() {
    let folder = Folder::new();
    folder.disk("base.raw");
    folder.sky_img_ok("create -f selfie -b base.raw -F raw a.img");
    folder.sky_img_ok("convert -f raw -O selfie base.raw base.img");
    folder.sky_img_ok("create -f selfie -b base.img -F selfie b.img");
    let before = content(&folder, "a.img");
    assert!(content(&folder, "b.img") == before);
    let file = std::fs::OpenOptions::new().write(true).open(folder.path("base.raw")).unwrap();
    file.write_all_at(&[1], 5000).unwrap();
    drop(file);
    write(&folder, "base.img", &[(5000 / 512 * 512, &[1; 512])]);
    for (child, parent) in [("a.img", "base.raw -F raw"), ("b.img", "base.img -F selfie")] {
        let ran = folder.sky_img(&format!("compare --with-backing -f selfie -F raw {child} base.raw"));
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(
            ran.stderr.contains("it has been written since") && ran.stderr.contains("rebase --unsafe"),
            "{ran:?}"
        );
        let ran = folder.sky_img(&format!("rebase -b {parent} {child}"));
        assert!(ran.status == 1, "a safe rebase needs the parent as it was: {ran:?}");
        folder.sky_img_ok(&format!("rebase --unsafe -b {parent} {child}"));
        assert_eq!(
            folder.sky_img(&format!("compare --with-backing -f selfie -F raw {child} content.raw")).status,
            1
        );
    }
    // Another image under the same name is another image.
    folder.sky_img_ok("convert --force -f raw -O selfie base.raw base.img");
    let ran = folder.sky_img("compare --with-backing -f selfie -F raw b.img base.raw");
    assert!(ran.stderr.contains("it is another image"), "{ran:?}");
    std::fs::remove_file(folder.path("base.img")).unwrap();
    let ran = folder.sky_img("compare --with-backing -f selfie -F raw b.img base.raw");
    assert!(ran.stderr.contains("base.img: there is no such file"), "{ran:?}");
}

#[test]
fn a_commit_brings_an_overlay_into_its_parent() {
    for parent in ["raw", "selfie"] {
        let folder = Folder::new();
        folder.disk("base.raw");
        folder.sky_img_ok("convert -f raw -O selfie base.raw base.selfie");
        folder.sky_img_ok(&format!("create -f selfie -b base.{parent} -F {parent} top.img 70M"));
        folder.sky_img_ok(&format!("create -f selfie -b base.{parent} -F {parent} other.img"));
        write(
            &folder,
            "top.img",
            &[(MIB, &noise(MIB_BYTES)), (20 * MIB, &[0; 65536]), (69 * MIB, &[3; 8192]), (512, &[5; 512])],
        );
        let before = content(&folder, "top.img");
        folder.sky_img_ok("commit top.img");
        assert_same(&content(&folder, "top.img"), &before, "after the commit");
        let format = parent;
        folder.sky_img_ok(&format!("convert --force -f {format} -O raw base.{format} committed.raw"));
        assert_same(&std::fs::read(folder.path("committed.raw")).unwrap(), &before, parent);
        check_clean(&folder, "top.img");
        let ran = folder.sky_img("map --with-backing -f selfie other.img");
        assert!(ran.status == 1 && ran.stderr.contains("since"), "another overlay is refused: {ran:?}");
    }
}

#[test]
fn a_rebase_keeps_the_disk() {
    let folder = Folder::new();
    folder.disk("base.raw");
    let mut changed = std::fs::read(folder.path("base.raw")).unwrap();
    changed[4096..8192].copy_from_slice(&noise(4096));
    changed[MIB_BYTES * 20..MIB_BYTES * 22].fill(0);
    changed[MIB_BYTES * 30 + 512..MIB_BYTES * 31].fill(6);
    changed.truncate(40 * MIB_BYTES);
    std::fs::write(folder.path("changed.raw"), &changed).unwrap();
    folder.sky_img_ok("convert -f raw -O selfie changed.raw changed.img");
    folder.sky_img_ok("create -f selfie -b base.raw -F raw top.img");
    write(&folder, "top.img", &[(30 * MIB + 100 * KIB, &noise(65536)), (21 * MIB, &[0; 4096])]);
    let before = content(&folder, "top.img");
    for (argument, backing) in [
        ("-b changed.raw -F raw", Value::from("changed.raw")),
        ("-b changed.img -F selfie", Value::from("changed.img")),
        ("-b base.raw -F raw", Value::from("base.raw")),
        ("", Value::Null),
    ] {
        let ran = folder.sky_img_ok(&format!("rebase --json {argument} top.img"));
        assert_eq!(ran.json()["backing-filename"], backing);
        assert_same(&content(&folder, "top.img"), &before, argument);
        assert_eq!(folder.sky_img_ok("info --json -f selfie top.img").json()["backing-filename"], backing);
    }
    check_clean(&folder, "top.img");
}

/// The same writes to images of both programs, which are then put over others and over none.
#[test]
fn an_image_on_its_own_is_put_over_another_and_back() {
    let folder = Folder::new();
    folder.disk("base.raw");
    folder.sky_img_ok("convert -f raw -O selfie base.raw base.img");
    let mut other = noise(MIB_BYTES);
    other[300_000..500_000].fill(0);
    std::fs::write(folder.path("other.raw"), &other).unwrap();
    folder.sky_img_ok("create -f selfie top.img 40M");
    folder.qemu_img_ok("create -q -f qcow2 top.qcow2 40M");
    let writes = [(0, 4096, 1), (130 * KIB, 1024, 2), (20 * MIB + 4096, 8192, 3), (39 * MIB, 65536, 4)];
    let contents: Vec<Vec<u8>> = writes.iter().map(|&(_, length, byte)| vec![byte; length]).collect();
    let of_writes: Vec<(u64, &[u8])> =
        writes.iter().zip(&contents).map(|(&(at, ..), bytes)| (at, bytes.as_slice())).collect();
    write(&folder, "top.img", &of_writes);
    let commands: Vec<String> =
        writes.iter().map(|(at, length, byte)| format!("write -q -P {byte} {at} {length}")).collect();
    folder.qemu_io("qcow2", "top.qcow2", &commands.iter().map(String::as_str).collect::<Vec<_>>());
    let mut model = vec![0; 40 * MIB_BYTES];
    for (at, bytes) in of_writes {
        let at = usize::try_from(at).unwrap();
        model[at..at + bytes.len()].copy_from_slice(bytes);
    }
    assert_same(&content(&folder, "top.img"), &model, "on its own");
    for (format, parent) in [
        ("raw", "base.raw"),
        ("", ""),
        ("selfie", "base.img"),
        ("raw", "other.raw"),
        ("", ""),
        ("", ""),
        ("raw", "base.raw"),
    ] {
        let mut command = folder.command("rebase --json top.img");
        command.args(["-b", parent]);
        if !format.is_empty() {
            command.args(["-F", format]);
        }
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.status, 0, "{parent}: {ran:?}");
        assert_same(&content(&folder, "top.img"), &model, parent);
        check_clean(&folder, "top.img");
        let named = if parent.is_empty() { Value::Null } else { parent.into() };
        assert_eq!(folder.sky_img_ok("info --json -f selfie top.img").json()["backing-filename"], named);
        if format != "selfie" {
            let mut qemu = std::process::Command::new("qemu-img");
            qemu.current_dir(folder.path("")).args(["rebase", "-f", "qcow2", "-b", parent]);
            if !format.is_empty() {
                qemu.args(["-F", format]);
            }
            let ran = Ran::from(qemu.arg("top.qcow2").output().unwrap());
            assert_eq!(ran.status, 0, "{ran:?}");
            folder.qemu_img_ok("convert -f qcow2 -O raw top.qcow2 qemu.raw");
            folder.sky_img_ok("convert --force --with-backing -f selfie -O raw top.img sky.raw");
            folder.same("raw", "sky.raw", "raw", "qemu.raw");
        }
    }
    // Zeros are said to be, not written; what is written grows with what was there, not with the disk.
    assert!(allocated(&folder.path("top.img")) < 8 * MIB, "{}", allocated(&folder.path("top.img")));
}

/// Space that nothing uses: what was given up is a hole, and is filled behind the image's back.
#[test]
fn leaks_are_told_apart_from_errors() {
    use sky_devices::block::BlockDevice;
    use sky_devices::image::{Format, Image, ImageSpec};
    let folder = Folder::new();
    folder.sky_img_ok("create -f selfie a.img 16M");
    for at in [0, MIB, 2 * MIB] {
        write(&folder, "a.img", &[(at, &noise(65536))]);
    }
    let table = folder.sky_img_ok("dump --json -f selfie --table 0 a.img").json();
    let entry = table.as_array().unwrap().iter().find(|entry| entry["disk_offset"] == MIB).unwrap();
    let place = entry["image_offset"].as_u64().unwrap();
    let image = Image::open(&ImageSpec::new(folder.path("a.img"), Format::Selfie)).unwrap();
    image.discard(MIB, 65536).unwrap();
    image.close().unwrap();
    let none = check_clean(&folder, "a.img");
    assert_eq!(none["leaks"], serde_json::json!({ "clusters": 0, "bytes": 0 }), "{none}");
    let file = std::fs::OpenOptions::new().write(true).open(folder.path("a.img")).unwrap();
    // Zeros take space, too.
    file.write_all_at(&[0; 8192], place + 4096).unwrap();
    file.sync_all().unwrap();
    let ran = folder.sky_img("check --json -f selfie a.img");
    let report = ran.json();
    assert_eq!((ran.status, &report["errors"]), (3, &Value::Array(Vec::new())), "{ran:?}");
    assert_eq!(report["leaks"], serde_json::json!({ "clusters": 1, "bytes": 8192 }), "{report}");
    let ran = folder.sky_img("check -f selfie a.img");
    assert!(ran.status == 3 && ran.stdout.contains("1 leaked clusters: 8 KiB"), "{ran:?}");
    assert!(ran.stdout.contains("a.img: nothing is wrong"), "{ran:?}");
    // An error weighs more, and then nobody knows what is a leak.
    file.write_all_at(&[0xee; 16], 65536).unwrap();
    let ran = folder.sky_img("check --json -f selfie a.img");
    assert_eq!((ran.status, &ran.json()["leaks"]), (2, &Value::Null), "{ran:?}");
}

#[test]
fn what_a_disk_grows_by_is_zeros_over_any_parent() {
    let folder = Folder::new();
    folder.disk("base.raw");
    folder.sky_img_ok("create -f selfie -b base.raw -F raw top.img 20M");
    folder.sky_img_ok("resize -f selfie top.img 64M");
    let after = content(&folder, "top.img");
    let base = std::fs::read(folder.path("base.raw")).unwrap();
    let seen = 20 * MIB_BYTES;
    assert!(after[..seen] == base[..seen] && after[seen..].iter().all(|&byte| byte == 0));
    folder.sky_img_ok("commit top.img");
    assert_same(&content(&folder, "top.img"), &after, "after the commit");
    assert!(std::fs::read(folder.path("base.raw")).unwrap()[..64 * MIB_BYTES] == after);
}

#[test]
fn chains_have_an_end() {
    let folder = Folder::new();
    folder.sky_img_ok("create -f selfie 0.img 1M");
    for index in 0..31 {
        folder.sky_img_ok(&format!("snapshot -f selfie {index}.img {}.img", index + 1));
    }
    content(&folder, "31.img");
    folder.sky_img_ok("create -f selfie -b 31.img -F selfie 32.img");
    let ran = folder.sky_img("convert --with-backing -f selfie -O raw 32.img out.raw");
    assert!(ran.status == 1 && ran.stderr.contains("has more than 32"), "{ran:?}");
    folder.sky_img_ok("create -f selfie a.img 1M");
    folder.sky_img_ok("snapshot -f selfie a.img b.img");
    folder.sky_img_ok("rebase --unsafe -b b.img -F selfie a.img");
    let ran = folder.sky_img("convert --with-backing -f selfie -O raw b.img out.raw");
    assert!(ran.status == 1 && ran.stderr.contains("comes back to this one"), "{ran:?}");
}

#[test]
fn damage_is_found_and_the_rest_is_saved() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.sky_img_ok("convert --threads 1 -f raw -O selfie a.raw a.img");
    let lead = find(&std::fs::read(folder.path("a.img")).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(folder.path("a.img")).unwrap();
    file.write_all_at(&[0x55; 8], lead).unwrap();
    let ran = folder.sky_img("check --json -f selfie --repair-to saved.img a.img");
    assert_eq!(ran.status, 2, "{ran:?}");
    let report = ran.json();
    assert_eq!(report["errors"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["repair"]["lost"], 4096, "{report}");
    let ranges = report["repair"]["ranges"].as_array().unwrap();
    let offset = ranges[0][0].as_u64().unwrap();
    check_clean(&folder, "saved.img");
    let mut expected = std::fs::read(folder.path("a.raw")).unwrap();
    let at = usize::try_from(offset).unwrap();
    expected[at..at + 4096].fill(0);
    assert_same(&content(&folder, "saved.img"), &expected, "but for what was lost");
}

/// The byte offset of something in a block that carries a mapping: the first text, which even LZ4 has to leave as it is.
fn find(image: &[u8]) -> u64 {
    let text = b"a line of text";
    let at = image.windows(text.len()).position(|window| window == text).unwrap();
    u64::try_from(at).unwrap()
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let folder = Folder::new();
    let file = std::fs::File::create(folder.path("a.raw")).unwrap();
    for mib in 0..256 {
        file.write_all_at(&noise(1 << 20), mib * MIB).unwrap();
    }
    let mut command = folder.command("convert --threads 2 --progress -f raw -O selfie a.raw b.img");
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut progress = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut progress, &mut String::new()).unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the child has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut progress, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert_eq!(folder.names(), ["a.raw"]);
}

#[test]
fn a_load_costs_one_write_and_one_sync_for_each() {
    let folder = Folder::new();
    folder.sky_img_ok("create -f selfie a.img 1G");
    let ran =
        folder.sky_img_ok("bench --json -f selfie --write -p seq -s 64K -c 200 --flush-interval 1 a.img");
    let report = ran.json();
    let number = |key: &str| report[key].as_f64().unwrap();
    assert_eq!(report["requests"], 200);
    assert!(number("zeroed-bytes-per-request") > 0.0, "{report}");
    assert!(number("host-bytes-per-request") >= 65536.0, "{report}");
    // Zeros ahead, and what is written of tables, come on top.
    assert!((1.0..2.0).contains(&number("host-syncs-per-request")), "{report}");
    check_clean(&folder, "a.img");
}

#[test]
fn two_do_not_use_one_image() {
    use sky_devices::image::{Format, Image, ImageSpec};
    let folder = Folder::new();
    folder.sky_img_ok("create -f selfie a.img 1M");
    let machine = Image::open(&ImageSpec::new(folder.path("a.img"), Format::Selfie)).unwrap();
    for arguments in ["info -f selfie a.img", "check -f selfie a.img", "snapshot -f selfie a.img b.img"] {
        let ran: Ran = folder.sky_img(arguments);
        assert!(ran.status == 1 && ran.stderr.contains("open in another instance"), "{arguments}: {ran:?}");
    }
    drop(machine);
    // It was not closed, which is no mistake.
    let ran = folder.sky_img("check --json -f selfie a.img");
    assert_eq!((ran.status, &ran.json()["dirty"]), (0, &true.into()), "{ran:?}");
    folder.sky_img_ok("resize -f selfie a.img +1M");
    check_clean(&folder, "a.img");
}

#[test]
fn a_dump_leads_from_the_superblock_to_the_data() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.sky_img_ok("convert -f raw -O selfie a.raw a.img");
    let dump = folder.sky_img_ok("dump --json -f selfie a.img").json();
    let copies: Vec<_> =
        dump["superblocks"].as_array().unwrap().iter().map(|copy| &copy["superblock"]).collect();
    assert_eq!(
        (&copies[0]["size"], &copies[1]["size"]),
        (&(64 * MIB + 512).into(), &(64 * MIB + 512).into())
    );
    assert_ne!(copies[0]["sequence"], copies[1]["sequence"]);
    let kinds: Vec<_> =
        dump["zones"].as_array().unwrap().iter().map(|zone| zone["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"z") && kinds.contains(&"n"), "{dump}");
    assert_eq!(dump["l1"][0]["table"], 0, "{dump}");
    // A plain cluster is where its table says, byte for byte.
    let table = folder.sky_img_ok("dump --json -f selfie --table 0 a.img").json();
    let plain =
        table.as_array().unwrap().iter().find(|entry| {
            entry["kind"] == "plain" && entry["rotation"] == 0 && entry["disk_offset"] == 21 * MIB
        });
    let plain = plain.unwrap_or_else(|| panic!("no entry for the noise at 21 MiB: {table}"));
    let place = plain["image_offset"].as_u64().unwrap();
    let read = |name: &str, offset| {
        let mut bytes = vec![0; 65536];
        std::fs::File::open(folder.path(name)).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    assert_same(&read("a.img", place), &read("a.raw", 21 * MIB), "in the image");
    // The first cluster of the disk is text, and speaks for itself where it lies.
    let zone = dump["zones"].as_array().unwrap().iter().find(|zone| zone["kind"] == "z").unwrap();
    let first = zone["offset"].as_u64().unwrap();
    let headers: Vec<Value> = (0..16)
        .map(|slot| {
            folder
                .sky_img_ok(&format!("dump --json -f selfie --header {} a.img", first + slot * 65536))
                .json()
        })
        .collect();
    assert!(
        headers.iter().any(|header| header["disk_offset"] == 0 && header["kind"] == "embedded"),
        "{headers:?}"
    );
    let ran = folder.sky_img("dump -f selfie --header 4096 a.img");
    assert!(ran.status == 1 && ran.stderr.contains("no cluster of a zone begins there"), "{ran:?}");
    assert_eq!(folder.sky_img("dump -f raw a.raw").status, 2);
}

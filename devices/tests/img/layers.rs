//! Layers above an image through the tool: what is made, shown, checked and emptied.

use serde_json::Value;
use sky_devices::block::BlockDevice;
use sky_devices::image::{Format, ImageSpec};
use sky_devices::io_class::IoTag;
use sky_devices::layers::{LayerKeys, Stack, StackSpec};
use sky_devices::policy::ClassId;

use crate::harness::{Folder, KIB, MIB, noise};

fn open(folder: &Folder, name: &str, format: Format, keys: &[(&str, &str)]) -> Stack {
    let mut layers = LayerKeys::default();
    for (key, value) in keys {
        let path = folder.path(value);
        let value = if *key == "cache" { path.to_str().unwrap() } else { value };
        assert!(layers.set(key, value).unwrap());
    }
    let image = ImageSpec::new(folder.path(name), format);
    Stack::open(&StackSpec { image, layers: layers.build().unwrap() }).unwrap()
}

#[test]
fn equal_blocks_are_stored_once() {
    for format in [Format::Raw, Format::Selfie] {
        let folder = Folder::new();
        let made = folder.sky_img_ok(&format!("create --json -f {format} --dedup a.img 64M")).json();
        assert_eq!((&made["virtual-size"], &made["layers"]), (&(64 * MIB).into(), &"dedup".into()));
        let disk = open(&folder, "a.img", format, &[("layers", "dedup")]);
        assert_eq!(disk.size(), 64 * MIB);
        let content = noise(1 << 20);
        for copy in 0..4 {
            disk.write(copy * 8 * MIB, &content, &[]).unwrap();
        }
        disk.close().unwrap();
        let stats = folder.sky_img_ok(&format!("dedup stats --json -f {format} a.img")).json();
        let blocks = MIB / (4 * KIB);
        assert_eq!((&stats["mapped-blocks"], &stats["used-blocks"]), (&(4 * blocks).into(), &blocks.into()));
        assert_eq!(stats["saved-bytes"], 3 * MIB);
        let report = folder.sky_img_ok(&format!("dedup check --json -f {format} a.img")).json();
        assert_eq!(
            (&report["false_claims"], &report["valid_claims"]),
            (&Value::Array(vec![]), &blocks.into())
        );
    }
}

#[test]
fn a_damaged_block_is_found() {
    let folder = Folder::new();
    folder.sky_img_ok("create -f raw --dedup a.img 16M");
    let disk = open(&folder, "a.img", Format::Raw, &[("layers", "dedup")]);
    let content = noise(64 << 10);
    disk.write(0, &content, &[]).unwrap();
    disk.close().unwrap();
    let mut bytes = std::fs::read(folder.path("a.img")).unwrap();
    let place = bytes.windows(4096).position(|window| window == &content[8192..12288]).unwrap();
    bytes[place + 7] ^= 1;
    std::fs::write(folder.path("a.img"), bytes).unwrap();
    let ran = folder.sky_img("dedup check --json -f raw a.img");
    assert_eq!(ran.status, 2);
    assert_eq!(ran.json()["false_claims"].as_array().unwrap().len(), 1);
    // What holds no such disk says so.
    folder.sky_img_ok("create -f raw b.img 16M");
    let ran = folder.sky_img("dedup stats -f raw b.img");
    assert!(ran.status == 1 && ran.stderr.contains("not of this format"), "{}", ran.stderr);
}

#[test]
fn garbage_is_collected() {
    for format in [Format::Raw, Format::Selfie] {
        let folder = Folder::new();
        folder.sky_img_ok(&format!("create -f {format} --dedup a.img 64M"));
        let disk = open(&folder, "a.img", format, &[("layers", "dedup")]);
        disk.write(0, &noise(1 << 20), &[]).unwrap();
        disk.close().unwrap();
        // A crash with a write that was not flushed.
        let disk = open(&folder, "a.img", format, &[("layers", "dedup")]);
        disk.write(8 * MIB, &noise(1 << 20).iter().map(|byte| !byte).collect::<Vec<_>>(), &[]).unwrap();
        drop(disk);
        let collect =
            |how: &str| folder.sky_img_ok(&format!("dedup gc{how} --json -f {format} a.img")).json();
        let blocks = MIB / (4 * KIB);
        assert_eq!(collect(" --quick")["claimed_blocks"], 0);
        assert_eq!(collect(" --rebuild")["claimed_blocks"], blocks);
        let collected = collect("");
        assert_eq!((&collected["void_claims"], &collected["claimed_blocks"]), (&0.into(), &0.into()));
        assert_eq!(collected["given_back_blocks"], 64 * blocks + 64 * blocks / 64 + 1024 - blocks);
        let report = folder.sky_img_ok(&format!("dedup check --json -f {format} a.img")).json();
        assert_eq!((&report["valid_claims"], &report["mapped_blocks"]), (&blocks.into(), &blocks.into()));
        let told = folder.sky_img(&format!("dedup gc --progress --rebuild -f {format} a.img"));
        assert!(told.status == 0 && told.stderr.contains("data: 100%"), "{}", told.stderr);
        let refused = folder.sky_img(&format!("dedup gc --quick --rebuild -f {format} a.img"));
        assert_eq!(refused.status, 2);
    }
}

#[test]
fn a_cache_is_shown_and_emptied() {
    let folder = Folder::new();
    folder.sky_img_ok("create -f selfie a.img 64M");
    let keys = [("layers", "cache"), ("cache", "fast"), ("cache-size", "16M"), ("cache-mode", "back")];
    let disk = open(&folder, "a.img", Format::Selfie, &keys);
    let metadata = IoTag { class_id: ClassId::new(5).unwrap(), ..IoTag::default() };
    let content = noise(1 << 20);
    disk.write(0, &content, &vec![metadata; 256]).unwrap();
    disk.write(8 * MIB, &content, &[]).unwrap();
    disk.flush().unwrap();
    // It is not closed: what was written is in the fast tier only.
    drop(disk);
    let of = |action: &str| {
        folder
            .sky_img_ok(&format!("cache {action} --json -f selfie --layers cache --cache fast a.img"))
            .json()
    };
    let list = of("list");
    let extent = |offset: u64, class: u8, dirty: bool| serde_json::json!({ "offset": offset, "length": MIB, "class": class, "dirty": dirty });
    assert_eq!(list, Value::Array(vec![extent(0, 5, true), extent(8 * MIB, 0, true)]));
    // Closing the cache has written it back.
    assert_eq!(of("flush")["written-back-blocks"], 0);
    let stats = of("stats");
    let held = |name: &str| {
        let classes = stats["classes"].as_array().unwrap();
        classes.iter().find(|class| class["name"] == name).unwrap()["lines"].clone()
    };
    assert_eq!((held("metadata"), held("unclassified")), (256.into(), 256.into()));
    assert_eq!(stats["dirty_blocks"], 0);
    let resized = of("resize 8M");
    assert_eq!((&resized["old-size"], &resized["size"]), (&(16 * MIB).into(), &(8 * MIB).into()));
    assert_eq!(of("list").as_array().unwrap().len(), 2, "what it held has room in less");
    assert_eq!(of("stats")["size_bytes"], 8 * MIB);
    // Whoever names a size names the new one.
    drop(open(
        &folder,
        "a.img",
        Format::Selfie,
        &[("layers", "cache"), ("cache", "fast"), ("cache-size", "8M")],
    ));
    of("resize 32M");
    assert_eq!(std::fs::metadata(folder.path("fast")).unwrap().len(), 32 * MIB);
    let ran = folder.sky_img("cache resize 64K -f selfie --layers cache --cache fast a.img");
    assert!(ran.status == 1 && ran.stderr.contains("at least 64 lines"), "{}", ran.stderr);
    of("clear");
    assert_eq!(of("list"), Value::Array(vec![]));
    folder.sky_img_ok("convert -f selfie -O raw a.img a.raw");
    let raw = std::fs::read(folder.path("a.raw")).unwrap();
    assert!(raw[..1 << 20] == content[..] && raw[8 << 20..9 << 20] == content[..]);
}

#[test]
fn mistakes_are_told() {
    let folder = Folder::new();
    folder.sky_img_ok("create -f selfie a.img 16M");
    for (arguments, status, message) in [
        ("cache stats -f selfie a.img", 2, "--layers cache and --cache PATH"),
        ("cache stats -f selfie --cache fast a.img", 2, "needs `layers=cache`"),
        ("cache stats -f selfie --layers cache --cache fast a.img", 1, "`cache-size` makes one"),
        ("serve -f selfie --layers caches --nbd unix:s a.img", 2, "write cache, dedup or cache+dedup"),
        ("create -f selfie --dedup -b a.img -F selfie b.img", 2, "cannot be used with"),
        ("create -f selfie --capacity 1G b.img 1G", 2, "--dedup"),
        ("dedup check -f selfie a.img", 1, "not of this format"),
    ] {
        let ran = folder.sky_img(arguments);
        assert!(
            ran.status == status && ran.stderr.contains(message),
            "{arguments}: {:?} {}",
            ran.status,
            ran.stderr
        );
    }
    assert_eq!(folder.names(), ["a.img"]);
    let info = folder.sky_img_ok("info --json -f selfie a.img").json();
    assert_eq!(
        info["format-specific"]["data"]["generation"], 2,
        "only who made it, and who asked for a fast tier that is not there, opened it"
    );
}

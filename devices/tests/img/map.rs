//! Maps name what takes space, and cover the disk without gaps.

use serde_json::Value;

use crate::harness::{Folder, KIB, MIB};

/// Checks that extents follow each other to the end, and gives the parts that have `key`, neighbours joined.
fn parts(map: &Value, size: u64, key: &str) -> Vec<(u64, u64)> {
    let number = |line: &Value, key: &str| line[key].as_u64().unwrap();
    let mut position = 0;
    let mut found: Vec<(u64, u64)> = Vec::new();
    for line in map.as_array().unwrap() {
        let (start, length) = (number(line, "start"), number(line, "length"));
        assert_eq!(start, position, "{map}");
        position += length;
        match found.last_mut() {
            _ if line[key] != true => {}
            Some(last) if last.0 + last.1 == start => last.1 += length,
            _ => found.push((start, length)),
        }
    }
    assert_eq!(position, size, "{map}");
    found
}

#[test]
fn a_raw_map_is_that_of_qemu() {
    let folder = Folder::new();
    folder.disk("a.raw");
    let size = 64 * MIB + 512;
    let ours = folder.sky_img_ok("map --json -f raw a.raw").json();
    let theirs = folder.qemu_img_ok("map --output=json -f raw a.raw").json();
    assert_eq!(parts(&ours, size, "data"), parts(&theirs, size, "data"));
    assert_eq!(parts(&ours, size, "zero"), parts(&theirs, size, "zero"));
    assert!(parts(&ours, size, "data").len() >= 4, "{ours}");
}

#[test]
fn a_qcow2_map_is_that_of_qemu() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.qemu_img_ok("convert -q -f raw -O qcow2 -o cluster_size=4k a.raw base.qcow2");
    folder.qemu_img_ok("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    folder.qemu_io("qcow2", "top.qcow2", &["write -q -P 9 30M 192k", "write -q -z 20M 128k"]);
    let size = 64 * MIB + 512;
    let ours = folder.sky_img_ok("map --json --with-backing -f qcow2 top.qcow2").json();
    let theirs = folder.qemu_img_ok("map --output=json -f qcow2 top.qcow2").json();
    assert_eq!(parts(&ours, size, "data"), parts(&theirs, size, "data"));
    let depth = |map: &Value, offset: u64| {
        let lines = map.as_array().unwrap();
        let line = lines.iter().rfind(|line| line["start"].as_u64().unwrap() <= offset).unwrap();
        (line["depth"].as_u64().unwrap(), line["data"].as_bool().unwrap())
    };
    for (offset, expected) in
        [(0, (1, true)), (30 * MIB, (0, true)), (20 * MIB, (0, false)), (21 * MIB, (1, true))]
    {
        assert_eq!(depth(&ours, offset), expected, "at {offset} of {ours}");
    }
    // Alone, the image does not say what it does not hold.
    let alone = folder.sky_img_ok("map --json -f qcow2 top.qcow2").json();
    assert_eq!(parts(&alone, size, "data"), [(30 * MIB, 192 * KIB)]);
    let kinds: Vec<_> = alone.as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["backing", "zero", "backing", "data", "backing"]);
}

#[test]
fn people_see_a_table() {
    let folder = Folder::new();
    folder.disk("a.raw");
    let ran = folder.sky_img_ok("map -f raw a.raw");
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["Offset", "Length", "Kind", "Image"]);
    assert_eq!((lines[1][0], lines[1][2], lines[1][3]), ("0x0", "data", "a.raw"));
}

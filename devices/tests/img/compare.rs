//! Comparisons say what `cmp` and `qemu-img compare` say.

use std::os::unix::fs::FileExt;

use crate::harness::{Folder, MIB};

#[test]
fn one_byte_is_found_wherever_it_is() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.sky_img_ok("convert -f raw -O raw a.raw b.raw");
    let ran = folder.sky_img_ok("compare --json -f raw -F raw a.raw b.raw");
    assert_eq!((&ran.json()["equal"], &ran.json()["first-difference"]), (&true.into(), &().into()));
    let file = std::fs::OpenOptions::new().write(true).read(true).open(folder.path("b.raw")).unwrap();
    // In data, in a hole of both, in zeros that only one holds, and in the last sector; later ones first.
    for offset in [64 * MIB + 511, 50 * MIB + 12345, 9 * MIB + 1, 3] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        for order in ["a.raw b.raw", "b.raw a.raw"] {
            let ran = folder.sky_img(&format!("compare -f raw -F raw {order}"));
            assert_eq!((ran.status, ran.stdout), (1, format!("the disks differ at byte {offset}\n")));
        }
    }
}

#[test]
fn a_longer_disk_is_equal_if_zeros_follow() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.sky_img_ok("convert -f raw -O raw a.raw b.raw");
    folder.sky_img_ok("resize -f raw b.raw +1M");
    for (option, status) in [("", 0), ("-s", 1)] {
        for order in ["a.raw b.raw", "b.raw a.raw"] {
            let arguments = format!("compare {option} -f raw -F raw {order}");
            assert_eq!(folder.sky_img(&arguments).status, status, "{arguments}");
            assert_eq!(folder.qemu_img(&arguments).status, status, "qemu-img {arguments}");
        }
    }
    let file = std::fs::OpenOptions::new().write(true).open(folder.path("b.raw")).unwrap();
    file.write_all_at(&[1], 64 * MIB + 512).unwrap();
    assert_eq!(folder.sky_img("compare -f raw -F raw a.raw b.raw").status, 1);
    assert_eq!(folder.sky_img("compare -f raw -F raw b.raw a.raw").status, 1);
}

#[test]
fn a_failure_is_no_difference() {
    let folder = Folder::new();
    folder.disk("a.raw");
    let ran = folder.sky_img("compare -f raw -F raw a.raw missing.raw");
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.starts_with("sky-img: cannot open missing.raw: there is no such file"), "{ran:?}");
}

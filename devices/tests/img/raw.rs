//! Raw images: made, shown and made larger.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Folder, MIB, allocated};

#[test]
fn a_new_image_is_a_sparse_disk_of_zeros() {
    let folder = Folder::new();
    let ran = folder.sky_img_ok("create --json -f raw a.raw 10G");
    assert_eq!(ran.json()["virtual-size"], 10_u64 << 30);
    let info = folder.qemu_img_ok("info --output=json -f raw a.raw").json();
    assert_eq!(info["virtual-size"], 10_u64 << 30);
    assert!(allocated(&folder.path("a.raw")) <= 64 * 1024);
    assert_eq!(folder.names(), ["a.raw"]);
}

#[test]
fn a_new_image_has_the_mode_of_any_new_file() {
    let folder = Folder::new();
    let mode = |name: &str| std::fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777;
    std::fs::write(folder.path("other"), "").unwrap();
    folder.sky_img_ok("create -f raw a.raw 1M");
    assert_eq!(mode("a.raw"), mode("other"));
    std::fs::set_permissions(folder.path("a.raw"), std::fs::Permissions::from_mode(0o640)).unwrap();
    folder.sky_img_ok("create --force -f raw a.raw 2M");
    assert_eq!(mode("a.raw"), 0o640);
}

#[test]
fn a_link_stays_a_link() {
    let folder = Folder::new();
    folder.sky_img_ok("create -f raw a.raw 1M");
    std::os::unix::fs::symlink("a.raw", folder.path("link")).unwrap();
    folder.sky_img_ok("create --force -f raw link 2M");
    assert!(std::fs::symlink_metadata(folder.path("link")).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(folder.path("a.raw")).unwrap().len(), 2 * MIB);
}

#[test]
fn info_says_what_qemu_says() {
    let folder = Folder::new();
    folder.disk("a.raw");
    folder.qemu_img_ok("convert -q -f raw -O qcow2 a.raw a.qcow2");
    for format in ["raw", "qcow2"] {
        let ours = folder.sky_img_ok(&format!("info --json -f {format} a.{format}")).json();
        let theirs = folder.qemu_img_ok(&format!("info --output=json -f {format} a.{format}")).json();
        for key in ["filename", "format", "virtual-size", "actual-size"] {
            assert_eq!(ours[key], theirs[key], "{key} of {format}");
        }
    }
    let text = folder.sky_img_ok("info -f qcow2 a.qcow2").stdout;
    assert!(text.contains("disk size      64 MiB (67109376 bytes)\n"), "{text}");
}

#[test]
fn a_disk_grows_and_keeps_what_it_held() {
    let folder = Folder::new();
    let path = folder.disk("a.raw");
    let before = std::fs::read(&path).unwrap();
    folder.sky_img_ok("resize -f raw a.raw 80M");
    folder.sky_img_ok("resize -f raw a.raw +16M");
    let after = std::fs::read(&path).unwrap();
    assert_eq!(after.len(), 96 * 1024 * 1024);
    assert!(after[..before.len()] == before && after[before.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn there_is_nothing_to_check() {
    let folder = Folder::new();
    folder.disk("a.raw");
    assert_eq!(folder.sky_img("check -f raw a.raw").status, 63);
    assert_eq!(folder.qemu_img("check -f raw a.raw").status, 63);
}

//! What users are told when something is wrong.

use serde_json::Value;
use sky_devices::block::{RawFile, RawOptions};

use crate::harness::Folder;

#[test]
fn a_format_must_be_given_and_is_never_guessed() {
    let folder = Folder::new();
    folder.disk("a.raw");
    for arguments in [
        "info a.raw",
        "map a.raw",
        "convert -O raw a.raw b.raw",
        "convert -f raw a.raw b.raw",
        "compare -f raw a.raw a.raw",
        "create b.raw 1M",
        "resize a.raw +1M",
        "check a.raw",
        "bench a.raw",
    ] {
        let ran = folder.sky_img(arguments);
        assert_eq!(ran.status, 2, "{arguments}: {ran:?}");
        assert!(ran.stderr.contains("must be given: -"), "{arguments}: {ran:?}");
    }
    assert_eq!(folder.names(), ["a.raw"]);
    let ran = folder.sky_img("info -f vmdk a.raw");
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("there is no format \"vmdk\"; the formats are raw, qcow2 and selfie"),
        "{ran:?}"
    );
}

#[test]
fn a_missing_image_is_named() {
    let folder = Folder::new();
    let ran = folder.sky_img("info -f raw a.img");
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.starts_with("sky-img: cannot open a.img: there is no such file"), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn the_same_error_as_json() {
    let folder = Folder::new();
    let ran = folder.sky_img("--json info -f raw a.img");
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.status, &error["status"]), (1, &1.into()));
    assert!(error["error"].as_str().unwrap().contains("cannot open a.img"), "{error}");
}

#[test]
fn an_image_in_use_is_left_alone() {
    let folder = Folder::new();
    let path = folder.disk("a.raw");
    let _machine = RawFile::open(RawOptions::new(path)).unwrap();
    for arguments in ["info -f raw a.raw", "create --force -f raw a.raw 1M", "resize -f raw a.raw +1M"] {
        let ran = folder.sky_img(arguments);
        assert_eq!(ran.status, 1, "{arguments}: {ran:?}");
        assert!(ran.stderr.contains("open in another instance"), "{arguments}: {ran:?}");
    }
    assert_eq!(folder.names(), ["a.raw"]);
}

#[test]
fn nonsense_is_refused() {
    let folder = Folder::new();
    folder.disk("a.raw");
    std::fs::create_dir(folder.path("folder")).unwrap();
    for (arguments, status, message) in [
        ("create -f raw b.raw 1000", 1, "multiple of 512"),
        ("create -f raw b.raw 0", 1, "not zero"),
        ("create -f raw b.raw lots", 2, "is not a size"),
        ("create -f raw b.raw", 2, "size of the disk must be given"),
        ("create -f raw --max-size 1G b.raw 1M", 1, "neither a backing image nor"),
        (
            "create -f raw folder/missing/b.raw 1M",
            1,
            "cannot create folder/missing/b.raw: there is no such file",
        ),
        ("create -f qcow2 b.qcow2 1M", 1, "can be read here, and not written"),
        ("resize -f raw a.raw 1M", 1, "making it smaller would cut off data"),
        ("resize -f raw a.raw +16777215T", 1, "no disk is that large"),
        ("info -f raw folder", 1, "not a regular file"),
        ("info -f qcow2 a.raw", 1, "does not begin as a qcow2 image does"),
        ("bench -f raw -s 1000 a.raw", 2, "multiple of 512"),
        ("frobnicate", 2, "unrecognized subcommand"),
    ] {
        let ran = folder.sky_img(arguments);
        assert_eq!(ran.status, status, "{arguments}: {ran:?}");
        assert!(ran.stderr.contains(message), "{arguments}: {ran:?}");
    }
    assert_eq!(folder.names(), ["a.raw", "folder"]);
}

#[test]
fn a_full_medium_is_told() {
    let folder = Folder::new();
    folder.disk("a.raw");
    // Larger than a file may be here; any file system refuses that.
    let ran = folder.sky_img("create -f raw b.raw 8388607T");
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_eq!(folder.names(), ["a.raw"]);
}

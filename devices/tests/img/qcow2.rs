//! QEMU's images as sources.

use std::os::unix::fs::FileExt;

use crate::harness::{Folder, MIB, allocated, noise};

#[test]
fn every_kind_that_qemu_makes_is_read() {
    let folder = Folder::new();
    folder.disk("a.raw");
    for (index, options) in [
        "",
        "-c",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-c -o cluster_size=4k",
        "-o compat=0.10",
        "-o preallocation=metadata",
        "-o lazy_refcounts=on",
        "-o refcount_bits=1",
        "-S 0",
    ]
    .into_iter()
    .enumerate()
    {
        let (image, copy) = (format!("{index}.qcow2"), format!("{index}.raw"));
        folder.qemu_img_ok(&format!("convert -q -f raw -O qcow2 {options} a.raw {image}"));
        folder.sky_img_ok(&format!("convert -f qcow2 -O raw {image} {copy}"));
        folder.same("raw", "a.raw", "raw", &copy);
        folder.sky_img_ok(&format!("compare -s -f qcow2 -F raw {image} a.raw"));
        assert!(allocated(&folder.path(&copy)) <= 4 * MIB, "{options}: zeros take space");
    }
}

#[test]
fn a_backing_image_is_opened_only_on_request() {
    let folder = Folder::new();
    folder.disk("base.raw");
    folder.qemu_img_ok("create -q -f qcow2 -b base.raw -F raw mid.qcow2 80M");
    folder.qemu_io(
        "qcow2",
        "mid.qcow2",
        &["write -q -P 3 21M 1M", "write -q -P 4 70M 4k", "write -q -z 0 64k"],
    );
    folder.qemu_img_ok("create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 90M");
    folder.qemu_io("qcow2", "top.qcow2", &["write -q -P 5 21500k 8k", "write -q -P 6 85M 64k"]);
    for command in ["convert -f qcow2 -O raw top.qcow2 b.raw", "compare -f qcow2 -F raw top.qcow2 base.raw"] {
        let ran = folder.sky_img(command);
        assert!(ran.status != 0 && ran.stderr.contains("--with-backing opens it"), "{ran:?}");
    }
    folder.sky_img_ok("convert --with-backing -f qcow2 -O raw top.qcow2 b.raw");
    folder.same("qcow2", "top.qcow2", "raw", "b.raw");
    let info = folder.sky_img_ok("info --json -f qcow2 top.qcow2").json();
    assert_eq!(
        (&info["backing-filename"], &info["backing-filename-format"]),
        (&"mid.qcow2".into(), &"qcow2".into())
    );
    let chain = folder.sky_img_ok("info --json --with-backing -f qcow2 top.qcow2").json();
    let names: Vec<_> =
        chain.as_array().unwrap().iter().map(|image| image["filename"].as_str().unwrap()).collect();
    assert_eq!(names, ["top.qcow2", "mid.qcow2", "base.raw"]);
}

#[test]
fn names_of_backing_images_begin_in_the_folder_of_the_child() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("images")).unwrap();
    folder.disk("images/base.raw");
    folder.qemu_img_ok("create -q -f qcow2 -b base.raw -F raw images/top.qcow2");
    folder.sky_img_ok("compare -s --with-backing -f qcow2 -F raw images/top.qcow2 images/base.raw");
}

/// Makes the record of the format one that nobody knows, and everybody passes over.
fn forget_backing_format(folder: &Folder, name: &str) {
    let mut bytes = std::fs::read(folder.path(name)).unwrap();
    let at = bytes.windows(4).position(|window| window == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[at..at + 4].copy_from_slice(b"none");
    std::fs::write(folder.path(name), bytes).unwrap();
}

#[test]
fn chains_that_are_wrong_are_refused() {
    let folder = Folder::new();
    folder.qemu_img_ok("create -q -f qcow2 a.qcow2 1M");
    folder.qemu_img_ok("create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    folder.qemu_img_ok("rebase -u -f qcow2 -b b.qcow2 -F qcow2 a.qcow2");
    folder.qemu_img_ok("create -q -u -f qcow2 -b a.raw -F raw guessed.qcow2 1M");
    forget_backing_format(&folder, "guessed.qcow2");
    folder.qemu_img_ok("create -q -u -f qcow2 -b gone.raw -F raw missing.qcow2 1M");
    folder.qemu_img_ok("create -q -u -f qcow2 -b a.vmdk -F vmdk other.qcow2 1M");
    folder.qemu_img_ok("create -q -f qcow2 0.qcow2 1M");
    for index in 0..32 {
        folder
            .qemu_img_ok(&format!("create -q -u -f qcow2 -b {index}.qcow2 -F qcow2 {}.qcow2 1M", index + 1));
    }
    for (image, message) in [
        ("a.qcow2", "comes back to this one"),
        ("guessed.qcow2", "without a format"),
        ("missing.qcow2", "gone.raw: there is no such file"),
        ("other.qcow2", "there is no format \"vmdk\""),
        ("32.qcow2", "has more than 32"),
    ] {
        let ran = folder.sky_img(&format!("convert --with-backing -f qcow2 -O raw {image} out.raw"));
        assert_eq!(ran.status, 1, "{image}: {ran:?}");
        assert!(ran.stderr.contains(message), "{image}: {ran:?}");
    }
    folder.sky_img_ok("convert --with-backing -f qcow2 -O raw 31.qcow2 out.raw");
}

#[test]
fn what_cannot_be_read_is_told() {
    let folder = Folder::new();
    folder.qemu_img_ok("create -q -f qcow2 -o data_file=data.bin outside.qcow2 1M");
    folder.qemu_img_ok("create -q -f qcow2 -o extended_l2=on subclusters.qcow2 1M");
    folder.qemu_img_ok(
        "create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 \
         secret.qcow2 1M",
    );
    for (image, message) in [
        ("outside.qcow2", "its data is in another file"),
        ("subclusters.qcow2", "incompatible feature"),
        ("secret.qcow2", "the image is encrypted"),
    ] {
        let ran = folder.sky_img(&format!("info -f qcow2 {image}"));
        assert_eq!(ran.status, 1, "{image}: {ran:?}");
        assert!(ran.stderr.contains(message), "{image}: {ran:?}");
    }
}

/// One field of a header, changed: its offset, its bytes.
const CHANGES: [(u64, &[u8]); 10] = [
    (0, b"QFI\0"),
    (4, &[0, 0, 0, 9]),
    (20, &[0, 0, 0, 8]),
    (20, &[0, 0, 0, 63]),
    (24, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    (24, &[0; 8]),
    (36, &[0, 0, 0, 0]),
    (36, &[0xff, 0xff, 0xff, 0xff]),
    (40, &[0, 0, 0, 0, 0, 0, 0, 3]),
    (72, &[0xff; 8]),
];

#[test]
fn a_header_that_lies_is_refused() {
    let folder = Folder::new();
    folder.qemu_img_ok("create -q -f qcow2 a.qcow2 64M");
    let good = std::fs::read(folder.path("a.qcow2")).unwrap();
    for (offset, bytes) in CHANGES {
        std::fs::write(folder.path("a.qcow2"), &good).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(folder.path("a.qcow2")).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        let ran = folder.sky_img("convert -f qcow2 -O raw a.qcow2 b.raw");
        assert_eq!(ran.status, 1, "{bytes:?} at {offset}: {ran:?}");
        assert!(ran.stderr.starts_with("sky-img: cannot open a.qcow2: "), "{bytes:?} at {offset}: {ran:?}");
    }
}

/// Bytes of the metadata overwritten by noise: it is read, or refused; it does not crash.
#[test]
fn damaged_tables_do_no_harm() {
    let folder = Folder::new();
    folder.qemu_img_ok("create -q -f qcow2 -o cluster_size=4k a.qcow2 16M");
    folder.qemu_io(
        "qcow2",
        "a.qcow2",
        &["write -q -P 7 0 1M", "write -q -c -P 8 8M 64k", "write -q -z 12M 1M"],
    );
    let good = std::fs::read(folder.path("a.qcow2")).unwrap();
    let noise = noise(64 * 1024);
    let mut refused = 0;
    for round in 0..60 {
        let mut bytes = good.clone();
        let at = usize::from(noise[2 * round]) * 8 + usize::from(noise[2 * round + 1]) * 160;
        let at = at % (bytes.len() - 64);
        bytes[at..at + 8].copy_from_slice(&noise[1000 + round * 8..1008 + round * 8]);
        std::fs::write(folder.path("a.qcow2"), &bytes).unwrap();
        let ran = folder.sky_img("convert --force -f qcow2 -O raw a.qcow2 b.raw");
        assert!(ran.status == 0 || ran.status == 1, "round {round}, {at}: {ran:?}");
        assert!(!ran.stderr.contains("panicked"), "round {round}, {at}: {ran:?}");
        refused += ran.status;
    }
    assert!(refused > 0, "nothing was damaged");
}

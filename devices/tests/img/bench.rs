//! The load generator counts what the kernel counts.

use crate::harness::Folder;

#[test]
fn a_raw_image_takes_one_write_for_each() {
    let folder = Folder::new();
    folder.disk("a.raw");
    let ran = folder.sky_img_ok("bench --json -f raw --write -p rand -d 4 -c 400 --flush-interval 10 a.raw");
    let report = ran.json();
    assert_eq!((&report["requests"], &report["flushes"]), (&400.into(), &40.into()));
    assert_eq!(report["host-writes-per-request"], 1.0);
    assert_eq!(report["host-bytes-per-request"], 4096.0);
    let number = |key: &str| report[key].as_f64().unwrap();
    assert!(number("p50-microseconds") > 0.0 && number("p50-microseconds") <= number("p99-microseconds"));
}

#[test]
fn without_leave_nothing_is_written() {
    let folder = Folder::new();
    let before = std::fs::read(folder.disk("a.raw")).unwrap();
    for pattern in ["seq", "rand"] {
        let ran = folder.sky_img_ok(&format!("bench --json -f raw -p {pattern} -s 64K -c 100 a.raw"));
        assert_eq!(ran.json()["host-writes-per-request"], 0.0);
    }
    assert!(std::fs::read(folder.path("a.raw")).unwrap() == before);
}

//! Any bytes as a Selfie image; see `devices/tests/any_bytes/image.rs` for what they mean. With
//! `-rss_limit_mb=512 -timeout=10 -max_len=4096` it also finds what takes too much memory or time.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, clippy::unwrap_used, reason = "what tests use besides, and how they do it")]
#[path = "../../tests/any_bytes/image.rs"]
mod image;

fuzz_target!(|data: &[u8]| {
    // Every zone of a file may have to be looked at: no larger ones than a GiB, or all time goes into holes.
    if data.get(1).is_none_or(|&size| size < 0x60) {
        image::run(data);
    }
});

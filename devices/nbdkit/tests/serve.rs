//! `sky-img serve`: what it prints, what it leaves behind, and how it ends.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use sky_devices::block::{FileOptions, FileStorage};
use sky_devices::selfie;
use tempfile::TempDir;

#[path = "nbd/tools.rs"]
mod tools;

/// The program, built now: it belongs to another package. The plugin is beside these tests.
fn sky_img() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let tests = std::env::current_exe().unwrap();
    let deps = tests.parent().unwrap();
    let program = PROGRAM.get_or_init(|| {
        let profile = deps.parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "sky-devices", "--bin", "sky-img", "--target-dir"]);
        build.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        tools::run(&mut build);
        profile.join("sky-img")
    });
    let mut command = Command::new(program);
    command.env("SKY_NBDKIT_PLUGIN", deps.join("libnbdkit_sky_plugin.so")).stdin(Stdio::null());
    command
}

struct Serving {
    child: Child,
    line: String,
}

/// Starts to serve and waits for the line that says where.
fn serve(folder: &TempDir, arguments: &[&str]) -> Serving {
    drop(tools::program("nbdkit"));
    let mut command = sky_img();
    command.current_dir(folder.path()).arg("serve").args(arguments).stdout(Stdio::piped());
    let mut child = tools::spawn(&mut command);
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    while reader.read_line(&mut line).unwrap() > 0 && line.starts_with('{') && !line.ends_with("}\n") {}
    assert!(!line.is_empty(), "sky-img serve {arguments:?} ended with {}", child.wait().unwrap());
    Serving { child, line: line.trim_end().into() }
}

impl Serving {
    fn end(mut self, signal: &str) -> i32 {
        tools::run(Command::new("kill").args(["-s", signal]).arg(self.child.id().to_string()));
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Nothing happens if it has ended; after a failure it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn image(folder: &TempDir, format: &str) {
    let size = ["create", "-f", format, "image", "64M"];
    tools::run(sky_img().current_dir(folder.path()).args(size));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn nbd_by_unix_socket_with_an_export_name() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder, "selfie");
    let serving = serve(&folder, &["-f", "selfie", "image", "--nbd", "unix:a socket", "--export", "disk 1"]);
    let socket = folder.path().canonicalize().unwrap().join("a socket").display().to_string();
    assert_eq!(serving.line, format!("nbd+unix:///disk%201?socket={}", socket.replace(' ', "%20")));
    let text = tools::run(tools::program("nbdinfo").args(["--json", "--list", &serving.line]));
    let info: Value = serde_json::from_str(&text).unwrap();
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "disk 1");
    assert_eq!(export["export-size"], 64 << 20);
    let sizes = ["block_size_minimum", "block_size_preferred", "block_size_maximum"];
    assert_eq!(sizes.map(|key| export[key].as_u64().unwrap()), [512, 4096, 32 << 20]);
    for can in ["can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"] {
        assert_eq!(export[can], true, "{can}");
    }
    let other = serving.line.replace("disk%201", "disk2");
    assert!(!tools::output(tools::program("nbdinfo").arg(&other)).status.success());
    tools::run(tools::program("qemu-io").args([
        "-f",
        "raw",
        "-c",
        "write -P 7 4k 8k",
        "-c",
        "flush",
        &serving.line,
    ]));

    // A second server is told so, and the first one goes on.
    let second = ["serve", "-f", "selfie", "image", "--nbd", "unix:a socket"];
    let output = tools::output(sky_img().current_dir(folder.path()).args(second));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a socket is in use"), "{output:?}");
    let read = ["-f", "raw", "-c", "read -P 7 4k 8k"];
    let text = tools::run(tools::program("qemu-io").args(read).arg(&serving.line));
    assert!(!text.contains("failed"), "{text}");

    assert_eq!(serving.end("TERM"), 0);
    assert_eq!(names(folder.path()), ["image"], "the socket has gone");
    let options = FileOptions { read_only: true, ..FileOptions::new(folder.path().join("image")) };
    let report = tools::alone(|| selfie::check(&FileStorage::open(options).unwrap()).unwrap());
    assert!(report.is_clean() && !report.dirty, "{report:?}");
}

#[test]
fn a_socket_that_a_dead_server_left_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder, "raw");
    let mut serving = serve(&folder, &["-f", "raw", "image", "--nbd", "unix:socket"]);
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    assert_eq!(names(folder.path()), ["image", "socket"]);
    // nbdkit ends by itself then. It is no longer there for clients before it lets the image go.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
    let free = || {
        let options = FileOptions { read_only: true, ..FileOptions::new(folder.path().join("image")) };
        tools::alone(|| FileStorage::open(options).is_ok())
    };
    while tools::output(tools::program("nbdinfo").args(["--size", &serving.line])).status.success() || !free()
    {
        assert!(std::time::Instant::now() < deadline, "nbdkit outlives sky-img");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let again = serve(&folder, &["-f", "raw", "image", "--nbd", "unix:socket", "--json", "--read-only"]);
    let told: Value = serde_json::from_str(&again.line).unwrap();
    let text = tools::run(tools::program("nbdinfo").args(["--json", told["uri"].as_str().unwrap()]));
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["exports"][0]["is_read_only"], true);
    assert_eq!(again.end("INT"), 0);
}

#[test]
fn more_arguments_reach_nbdkit() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder, "raw");
    let arguments =
        ["-f", "raw", "image", "--nbd", "unix:socket", "--", "--filter=offset", "offset=1M", "range=2M"];
    let serving = serve(&folder, &arguments);
    let size = tools::run(tools::program("nbdinfo").args(["--size", &serving.line]));
    assert_eq!(size.trim(), (2 << 20).to_string());
    assert_eq!(serving.end("TERM"), 0);
}

#[test]
fn vhost_user_listens_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder, "raw");
    let serving = serve(&folder, &["-f", "raw", "image", "--vhost-user", "vhost", "--queues", "2"]);
    assert!(serving.line.ends_with("/vhost"), "{}", serving.line);
    drop(std::os::unix::net::UnixStream::connect(folder.path().join("vhost")).unwrap());
    assert_eq!(serving.end("TERM"), 0);
    assert_eq!(names(folder.path()), ["image"]);
}

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder, "raw");
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (arguments, status, message) in [
        (vec!["-f", "raw", "image"], 2, "--nbd"),
        (vec!["image", "--nbd", "unix:s"], 2, "-f raw"),
        (vec!["-f", "raw", "image", "--nbd", "nowhere"], 2, "neither unix:PATH nor ADDRESS:PORT"),
        (vec!["-f", "raw", "image", "--nbd", "unix:file"], 1, "file exists and is no socket"),
        (vec!["-f", "raw", "image", "--vhost-user", "file"], 1, "file exists and is no socket"),
        (vec!["-f", "raw", "nothing", "--nbd", "unix:s"], 1, "nbdkit ended with exit status: 1"),
        (vec!["-f", "raw", "image", "--nbd", "unix:s", "--plugin", "/no.so"], 1, "nbdkit ended with"),
        (vec!["-f", "raw", "image", "--vhost-user", "v", "--queues", "0"], 1, "0 queues"),
    ] {
        let mut command = sky_img();
        command.current_dir(folder.path()).arg("serve").args(&arguments);
        let output = tools::output(&mut command);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {told}");
        assert!(told.contains(message), "{arguments:?}: {told}");
    }
}

/// A file's SHA-256, by somebody else's program.
fn digest(path: &Path) -> String {
    let text = tools::run(Command::new("sha256sum").arg(path));
    text.split_whitespace().next().unwrap().to_owned()
}

/// A root file system of Debian packages: raw to Selfie to NBD to raw, and raw to NBD to Selfie to raw.
#[test]
fn a_debian_system_comes_back_as_it_went() {
    let debian = guest_tests::packages::rootfs().unwrap();
    let (size, whole) = (std::fs::metadata(&debian).unwrap().len().to_string(), digest(&debian));
    let debian = debian.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sky = |arguments: &[&str]| tools::run(sky_img().current_dir(folder.path()).args(arguments));
    let qemu_img = |arguments: &[&str]| {
        tools::run(tools::program("qemu-img").current_dir(folder.path()).args(arguments))
    };

    sky(&["convert", "-f", "raw", "-O", "selfie", debian, "image"]);
    let serving = serve(&folder, &["-f", "selfie", "image", "--nbd", "unix:socket"]);
    qemu_img(&["convert", "-f", "raw", "-O", "raw", &serving.line, "out.raw"]);
    assert!(qemu_img(&["compare", "-f", "raw", "-F", "raw", debian, &serving.line]).contains("identical"));
    assert_eq!(serving.end("TERM"), 0);
    assert_eq!(digest(&folder.path().join("out.raw")), whole);

    sky(&["create", "-f", "selfie", "second", &size]);
    let serving = serve(&folder, &["-f", "selfie", "second", "--nbd", "unix:socket"]);
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", debian, &serving.line]);
    assert_eq!(serving.end("TERM"), 0);
    sky(&["check", "-f", "selfie", "second"]);
    sky(&["convert", "-f", "selfie", "-O", "raw", "second", "back.raw"]);
    assert_eq!(digest(&folder.path().join("back.raw")), whole);
}

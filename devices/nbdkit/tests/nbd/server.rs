//! nbdkit with the plugin, serving one image.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use sky_devices::image::{Format, NewImage, NewImageOptions};
use sky_devices::layers::{NewDedup, create_dedup};
use tempfile::TempDir;

use crate::client::Client;
use crate::tools;

/// The formats that are served read-write.
pub(crate) const FORMATS: [Format; 2] = [Format::Raw, Format::Selfie];

pub(crate) const MIB: u64 = 1 << 20;

/// An image in a folder of its own, and the server that has it open.
pub(crate) struct Server {
    folder: TempDir,
    format: Format,
    /// Parameters that say which layers are above the image.
    layers: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Serves a new image of `size` bytes.
    pub(crate) fn new(format: Format, size: u64) -> Self {
        let mut server = Self::stopped(format, size);
        server.start();
        server
    }

    /// A new image of `size` bytes that nobody serves yet.
    pub(crate) fn stopped(format: Format, size: u64) -> Self {
        // Not in /tmp, which may be memory: direct access and holes are the file system's.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = NewImageOptions::new(folder.path().join("image"), format, size);
        tools::alone(|| NewImage::create(&options).unwrap().finish().unwrap());
        Self { folder, format, layers: Vec::new(), child: None }
    }

    /// A new disk of `size` bytes with layers, that nobody serves yet. The fast tier of a cache is beside the image and
    /// holds 16 MiB.
    pub(crate) fn layered(format: Format, size: u64, layers: &str, mode: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = NewImageOptions::new(folder.path().join("image"), format, size);
        let mut arguments = vec![format!("layers={layers}")];
        tools::alone(|| match layers.contains("dedup") {
            true => drop(create_dedup(&NewDedup { image, capacity: None }).unwrap()),
            false => NewImage::create(&image).unwrap().finish().unwrap(),
        });
        if layers.contains("cache") {
            let fast = folder.path().join("fast");
            arguments.extend([
                format!("cache={}", fast.display()),
                "cache-size=16M".into(),
                format!("cache-mode={mode}"),
            ]);
        }
        Self { folder, format, layers: arguments, child: None }
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts nbdkit with more arguments and waits until clients can connect.
    pub(crate) fn start_with(&mut self, more: &[&str]) {
        let _ = std::fs::remove_file(self.socket());
        let mut command = tools::program("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--threads=8", "--unix"]);
        command.arg(self.socket()).arg(plugin()).arg(self.image());
        command.arg(format!("format={}", self.format)).args(&self.layers).args(more);
        let mut child = tools::spawn(&mut command);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Client::try_connect(&self.socket()).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "nbdkit has ended");
            assert!(Instant::now() < deadline, "nbdkit does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// A file beside the image.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// How clients find it.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// Ends the server at once, whatever it is doing.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the server as an administrator does, and returns its exit status.
    pub(crate) fn stop(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        tools::run(tools::program("kill").arg(child.id().to_string()));
        child.wait().unwrap().code().unwrap_or(-1)
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Bytes that the image takes.
    pub(crate) fn allocated(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::File::open(self.image()).unwrap();
        // Until then a file system may count what it means to allocate.
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// The plugin, which cargo has built for these tests, beside them.
pub(crate) fn plugin() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let plugin = tests.parent().unwrap_or(Path::new("/")).join("libnbdkit_sky_plugin.so");
    assert!(plugin.is_file(), "{} has not been built", plugin.display());
    plugin
}

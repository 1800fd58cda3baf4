//! A private apt: its own sources, lists and cache below the target directory.
//!
//! Downloading a package this way needs no privilege and changes nothing about the system's own apt. The same
//! configuration, told where the real package status lies, also installs (see `install`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::cache::FileLock;
use crate::command;
use crate::error::{Error, Result};
use crate::paths;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org";
/// Lists older than this may name files that the mirror no longer has.
const LISTS_AGE: Duration = Duration::from_secs(12 * 3600);

/// An apt configuration for one Debian release.
pub(super) struct Apt {
    dir: PathBuf,
    codename: String,
}

impl Apt {
    /// Prepares the configuration for a release and fetches its package lists if they are missing or old.
    pub(super) fn open(codename: &str) -> Result<Apt> {
        if command::find("apt-get").is_none() || !Path::new(KEYRING).is_file() {
            return Err(Error::Missing(format!(
                "the lab's kernels are Debian packages: this needs apt-get, dpkg and {KEYRING} (package debian-archive-keyring)"
            )));
        }
        let apt = Apt { dir: paths::lab().join("apt").join(codename), codename: codename.into() };
        let _lock = FileLock::wait(&apt.dir.join("lock"))?;
        apt.write_configuration()?;
        let stamp = apt.dir.join("updated");
        if is_old(&stamp) {
            command::run(apt.tool("apt-get").arg("update"))?;
            fs::write(&stamp, "").map_err(Error::file("write", &stamp))?;
        }
        Ok(apt)
    }

    fn write_configuration(&self) -> Result<()> {
        for sub in ["lists/partial", "archives/partial"] {
            let path = self.dir.join(sub);
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        let dir = self.dir.display();
        let codename = &self.codename;
        let mut sources = String::new();
        for (archive, suite) in [
            ("debian", ""),
            ("debian", "-updates"),
            ("debian-security", "-security"),
            ("debian", "-backports"),
        ] {
            sources += &format!("deb [signed-by={KEYRING}] {MIRROR}/{archive} {codename}{suite} main\n");
        }
        let configuration = format!(
            r#"Dir::State "{dir}";
Dir::State::status "{dir}/status";
Dir::State::lists "{dir}/lists";
Dir::Cache "{dir}";
Dir::Cache::archives "{dir}/archives";
Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Translations::DefaultEnabled "false";
"#
        );
        // An empty status file: nothing is installed as far as the private apt is concerned.
        for (name, text) in
            [("sources.list", sources), ("apt.conf", configuration), ("status", String::new())]
        {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        Ok(())
    }

    /// The real package a meta package stands for, with its version: `linux-image-amd64` names today's kernel.
    pub(super) fn resolve(&self, meta: &str, suite: Option<&str>) -> Result<String> {
        let mut show = self.tool("apt-cache");
        if let Some(suite) = suite {
            show.arg("-o").arg(format!("APT::Default-Release={suite}"));
        }
        let text = command::run(show.args(["show", "--no-all-versions", meta]))?;
        first_dependency(&String::from_utf8_lossy(&text))
            .ok_or_else(|| Error::Missing(format!("the package {meta} depends on no kernel")))
    }

    /// Packages with all that they need, as `name=version`, in an order in which they could be installed, and from a
    /// suite if one is preferred. Nothing is installed already as far as the private apt is concerned, so the list is
    /// complete.
    pub(super) fn closure(&self, packages: &[&str], suite: Option<&str>) -> Result<Vec<String>> {
        let mut install = self.tool("apt-get");
        install.args(["install", "--simulate", "--no-install-recommends"]);
        if let Some(suite) = suite {
            install.args(["-t", suite]);
        }
        let text = command::run(install.args(packages))?;
        let list: Vec<String> =
            String::from_utf8_lossy(&text).lines().filter_map(simulated_installation).collect();
        if list.len() < packages.len() {
            return Err(Error::Missing(format!("apt-get would not install {}", packages.join(" "))));
        }
        Ok(list)
    }

    /// Downloads a package (`name` or `name=version`) and unpacks it into `dir`.
    pub(super) fn unpack(&self, package: &str, dir: &Path) -> Result<()> {
        self.unpack_all(&[package.to_string()], dir)
    }

    /// Downloads packages and unpacks them one over the other into `dir`.
    pub(super) fn unpack_all(&self, packages: &[String], dir: &Path) -> Result<()> {
        let downloads =
            tempfile::tempdir_in(&self.dir).map_err(Error::file("create a directory in", &self.dir))?;
        command::run(self.tool("apt-get").current_dir(downloads.path()).arg("download").args(packages))?;
        let entries = fs::read_dir(downloads.path()).map_err(Error::file("list", downloads.path()))?;
        let debs: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        if debs.len() != packages.len() {
            return Err(Error::Missing(format!(
                "apt-get download {} left {} .deb files",
                packages.join(" "),
                debs.len()
            )));
        }
        for deb in debs {
            command::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(dir))?;
        }
        Ok(())
    }

    /// Installs packages into the system, from these sources. Only root may.
    pub(super) fn install(&self, packages: &[&str]) -> Result<()> {
        let mut install = self.tool("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "DPkg::Lock::Timeout=300"]);
        install.args(["install", "-y", "--no-install-recommends"]);
        command::run(install.args(packages)).map(drop)
    }

    fn tool(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        command
    }
}

/// `Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)` gives `linux-image-6.1.0-56-amd64=6.1.192-2`.
fn first_dependency(show: &str) -> Option<String> {
    let depends = show.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let image = depends.split(',').map(str::trim).find(|item| item.starts_with("linux-image-"))?;
    let mut words = image.split([' ', '(', ')', '=']).filter(|word| !word.is_empty());
    let name = words.next()?;
    Some(words.next().map_or_else(|| name.to_string(), |version| format!("{name}={version}")))
}

/// `Inst libc6 (2.36-9 Debian:12/stable [amd64]) []` gives `libc6=2.36-9`.
fn simulated_installation(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let name = words.next()?;
    // The version that is installed already would stand in brackets before the new one.
    let version = words.find_map(|word| word.strip_prefix('('))?;
    Some(format!("{name}={version}"))
}

fn is_old(stamp: &Path) -> bool {
    let Ok(modified) = fs::metadata(stamp).and_then(|meta| meta.modified()) else { return true };
    SystemTime::now().duration_since(modified).is_ok_and(|age| age > LISTS_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_names_its_kernel() {
        let show = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n";
        assert_eq!(first_dependency(show).as_deref(), Some("linux-image-6.1.0-56-amd64=6.1.192-2"));
        let show = "Depends: wireless-regdb, linux-image-6.12.1-amd64\n";
        assert_eq!(first_dependency(show).as_deref(), Some("linux-image-6.12.1-amd64"));
        assert_eq!(first_dependency("Package: x\n"), None);
    }

    #[test]
    fn simulated_installations_are_read() {
        let line = "Inst libattr1 (1:2.5.1-4 Debian:12.15/oldstable [amd64])";
        assert_eq!(simulated_installation(line).as_deref(), Some("libattr1=1:2.5.1-4"));
        let line = "Inst libc6 [2.35] (2.36-9 Debian:12.15/oldstable, Debian-Security:12 [amd64]) []";
        assert_eq!(simulated_installation(line).as_deref(), Some("libc6=2.36-9"));
        assert_eq!(simulated_installation("Conf libc6 (2.36-9 Debian:12.15/oldstable [amd64])"), None);
    }
}

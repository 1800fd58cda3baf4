//! Where nbdkit and its plugin are on this host.

use std::env;
use std::path::{Path, PathBuf};

use super::Error;

/// File name of the plugin.
pub(super) const FILE_NAME: &str = "libnbdkit_sky_plugin.so";
/// Name of the environment variable that may hold the plugin's path.
pub(super) const VARIABLE: &str = "SKY_NBDKIT_PLUGIN";

/// The program nbdkit.
///
/// # Errors
/// It is not installed.
pub(super) fn find_nbdkit() -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps it in /usr/sbin, where the path of an ordinary user may not lead.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut candidates = env::split_paths(&path).chain(more).map(|folder| folder.join("nbdkit"));
    candidates.find(|file| file.is_file()).ok_or(Error::NoNbdkit)
}

/// The plugin: the one that was named, or one beside this program.
///
/// # Errors
/// There is none.
pub(super) fn find_plugin(named: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = named.map(Path::to_owned).or_else(|| env::var_os(VARIABLE).map(PathBuf::from)) {
        // A name without a slash would be one of nbdkit's own plugins to nbdkit.
        return std::path::absolute(&path).map_err(Error::io(path.display().to_string()));
    }
    let program = env::current_exe().map_err(Error::io("cannot find the folder of sky-img"))?;
    let folders = folders(program.parent().unwrap_or(Path::new("/")));
    let found = folders.iter().map(|folder| folder.join(FILE_NAME)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Error::NoPlugin { searched: searched.join(", ") }
    })
}

/// Folders that may hold the plugin, given that of the program: cargo's, and those of an installation.
fn folders(program: &Path) -> [PathBuf; 4] {
    ["", "deps", "../lib/sky", "../lib"].map(|folder| program.join(folder))
}

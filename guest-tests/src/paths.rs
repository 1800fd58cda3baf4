//! Where things are: the workspace, its target directory and the caches beneath it.
//! Nothing here is absolute; a clone works wherever it lies.

use std::path::{Path, PathBuf};

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The target directory that the running program was built in.
///
/// Inside the lab there is no cargo and no `CARGO_TARGET_DIR`, so the place of the program itself is asked first:
/// cargo marks the top of every target directory with a `CACHEDIR.TAG`.
pub fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    if let Some(dir) = exe.ancestors().skip(1).find(|dir| dir.join("CACHEDIR.TAG").is_file()) {
        return dir.to_path_buf();
    }
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Downloads, kernels, tools and the state of the running lab.
pub fn lab() -> PathBuf {
    target().join("lab")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_holds_this_package() {
        assert!(workspace().join("guest-tests/Cargo.toml").is_file());
    }

    #[test]
    fn the_target_directory_holds_this_test() {
        assert!(std::env::current_exe().unwrap().starts_with(target()));
    }
}

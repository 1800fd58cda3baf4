//! Kernel modules for an initramfs: which ones a module needs, in the order to load them, unpacked.
//!
//! Debian's packages come without `modules.dep` (depmod makes it at installation), but every module names the
//! modules it depends on in its own `.modinfo`. Reading that needs no tools and no root.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command;
use crate::error::{Error, Result};
use crate::initramfs::Initramfs;
use crate::packages::{Kernel, Tool, ensure};

/// Where modules lie in an initramfs, named so that their alphabetical order is the order to load them in.
pub const DIRECTORY: &str = "modules";

/// A module that is ready to be loaded.
#[derive(Debug)]
struct Module {
    name: String,
    bytes: Vec<u8>,
}

/// Adds the modules called `names` and all that they need to an image. Modules that are built in are left out.
pub fn add(image: &mut Initramfs, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let mut loader = Loader { files: index(&kernel.modules())?, order: Vec::new() };
    let builtin = builtin(&kernel.modules())?;
    for name in names {
        let name = canonical(name);
        if !builtin.contains(&name) {
            loader.visit(&name)?;
        }
    }
    image.directory(DIRECTORY);
    for (position, module) in loader.order.iter().enumerate() {
        image.file(&format!("{DIRECTORY}/{position:02}-{}.ko", module.name), &module.bytes);
    }
    Ok(())
}

struct Loader {
    files: HashMap<String, PathBuf>,
    order: Vec<Module>,
}

impl Loader {
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| Error::Missing(format!("this kernel has no module {name}")))?;
        let bytes = unpacked(path)?;
        for needed in needs(&bytes) {
            // A "soft" dependency may be built in or not exist; a hard one that is built in is not listed at all.
            if self.files.contains_key(&needed) {
                self.visit(&needed)?;
            }
        }
        self.order.push(Module { name: name.to_string(), bytes });
        Ok(())
    }
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Tool::Xz,
        Some("zst") => Tool::Zstd,
        _ => return fs::read(path).map_err(Error::file("read", path)),
    };
    command::run(ensure(tool)?.arg("-dc").arg(path))
}

/// The modules named in `.modinfo`: `depends=a,b` and `softdep=pre: c d`, which are strings that end with a zero.
fn needs(module: &[u8]) -> Vec<String> {
    let mut needs = Vec::new();
    for entry in module.split(|byte| *byte == 0) {
        if let Some(list) = entry.strip_prefix(b"depends=") {
            needs.extend(
                list.split(|byte| *byte == b',').map(|name| canonical(&String::from_utf8_lossy(name))),
            );
        } else if let Some(list) = entry.strip_prefix(b"softdep=pre:") {
            let list = String::from_utf8_lossy(list);
            needs.extend(list.split_whitespace().take_while(|word| *word != "post:").map(canonical));
        }
    }
    needs.retain(|name| !name.is_empty());
    needs
}

/// The kernel takes `-` and `_` for the same in names of modules.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file);
    stem.strip_suffix(".ko").map(canonical)
}

fn index(modules: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut files = HashMap::new();
    let mut pending = vec![modules.join("kernel")];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::file("list", &dir))? {
            let entry = entry.map_err(Error::file("list", &dir))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(path);
            } else if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
    }
    Ok(files)
}

fn builtin(modules: &Path) -> Result<Vec<String>> {
    let path = modules.join("modules.builtin");
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    Ok(text.lines().filter_map(|line| module_name(Path::new(line))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_from_modinfo() {
        let module =
            b"\x7fELF...\0license=GPL\0depends=mbcache,jbd2\0softdep=pre: crc32c post: x\0retpoline=Y\0";
        assert_eq!(needs(module), ["mbcache", "jbd2", "crc32c"]);
        assert!(needs(b"depends=\0").is_empty());
    }

    #[test]
    fn names_are_the_same_with_either_dash() {
        assert_eq!(module_name(Path::new("kernel/arch/x86/kvm/kvm-amd.ko.xz")).as_deref(), Some("kvm_amd"));
        assert_eq!(module_name(Path::new("fs/9p/9p.ko")).as_deref(), Some("9p"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, depends: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("\0depends={depends}\0")).unwrap();
            (module_name(&path).unwrap(), path)
        };
        let files = HashMap::from([file("a.ko", "b,c-d"), file("b.ko", "c_d"), file("c_d.ko", "")]);
        let mut loader = Loader { files, order: Vec::new() };
        loader.visit("a").unwrap();
        let order: Vec<_> = loader.order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(order, ["c_d", "b", "a"]);
        assert!(loader.visit("nope").unwrap_err().to_string().contains("no module nope"));
    }
}

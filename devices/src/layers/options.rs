//! Which layers a disk has, as users write it: `layers=cache+dedup,cache=/fast/disk.icache,cache-size=4G`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use crate::block::{Error, ErrorKind, Operation, Result};
use crate::icache::{self, Mode};
use crate::idedup;
use crate::image::parse_size;
use crate::policy::{MAX_FILE_BYTES, Policy};

/// Memory for the index of a deduplicated disk, in bytes.
const LEAST_INDEX: u64 = 16 << 10;
const MOST_INDEX: u64 = 1 << 40;

/// The layers above an image. Their order is that of [`Stack`](super::Stack), however they are written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Equal blocks are stored once: the image holds what iDedup makes of the disk.
    pub dedup: Option<idedup::OpenOptions>,
    /// A fast tier keeps what is worth it.
    pub cache: Option<CacheSpec>,
}

/// The fast tier of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// A file or block device that holds nothing but the cache.
    pub path: PathBuf,
    /// Bytes of a file that is not there yet, and is made.
    pub size: Option<u64>,
    /// What writes do, and which classes there are.
    pub options: icache::OpenOptions,
}

/// What was written of the layers so far, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerKeys {
    dedup: bool,
    cache: bool,
    path: Option<PathBuf>,
    size: Option<u64>,
    mode: Option<Mode>,
    classes: Option<PathBuf>,
    index: Option<u64>,
}

/// What is wrong with the description of layers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayerError {
    /// A value that its key cannot have.
    #[error("`{value}` is no value for key `{key}`: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// What could be.
        expected: &'static str,
    },
    /// A key for a layer that is not there.
    #[error("key `{key}` needs `layers={layer}`")]
    Needs {
        /// The key.
        key: &'static str,
        /// The layer.
        layer: &'static str,
    },
    /// `layers=cache` alone.
    #[error("`layers=cache` needs `cache=PATH`, the file or block device of the fast tier")]
    CacheWithoutPath,
}

impl LayerKeys {
    /// The keys that it knows.
    pub const KEYS: [&str; 6] =
        ["layers", "cache", "cache-size", "cache-mode", "cache-classes", "dedup-memory"];

    /// Takes one key. Returns false if it is none of these.
    ///
    /// # Errors
    /// [`LayerError::Value`].
    pub fn set(&mut self, key: &str, value: &str) -> std::result::Result<bool, LayerError> {
        let wrong = |key, expected| LayerError::Value { key, value: value.to_owned(), expected };
        match key {
            "layers" => {
                for layer in value.split('+') {
                    match layer {
                        "cache" => self.cache = true,
                        "dedup" => self.dedup = true,
                        _ => return Err(wrong("layers", "write cache, dedup or cache+dedup")),
                    }
                }
            }
            "cache" if value.is_empty() => return Err(wrong("cache", "the path of the fast tier")),
            "cache" => self.path = Some(value.into()),
            "cache-size" => {
                let size = parse_size(value).map_err(|_| wrong("cache-size", "a size such as 4G"))?;
                self.size = Some(size);
            }
            "cache-mode" => {
                let mode = value.parse();
                self.mode = Some(mode.map_err(|()| wrong("cache-mode", "write through, back or around"))?);
            }
            "cache-classes" => self.classes = Some(value.into()),
            "dedup-memory" => {
                let size = parse_size(value).ok().filter(|size| (LEAST_INDEX..=MOST_INDEX).contains(size));
                self.index =
                    Some(size.ok_or_else(|| wrong("dedup-memory", "a size such as 32M, 16K at least"))?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Looks whether the keys go together.
    ///
    /// # Errors
    /// [`LayerError::Needs`], [`LayerError::CacheWithoutPath`].
    pub fn check(&self) -> std::result::Result<(), LayerError> {
        let keys = [
            ("cache", self.path.is_some()),
            ("cache-size", self.size.is_some()),
            ("cache-mode", self.mode.is_some()),
            ("cache-classes", self.classes.is_some()),
        ];
        if let Some((key, _)) = keys.into_iter().find(|(_, given)| *given && !self.cache) {
            return Err(LayerError::Needs { key, layer: "cache" });
        }
        if self.index.is_some() && !self.dedup {
            return Err(LayerError::Needs { key: "dedup-memory", layer: "dedup" });
        }
        if self.cache && self.path.is_none() {
            return Err(LayerError::CacheWithoutPath);
        }
        Ok(())
    }

    /// The keys as arguments of another program.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let mut pairs: Vec<(&'static str, std::ffi::OsString)> = Vec::new();
        match (self.cache, self.dedup) {
            (false, false) => {}
            (true, false) => pairs.push(("layers", "cache".into())),
            (false, true) => pairs.push(("layers", "dedup".into())),
            (true, true) => pairs.push(("layers", "cache+dedup".into())),
        }
        pairs.extend(self.path.iter().map(|path| ("cache", path.into())));
        pairs.extend(self.size.iter().map(|size| ("cache-size", size.to_string().into())));
        pairs.extend(self.mode.iter().map(|mode| ("cache-mode", mode.name().into())));
        pairs.extend(self.classes.iter().map(|path| ("cache-classes", path.into())));
        pairs.extend(self.index.iter().map(|size| ("dedup-memory", size.to_string().into())));
        pairs
    }

    /// The same with paths that stay right when the process changes its directory.
    ///
    /// # Errors
    /// The current directory is gone.
    pub fn absolute(mut self) -> std::io::Result<Self> {
        for path in [&mut self.path, &mut self.classes].into_iter().flatten() {
            *path = std::path::absolute(&*path)?;
        }
        Ok(self)
    }

    /// The layers, with the classes read from their file.
    ///
    /// # Errors
    /// The file of classes cannot be read or makes no sense, or the keys do not go together.
    pub fn build(&self) -> Result<Layers> {
        self.check()
            .map_err(|error| Error::new(ErrorKind::Invalid, Operation::Open).because(error.to_string()))?;
        let cache = match &self.path {
            None => None,
            Some(path) => {
                let policy = self.classes.as_deref().map_or_else(|| Ok(Policy::default()), read_classes)?;
                let mode = self.mode.unwrap_or_default();
                let options = icache::OpenOptions { mode, policy, ..icache::OpenOptions::default() };
                Some(CacheSpec { path: path.clone(), size: self.size, options })
            }
        };
        let dedup = self.dedup.then(|| {
            let default = idedup::OpenOptions::default();
            let index = self.index.and_then(|size| usize::try_from(size).ok());
            idedup::OpenOptions { index_memory: index.unwrap_or(default.index_memory), ..default }
        });
        Ok(Layers { dedup, cache })
    }
}

/// A file of classes as OpenCAS has them.
fn read_classes(path: &Path) -> Result<Policy> {
    let failed = |error| Error::from_io(Operation::Open, error).on(path);
    let length = std::fs::metadata(path).map_err(failed)?.len();
    let wrong = |why: String| Error::new(ErrorKind::Invalid, Operation::Open).on(path).because(why);
    if length > u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX) {
        return Err(wrong(format!("a file of classes has {MAX_FILE_BYTES} bytes at most")));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    Policy::parse(&text).map_err(|error| wrong(error.to_string()))
}

impl Mode {
    /// What users write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Through => "through",
            Self::Back => "back",
            Self::Around => "around",
        }
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        [Self::Through, Self::Back, Self::Around].into_iter().find(|mode| mode.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> std::result::Result<LayerKeys, LayerError> {
        let mut keys = LayerKeys::default();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap();
            assert!(keys.set(key, value)?, "{key}");
        }
        keys.check().map(|()| keys)
    }

    #[test]
    fn layers_are_named_and_described() {
        let text = "layers=cache+dedup,cache=/fast,cache-size=4G,cache-mode=back,dedup-memory=1M";
        let written = keys(text).unwrap();
        let layers = written.build().unwrap();
        let cache = layers.cache.unwrap();
        assert_eq!((cache.path, cache.size), ("/fast".into(), Some(4 << 30)));
        assert_eq!((cache.options.mode, cache.options.policy), (Mode::Back, Policy::paper()));
        assert_eq!(layers.dedup.unwrap().index_memory, 1 << 20);
        let mut again = LayerKeys::default();
        for (key, value) in written.pairs() {
            assert!(again.set(key, value.to_str().unwrap()).unwrap());
        }
        assert_eq!(again, written);
        assert_eq!(keys("").unwrap().build().unwrap(), Layers::default());
        assert_eq!(keys("layers=dedup+cache,cache=x").unwrap(), keys("layers=cache+dedup,cache=x").unwrap());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("layers=cahce", "`cahce` is no value for key `layers`: write cache, dedup or cache+dedup"),
            ("layers=cache", "`layers=cache` needs `cache=PATH`, the file or block device of the fast tier"),
            ("cache=x", "key `cache` needs `layers=cache`"),
            ("layers=dedup,cache-size=1G", "key `cache-size` needs `layers=cache`"),
            ("layers=cache,cache=x,dedup-memory=1M", "key `dedup-memory` needs `layers=dedup`"),
            (
                "layers=dedup,dedup-memory=1K",
                "`1K` is no value for key `dedup-memory`: a size such as 32M, 16K at least",
            ),
            ("cache-mode=fast", "`fast` is no value for key `cache-mode`: write through, back or around"),
            ("cache-size=big", "`big` is no value for key `cache-size`: a size such as 4G"),
            ("cache=", "`` is no value for key `cache`: the path of the fast tier"),
        ] {
            assert_eq!(keys(text).unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!(LayerKeys::default().set("serial", "x"), Ok(false));
    }

    #[test]
    fn a_file_of_classes_decides() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ioclass.csv");
        let at =
            |file: &Path| keys(&format!("layers=cache,cache=x,cache-classes={}", file.display())).unwrap();
        assert_eq!(at(&file).build().unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&file, "IO class id,IO class name,Eviction priority,Allocation\n1,metadata,1,9\n")
            .unwrap();
        let error = at(&file).build().unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some(&*file)));
        let csv = "IO class id,IO class name,Eviction priority,Allocation\n0,unclassified,22,1.00\n1,metadata,1,0.50\n";
        std::fs::write(&file, csv).unwrap();
        let policy = at(&file).build().unwrap().cache.unwrap().options.policy;
        assert_eq!(policy, Policy::parse(csv).unwrap());
    }
}

//! `--block-log`: what each block was taken for, one JSON object on each line, to be compared with what is true.
//!
//! ```text
//! {"io":"write","disk":0,"block":1234,"bytes":4096,"class":"data","policy":4,"file":"/mnt/a","offset":8192,"size":10240}
//! {"io":"read","disk":0,"block":17,"class":"unknown","policy":0}
//! {"io":"known","disk":0,"block":17,"class":"data","policy":4,"file":"/mnt/b","offset":0,"size":4096}
//! ```
//!
//! `block` counts blocks of 4 KiB of the disk. A read is noted with what was known before it; what is known of each block in
//! the end, from reads that came to a process later, too, follows as `known`. Pieces of requests that begin or end inside
//! a block have less than 4096 `bytes`.
//!
//! Lines are in the order in which the answers were given, of all disks together: what a line says was true when the line
//! before it had been written. The disks are asked one at a time for that.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use sky_devices::io_class::{BLOCK_SIZE, Classifier, IoTag};
use vm_memory::GuestAddress;

/// The log of all disks of a machine.
#[derive(Debug)]
pub struct BlockLog {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    out: BufWriter<File>,
    /// The first error; after it nothing more is written.
    error: Option<io::Error>,
}

#[derive(Serialize)]
struct Line<'a> {
    io: &'static str,
    disk: u16,
    block: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    class: String,
    policy: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl BlockLog {
    /// Begins an empty log.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let out = BufWriter::new(File::create(path)?);
        Ok(Self { state: Mutex::new(State { out, error: None }) })
    }

    /// Asks `classifier`, and notes the answers as those for disk `disk`.
    #[must_use]
    pub fn wrap(self: &Arc<Self>, disk: u16, classifier: Arc<dyn Classifier>) -> Arc<dyn Classifier> {
        Arc::new(Logged { log: Arc::clone(self), disk, inner: classifier })
    }

    /// Notes what is known of a block in the end.
    pub fn known(&self, disk: u16, offset: u64, tag: &IoTag) {
        self.lock().note("known", disk, offset, None, tag);
    }

    /// Writes out what is left.
    ///
    /// # Errors
    /// The first error of all the writing, once.
    pub fn finish(&self) -> io::Result<()> {
        let mut state = self.lock();
        match state.error.take() {
            Some(error) => Err(error),
            None => state.out.flush(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panics in it leaves whole lines, or the beginning of a last one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, io: &'static str, disk: u16, offset: u64, bytes: Option<usize>, tag: &IoTag) {
        let source = tag.source.as_ref();
        let line = Line {
            io,
            disk,
            block: offset / BLOCK_SIZE as u64,
            bytes,
            class: tag.class.to_string(),
            policy: tag.class_id.get(),
            file: source.map(|source| &*source.path),
            offset: source.map(|source| source.offset),
            size: source.map(|source| source.file_size),
        };
        if self.error.is_none() {
            let written = serde_json::to_writer(&mut self.out, &line).map_err(io::Error::from);
            self.error = written.and_then(|()| self.out.write_all(b"\n")).err();
        }
    }
}

/// A classifier whose answers are noted.
struct Logged {
    log: Arc<BlockLog>,
    disk: u16,
    inner: Arc<dyn Classifier>,
}

impl Classifier for Logged {
    fn classify_write(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) -> IoTag {
        let mut state = self.log.lock();
        let tag = self.inner.classify_write(offset, block, page);
        state.note("write", self.disk, offset, Some(block.len()), &tag);
        tag
    }

    fn classify_read(&self, offset: u64, page: Option<GuestAddress>) -> IoTag {
        let mut state = self.log.lock();
        let tag = self.inner.classify_read(offset, page);
        state.note("read", self.disk, offset, None, &tag);
        tag
    }

    fn was_read(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) {
        self.inner.was_read(offset, block, page);
    }

    fn discarded(&self, offset: u64, length: u64) {
        self.inner.discarded(offset, length);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use serde_json::{Value, json};
    use sky_devices::io_class::{IoClass, Source};

    use super::*;

    /// Takes every even block for data.
    struct Even;

    impl Classifier for Even {
        fn classify_write(&self, offset: u64, _block: &[u8], page: Option<GuestAddress>) -> IoTag {
            self.classify_read(offset, page)
        }

        fn classify_read(&self, offset: u64, _page: Option<GuestAddress>) -> IoTag {
            if !offset.is_multiple_of(8192) {
                return IoTag::default();
            }
            let source = Some(Source { path: "/a \"b\"".into(), file_size: 5000, offset: 4096 });
            IoTag { class: IoClass::Data, source, ..IoTag::default() }
        }

        fn discarded(&self, _offset: u64, _length: u64) {}
    }

    #[test]
    fn answers_pass_through_and_are_noted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blocks");
        let log = Arc::new(BlockLog::create(&path).unwrap());
        let classifier = log.wrap(3, Arc::new(Even));
        assert_eq!(classifier.classify_write(8192, &[0; 4096], None).class, IoClass::Data);
        assert_eq!(classifier.classify_write(4096, &[0; 512], None).class, IoClass::Unknown);
        let tag = classifier.classify_read(0, None);
        log.known(3, 16384, &tag);
        log.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let data = |io: &str, block: u64| {
            json!({"io": io, "disk": 3, "block": block, "class": "data", "policy": 0,
                   "file": "/a \"b\"", "offset": 4096, "size": 5000})
        };
        let mut whole = data("write", 2);
        whole["bytes"] = json!(4096);
        let part =
            json!({"io": "write", "disk": 3, "block": 1, "bytes": 512, "class": "unknown", "policy": 0});
        assert_eq!(lines, [whole, part, data("read", 0), data("known", 4)]);
    }

    /// Says how often it was asked before, and lets somebody else ask.
    struct Counting(AtomicU64);

    impl Classifier for Counting {
        fn classify_write(&self, offset: u64, _block: &[u8], page: Option<GuestAddress>) -> IoTag {
            self.classify_read(offset, page)
        }

        fn classify_read(&self, offset: u64, _page: Option<GuestAddress>) -> IoTag {
            let file_size = self.0.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
            let source = Some(Source { path: "/a".into(), file_size, offset });
            IoTag { class: IoClass::Data, source, ..IoTag::default() }
        }

        fn discarded(&self, _offset: u64, _length: u64) {}
    }

    #[test]
    fn lines_are_in_the_order_of_the_answers_of_all_disks() {
        const ASKED: u64 = 1000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blocks");
        let log = Arc::new(BlockLog::create(&path).unwrap());
        let counting = Arc::new(Counting(AtomicU64::new(0)));
        thread::scope(|scope| {
            for disk in 0..4 {
                let classifier = log.wrap(disk, Arc::clone(&counting) as Arc<dyn Classifier>);
                scope.spawn(move || {
                    for block in 0..ASKED {
                        let _ = match disk % 2 {
                            0 => classifier.classify_read(block * 4096, None),
                            _ => classifier.classify_write(block * 4096, &[0; 4096], None),
                        };
                    }
                });
            }
        });
        log.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let answers = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["size"].as_u64());
        assert!(answers.eq((0..4 * ASKED).map(Some)));
    }

    #[test]
    fn the_first_error_is_told_once() {
        let log = Arc::new(BlockLog::create(Path::new("/dev/full")).unwrap());
        for block in 0..1000 {
            log.known(0, block * 4096, &IoTag::default());
        }
        assert!(log.finish().is_err());
    }
}

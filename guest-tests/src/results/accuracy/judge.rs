//! What was said of blocks, held against what is true of them in the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use sky_devices::io_class::IoClass;
use sky_devices::policy::{Facts, Policy};

use super::truth::{File, Owner, Truth};

/// What was said of a block.
#[derive(Clone, Debug)]
struct Said {
    class: String,
    policy: u64,
    /// Path, offset of the block, and size of the file, in bytes.
    place: Option<(String, u64, u64)>,
}

/// How right it was. Numbers of blocks, each judged once: by its last write, and by what is known of it in the end if it
/// was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// By what the block is in the end, and what was said of its last write.
    pub(super) matrix: BTreeMap<(&'static str, String), u64>,
    /// Blocks of monitored files that were written, and those of which class, file, place and size class were right.
    pub(super) writes: (u64, u64),
    /// Blocks of files that monitored processes read, and those that are known in the end, with the right place.
    pub(super) reads: (u64, u64),
    /// Blocks of the file system, but for copies of data in its journal, and those that were called metadata.
    pub(super) metadata: (u64, u64),
    /// Blocks of the file system that were called data.
    pub(super) metadata_as_data: u64,
    /// Blocks of unmonitored files that were called data.
    pub(super) unmonitored_as_data: u64,
    /// Why something was not right, and how often; and what was right with a remark.
    pub(super) remarks: BTreeMap<String, u64>,
}

/// Where files that others write lie, below the mounted directory.
const UNMONITORED: &str = "u/";

/// Judges the log of disk `disk`, whose files the guest had mounted at `mounted`. `None` if the log is none.
pub(super) fn judge(log: &str, disk: u64, mounted: &str, truth: &Truth) -> Option<Verdict> {
    let mut written: HashMap<u64, Said> = HashMap::new();
    let mut read: HashSet<u64> = HashSet::new();
    let mut known: HashMap<u64, Said> = HashMap::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).ok()?;
        if line["disk"].as_u64()? != disk {
            continue;
        }
        let block = line["block"].as_u64()?;
        match line["io"].as_str()? {
            "write" => drop(written.insert(block, said(&line)?)),
            "read" => drop(read.insert(block)),
            "known" => drop(known.insert(block, said(&line)?)),
            _ => return None,
        }
    }
    let mut verdict = Verdict::default();
    let policy = Policy::paper();
    let judge = Judge { truth, mounted, policy: &policy };
    written.iter().for_each(|(block, said)| judge.write(*block, said, &mut verdict));
    read.iter().for_each(|block| judge.read(*block, known.get(block), &mut verdict));
    Some(verdict)
}

fn said(line: &Value) -> Option<Said> {
    let place = match line.get("file") {
        Some(file) => Some((file.as_str()?.to_owned(), line["offset"].as_u64()?, line["size"].as_u64()?)),
        None => None,
    };
    Some(Said { class: line["class"].as_str()?.to_owned(), policy: line["policy"].as_u64()?, place })
}

struct Judge<'a> {
    truth: &'a Truth,
    mounted: &'a str,
    policy: &'a Policy,
}

impl Judge<'_> {
    fn write(&self, block: u64, said: &Said, verdict: &mut Verdict) {
        let data = said.class == "data";
        let kind = match self.truth.owner(block) {
            Owner::Files(places) if places.iter().any(|(file, _)| file.path.starts_with(UNMONITORED)) => {
                verdict.unmonitored_as_data += u64::from(data);
                if data {
                    verdict.remark(format!("data of others called data ({})", group(places[0].0)));
                }
                "unmonitored"
            }
            Owner::Files(places) => {
                verdict.writes.0 += 1;
                match self.place(&places, said) {
                    Ok(remark) => {
                        verdict.writes.1 += 1;
                        remark.into_iter().for_each(|remark| verdict.remark(remark.to_owned()));
                    }
                    Err(why) => verdict.remark(format!("write: {why} ({})", group(places[0].0))),
                }
                "monitored"
            }
            Owner::Journal if data => {
                verdict.remark("a copy of data in the journal, called data".to_owned());
                "journal"
            }
            owner @ (Owner::Journal | Owner::FileSystem) => {
                verdict.metadata.0 += 1;
                verdict.metadata.1 += u64::from(said.class == "metadata");
                verdict.metadata_as_data += u64::from(data);
                if data {
                    verdict.remark(format!("metadata called {:?}", said.place));
                }
                if owner == Owner::Journal { "journal" } else { "file system" }
            }
            Owner::Nobody => "nobody's any more",
        };
        *verdict.matrix.entry((kind, said.class.clone())).or_default() += 1;
    }

    fn read(&self, block: u64, known: Option<&Said>, verdict: &mut Verdict) {
        let Owner::Files(places) = self.truth.owner(block) else { return };
        verdict.reads.0 += 1;
        let right = match known {
            Some(said) => self.place(&places, said).map(drop),
            None => Err("not known"),
        };
        match right {
            Ok(()) => verdict.reads.1 += 1,
            Err(why) => verdict.remark(format!("read: {why} ({})", group(places[0].0))),
        }
    }

    /// Whether class, file, place and size class are right, perhaps with a remark.
    fn place(&self, places: &[(&File, u64)], said: &Said) -> Result<Option<&'static str>, &'static str> {
        let Some((path, offset, size)) = &said.place else {
            return Err(if said.class == "metadata" { "called metadata" } else { "called unknown" });
        };
        let below = path.strip_prefix(self.mounted).map(|path| path.trim_start_matches('/'));
        let place = places.iter().find(|(file, _)| below == Some(&file.path));
        let (file, remark) = match place {
            Some((file, at)) if at == offset => (file, None),
            Some(_) => return Err("another place of the file"),
            // It was renamed, or the name was one of several links.
            None if below.is_some_and(|path| !self.truth.has(path)) && places[0].1 == *offset => {
                (&places[0].0, Some("under a name that the file has no longer"))
            }
            None => return Err("another file"),
        };
        let facts = Facts { class: IoClass::Data, file_size: Some(*size), ..Facts::default() };
        if *size > file.size || u64::from(self.policy.classify(&facts).get()) != said.policy {
            return Err("another size class");
        }
        let grown = (*size < file.size).then_some("with the size that the file had then");
        Ok(remark.or(grown))
    }
}

impl Verdict {
    fn remark(&mut self, text: String) {
        *self.remarks.entry(text).or_default() += 1;
    }
}

/// What stands for many files: the directory in which a workload has its own.
fn group(file: &File) -> &str {
    let below = file.path.find('/').map_or(0, |slash| slash + 1);
    let end = file.path[below..].find('/').map_or(file.path.len(), |slash| below + slash);
    &file.path[..end]
}

#[cfg(test)]
mod tests {
    use super::super::image::Layout;
    use super::*;

    const EXTENTS: &str = "F 8192 m/a/x\nE 0 40960 8192 1\nF 4096 u/y\nE 0 81920 4096 1\nEND";

    fn judged(log: &str) -> Verdict {
        let layout = Layout { own: vec![0..2, 2..5], journal: vec![3], ..Layout::default() };
        judge(log, 1, "/mnt", &Truth::new(EXTENTS, &layout).unwrap()).unwrap()
    }

    fn line(io: &str, block: u64, class: &str, place: Option<(&str, u64, u64)>) -> String {
        let mut line = serde_json::json!({"io": io, "disk": 1, "block": block, "class": class, "policy": 0});
        if class == "metadata" {
            line["policy"] = 5.into();
        }
        if let Some((path, offset, size)) = place {
            line["file"] = path.into();
            line["offset"] = offset.into();
            line["size"] = size.into();
            line["policy"] = 4.into();
        }
        line.to_string() + "\n"
    }

    #[test]
    fn what_is_right_is_right() {
        let log = line("write", 10, "unknown", None)
            + &line("write", 10, "data", Some(("/mnt/m/a/x", 0, 8192)))
            + &line("write", 11, "data", Some(("/mnt/m/a/x.tmp", 4096, 8192)))
            + &line("write", 20, "unknown", None)
            + &line("write", 2, "metadata", None)
            + &line("read", 20, "unknown", None)
            + &line("known", 20, "data", Some(("/mnt/u/y", 0, 4096)));
        let verdict = judged(&log);
        assert_eq!((verdict.writes, verdict.reads, verdict.metadata), ((2, 2), (1, 1), (1, 1)));
        assert_eq!((verdict.metadata_as_data, verdict.unmonitored_as_data), (0, 0));
        assert_eq!(verdict.remarks.len(), 1, "the old name: {verdict:?}");
    }

    #[test]
    fn every_mistake_is_found() {
        for (place, why) in [
            (None, "write: called unknown (m/a)"),
            (Some(("/mnt/m/a/x", 4096, 8192)), "write: another place of the file (m/a)"),
            (Some(("/mnt/u/y", 0, 4096)), "write: another file (m/a)"),
            (Some(("/mnt/m/a/x", 0, 12288)), "write: another size class (m/a)"),
        ] {
            let class = if place.is_some() { "data" } else { "unknown" };
            let verdict = judged(&line("write", 10, class, place));
            assert_eq!((verdict.writes, verdict.remarks.get(why)), ((1, 0), Some(&1)), "{verdict:?}");
        }
        let x = Some(("/mnt/m/a/x", 0, 8192));
        assert_eq!(judged(&line("write", 20, "data", x)).unmonitored_as_data, 1);
        let verdict = judged(&line("write", 2, "data", x));
        assert_eq!((verdict.metadata, verdict.metadata_as_data), ((1, 0), 1));
        assert_eq!(judged(&line("write", 3, "data", x)).metadata_as_data, 0, "a copy in the journal");
        assert_eq!(judged(&line("read", 10, "unknown", None)).reads, (1, 0));
        assert_eq!(judged(&line("write", 300, "data", x)).matrix[&("nobody's any more", "data".into())], 1);
    }
}

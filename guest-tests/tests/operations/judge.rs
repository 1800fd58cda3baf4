//! What Sky said of each block that reached a disk, and of each file in the end, against the history.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::history::{BLOCK, History, Place};

/// The directory with all files, in the guest.
const DIR: &str = "/mnt/";

/// A line of the block log.
struct Said {
    /// The step during which the block reached the disk.
    step: usize,
    /// Path below the directory, offset and size; none if the block was not called data.
    place: Option<(String, u64, u64)>,
    line: String,
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// How many blocks were judged.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Lines that name a file.
    pub(crate) data: u64,
    /// Blocks of the disks that hold what is or was in files.
    pub(crate) held: u64,
    /// Blocks known in the end.
    pub(crate) known: u64,
}

/// Judges the log of `disks`, which have the numbers 0 and up, and hold this now. Requests for the disk behind them are the
/// steps' records. Panics with the first mistakes if there are any.
pub(crate) fn blocks(history: &History, log: &str, disks: &[Vec<u8>]) -> Judged {
    let mut judged = Judged::default();
    let mut mistakes: Vec<(usize, String)> = Vec::new();
    let mut last: HashMap<(usize, u64), Said> = HashMap::new();
    let mut step = 0;
    for text in log.lines() {
        let line: Value = serde_json::from_str(text).unwrap();
        let disk = usize::try_from(number(&line["disk"])).unwrap();
        let block = number(&line["block"]);
        let said = Said { step, place: place(&line), line: text.to_owned() };
        match line["io"].as_str().unwrap() {
            "write" if disk == disks.len() => {
                assert_eq!(block, step as u64, "the records come in order");
                assert_eq!(said.place, None, "a record is in no file");
                step += 1;
            }
            "write" => {
                judged.data += u64::from(said.place.is_some());
                if said.place.as_ref().is_some_and(|place| !may_be(history, &said, place)) {
                    mistakes.push((step, format!("no such place: {text}")));
                }
                last.insert((disk, block), said);
            }
            "known" if disk < disks.len() => {
                judged.known += 1;
                let content = holds(disks, disk, block);
                let places = history.places_of(content);
                let right = said.place.as_ref().is_none_or(|place| {
                    places.is_some_and(|places| says_one_of(history, &said, place, places))
                });
                if !right && !is_zero(content) {
                    mistakes.push((step, format!("not what is there in the end: {text}: {places:?}")));
                }
            }
            _ => {}
        }
    }
    assert_eq!(step, history.steps.len(), "all records have been seen");
    for (&(disk, block), said) in &last {
        let content = holds(disks, disk, block);
        let places = history.places_of(content);
        judged.held += u64::from(places.is_some());
        let mistake = match (places, &said.place) {
            (None, None) => continue,
            (None, Some(_)) if is_zero(content) => continue,
            (None, Some(_)) => "is in no file",
            (Some(places), Some(place)) if says_one_of(history, said, place, places) => continue,
            (Some(_), Some(_)) => "is another place",
            (Some(_), None) => "is not recognised",
        };
        mistakes.push((said.step, format!("{mistake}: {}: {places:?}", said.line)));
    }
    mistakes.sort();
    if let Some((step, _)) = mistakes.first() {
        let first: Vec<&str> = mistakes.iter().take(5).map(|(_, mistake)| mistake.as_str()).collect();
        let problem = format!("{} mistakes, {first:#?} and more; the first", mistakes.len());
        panic!("{}", history.story(*step as u64, &problem));
    }
    judged
}

fn place(line: &Value) -> Option<(String, u64, u64)> {
    let path = line.get("file")?.as_str().unwrap();
    let below = path.strip_prefix(DIR).unwrap_or(path).to_owned();
    Some((below, number(&line["offset"]), number(&line["size"])))
}

fn holds(disks: &[Vec<u8>], disk: usize, block: u64) -> &[u8] {
    let at = usize::try_from(block).unwrap() * BLOCK;
    &disks[disk][at..at + BLOCK]
}

/// Zeros are in many places, and Sky may say any.
fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Whether some file had this path and size at that step, and reached as far.
fn may_be(history: &History, said: &Said, place: &(String, u64, u64)) -> bool {
    (0..history.model.files().len()).any(|file| is(history, said, place, (file, place.1)))
}

fn says_one_of(history: &History, said: &Said, place: &(String, u64, u64), places: &BTreeSet<Place>) -> bool {
    places.iter().any(|&(file, offset)| offset == place.1 && is(history, said, place, (file, offset)))
}

/// Whether a file had the path and the size of `place`, and reached to the offset, when the block reached the disk.
fn is(history: &History, said: &Said, (path, _, size): &(String, u64, u64), (file, offset): Place) -> bool {
    let states = history.around(file, said.step);
    // The size that is told may still be the one before the write.
    let sized =
        states.iter().any(|state| state.size == *size) && states.iter().any(|state| offset < state.size);
    // A file with several names goes by any that it had.
    let linked = history.model.files()[file].linked;
    let called = || {
        states.iter().any(|state| state.paths.contains(path))
            || states
                .iter()
                .any(|state| !state.named && state.paths.iter().any(|own| alike(own) == alike(path)))
            || (linked && history.all_paths(file).contains(&**path))
    };
    sized && called()
}

/// A path, whatever the directory is called: that of a deleted file may be told with the name that its directory has now.
fn alike(path: &str) -> String {
    path.strip_prefix("e/").map_or_else(|| path.to_owned(), |name| format!("d/{name}"))
}

/// Compares what the report says of files with what the model has counted: writes, their bytes, and sizes.
pub(crate) fn report(history: &History, report: &Value) {
    let wrong = |what: &str| history.story(history.steps.len() as u64 - 1, what);
    assert_eq!(report["problem"], Value::Null);
    let files = report["files"].as_array().unwrap();
    let below = |file: &Value| alike(file["path"].as_str().unwrap().trim_start_matches(DIR));

    // By the last path of files that had one name at a time, and of all together, whatever they are called.
    let mut expected = Sums::default();
    let mut unclear = BTreeSet::new();
    for (at, file) in history.model.files().iter().enumerate() {
        expected.add(alike(history.last_path(at)), file.counts.writes, file.counts.bytes);
        if file.linked {
            unclear.extend(history.all_paths(at).into_iter().map(alike));
        }
    }
    let mut seen = Sums::default();
    files.iter().for_each(|file| seen.add(below(file), number(&file["writes"]), number(&file["bytes"])));
    let is_clear = |(path, sum): &(&String, &(u64, u64))| !unclear.contains(path.as_str()) && sum.0 > 0;
    for (path, sum) in expected.by_path.iter().filter(is_clear) {
        assert_eq!(seen.by_path.get(path), Some(sum), "{}", wrong(&format!("writes and bytes of {path}")));
    }
    assert_eq!(seen.all, expected.all, "{}", wrong("writes and bytes of all files"));

    for (at, file) in history.model.files().iter().enumerate() {
        let path = &alike(history.last_path(at));
        if !file.names.is_empty() && !unclear.contains(path) && file.counts.writes > 0 {
            // One that was replaced may have had the same path in the end.
            let entries = files.iter().filter(|entry| below(entry) == *path);
            let told: Vec<[u64; 3]> =
                entries.map(|entry| ["writes", "bytes", "size"].map(|key| number(&entry[key]))).collect();
            let own = [file.counts.writes, file.counts.bytes, file.size()];
            assert!(told.contains(&own), "{}", wrong(&format!("{path}: {own:?} is not among {told:?}")));
        }
    }
}

/// Writes and their bytes.
#[derive(Default)]
struct Sums {
    by_path: BTreeMap<String, (u64, u64)>,
    all: (u64, u64),
}

impl Sums {
    fn add(&mut self, path: String, writes: u64, bytes: u64) {
        for sum in [self.by_path.entry(path).or_default(), &mut self.all] {
            *sum = (sum.0 + writes, sum.1 + bytes);
        }
    }
}

//! What the model says was true at each step, once the program's own records have been found to say the same.

use std::collections::{BTreeSet, HashMap};

use guest_tests::operations::{File, Model, Record, Step, result_in};

pub(crate) const BLOCK: usize = 4096;
/// Steps that are told of before one that went wrong.
const STORY: usize = 40;

/// A file after a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileState {
    pub(crate) size: u64,
    /// Its paths below the directory; of a deleted file those that it had last.
    pub(crate) paths: BTreeSet<String>,
    /// It has a name.
    pub(crate) named: bool,
}

/// A place: the number of a file, and a byte offset in it.
pub(crate) type Place = (usize, u64);

/// All that was true.
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) model: Model,
    /// The steps, and which places they changed.
    pub(crate) steps: Vec<(Step, Vec<Place>)>,
    /// The files after each step.
    states: Vec<Vec<FileState>>,
    /// Where each block was that ever was in a file, but for zeros.
    places: HashMap<Vec<u8>, BTreeSet<Place>>,
}

impl History {
    /// Repeats what the program did. Panics at the first record that says something else.
    pub(crate) fn of(seed: u64, steps: u64, records: &[u8]) -> History {
        let mut history = History {
            seed,
            model: Model::new(seed),
            steps: Vec::new(),
            states: Vec::new(),
            places: HashMap::new(),
        };
        let mut records = records.chunks_exact(BLOCK);
        for at in 0..steps {
            let text = records.next().unwrap();
            let end = text.iter().position(|&byte| byte == 0).unwrap_or(BLOCK);
            history.step(at, &String::from_utf8_lossy(&text[..end]));
        }
        history
    }

    fn step(&mut self, at: u64, told: &str) {
        let step = self.model.choose(at);
        self.steps.push((step, Vec::new()));
        let before: Vec<Vec<u8>> = self.model.files().iter().map(|file| file.content.clone()).collect();
        let Some(said) = result_in(told) else { panic!("{}", self.story(at, "nothing was written down")) };
        let (result, sum) = self.model.apply(at, &step, said);
        let expected = Record::expected(&self.model, &step, result, sum).to_string();
        assert_eq!(told, expected, "{}", self.story(at, "the kernel does something else"));
        let index = self.steps.len() - 1;
        for (number, file) in self.model.files().iter().enumerate() {
            let before = before.get(number).map_or(&[][..], |content| content);
            for (offset, block) in changed(before, &file.content) {
                self.places.entry(block).or_default().insert((number, offset));
                self.steps[index].1.push((number, offset));
            }
        }
        let mut state: Vec<FileState> = self.model.files().iter().map(|file| self.state(file)).collect();
        if let Some(last) = self.states.last() {
            for (file, last) in state.iter_mut().zip(last).filter(|(file, _)| !file.named) {
                file.paths.clone_from(&last.paths);
            }
        }
        self.states.push(state);
    }

    fn state(&self, file: &File) -> FileState {
        let paths: BTreeSet<String> = file.names.iter().map(|&name| self.model.path(name)).collect();
        FileState { size: file.size(), named: !paths.is_empty(), paths }
    }

    /// A file as it was before step `at` and behind it; a request of that step found it in one of these.
    pub(crate) fn around(&self, file: usize, at: usize) -> Vec<&FileState> {
        let last = self.states.len() - 1;
        let steps = [at.checked_sub(1), Some(at)].into_iter().flatten().map(|step| step.min(last));
        steps.filter_map(|step| self.states[step].get(file)).collect()
    }

    /// All paths that a file ever had.
    pub(crate) fn all_paths(&self, file: usize) -> BTreeSet<&str> {
        let states = self.states.iter().filter_map(|state| state.get(file));
        states.flat_map(|state| &state.paths).map(String::as_str).collect()
    }

    /// The path that a file without links has, or had last.
    pub(crate) fn last_path(&self, file: usize) -> &str {
        let state = self.states.last().and_then(|state| state.get(file));
        state.and_then(|state| state.paths.first()).map_or("", String::as_str)
    }

    /// Where in files this block was at any time.
    pub(crate) fn places_of(&self, block: &[u8]) -> Option<&BTreeSet<Place>> {
        self.places.get(block)
    }

    /// What to say of a mistake: how to see it again, and what was done before.
    pub(crate) fn story(&self, at: u64, problem: &str) -> String {
        let at = usize::try_from(at).unwrap();
        let told = |(at, (step, changed)): (usize, &(Step, Vec<Place>))| match &changed[..] {
            [] => format!("\n  step {at}: {step:?}"),
            changed => format!("\n  step {at}: {step:?} changes (file, offset) {changed:?}"),
        };
        let steps = self.steps.iter().enumerate().take(at + 1).skip(at.saturating_sub(STORY));
        let before: String = steps.map(told).collect();
        format!("{problem} at step {at} of SKY_OPERATIONS_SEED={}{before}", self.seed)
    }
}

/// The blocks that are not as they were, with zeros behind the end, unless they are zeros.
fn changed(before: &[u8], after: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let blocks = (0..).step_by(BLOCK).zip(after.chunks(BLOCK));
    let is_changed = |(offset, block): &(usize, &[u8])| {
        let old = before.get(*offset..).map(|rest| &rest[..rest.len().min(BLOCK)]);
        old != Some(block) && block.iter().any(|&byte| byte != 0)
    };
    blocks
        .filter(is_changed)
        .map(|(offset, block)| {
            let mut whole = block.to_vec();
            whole.resize(BLOCK, 0);
            (offset as u64, whole)
        })
        .collect()
}

//! What a disk may hold after the power has failed.
//!
//! Everything that was there when the last sync succeeded is there. Of each later change any part may be: a write is
//! torn at multiples of what the disk writes atomically, a hole at blocks of a file system, and a file may have its old
//! length again. Of two writes to one place the later one covers the earlier one where both are there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::random::Random;
use super::sparse::Sparse;
use super::{SimulatedDisk, SimulatedOptions};
use crate::block::range::to_u64;

/// File systems give space back in blocks of this many bytes.
const HOLE: u64 = 4096;

/// One thing that changed a simulated disk.
#[derive(Clone)]
pub(super) enum Change {
    Write { offset: u64, data: Arc<[u8]> },
    Zeros { offset: u64, length: u64 },
    Punch { offset: u64, length: u64 },
    Grow { size: u64 },
    Sync,
}

impl Change {
    /// A write, which is kept short if it is all zeros: formats write many of them.
    pub(super) fn write(offset: u64, data: &[u8]) -> Self {
        if data.chunks(HOLE_BYTES).all(|chunk| chunk == &[0; HOLE_BYTES][..chunk.len()]) {
            Self::Zeros { offset, length: to_u64(data.len()) }
        } else {
            Self::Write { offset, data: data.into() }
        }
    }
}

const HOLE_BYTES: usize = 4096;

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { offset, data } => write!(f, "write {} bytes at {offset}", data.len()),
            Self::Zeros { offset, length } => write!(f, "write {length} zeros at {offset}"),
            Self::Punch { offset, length } => write!(f, "punch {length} bytes at {offset}"),
            Self::Grow { size } => write!(f, "grow to {size}"),
            Self::Sync => f.write_str("sync"),
        }
    }
}

/// Everything that happened to a simulated disk since it was made.
#[derive(Clone)]
pub struct History {
    pub(super) options: SimulatedOptions,
    pub(super) start: Sparse,
    pub(super) start_size: u64,
    pub(super) changes: Vec<Change>,
}

impl History {
    /// How many changes there were, syncs among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The moment after `position` changes, or after the last one.
    #[must_use]
    pub fn at(&self, position: usize) -> CrashPoint<'_> {
        let mut point = self.beginning();
        for _ in 0..position.min(self.len()) {
            point.advance();
        }
        point
    }

    /// Every moment from the one after `first` changes to the last.
    pub fn points(&self, first: usize) -> impl Iterator<Item = CrashPoint<'_>> {
        let mut next = (first <= self.len()).then(|| self.at(first));
        std::iter::from_fn(move || {
            let point = next.take()?;
            if point.position < self.len() {
                let mut after = point.clone();
                after.advance();
                next = Some(after);
            }
            Some(point)
        })
    }

    fn beginning(&self) -> CrashPoint<'_> {
        CrashPoint {
            history: self,
            position: 0,
            durable: self.start.clone(),
            durable_size: self.start_size,
            first_pending: 0,
        }
    }
}

/// A line for each change.
impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().enumerate().try_for_each(|(index, change)| writeln!(f, "{index:6}: {change:?}"))
    }
}

/// A moment at which the power may fail.
#[derive(Clone)]
pub struct CrashPoint<'a> {
    history: &'a History,
    position: usize,
    durable: Sparse,
    durable_size: u64,
    first_pending: usize,
}

impl CrashPoint<'_> {
    /// How many changes came before.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many changes are not durable.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.position - self.first_pending
    }

    /// Ways in which the power may fail here, `limit` at most and two at least: nothing of what is not durable is
    /// there, all of it, all but one change, one change alone, one torn, and random parts.
    #[must_use]
    pub fn choices(&self, limit: usize, random: &mut Random) -> Vec<Choice> {
        let pending = self.pending();
        if pending == 0 {
            return vec![Choice::Nothing];
        }
        let mut more: Vec<Choice> = (0..pending).map(|index| Choice::Torn(index, random.bits())).collect();
        if pending > 1 {
            more.extend((0..pending).flat_map(|index| [Choice::Without(index), Choice::Only(index)]));
            more.extend((0..pending.min(8)).map(|_| Choice::Random(random.bits())));
        }
        while more.len() > limit.saturating_sub(2) {
            let index = random.below(to_u64(more.len()));
            more.swap_remove(usize::try_from(index).unwrap_or(0));
        }
        more.extend([Choice::Nothing, Choice::All]);
        more
    }

    /// The disk after the power has failed here in that way. It has a history of its own, and no faults.
    #[must_use]
    pub fn disk(&self, choice: Choice) -> SimulatedDisk {
        let changes = &self.history.changes[self.first_pending..self.position];
        let whole = |index| match choice {
            Choice::Nothing => Part::Nothing,
            Choice::All => Part::All,
            Choice::Without(missing) if index == missing => Part::Nothing,
            Choice::Without(_) => Part::All,
            Choice::Only(present) if index == present => Part::All,
            Choice::Only(_) => Part::Nothing,
            Choice::Torn(torn, seed) if index == torn => Part::Random(seed),
            Choice::Torn(..) => Part::All,
            Choice::Random(seed) => {
                let mut random = Random::new(seed ^ to_u64(index).wrapping_mul(0xa076_1d64_78bd_642f));
                match random.below(3) {
                    0 => Part::Nothing,
                    1 => Part::All,
                    _ => Part::Random(random.bits()),
                }
            }
        };
        let parts: Vec<Part> = (0..changes.len()).map(whole).collect();
        let size = changes.iter().zip(&parts).fold(self.durable_size, |size, (change, part)| match change {
            Change::Grow { size: grown } if part.has_first() => size.max(*grown),
            _ => size,
        });
        let mut content = self.durable.clone();
        for (change, part) in changes.iter().zip(&parts) {
            apply(&mut content, change, part, self.history.options.atomic_write.into(), size);
        }
        SimulatedDisk::holding(self.history.options, content, size)
    }

    /// The changes that are not durable, for a person to read.
    #[must_use]
    pub fn describe(&self) -> String {
        let changes = &self.history.changes[self.first_pending..self.position];
        let lines = changes.iter().enumerate().map(|(index, change)| format!("{index:6}: {change:?}\n"));
        lines.collect()
    }

    fn advance(&mut self) {
        let changes = &self.history.changes;
        if matches!(changes[self.position], Change::Sync) {
            for change in &changes[self.first_pending..self.position] {
                if let Change::Grow { size } = change {
                    self.durable_size = self.durable_size.max(*size);
                }
                apply(&mut self.durable, change, &Part::All, 512, u64::MAX);
            }
            self.first_pending = self.position + 1;
        }
        self.position += 1;
    }
}

/// Which part of the changes that were not durable is there. The numbers count these changes, or are seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// None of them.
    Nothing,
    /// All of them.
    All,
    /// All but this one.
    Without(usize),
    /// This one alone.
    Only(usize),
    /// All, but this one only in part.
    Torn(usize, u64),
    /// Any part of any.
    Random(u64),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::All => f.write_str("all"),
            Self::Without(index) => write!(f, "without:{index}"),
            Self::Only(index) => write!(f, "only:{index}"),
            Self::Torn(index, seed) => write!(f, "torn:{index}:{seed}"),
            Self::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

/// Text that names no [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a choice: nothing, all, without:N, only:N, torn:N:SEED or random:SEED")]
pub struct BadChoice;

impl FromStr for Choice {
    type Err = BadChoice;

    fn from_str(text: &str) -> Result<Self, BadChoice> {
        let words: Vec<&str> = text.split(':').collect();
        let index = |word: &str| word.parse().map_err(|_| BadChoice);
        let seed = |word: &str| word.parse().map_err(|_| BadChoice);
        match words[..] {
            ["nothing"] => Ok(Self::Nothing),
            ["all"] => Ok(Self::All),
            ["without", number] => Ok(Self::Without(index(number)?)),
            ["only", number] => Ok(Self::Only(index(number)?)),
            ["torn", number, bits] => Ok(Self::Torn(index(number)?, seed(bits)?)),
            ["random", bits] => Ok(Self::Random(seed(bits)?)),
            _ => Err(BadChoice),
        }
    }
}

/// How much of one change is there.
enum Part {
    Nothing,
    All,
    /// Any of its atomic parts.
    Random(u64),
}

impl Part {
    /// Whether a change that has no parts is there.
    fn has_first(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Random(seed) => Random::new(*seed).one_in(2),
        }
    }
}

/// Makes a part of a change on a disk of `size` bytes that tears writes at multiples of `tear`.
fn apply(content: &mut Sparse, change: &Change, part: &Part, tear: u64, size: u64) {
    let (start, length, unit) = match change {
        Change::Write { offset, data } => (*offset, to_u64(data.len()), tear),
        Change::Zeros { offset, length } => (*offset, *length, tear),
        Change::Punch { offset, length } => (*offset, *length, HOLE),
        Change::Grow { .. } | Change::Sync => return,
    };
    let end = start.saturating_add(length).min(size);
    let mut copy = |from: u64, to: u64| match change {
        Change::Write { data, .. } => {
            let index = |position: u64| usize::try_from(position - start).unwrap_or(usize::MAX);
            content.write(from, &data[index(from)..index(to)]);
        }
        _ => content.zero(from, to - from),
    };
    match part {
        Part::Nothing => {}
        Part::All if start < end => copy(start, end),
        Part::All => {}
        Part::Random(seed) => {
            let mut random = Random::new(*seed);
            let mut from = start;
            while from < end {
                let to = ((from / unit + 1) * unit).min(end);
                if random.one_in(2) {
                    copy(from, to);
                }
                from = to;
            }
        }
    }
}

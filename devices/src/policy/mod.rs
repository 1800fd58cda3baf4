//! Which class each block gets: the paper's table, or an administrator's file in the format of OpenCAS.
//!
//! ```text
//!   Facts of one block ──▶ hint of the application, if the policy has that class
//!                     └──▶ the rules, from class 1 up; the last that matches wins, `done` ends the search
//!                                     └──▶ ClassId ──▶ Class: priority, allocation
//! ```
//!
//! A request is not one thing: journals and readahead put blocks of several files into one. So the class is asked for
//! each 4 KiB block, where OpenCAS asks once for a request by its first page. Nothing here does I/O, and everything
//! reads only, so one policy serves all threads. For administrators: docs/classes.md.

mod class;
mod csv;
mod error;
mod facts;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt;

pub use class::{Allocation, Class, ClassId, Priority};
pub use error::{PolicyError, PolicyErrorKind, RuleError};
pub use facts::{Direction, Facts};
use rule::{Condition, Join, Number, Operator, Rule};

/// First line of a file.
pub const HEADER: &str = "IO class id,IO class name,Eviction priority,Allocation";
/// Longest file, in bytes: more than all classes with the longest names.
pub const MAX_FILE_BYTES: usize = 64 * 1024;
/// Longest name of a class, in bytes (`OCF_IO_CLASS_NAME_MAX` with its zero). It bounds the conditions of a rule, too.
pub const MAX_NAME: usize = 1023;

const MIB: u64 = 1024 * 1024;

/// The classes, and which block gets which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    unclassified: Class,
    /// The others, by their numbers, which is the order in which OpenCAS asks them, whatever the order of the file.
    others: Vec<Class>,
}

impl Policy {
    /// The policy of a file in the format of OpenCAS (`ioclass.csv`).
    ///
    /// # Errors
    /// The first line that OpenCAS would not take, with a few exceptions that docs/classes.md names, or a file longer
    /// than [`MAX_FILE_BYTES`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        csv::parse(text)
    }

    /// The table of the paper, with its numbers, so that hints in calls mean what they mean there: metadata (5) is kept
    /// longest, then files smaller than 1 (4), 2 (3), 5 (2) and 10 MiB (1), then the rest (0).
    ///
    /// A file that is smaller than 1 MiB is smaller than 10 MiB as well: the last that matches wins.
    #[must_use]
    pub fn paper() -> Self {
        let smaller = |id, priority, mib| {
            let size = mib * MIB;
            let condition = Condition::Compare(Number::FileSize, Operator::Lt, size);
            (id, priority, format!("file_size:lt:{size}"), condition)
        };
        let rows = [
            smaller(1, 4, 10),
            smaller(2, 3, 5),
            smaller(3, 2, 2),
            smaller(4, 1, 1),
            (5, 0, "metadata".to_owned(), Condition::Metadata),
        ];
        let class = |(id, priority, name, condition)| Class {
            id: ClassId::of_paper(id),
            name,
            priority: Priority::Level(priority),
            allocation: Allocation::ALL,
            rule: Rule(vec![(Join::Or, condition)]),
        };
        let unclassified = Class { priority: Priority::Level(5), ..Class::unclassified() };
        Self { unclassified, others: rows.into_iter().map(class).collect() }
    }

    /// `classes` have different numbers and are sorted by them.
    fn new(mut classes: Vec<Class>) -> Self {
        let unclassified = match classes.first() {
            Some(class) if class.id == ClassId::UNCLASSIFIED => classes.remove(0),
            _ => Class::unclassified(),
        };
        Self { unclassified, others: classes }
    }

    /// The class of a block; always one that the policy has.
    #[must_use]
    pub fn classify(&self, facts: &Facts<'_>) -> ClassId {
        let hint = facts.hint.and_then(|hint| ClassId::new(u8::try_from(hint).ok()?));
        if let Some(class) = hint.and_then(|hint| self.get(hint)) {
            return class.id;
        }
        let mut so_far = ClassId::UNCLASSIFIED;
        for class in &self.others {
            let verdict = class.rule.evaluate(facts, so_far.get());
            if verdict.matches {
                so_far = class.id;
            }
            if verdict.done {
                break;
            }
        }
        so_far
    }

    /// The class with this number, or that of the unclassified rest when the policy has none: a cache may hold blocks
    /// of a class that an earlier policy had.
    #[must_use]
    pub fn class(&self, id: ClassId) -> &Class {
        self.get(id).unwrap_or(&self.unclassified)
    }

    /// The class with this number, if the policy has it.
    #[must_use]
    pub fn get(&self, id: ClassId) -> Option<&Class> {
        if id == ClassId::UNCLASSIFIED {
            return Some(&self.unclassified);
        }
        let place = self.others.binary_search_by_key(&id, |class| class.id).ok()?;
        self.others.get(place)
    }

    /// All classes by their numbers, the unclassified rest first.
    pub fn classes(&self) -> impl Iterator<Item = &Class> {
        std::iter::once(&self.unclassified).chain(&self.others)
    }

    /// A file that parses to the same policy.
    #[must_use]
    pub fn to_csv(&self) -> String {
        self.to_string()
    }
}

/// The table of the paper.
impl Default for Policy {
    fn default() -> Self {
        Self::paper()
    }
}

/// As [`Policy::to_csv`].
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        self.classes().try_for_each(|class| writeln!(f, "{class}"))
    }
}

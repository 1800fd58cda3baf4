//! One line of the table: a class and what a cache does for it.

use std::fmt;

use super::rule::Rule;

/// Number of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u8);

impl ClassId {
    /// The class of whatever no rule takes.
    pub const UNCLASSIFIED: Self = Self(0);
    /// The class of what a cache reads ahead on its own. No rule gives it. OpenCAS has it, too.
    pub const PREFETCH: Self = Self(33);

    /// The class with this number, 0 to 33, whether a policy has it or not.
    #[must_use]
    pub const fn new(id: u8) -> Option<Self> {
        if id <= Self::PREFETCH.0 { Some(Self(id)) } else { None }
    }

    /// The number, 0 to 33.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The name of the two classes that have no rule.
    pub(super) fn fixed_name(self) -> Option<&'static str> {
        match self {
            Self::UNCLASSIFIED => Some("unclassified"),
            Self::PREFETCH => Some("prefetch"),
            _ => None,
        }
    }

    pub(super) const fn of_paper(id: u8) -> Self {
        Self(id)
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long a cache keeps blocks of a class. Smaller is kept longer, and [`Priority::Pinned`] is the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Other classes never push a block of this one out.
    Pinned,
    /// From 0, which is kept longest, to 255, which goes first.
    Level(u8),
}

/// Most of a cache that a class may hold, in hundredths. Of nothing is not cached at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Allocation(u8);

impl Allocation {
    /// The whole cache.
    pub const ALL: Self = Self(100);

    /// Hundredths of the cache, 0 to 100.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// Whether blocks of the class are cached at all.
    #[must_use]
    pub const fn caches(self) -> bool {
        self.0 > 0
    }

    /// The part of `capacity` that the class may hold, in the unit of `capacity`, rounded down.
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        let percent = u64::from(self.0);
        // Apart, so that no capacity overflows.
        capacity / 100 * percent + capacity % 100 * percent / 100
    }

    /// A decimal fraction in at most 4 characters, as casadm wants it, rounded to hundredths as it does.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let some = !(whole.is_empty() && fraction.is_empty());
        if text.len() > 4 || !some || !digits(whole) || !digits(fraction) {
            return None;
        }
        let whole: u16 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
        let thousandths = whole.checked_mul(1000)?.checked_add(thousandths)?;
        (thousandths <= 1000).then(|| u8::try_from((thousandths + 5) / 10).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A class: which blocks belong to it, and what a cache does for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub(super) id: ClassId,
    pub(super) name: String,
    pub(super) priority: Priority,
    pub(super) allocation: Allocation,
    pub(super) rule: Rule,
}

impl Class {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> ClassId {
        self.id
    }

    /// Its name, which is its rule as the file has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long a cache keeps its blocks.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Most of a cache that it may hold.
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// What holds for the rest when a file does not say it: first to go, and in all of the cache. OpenCAS has this class
    /// from the beginning, and a file without it does not take it away (`src/mngt/ocf_mngt_io_class.c` of OCF).
    pub(super) fn unclassified() -> Self {
        Self {
            id: ClassId::UNCLASSIFIED,
            name: "unclassified".to_owned(),
            priority: Priority::Level(255),
            allocation: Allocation::ALL,
            rule: Rule::default(),
        }
    }
}

/// The line of the class in a file, without an end of line.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without quotation marks, spaces at the ends of a name would be taken for spaces around the field.
        let quote = if self.name.trim_ascii() == self.name { "" } else { "\"" };
        write!(f, "{},{quote}{}{quote},", self.id, self.name)?;
        if let Priority::Level(level) = self.priority {
            level.fmt(f)?;
        }
        write!(f, ",{}", self.allocation)
    }
}

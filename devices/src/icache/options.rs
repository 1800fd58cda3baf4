//! How a cache is made and opened.

use crate::policy::Policy;

/// What a write does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It goes to the slow tier, and is kept in the fast one.
    #[default]
    Through,
    /// It goes to the fast tier, and to the slow one some time later.
    Back,
    /// It goes to the slow tier only; the fast one is for what is read.
    Around,
}

/// What tells a disk from others, and from itself when somebody has changed it without its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskState {
    /// Its identity, if it has one.
    pub id: [u8; 16],
    /// A number that its content had before it was opened, and that changes when the content does; 0 if nobody knows.
    pub before: u64,
    /// The number that it has now, while it is open, and will have if nobody else opens it; 0 if nobody knows.
    pub now: u64,
}

/// How a cache is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// What a write does. Dirty lines that an earlier mode has left are kept until they are written back.
    pub mode: Mode,
    /// The classes and what they may hold.
    pub policy: Policy,
    /// Blocks of files of at least so many bytes are not brought in.
    pub largest_file: Option<u64>,
    /// A run of requests side by side is not brought in from so many bytes on; metadata is.
    pub sequential: Option<u64>,
    /// Lines of a hundred that may be dirty. More are written back before the next write.
    pub dirty: u8,
    /// A cache whose journal is damaged, or whose disk was changed without it, is emptied, although lines may have been
    /// dirty: writes that were flushed are lost. Without it, opening such a cache is an error.
    pub abandon_dirty: bool,
    /// Which disk it is. If nobody says, a cache of another disk of the same size is not told from the right one.
    pub disk: Option<DiskState>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            policy: Policy::default(),
            largest_file: None,
            sequential: Some(4 << 20),
            dirty: 25,
            abandon_dirty: false,
            disk: None,
        }
    }
}

//! How long the head of a disk is on its way.
//!
//! ```text
//!   time = least + more * sqrt(distance / stroke) + half a rotation       nothing where the last request ended
//! ```
//!
//! The arm speeds up for half of the way and slows down for the other half: that is the root. Real arms have a largest
//! speed, so long ways are a little longer than that (Ruemmler and Wilkes, "An Introduction to Disk Drive Modeling",
//! IEEE Computer, 1994); the tests compare with the disk of that paper.

/// How the arm of a disk moves, for one kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arm {
    /// Nanoseconds to the next track.
    pub least: u64,
    /// Nanoseconds that the whole stroke takes more.
    pub more: u64,
}

impl Arm {
    /// An arm that takes `average` nanoseconds from anywhere to anywhere, every place as likely as any other: the root
    /// of the distance of two such places is 8/15 of that of the stroke on average.
    #[must_use]
    pub const fn averaging(least: u64, average: u64) -> Self {
        Self { least, more: average.saturating_sub(least).saturating_mul(15) / 8 }
    }
}

/// What a request takes that does not begin where the last one ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seek {
    /// For reads.
    pub read: Arm,
    /// For writes.
    pub write: Arm,
    /// Bytes from the first track to the last. An image that is smaller lies in a part of the disk, so that its seeks are
    /// short; what lies farther takes as long as the last track.
    pub stroke: u64,
    /// Nanoseconds of half a rotation, which a request waits for on average.
    pub rotation: u64,
}

impl Seek {
    /// Nothing moves.
    pub const NONE: Self = Self::constant(0);

    /// The same for any distance.
    #[must_use]
    pub const fn constant(nanoseconds: u64) -> Self {
        let arm = Arm { least: nanoseconds, more: 0 };
        Self { read: arm, write: arm, stroke: 0, rotation: 0 }
    }

    /// Nanoseconds until the request begins that lies `distance` bytes from the end of the last one.
    pub(super) fn time(&self, arm: Arm, distance: u64) -> u64 {
        if distance == 0 {
            return 0;
        }
        // In 2^32nds, so at most 2^32.
        let share = (u128::from(distance.min(self.stroke)) << 64).checked_div(self.stroke.into());
        let more = (u128::from(arm.more) * share.unwrap_or(0).isqrt()) >> 32;
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        arm.least.saturating_add(more).saturating_add(self.rotation)
    }
}

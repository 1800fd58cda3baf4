//! Streams: writes of which nobody waits for the single cluster. Zeros ahead would only have them written twice, so they
//! take clusters from zones of their own, which are holes.

use super::{Inner, Zone, Zones, index, lock, no_space};
use crate::block::{ErrorKind, Result};
use crate::selfie::format::{Cluster, SLOTS, ZONE, ZoneKind};
use crate::selfie::options::Zeroing;

/// Flushes that count for how much is written between two of them.
const PACE: u64 = 16;
/// What is enough for a stream if it is so between any two flushes: this part of what is enough without one.
const STREAM_SHARE: u64 = 5;
/// Zones that a stream leaves to others: one of each kind, for what comes singly, and as many that become full.
const LEFT: u64 = 4;

impl Inner {
    /// Whether nobody waits for the single cluster.
    pub(super) fn streaming(&self, stream: u64) -> bool {
        self.unflushed >= stream || self.pace * STREAM_SHARE >= stream.saturating_mul(PACE)
    }

    /// Whether a stream is to begin, for which there is no zone yet.
    fn lacks_stream(&self, stream: u64, kind: ZoneKind) -> bool {
        self.streaming(stream) && self.streams[index(kind)].is_none() && !self.no_streams
    }
}

impl Zones {
    /// Somebody waits for what was written, or will no longer.
    pub(in crate::selfie) fn flushed(&self) {
        let mut inner = self.lock();
        inner.pace = inner.pace - inner.pace / PACE + inner.unflushed;
        inner.unflushed = 0;
    }

    /// Has a zone ready for a stream, if there is one and there is room: with single clusters it would share zeros that
    /// were written ahead, and would have as many written again.
    pub(super) fn begin_stream(&self, kind: ZoneKind) -> Result<()> {
        if !self.lock().lacks_stream(self.stream, kind) {
            return Ok(());
        }
        let _one = lock(&self.preparing);
        if !self.lock().lacks_stream(self.stream, kind) {
            return Ok(());
        }
        let begun = match self.make_stream(kind) {
            Err(error) if error.kind() == ErrorKind::NoSpace => false,
            begun => begun?,
        };
        self.lock().no_streams |= !begun;
        Ok(())
    }

    /// Makes a zone a stream's: one without zeros ahead, or a new one. Returns false where no holes can be made.
    fn make_stream(&self, kind: ZoneKind) -> Result<bool> {
        if self.zeroing != Zeroing::Written {
            return Ok(false);
        }
        let started = {
            let inner = self.lock();
            let unprepared = |zone: &Zone| zone.zeroed <= zone.next;
            let zone = |&number: &u32| inner.zones.get(number as usize).is_some_and(unprepared);
            inner.open[index(kind)].iter().copied().find(zone)
        };
        let number = match started {
            Some(number) => number,
            None if self.room() <= LEFT => return Err(no_space()),
            None => {
                self.settle()?;
                self.choose()?
            }
        };
        let first = self.layout.zone(number).ok_or_else(no_space)?;
        let from = self.lock().zones.get(number as usize).map_or(0, |zone| zone.next);
        if started.is_none() {
            self.storage.grow(first.offset() + ZONE)?;
        }
        let at = Cluster(first.0 + u32::from(from)).offset();
        if !self.storage.punch(at, first.offset() + ZONE - at)? {
            return Ok(false);
        }
        if started.is_none() {
            self.enter(number, kind)?;
        }
        self.sync().inspect_err(|_| {
            if started.is_none() {
                self.leave(number);
            }
        })?;
        let mut inner = self.lock();
        let Inner { zones, open, streams, .. } = &mut *inner;
        if let Some(zone) = zones.get_mut(number as usize) {
            (zone.zeroed, zone.holes) = (SLOTS, true);
            open[index(kind)].retain(|&other| other != number);
            streams[index(kind)] = Some(number);
        }
        Ok(true)
    }
}

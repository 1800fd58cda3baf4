//! What each sector may hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use sky_devices::block::MemoryDisk;

use super::content::{Content, SECTOR, describe};
use super::subject::Outcome;

/// Sectors, and what was last done to them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) sector: u64,
    pub(super) count: u64,
    pub(super) content: Content,
}

/// One thing that was done to a disk.
#[derive(Clone, Debug)]
pub(super) enum What {
    Change(Change),
    /// Everything before is durable, if this succeeded.
    Flush,
    /// The image was opened again, and this is what its sectors held. What was not flushed may be lost with the process
    /// that had it, or with the power after that.
    Found(Arc<[Content]>),
}

/// One thing that was done to a disk, and when.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) what: What,
    /// Changes of the medium before it began.
    pub(super) begin: usize,
    /// Changes of the medium when it had ended.
    pub(super) end: usize,
    /// It returned without an error. A failed change may have happened, also in part.
    pub(super) succeeded: bool,
}

impl Event {
    /// Whether it tells anything at a crash after `position` changes of the medium.
    pub(super) fn counts_at(&self, position: usize) -> bool {
        match self.what {
            What::Change(_) => self.begin < position || self.end <= position,
            What::Flush | What::Found(_) => self.end <= position,
        }
    }
}

/// Something that a sector may hold, by age.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    content: Content,
    /// The sector was surely changed to this once.
    certain: bool,
}

/// What each sector of a disk may hold.
#[derive(Clone, Debug)]
pub(super) struct Model {
    sectors: u64,
    /// What a sector holds that nobody has touched.
    untouched: Content,
    /// The sectors that differ: what they held at the last flush, and all that came since. Never empty.
    touched: BTreeMap<u64, Vec<Candidate>>,
    parent: Option<Arc<MemoryDisk>>,
}

impl Model {
    /// A new disk.
    pub(super) fn new(sectors: u64, parent: bool) -> Self {
        let untouched = if parent { Content::Parent } else { Content::Zeros };
        let parent = parent.then(|| {
            let mut bytes = vec![0; sectors as usize * SECTOR];
            (0..).zip(bytes.chunks_mut(SECTOR)).for_each(|(at, sector)| Content::Parent.fill(at, sector));
            Arc::new(MemoryDisk::from_bytes(bytes, true).unwrap())
        });
        Self { sectors, untouched, touched: BTreeMap::new(), parent }
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The disk below.
    pub(super) fn parent(&self) -> Option<&Arc<MemoryDisk>> {
        self.parent.as_ref()
    }

    /// Takes notice of an event.
    pub(super) fn apply(&mut self, event: &Event) {
        match &event.what {
            What::Change(change) => {
                let first = Candidate { content: self.untouched, certain: true };
                for sector in change.sector..change.sector + change.count {
                    let candidates = self.touched.entry(sector).or_insert_with(|| vec![first]);
                    candidates.push(Candidate { content: change.content, certain: event.succeeded });
                }
            }
            What::Flush if event.succeeded => {
                for candidates in self.touched.values_mut() {
                    let certain = candidates.iter().rposition(|candidate| candidate.certain).unwrap();
                    candidates.drain(..certain);
                }
            }
            What::Flush => {}
            What::Found(contents) => {
                for (&sector, candidates) in &mut self.touched {
                    let content = contents[sector as usize];
                    if candidates.last().is_some_and(|last| last.content != content || !last.certain) {
                        candidates.push(Candidate { content, certain: true });
                    }
                }
            }
        }
    }

    /// The disk as it was found: from now on it holds that.
    pub(super) fn found(&self, contents: &[Content]) -> Self {
        let touched = (0..).zip(contents).filter(|(_, content)| **content != self.untouched);
        let certain = |content| vec![Candidate { content, certain: true }];
        let touched = touched.map(|(sector, &content)| (sector, certain(content))).collect();
        Self { touched, parent: self.parent.clone(), ..*self }
    }

    /// Says what `bytes` at sector number `sector` are, which must be something that may be there after a crash.
    pub(super) fn check_crashed(&self, sector: u64, bytes: &[u8]) -> Outcome<Vec<Content>> {
        self.check(sector, bytes, |candidates| candidates)
    }

    /// The same while nothing has crashed: what was surely written covers what was there before.
    pub(super) fn check_live(&self, sector: u64, bytes: &[u8]) -> Outcome<Vec<Content>> {
        self.check(sector, bytes, |candidates| {
            let certain = candidates.iter().rposition(|candidate| candidate.certain).unwrap();
            &candidates[certain..]
        })
    }

    fn check(
        &self,
        first: u64,
        bytes: &[u8],
        allowed: impl Fn(&[Candidate]) -> &[Candidate],
    ) -> Outcome<Vec<Content>> {
        let untouched = [Candidate { content: self.untouched, certain: true }];
        let check = |(sector, bytes): (u64, &[u8])| {
            let candidates = allowed(self.touched.get(&sector).map_or(&untouched, Vec::as_slice));
            let found = candidates.iter().rev().find(|candidate| candidate.content.is(sector, bytes));
            found.map(|candidate| candidate.content).ok_or_else(|| {
                let allowed: Vec<_> = candidates.iter().map(|candidate| candidate.content).collect();
                format!("sector {sector} holds {}, allowed are {allowed:?}", describe(bytes))
            })
        };
        (first..).zip(bytes.chunks(SECTOR)).map(check).collect()
    }
}

#[test]
fn a_flush_forgets_what_was_before_and_a_failed_write_leaves_doubt() {
    let text = |version| Content::Version { version, kind: super::content::Kind::Text };
    let event = |what, succeeded| Event { what, begin: 0, end: 0, succeeded };
    let write = |version, succeeded| {
        event(What::Change(Change { sector: 1, count: 1, content: text(version) }), succeeded)
    };
    let mut model = Model::new(4, true);
    let allowed = |model: &Model, content: Content| {
        let mut bytes = [0; SECTOR];
        content.fill(1, &mut bytes);
        (model.check_crashed(1, &bytes).is_ok(), model.check_live(1, &bytes).is_ok())
    };
    assert_eq!(allowed(&model, Content::Parent), (true, true));
    assert_eq!(allowed(&model, Content::Zeros), (false, false));
    model.apply(&write(1, true));
    assert_eq!(allowed(&model, Content::Parent), (true, false));
    assert_eq!(allowed(&model, text(1)), (true, true));
    model.apply(&event(What::Flush, false));
    assert_eq!(allowed(&model, Content::Parent), (true, false));
    model.apply(&write(2, false));
    model.apply(&event(What::Flush, true));
    assert_eq!(allowed(&model, Content::Parent), (false, false));
    assert_eq!((allowed(&model, text(1)), allowed(&model, text(2))), ((true, true), (true, true)));
    assert_eq!(allowed(&model, text(3)), (false, false));
    // The same bytes at another sector are foreign.
    let mut bytes = [0; SECTOR];
    text(2).fill(2, &mut bytes);
    assert!(model.check_crashed(1, &bytes).unwrap_err().contains("sector 2 version 2"));
}

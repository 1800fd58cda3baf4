//! What blocks of disks hold: by address, for the disks, and by place, for the files.

use std::ops::Range;
use std::time::Duration;

use hashbrown::HashTable;
use sky_devices::io_class::Unique;
use sky_devices::policy::ClassId;

use super::origins::OriginId;
use super::pending::words;
use super::slab::Slab;
use super::sorted::Sorted;
use super::{Address, FileId, Place};

/// A block of a disk of which something is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stored {
    /// The lower half of its fingerprint, to be compared with that of one other block.
    pub(super) content: u64,
    /// [`Place::NOWHERE`] if it is nobody's but the file system's.
    pub(super) place: Place,
    pub(super) origin: OriginId,
    pub(super) unique: Unique,
    /// When it came to the disk, and in which class; unless it was there before.
    pub(super) born: Option<(Age, ClassId)>,
}

/// A moment, in sixteenths of a second from the index's beginning: enough for eight years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age(pub(super) u32);

impl Age {
    /// How long it is since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 1000 / 16)
    }
}

/// The same, without padding in an array of 4-byte words.
#[derive(Clone, Copy, Debug)]
struct Block {
    content: [u32; 2],
    place: [u32; 2],
    address: [u32; 2],
    origin: OriginId,
    /// `u32::MAX` for none.
    born: u32,
    class: ClassId,
    unique: u8,
}

const UNBORN: u32 = u32::MAX;

impl Block {
    fn new(address: Address, stored: &Stored) -> Self {
        let Stored { content, place, origin, unique, born } = *stored;
        let bits = [unique.program, unique.extension, unique.entropy];
        let unique = bits.iter().rev().fold(0, |bits, &bit| bits << 1 | u8::from(bit));
        let (born, class) =
            born.map_or((UNBORN, ClassId::default()), |(age, class)| (age.0.min(UNBORN - 1), class));
        let (place, address) = (words(place.key()), words(address.key()));
        Self { content: words(content), place, address, origin, born, class, unique }
    }

    fn stored(&self) -> Stored {
        let bit = |at: u8| self.unique >> at & 1 != 0;
        Stored {
            content: u64::from(self.content[0]) | u64::from(self.content[1]) << 32,
            place: self.place(),
            origin: self.origin,
            unique: Unique { program: bit(0), extension: bit(1), entropy: bit(2) },
            born: (self.born != UNBORN).then_some((Age(self.born), self.class)),
        }
    }

    fn place(&self) -> Place {
        Place::from_words(self.place)
    }

    fn address(&self) -> Address {
        Address::from_words(self.address)
    }
}

/// The blocks. A place of a file is at one address at most.
#[derive(Debug)]
pub(super) struct Disks {
    blocks: Slab<Block>,
    by_address: HashTable<u32>,
    /// Those that are somewhere.
    by_place: Sorted,
}

/// Spreads what lies side by side (Knuth's multiplicative hash; the table takes the upper bits as well as the lower).
fn hash(address: Address) -> u64 {
    let product = address.key().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

impl Disks {
    pub(super) fn new() -> Self {
        Self { blocks: Slab::new(), by_address: HashTable::new(), by_place: Sorted::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    fn number(&self, address: Address) -> Option<u32> {
        self.by_address.find(hash(address), |&number| self.blocks.get(number).address() == address).copied()
    }

    fn number_of(&self, place: Place) -> Option<u32> {
        self.by_place.get(place.key(), |number| self.blocks.get(number).place().key())
    }

    pub(super) fn get(&self, address: Address) -> Option<Stored> {
        Some(self.blocks.get(self.number(address)?).stored())
    }

    /// Where a place of a file is, and what is there.
    pub(super) fn find(&self, place: Place) -> Option<(Address, Stored)> {
        let block = self.blocks.get(self.number_of(place)?);
        Some((block.address(), block.stored()))
    }

    /// Where the places in these bytes of a file are.
    pub(super) fn within(&self, file: FileId, range: &Range<u64>) -> Vec<Address> {
        let keys = Place::keys(file, range);
        let numbers = self.by_place.within(&keys, |number| self.blocks.get(number).place().key());
        numbers.into_iter().map(|number| self.blocks.get(number).address()).collect()
    }

    /// The address that has been known for longest.
    pub(super) fn oldest(&self) -> Option<Address> {
        self.blocks.oldest().map(|number| self.blocks.get(number).address())
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.blocks.iter().map(|(_, block)| block.address())
    }

    /// Takes up a block. Nothing is known of its address, and its place is nowhere.
    pub(super) fn insert(&mut self, address: Address, stored: &Stored) {
        let Self { blocks, by_address, by_place } = self;
        let number = blocks.push(Block::new(address, stored));
        by_address.insert_unique(hash(address), number, |&other| hash(blocks.get(other).address()));
        if stored.place != Place::NOWHERE {
            by_place.insert(number, |number| blocks.get(number).place().key());
        }
    }

    /// Changes what is known of a block, but not whose it is.
    pub(super) fn update(&mut self, address: Address, change: impl FnOnce(&mut Stored)) {
        if let Some(number) = self.number(address) {
            let mut stored = self.blocks.get(number).stored();
            let place = stored.place;
            change(&mut stored);
            *self.blocks.get_mut(number) = Block::new(address, &Stored { place, ..stored });
        }
    }

    pub(super) fn remove(&mut self, address: Address) -> Option<Stored> {
        let Self { blocks, by_address, by_place } = self;
        let is_it = |&number: &u32| blocks.get(number).address() == address;
        let entry = by_address.find_entry(hash(address), is_it).ok()?;
        let (number, _) = entry.remove();
        let stored = blocks.get(number).stored();
        if stored.place != Place::NOWHERE {
            by_place.remove(stored.place.key(), |number| blocks.get(number).place().key());
        }
        blocks.remove(number);
        Some(stored)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn stored() -> impl Strategy<Value = (u64, Option<u64>, bool, bool, bool, Option<u32>)> {
        (
            any::<u64>(),
            proptest::option::of(0..30u64),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            proptest::option::of(0..u32::MAX),
        )
    }

    proptest! {
        /// Against a map by address.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0..20u64, proptest::option::of(stored())), 1..150)) {
            let mut disks = Disks::new();
            let mut model: BTreeMap<Address, Stored> = BTreeMap::new();
            for (at, step) in steps {
                // Two disks.
                let disk = u16::try_from(at % 2).unwrap();
                let address = Address::new(disk, at * 4096).unwrap();
                prop_assert_eq!(disks.remove(address), model.remove(&address));
                let Some((content, block, program, extension, entropy, born)) = step else { continue };
                let place = block.map_or(Place::NOWHERE, |block| Place::new(FileId(3), block * 4096).unwrap());
                if place != Place::NOWHERE && let Some((other, _)) = disks.find(place) {
                    prop_assert_eq!(disks.remove(other), model.remove(&other));
                }
                let block = Stored {
                    content,
                    place,
                    origin: OriginId::default(),
                    unique: Unique { program, extension, entropy },
                    born: born.map(|age| (Age(age), ClassId::PREFETCH)),
                };
                disks.insert(address, &block);
                disks.update(address, |stored| stored.unique.entropy = !entropy);
                model.insert(address, Stored { unique: Unique { program, extension, entropy: !entropy }, ..block });
                prop_assert_eq!(disks.len(), model.len());
                let mut addresses: Vec<Address> = disks.addresses().collect();
                prop_assert_eq!(addresses.first().copied(), disks.oldest());
                addresses.sort_unstable();
                prop_assert!(addresses.iter().eq(model.keys()));
                for (address, stored) in &model {
                    prop_assert_eq!(disks.get(*address), Some(*stored));
                }
                let mut of_file: Vec<(u64, Address)> = model
                    .iter()
                    .filter(|(_, stored)| stored.place != Place::NOWHERE && stored.place.offset() >= 8192)
                    .map(|(&address, stored)| (stored.place.offset(), address))
                    .collect();
                of_file.sort_unstable();
                let expected: Vec<Address> = of_file.iter().map(|(_, address)| *address).collect();
                prop_assert_eq!(disks.within(FileId(3), &(8192..u64::MAX)), expected);
                for (offset, address) in of_file {
                    let place = Place::new(FileId(3), offset).unwrap();
                    prop_assert_eq!(disks.find(place), Some((address, model[&address])));
                }
            }
        }
    }
}

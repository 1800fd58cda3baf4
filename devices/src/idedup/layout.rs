//! Where things lie in an image, and the superblock that says so.

use super::checkpoint::SLOTS;
use super::options::{CreateOptions, Verify};
use super::page::{self, BLOCK, HEADER, Identity, Kind};
use super::table::WORDS;
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

/// Blocks of either kind that an image can have.
const MAX_BLOCKS: u64 = (1 << 32) - (1 << 16);
/// The superblock's number.
const VERSION: u64 = 2;
const JOURNAL_PAGES: std::ops::RangeInclusive<u64> = 16..=65536;
const B: u64 = BLOCK as u64;
/// One page of runs for so many buckets.
const BUCKETS_PER_STAGED: u64 = 4;
/// More bits of a filter for each entry than this help little.
const FILTER_BITS: usize = 16;
/// Bytes of a page of the filter that are not its header.
const FILTERS: usize = BLOCK - 40;

/// Where things lie. Offsets are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) identity: Identity,
    pub(super) verify: Verify,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Blocks of the disk.
    pub(super) logical: u32,
    /// Blocks that can differ.
    pub(super) physical: u32,
    pub(super) journal_pages: u64,
    /// Pages of the map.
    pub(super) map_pages: u64,
    /// Pages of the map and of the generations.
    pub(super) table_pages: u64,
    pub(super) buckets: u64,
    /// Bytes of a checkpoint area.
    pub(super) checkpoint: u64,
    pub(super) journal: u64,
    pub(super) tables: u64,
    pub(super) index: u64,
    staged: u64,
    /// Pages for runs of claims.
    pub(super) staged_pages: u64,
    filter: u64,
    data: u64,
    end: u64,
}

/// Entries that a bucket has room for.
pub(super) fn bucket_capacity(verify: Verify) -> usize {
    (BLOCK - 32) / (verify.width() + 8)
}

/// Entries that a bucket has on average if all blocks differ.
pub(super) fn bucket_load(verify: Verify) -> usize {
    bucket_capacity(verify) * 7 / 10
}

/// Bytes of the largest filter for a page of so many entries.
pub(super) fn most_filter(entries: usize) -> usize {
    (entries * FILTER_BITS).div_ceil(64) * 8
}

/// How many filters of so many bytes a page holds, each with a bit; nothing if they have no bytes.
pub(super) fn filters_in_page(bytes: usize) -> Option<u64> {
    let each = bytes.checked_mul(8).filter(|bits| *bits > 0)? + 1;
    Some((FILTERS * 8 / each) as u64).filter(|filters| *filters > 0)
}

impl Layout {
    fn new(identity: Identity, verify: Verify, size: u64, physical: u64, journal_pages: u64) -> Result<Self> {
        let invalid = |why: &str| Error::new(ErrorKind::Invalid, Operation::Create).because(why);
        let logical = size.div_ceil(B);
        if size == 0 || !size.is_multiple_of(512) || logical > MAX_BLOCKS {
            return Err(Error::new(ErrorKind::BadSize, Operation::Create));
        }
        if physical == 0 || physical > MAX_BLOCKS {
            return Err(invalid("it can hold 1 block at least, 2^32 - 2^16 at most"));
        }
        if !JOURNAL_PAGES.contains(&journal_pages) {
            return Err(invalid("its journal has 64 KiB at least, 256 MiB at most"));
        }
        if matches!(verify, Verify::Compare { bits } if !(1..=128).contains(&bits)) {
            return Err(invalid("a fingerprint has 1 to 128 bits"));
        }
        let load = bucket_load(verify);
        // None of these comes near 2^64: there are fewer than 2^32 blocks of each kind.
        let buckets = physical.div_ceil(load as u64);
        let map_pages = logical.div_ceil(WORDS as u64);
        let table_pages = map_pages + physical.div_ceil(WORDS as u64);
        let checkpoint = (SLOTS as u64 + table_pages.div_ceil(4) + buckets.div_ceil(8)).div_ceil(B) * B;
        let journal = 2 * B + 2 * checkpoint;
        let tables = journal + journal_pages * B;
        let index = tables + 2 * table_pages * B;
        let staged = index + buckets * B;
        let staged_pages = buckets / BUCKETS_PER_STAGED;
        let filter = staged + staged_pages * B;
        let data = filter + filters_in_page(most_filter(load)).map_or(0, |each| buckets.div_ceil(each)) * B;
        let end = data + physical * B;
        let block_number = |number: u64| u32::try_from(number).map_err(|_| invalid("too many blocks"));
        Ok(Self {
            identity,
            verify,
            size,
            logical: block_number(logical)?,
            physical: block_number(physical)?,
            journal_pages,
            map_pages,
            table_pages,
            buckets,
            checkpoint,
            journal,
            tables,
            index,
            staged,
            staged_pages,
            filter,
            data,
            end,
        })
    }

    /// That of an index for so many blocks, of an image that nobody will make.
    pub(super) fn of_index(blocks: u32) -> Result<Self> {
        let size = u64::from(blocks) * B;
        Self::new(Identity(0), Verify::Fingerprint, size, blocks.into(), *JOURNAL_PAGES.start())
    }

    /// Bytes up to the end of the index.
    pub(super) fn index_end(&self) -> u64 {
        self.data
    }

    /// Place of checkpoint number `number`.
    pub(super) fn checkpoint_place(&self, number: u64) -> u64 {
        2 * B + if number % 2 == 1 { 0 } else { self.checkpoint }
    }

    /// Place of a table page's slot, 0 or 1.
    pub(super) fn table_place(&self, page: u64, slot: u64) -> u64 {
        self.tables + (2 * page + slot) * B
    }

    pub(super) fn bucket_place(&self, bucket: u64) -> u64 {
        self.index + bucket * B
    }

    /// Place of a page of a run.
    pub(super) fn staged_place(&self, page: u64) -> u64 {
        self.staged + page * B
    }

    /// Place of a page of the stored filter.
    pub(super) fn filter_place(&self, page: u64) -> u64 {
        self.filter + page * B
    }

    /// Place of a physical block, which is not 0.
    pub(super) fn data_place(&self, physical: u32) -> u64 {
        self.data + (u64::from(physical).saturating_sub(1)) * B
    }

    fn superblock(&self) -> [u8; BLOCK] {
        let mut page = [0; BLOCK];
        page[24..32].copy_from_slice(&self.size.to_le_bytes());
        page[32..36].copy_from_slice(&self.physical.to_le_bytes());
        page[36..40].copy_from_slice(&u32::try_from(self.journal_pages).unwrap_or(0).to_le_bytes());
        (page[40], page[41]) = match self.verify {
            Verify::Fingerprint => (0, 0),
            Verify::Compare { bits } => (1, bits),
        };
        page::seal(Kind::Superblock, self.identity, VERSION, &mut page);
        page
    }

    fn decode(page: &[u8]) -> Option<Result<Self>> {
        let (identity, version) = page::header(Kind::Superblock, page)?;
        let (size, physical, journal) =
            (page::u64_at(page, HEADER), page::u32_at(page, 32), page::u32_at(page, 36));
        let verify = match (page[40], page[41]) {
            (0, 0) => Some(Verify::Fingerprint),
            (1, bits) => Some(Verify::Compare { bits }),
            _ => None,
        };
        Some(match verify {
            Some(verify) if version == VERSION => {
                Self::new(identity, verify, size, physical.into(), journal.into()).map_err(|error| {
                    Error::new(ErrorKind::Corrupt, Operation::Open).because(error.to_string())
                })
            }
            _ if version < VERSION => {
                let why =
                    format!("its format is version {version}, which was left behind; this is {VERSION}");
                Err(Error::new(ErrorKind::Unsupported, Operation::Open).because(why))
            }
            _ => Err(Error::new(ErrorKind::TooNew, Operation::Open)),
        })
    }

    /// Reads where things lie in an image.
    ///
    /// # Errors
    /// [`ErrorKind::NotThisFormat`], [`ErrorKind::TooNew`], [`ErrorKind::Corrupt`], or the medium failed.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        if storage.size() < 2 * B {
            return Err(Error::new(ErrorKind::NotThisFormat, Operation::Open).because("it is too short"));
        }
        let mut found = None;
        for place in [0, B] {
            let mut page = [0; BLOCK];
            storage.read(place, &mut page)?;
            found = found.or_else(|| Self::decode(&page));
        }
        let layout = found.unwrap_or_else(|| Err(Error::new(ErrorKind::NotThisFormat, Operation::Open)))?;
        if layout.end > storage.size() {
            return Err(Error::new(ErrorKind::Corrupt, Operation::Open).because("its end is cut off"));
        }
        Ok(layout)
    }
}

/// Makes an image in `storage`, which is empty, or a block device whose content is given up.
///
/// # Errors
/// [`ErrorKind::BadSize`] or [`ErrorKind::Invalid`] for a disk that cannot be, [`ErrorKind::NoSpace`] where there is no
/// room for one, or the medium failed.
pub fn create(storage: &dyn Storage, options: &CreateOptions) -> Result<()> {
    let identity = Identity(super::random()?);
    let layout =
        |physical: u64| Layout::new(identity, options.verify, options.size, physical, options.journal / B);
    let growable = storage.properties().growable;
    let layout = match options.capacity {
        Some(bytes) => layout(bytes / B)?,
        None if growable => layout(usual_capacity(options.size))?,
        None => {
            let most = largest(&layout, storage.size())?;
            layout(most)?
        }
    };
    if growable {
        storage.grow(layout.end)?;
    } else if storage.size() < layout.end {
        let why = format!("{} bytes are needed", layout.end);
        return Err(Error::new(ErrorKind::NoSpace, Operation::Create).because(why));
    }
    // Other pages of another image that was here are not taken for this one's: they have its identity.
    storage.write(0, &[0; 2 * BLOCK])?;
    let length = usize::try_from(layout.checkpoint).unwrap_or(usize::MAX);
    storage
        .write(layout.checkpoint_place(1), &super::checkpoint::Checkpoint::first(&layout).encode(length))?;
    storage.sync()?;
    storage.write(0, &layout.superblock())?;
    storage.write(B, &layout.superblock())?;
    storage.sync()
}

/// Blocks that a full disk of unlike blocks takes, with room to overwrite it.
fn usual_capacity(size: u64) -> u64 {
    let blocks = size.div_ceil(B);
    (blocks + blocks / 64 + 1024).min(MAX_BLOCKS)
}

/// Bytes of the image that [`create`] makes on a growable storage.
///
/// # Errors
/// [`ErrorKind::BadSize`] or [`ErrorKind::Invalid`] for a disk that cannot be.
pub fn size_of_image(options: &CreateOptions) -> Result<u64> {
    let physical = options.capacity.map_or_else(|| usual_capacity(options.size), |bytes| bytes / B);
    Ok(Layout::new(Identity(0), options.verify, options.size, physical, options.journal / B)?.end)
}

/// The most physical blocks for which there is room in `room` bytes.
fn largest(layout: &impl Fn(u64) -> Result<Layout>, room: u64) -> Result<u64> {
    let (mut fits, mut too_many) = (0, (room / B + 1).min(MAX_BLOCKS + 1));
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        if layout(middle)?.end <= room { fits = middle } else { too_many = middle }
    }
    if fits == 0 {
        return Err(Error::new(ErrorKind::NoSpace, Operation::Create).because("there is no room for data"));
    }
    Ok(fits)
}

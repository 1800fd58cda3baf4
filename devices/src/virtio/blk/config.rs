//! What the driver is told about the disk: feature bits (section 5.2.3), configuration space (section 5.2.4), and the
//! limits in it, which the parser holds requests to.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::spec::BlkSpec;
use crate::block::Geometry;

/// Bytes of a sector, the unit of virtio-blk whatever the disk's block size is.
pub(super) const SECTOR_SIZE: u64 = 512;
/// The longest segment that the driver may use, in bytes.
const SIZE_MAX: u32 = 64 * 1024;
/// The most data segments of one request. Together with [`SIZE_MAX`] the driver knows of [`MAX_REQUEST_SIZE`].
const SEG_MAX: u16 = 254;
/// The most data of one request, in bytes, which bounds the memory that a guest can make a worker allocate.
pub(super) const MAX_REQUEST_SIZE: u64 = 16 * 1024 * 1024;
/// The most sectors that one range of a discard may cover (2 GiB): it costs the host no I/O to speak of.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// The most sectors that one range of a write-zeroes may cover (64 MiB): the host may have to write them out.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 17;
/// The most ranges of one discard or write-zeroes request.
pub(super) const MAX_RANGES: u32 = 32;

/// `struct virtio_blk_config` up to the fields of the features offered here.
#[derive(Clone, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ConfigSpace {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

impl ConfigSpace {
    /// Configuration space of a disk whose geometry has been checked.
    pub(super) fn new(spec: &BlkSpec, geometry: Geometry) -> Self {
        let blocks_per_physical = geometry.physical_block_size / geometry.logical_block_size.max(1);
        // Header and status take two entries of a chain that is not indirect.
        let segments = spec.queue_size.saturating_sub(2).min(SEG_MAX);
        Self {
            capacity: U64::new(geometry.size / SECTOR_SIZE),
            size_max: U32::new(SIZE_MAX),
            seg_max: U32::new(u32::from(segments)),
            blk_size: U32::new(geometry.logical_block_size),
            physical_block_exp: u8::try_from(blocks_per_physical.checked_ilog2().unwrap_or(0)).unwrap_or(0),
            min_io_size: U16::new(u16::try_from(blocks_per_physical).unwrap_or(1)),
            // The disk starts with a cache that only FLUSH empties; without CONFIG_WCE the driver cannot change it.
            writeback: 1,
            num_queues: U16::new(spec.num_queues),
            max_discard_sectors: U32::new(MAX_DISCARD_SECTORS),
            max_discard_seg: U32::new(MAX_RANGES),
            discard_sector_alignment: U32::new(geometry.physical_block_size / 512),
            max_write_zeroes_sectors: U32::new(MAX_WRITE_ZEROES_SECTORS),
            max_write_zeroes_seg: U32::new(MAX_RANGES),
            write_zeroes_may_unmap: 1,
            ..Self::default()
        }
    }

    /// Fills `data` from byte `offset`; bytes beyond the end stay as they are.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.as_bytes().get(offset..));
        data.iter_mut().zip(rest.unwrap_or_default()).for_each(|(to, from)| *to = *from);
    }
}

/// The feature bits of a disk.
pub(super) fn features(spec: &BlkSpec, geometry: Geometry) -> u64 {
    let always = [
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
    ];
    let writable = [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
    let bits = |list: &[u32]| list.iter().fold(0_u64, |sum, bit| sum | 1 << bit);
    bits(&always)
        | if geometry.read_only { bits(&[VIRTIO_BLK_F_RO]) } else { bits(&writable) }
        | if spec.num_queues > 1 { bits(&[VIRTIO_BLK_F_MQ]) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { size: 1 << 20, logical_block_size: 512, physical_block_size: 4096, read_only: false };

    fn field(space: &ConfigSpace, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        space.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn fields_stand_where_the_specification_says() {
        let spec = BlkSpec { num_queues: 3, ..BlkSpec::default() };
        let space = ConfigSpace::new(&spec, GEOMETRY);
        assert_eq!((field(&space, 0), field(&space, 4)), (2048, 0));
        assert_eq!((field(&space, 8), field(&space, 12)), (65536, 254));
        assert_eq!(field(&space, 20), 512);
        assert_eq!(field(&space, 24), 8 << 16 | 3);
        assert_eq!(field(&space, 32), 3 << 16 | 1);
        assert_eq!([36, 40, 44].map(|at| field(&space, at)), [1 << 22, 32, 8]);
        assert_eq!([48, 52, 56].map(|at| field(&space, at)), [1 << 17, 32, 1]);
    }

    #[test]
    fn reads_beyond_the_end_leave_the_buffer() {
        let space = ConfigSpace::new(&BlkSpec::default(), GEOMETRY);
        let mut bytes = [9; 8];
        space.read(56, &mut bytes);
        assert_eq!(bytes, [1, 0, 0, 0, 9, 9, 9, 9]);
        space.read(u64::MAX, &mut bytes);
        space.read(60, &mut bytes);
        assert_eq!(bytes, [1, 0, 0, 0, 9, 9, 9, 9]);
    }

    #[test]
    fn features_follow_spec_and_disk() {
        let one = features(&BlkSpec::default(), GEOMETRY);
        let many = features(&BlkSpec { num_queues: 2, ..BlkSpec::default() }, GEOMETRY);
        let sealed = features(&BlkSpec::default(), Geometry { read_only: true, ..GEOMETRY });
        assert_eq!(many & !one, 1 << VIRTIO_BLK_F_MQ);
        assert_eq!(one & !sealed, 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES);
        assert_eq!(sealed & !one, 1 << VIRTIO_BLK_F_RO);
    }
}

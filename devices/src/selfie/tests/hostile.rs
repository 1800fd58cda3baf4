//! Images that somebody made who means no good, or that a medium has spoilt: an error or a disk, never a panic.

use super::*;
use crate::selfie::format::{Layout, Virtual};

/// An image with something of everything in it: embedded and plain clusters, summaries, tombstones; not closed.
fn image() -> SimulatedDisk {
    let setup = Setup::new(true, options());
    let image = setup.open();
    for cluster in 0..40 {
        let text = Content::Text(u8::try_from(cluster).unwrap());
        let content = if cluster % 3 == 0 { Content::Noise(cluster) } else { text };
        image.write(cluster * 65536 + cluster % 16 * 4096, &bytes(content, 8192), &[]).unwrap();
    }
    image.flush().unwrap();
    image.core.commit(true).unwrap();
    image.discard(5 * 65536, 2 * 65536).unwrap();
    for cluster in 40..60 {
        image.write(cluster * 65536, &bytes(Content::Text(9), 4096), &[]).unwrap();
    }
    image.flush().unwrap();
    drop(image);
    setup.disk.copy()
}

/// Does to an image whatever its users do.
fn use_it(disk: SimulatedDisk) {
    let disk = Arc::new(disk);
    let Ok(said) = superblock(&*disk) else {
        let open = Selfie::open(disk, options(), None);
        assert!(open.is_err());
        return;
    };
    let report = check(&*disk).unwrap();
    let backing = said.backing.as_ref().map(|_| parent());
    for options in [
        OpenOptions { read_only: true, tolerant: true, ..options() },
        OpenOptions { read_only: true, ..options() },
        options(),
    ] {
        let storage = Arc::clone(&disk) as Arc<dyn Storage>;
        let tolerant = options.tolerant;
        match Selfie::open(storage, options, backing.clone()) {
            Ok(image) => {
                let size = image.geometry().size.min(SIZE);
                let mut content = vec![0; usize::try_from(size).unwrap()];
                let _ = image.read(0, &mut content, &[]);
                let _ = image.map(0, u64::MAX);
                let _ = image.info();
                let _ = image.write(size / 2 / 512 * 512, &content[..4096.min(content.len())], &[]);
                let _ = image.discard(0, size);
                let _ = image.flush();
                let _ = image.close();
            }
            Err(error) => assert!(!tolerant && !report.is_clean(), "{error}"),
        }
    }
}

/// One header is spoilt: its cluster gives an error, all others go on, and the image is not written again.
#[test]
fn an_image_that_contradicts_itself_is_marked() {
    let setup = Setup::new(false, options());
    let image = setup.open();
    for cluster in 0..4 {
        image.write(cluster * 65536, &bytes(Content::Text(7), 4096), &[]).unwrap();
    }
    let place = image.core.map.get(Virtual(2)).offset(0);
    image.close().unwrap();
    assert!(check(&*setup.disk).unwrap().is_clean());
    setup.disk.write(place, &[0xff; 512]).unwrap();

    let image = setup.open();
    let mut content = vec![0; 4096];
    let error = image.read(2 * 65536, &mut content, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    image.write(5 * 65536, &bytes(Content::Text(8), 4096), &[]).unwrap();
    image.read(65536, &mut content, &[]).unwrap();
    assert_eq!(content, bytes(Content::Text(7), 4096));
    image.close().unwrap();

    let report = check(&*setup.disk).unwrap();
    assert!(report.marked_corrupt && !report.errors.is_empty(), "{report:?}");
    let open = |options| Selfie::open(Arc::clone(&setup.disk) as Arc<dyn Storage>, options, None);
    assert_eq!(open(options()).map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    let image = open(OpenOptions { read_only: true, ..options() }).unwrap();
    image.read(5 * 65536, &mut content, &[]).unwrap();
    assert_eq!(content, bytes(Content::Text(8), 4096));
}

fn resealed(disk: &SimulatedDisk, change: impl Fn(&mut [u8])) {
    for place in [0, 4096] {
        let mut copy = vec![0; 4096];
        disk.read(place, &mut copy).unwrap();
        change(&mut copy);
        let sum = crc32c::crc32c(&copy[..4092]);
        copy[4092..].copy_from_slice(&sum.to_le_bytes());
        disk.write(place, &copy).unwrap();
    }
}

/// Where something lies in such an image: superblocks, tables, the zones in use.
fn places() -> impl Strategy<Value = u64> {
    let layout = Layout::new(1 << 30).unwrap();
    let zone = move |number: u64| layout.zones + number * (64 << 20);
    prop_oneof![
        0..1300u64,
        layout.zone_table..layout.zone_table + 64,
        layout.l1..layout.l1 + 32,
        // The summary, and the first clusters of both zones.
        zone(0)..zone(0) + 1200,
        (1..20u64, 0..200u64).prop_map(move |(cluster, at)| zone(0) + cluster * 65536 + at),
        (0..20u64, 0..2000u64).prop_map(move |(cluster, at)| zone(1) + cluster * 65536 + at),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_images_are_used_or_refused(changes in proptest::collection::vec((places(), any::<u8>()), 1..6)) {
        let disk = image();
        for (at, byte) in changes {
            let mut block = vec![0; 512];
            disk.read(at / 512 * 512, &mut block).unwrap();
            block[(at % 512) as usize] = byte;
            disk.write(at / 512 * 512, &block).unwrap();
        }
        use_it(disk);
    }

    /// With the checksum made right, so that what the superblock says is looked at.
    #[test]
    fn no_superblock_is_believed(at in 8..200usize, bytes in any::<[u8; 8]>(), length in 1..8usize) {
        let disk = image();
        resealed(&disk, |copy| copy[at..at + length].copy_from_slice(&bytes[..length]));
        use_it(disk);
    }

    #[test]
    fn an_image_may_be_cut_off_anywhere(size in 0..300u64 << 20) {
        let whole = image();
        let disk = SimulatedDisk::new(SimulatedOptions { size: size / 512 * 512, record: false, ..SimulatedOptions::file() });
        let mut piece = vec![0; 1 << 20];
        let end = whole.size().min(disk.size());
        let mut at = 0;
        while at < end {
            let length = piece.len().min(usize::try_from(end - at).unwrap());
            whole.read(at, &mut piece[..length]).unwrap();
            disk.write(at, &piece[..length]).unwrap();
            at += length as u64;
        }
        use_it(disk);
    }
}

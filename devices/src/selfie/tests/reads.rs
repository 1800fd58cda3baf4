//! Reads of much at once, of what is being written, and of what was spoilt.

use super::*;
use crate::block::{FileOptions, FileStorage};
use crate::selfie::format::{CLUSTER, Kind};

/// Blocks of the disk of [`eight_users_of_one_file_see_what_they_wrote`]: more clusters than there are locks.
const BLOCKS: u64 = 300 * 16;

/// What writer `user` puts into block `block` the `version`th time. Some of it compresses, some does not.
fn block(number: u64, user: u64, version: u64) -> Vec<u8> {
    let seed = number * 1000 + version * 8 + user;
    match seed % 3 {
        0 => bytes(Content::Noise(seed), 4096),
        1 => bytes(Content::Text(u8::try_from(seed % 251).unwrap()), 4096),
        _ => [seed.to_le_bytes(); 512].concat(),
    }
}

#[test]
fn eight_users_of_one_file_see_what_they_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let storage = FileStorage::create(FileOptions::new(&path)).unwrap();
    create(&storage, &CreateOptions { max_size: Some(1 << 30), ..CreateOptions::new(BLOCKS * 4096) })
        .unwrap();
    drop(storage);
    let storage = Arc::new(FileStorage::open(FileOptions::new(&path)).unwrap());
    let image = Selfie::open(storage, OpenOptions::default(), None).unwrap();
    let last: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let image = &image;
        let users: Vec<_> = (0..8u64)
            .map(|user| {
                // Each has a block in every half of a cluster.
                let own = move |number: u64| number % 8 == user;
                scope.spawn(move || {
                    let mut random = Random::new(user + 1);
                    let mut versions = vec![0; usize::try_from(BLOCKS).unwrap()];
                    for _ in 0..150 {
                        for _ in 0..8 {
                            let number = random.below(BLOCKS / 8) * 8 + user;
                            let version = &mut versions[usize::try_from(number).unwrap()];
                            *version += 1;
                            image.write(number * 4096, &block(number, user, *version), &[]).unwrap();
                        }
                        if random.below(8) == 0 {
                            image.flush().unwrap();
                        }
                        let first = random.below(BLOCKS);
                        let count = (1 + random.below(700)).min(BLOCKS - first);
                        let mut content = vec![1; usize::try_from(count * 4096).unwrap()];
                        image.read(first * 4096, &mut content, &[]).unwrap();
                        for (number, content) in (first..).zip(content.chunks(4096)) {
                            let version = versions[usize::try_from(number).unwrap()];
                            if own(number) && version == 0 {
                                assert!(content.iter().all(|&byte| byte == 0), "{number}");
                            } else if own(number) {
                                assert!(content == block(number, user, version), "{number}");
                            }
                        }
                    }
                    versions
                })
            })
            .collect();
        users.into_iter().map(|user| user.join().unwrap()).collect()
    });
    image.close().unwrap();
    let storage = Arc::new(FileStorage::open(FileOptions::new(&path)).unwrap());
    assert!(check(&*storage).unwrap().is_clean());
    let image = Selfie::open(storage, options(), None).unwrap();
    let mut content = vec![1; usize::try_from(BLOCKS * 4096).unwrap()];
    image.read(0, &mut content, &[]).unwrap();
    for (number, content) in (0..).zip(content.chunks(4096)) {
        let user = number % 8;
        let version = last[usize::try_from(user).unwrap()][usize::try_from(number).unwrap()];
        let expected = if version == 0 { vec![0; 4096] } else { block(number, user, version) };
        assert!(content == expected, "{number}");
    }
}

#[test]
fn a_spoilt_lead_block_is_an_error_or_what_was_written() {
    let setup = Setup::new(false, options());
    let image = setup.open();
    let mut written = bytes(Content::Noise(3), 20 * CLUSTER as u64);
    for cluster in written.chunks_mut(CLUSTER) {
        cluster[100..400].fill(8);
    }
    image.write(0, &written, &[]).unwrap();
    let entry = image.core.map.get(crate::selfie::format::Virtual(9));
    assert_eq!(entry.kind, Kind::Embedded);
    let mut good = vec![0; 4096];
    setup.disk.read(entry.cluster.offset(), &mut good).unwrap();
    let mut refused = 0;
    for at in 0..4096 {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        setup.disk.write(entry.cluster.offset(), &bad).unwrap();
        for (from, length) in [(9 * CLUSTER, 4096), (0, written.len())] {
            let mut content = vec![1; length];
            match image.read(from as u64, &mut content, &[]) {
                Ok(()) => assert!(content == written[from..from + length], "byte {at}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    refused += 1;
                }
            }
        }
    }
    // All of the header and its content, which is most of the block, and both ways.
    assert!(refused > 2 * 3500, "{refused}");
}

#[test]
fn what_lies_together_is_read_together_whoever_it_belongs_to() {
    let setup = Setup::new(true, options());
    let image = setup.open();
    let mut model = setup.model();
    for cluster in 32..48u64 {
        let text = bytes(Content::Text(u8::try_from(cluster).unwrap()), CLUSTER as u64);
        image.write(cluster * CLUSTER as u64, &text, &[]).unwrap();
        let at = usize::try_from(cluster).unwrap() * CLUSTER;
        model[at..at + CLUSTER].copy_from_slice(&text);
    }
    let before = setup.disk.counts().reads;
    assert_eq!(difference(&whole(&image), &model), None);
    // Sixteen clusters in pieces of eight, and the rest is the parent's.
    assert_eq!(setup.disk.counts().reads - before, 2);
}

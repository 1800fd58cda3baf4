//! Layers over real files.

use std::path::Path;

use super::*;
use crate::block::Storage;
use crate::icache::{Mode, OpenOptions};
use crate::image::{Format, NewImage, NewImageOptions};
use crate::policy::ClassId;

const MIB: u64 = 1 << 20;

fn tags(class: u8) -> Vec<IoTag> {
    vec![IoTag { class_id: ClassId::new(class).unwrap(), ..IoTag::default() }; 256]
}

/// What layers a disk of 16 MiB has, and of which format its image is.
fn spec(folder: &Path, format: Format, layers: &str) -> StackSpec {
    let mut keys = LayerKeys::default();
    if !layers.is_empty() {
        keys.set("layers", layers).unwrap();
    }
    if layers.contains("cache") {
        keys.set("cache", folder.join("fast").to_str().unwrap()).unwrap();
        keys.set("cache-size", "8M").unwrap();
        keys.set("cache-mode", "back").unwrap();
    }
    StackSpec { image: ImageSpec::new(folder.join("disk"), format), layers: keys.build().unwrap() }
}

fn make(folder: &Path, format: Format, layers: &str) {
    let image = NewImageOptions::new(folder.join("disk"), format, 16 * MIB);
    if layers.contains("dedup") {
        create_dedup(&NewDedup { image, capacity: None }).unwrap();
    } else {
        NewImage::create(&image).unwrap().finish().unwrap();
    }
}

const LENGTH: usize = 1 << 20;

/// Content whose blocks are all different.
fn pattern(seed: u8) -> Vec<u8> {
    let blocks = (0..=u8::MAX).flat_map(|block| [block; 4096]);
    blocks.zip((0..251).cycle()).map(|(block, at): (u8, u8)| block ^ at ^ seed).collect()
}

#[test]
fn every_stack_keeps_what_it_was_given() {
    for format in [Format::Raw, Format::Selfie] {
        for layers in ["", "cache", "dedup", "cache+dedup"] {
            let folder = tempfile::tempdir().unwrap();
            make(folder.path(), format, layers);
            let spec = spec(folder.path(), format, layers);
            let disk = Stack::open(&spec).unwrap();
            assert_eq!(disk.size(), 16 * MIB, "{format} {layers}");
            for number in 0..4 {
                disk.write(number * 2 * MIB, &pattern(u8::try_from(number % 2).unwrap()), &tags(5)).unwrap();
            }
            disk.flush().unwrap();
            disk.discard(6 * MIB, MIB / 2).unwrap();
            let stats = disk.stats();
            assert_eq!(
                (stats.cache.is_some(), stats.dedup.is_some()),
                (layers.contains("cache"), layers.contains("dedup"))
            );
            disk.close().unwrap();
            let disk = Stack::open(&spec).unwrap();
            for number in 0..4 {
                let mut found = vec![1; LENGTH];
                disk.read(number * 2 * MIB, &mut found, &tags(5)).unwrap();
                let mut expected = pattern(u8::try_from(number % 2).unwrap());
                if number == 3 {
                    expected[..LENGTH / 2].fill(0);
                }
                assert!(found == expected, "{format} {layers} {number}");
            }
            let stats = disk.stats();
            if let Some(cache) = &stats.cache {
                assert_eq!(
                    (cache.classes[0].id, cache.classes[0].name.as_str()),
                    (5, "metadata"),
                    "{cache:?}"
                );
                assert!(cache.classes[0].counters.hits > 500, "it came back warm: {cache:?}");
            }
            if let Some(dedup) = &stats.dedup {
                assert_eq!(dedup.saved_bytes, 2 * MIB - MIB / 2, "{dedup:?}");
            }
            disk.close().unwrap();
        }
    }
}

#[test]
fn what_is_dropped_is_recovered_through_all_layers() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), Format::Selfie, "cache+dedup");
    let spec = spec(folder.path(), Format::Selfie, "cache+dedup");
    let disk = Stack::open(&spec).unwrap();
    disk.write(0, &pattern(7), &[]).unwrap();
    disk.flush().unwrap();
    drop(disk);
    let disk = Stack::open(&spec).unwrap();
    let mut found = vec![0; LENGTH];
    disk.read(0, &mut found, &[]).unwrap();
    assert!(found == pattern(7));
    disk.close().unwrap();
}

/// Whoever uses the image without its cache makes it stale.
#[test]
fn a_cache_notices_that_its_disk_was_changed() {
    for (format, crashed) in [(Format::Raw, false), (Format::Selfie, false), (Format::Selfie, true)] {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), format, "cache");
        let mut with_cache = spec(folder.path(), format, "cache");
        with_cache.layers.cache.as_mut().unwrap().options.mode = Mode::Through;
        let alone = StackSpec { layers: Layers::default(), ..with_cache.clone() };
        let held = |disk: &Stack| {
            disk.stats().cache.unwrap().classes.iter().map(|class| class.counters.lines).sum::<u32>()
        };
        let disk = Stack::open(&with_cache).unwrap();
        disk.write(0, &pattern(1), &[]).unwrap();
        disk.flush().unwrap();
        if crashed {
            drop(disk)
        } else {
            disk.close().unwrap()
        }
        if !crashed {
            let disk = Stack::open(&with_cache).unwrap();
            assert_eq!(held(&disk), 256, "{format}: nobody has changed it");
            disk.close().unwrap();
        }
        let disk = Stack::open(&alone).unwrap();
        disk.write(0, &pattern(2), &[]).unwrap();
        disk.close().unwrap();
        let disk = Stack::open(&with_cache).unwrap();
        assert_eq!(held(&disk), 0, "{format}");
        let mut found = vec![0; LENGTH];
        disk.read(0, &mut found, &[]).unwrap();
        assert!(found == pattern(2), "{format}");
        disk.close().unwrap();
    }
}

/// What only the cache has is not thrown away for that, and a cache of another disk is not taken.
#[test]
fn a_stale_cache_with_writes_of_its_own_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), Format::Selfie, "");
    let with_cache = spec(folder.path(), Format::Selfie, "cache");
    let disk = Stack::open(&with_cache).unwrap();
    disk.write(0, &pattern(1), &[]).unwrap();
    disk.flush().unwrap();
    drop(disk);
    let alone = StackSpec { layers: Layers::default(), ..with_cache.clone() };
    Stack::open(&alone).unwrap().close().unwrap();
    let error = Stack::open(&with_cache).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("changed without its cache"), "{error}");
    let mut abandoned = with_cache.clone();
    abandoned.layers.cache.as_mut().unwrap().options.abandon_dirty = true;
    Stack::open(&abandoned).unwrap().close().unwrap();
    std::fs::remove_file(folder.path().join("disk")).unwrap();
    make(folder.path(), Format::Selfie, "");
    let error = Stack::open(&with_cache).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("another disk"), "{error}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    make(path, Format::Selfie, "");
    let error = Stack::open(&spec(path, Format::Selfie, "dedup")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotThisFormat);
    assert!(error.to_string().contains("sky-img create --dedup"), "{error}");
    // A file that is there already is no place for a cache.
    std::fs::write(path.join("fast"), vec![7; 8 << 20]).unwrap();
    let with_cache = spec(path, Format::Selfie, "cache");
    assert_eq!(Stack::open(&with_cache).unwrap_err().kind(), ErrorKind::NotThisFormat);
    assert_eq!(std::fs::read(path.join("fast")).unwrap(), vec![7; 8 << 20]);
    std::fs::remove_file(path.join("fast")).unwrap();
    let cache = CacheSpec { size: None, ..with_cache.layers.cache.clone().unwrap() };
    let unsized_cache =
        StackSpec { layers: Layers { cache: Some(cache.clone()), dedup: None }, ..with_cache.clone() };
    let error = Stack::open(&unsized_cache).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("cache-size"), "{error}");
    let tiny = CacheSpec { size: Some(4096), ..cache.clone() };
    let tiny = StackSpec { layers: Layers { cache: Some(tiny), dedup: None }, ..with_cache.clone() };
    assert_eq!(Stack::open(&tiny).unwrap_err().kind(), ErrorKind::BadSize);
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1, "nothing is left of it");
    Stack::open(&with_cache).unwrap().close().unwrap();
    Stack::open(&unsized_cache).unwrap().close().unwrap();
    let other = CacheSpec { size: Some(4 << 20), ..cache };
    let other = StackSpec { layers: Layers { cache: Some(other), dedup: None }, ..with_cache.clone() };
    assert_eq!(Stack::open(&other).unwrap_err().kind(), ErrorKind::Invalid);
    let disk = Stack::open(&with_cache).unwrap();
    let error = Stack::open(&with_cache).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    disk.close().unwrap();
}

#[test]
fn modes_and_read_only_images_reach_their_layers() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), Format::Selfie, "dedup");
    let mut spec = spec(folder.path(), Format::Selfie, "cache+dedup");
    let options = OpenOptions { mode: Mode::Through, ..OpenOptions::default() };
    spec.layers.cache.as_mut().unwrap().options = options;
    let disk = Stack::open(&spec).unwrap();
    disk.write(0, &pattern(1), &[]).unwrap();
    assert_eq!(disk.stats().cache.unwrap().dirty_blocks, 0);
    disk.close().unwrap();
    spec.image.read_only = true;
    let disk = Stack::open(&spec).unwrap();
    let mut found = vec![0; LENGTH];
    disk.read(0, &mut found, &[]).unwrap();
    assert!(found == pattern(1));
    assert_eq!(disk.write(0, &[0; 4096], &[]).unwrap_err().kind(), ErrorKind::ReadOnly);
    disk.close().unwrap();
}

#[test]
fn a_disk_is_the_storage_of_a_layer() {
    let disk = crate::block::MemoryDisk::new(1 << 20).unwrap();
    let storage = DeviceStorage(&disk);
    storage.write(4096, &[7; 4096]).unwrap();
    assert!(storage.punch(4096, 512).unwrap());
    let mut found = [1; 1024];
    storage.read(4096, &mut found).unwrap();
    assert_eq!((found[..512].to_vec(), found[512..].to_vec()), (vec![0; 512], vec![7; 512]));
    assert_eq!(storage.write(MIB, &[0; 512]).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert!(storage.grow(MIB).is_ok() && storage.grow(MIB + 1).is_err());
    assert_eq!(storage.size(), MIB);
    storage.sync().unwrap();
}

//! Files on a real file system, compared with what the kernel says of them by other ways.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use tempfile::NamedTempFile;

use super::*;

fn storage(path: &Path, cache: Cache) -> FileStorage {
    FileStorage::open(FileOptions { cache, ..FileOptions::new(path) }).unwrap()
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// Bytes that differ at every place.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

/// The flags of the open file, as the kernel has them.
fn flags(storage: &FileStorage) -> String {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", storage.file.as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    line.trim().to_owned()
}

fn has_flag(storage: &FileStorage, flag: i32) -> bool {
    i32::from_str_radix(&flags(storage), 8).unwrap() & flag != 0
}

#[test]
fn direct_where_the_file_system_can_and_never_without_waiting() {
    let file = file(&[0; 8192]);
    for cache in [Cache::Direct, Cache::Buffered] {
        let storage = storage(file.path(), cache);
        assert_eq!(has_flag(&storage, libc::O_DIRECT), storage.cache() == Cache::Direct);
        assert!(!has_flag(&storage, libc::O_NONBLOCK));
        assert!(cache == Cache::Direct || storage.cache() == Cache::Buffered);
    }
}

#[test]
fn a_file_system_without_a_medium_is_used_through_the_page_cache() {
    let Ok(file) = NamedTempFile::new_in("/dev/shm") else { return };
    std::fs::write(file.path(), [3; 4096]).unwrap();
    let storage = storage(file.path(), Cache::Direct);
    // Newer kernels grant direct access to tmpfs, where it means nothing.
    if storage.cache() == Cache::Buffered {
        assert_eq!(storage.properties().alignment, 1);
    }
    let alignment = usize::try_from(storage.properties().alignment).unwrap();
    let mut bytes = vec![0; alignment];
    storage.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, vec![3; alignment]);
}

#[test]
fn memory_need_not_be_aligned() {
    let length = 3 * LARGEST;
    let content = pattern(1, length);
    for cache in [Cache::Direct, Cache::Buffered] {
        let file = file(&vec![0; length]);
        let storage = storage(file.path(), cache);
        for shift in [0, 1, 511, 512] {
            let mut memory = vec![0; length + 4096 + shift];
            let start = memory.as_ptr().addr().next_multiple_of(4096) - memory.as_ptr().addr() + shift;
            let here = start..start + length - 4096;
            memory[here.clone()].copy_from_slice(&content[..length - 4096]);
            storage.write(4096, &memory[here.clone()]).unwrap();
            assert_eq!(std::fs::read(file.path()).unwrap()[4096..], content[..length - 4096]);
            memory.fill(0);
            storage.read(4096, &mut memory[here.clone()]).unwrap();
            assert_eq!(memory[here], content[..length - 4096]);
            storage.write(4096, &vec![0; length - 4096]).unwrap();
        }
    }
}

#[test]
fn what_is_not_aligned_or_beyond_the_end_is_refused() {
    let file = file(&[1; 8192]);
    let storage = storage(file.path(), Cache::Direct);
    let alignment = u64::from(storage.properties().alignment);
    if alignment > 1 {
        assert_eq!(storage.write(1, &[0; 4096]).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(storage.read(0, &mut [0; 100]).unwrap_err().kind(), ErrorKind::Invalid);
    }
    for offset in [8192, u64::MAX - 4095, 1 << 63] {
        assert_eq!(storage.write(offset, &[0; 4096]).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(storage.read(offset, &mut [0; 4096]).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(storage.punch(offset, 4096).unwrap_err().kind(), ErrorKind::OutOfRange);
        let (mut good, mut bad) = ([0; 4096], [0; 4096]);
        let mut requests = [(0, &mut good[..]), (offset, &mut bad[..])];
        assert_eq!(storage.read_many(&mut requests).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    assert_eq!(std::fs::read(file.path()).unwrap(), [1; 8192]);
}

/// Requests of several lengths all over the file, in no order, as (offset, length).
fn scattered(size: usize) -> Vec<(usize, usize)> {
    let lengths = [4096, 8192, 768 * 1024, 4096, 128 * 1024, 132 * 1024];
    let mut place = 0;
    (0..200)
        .map(|index| {
            place = (place + 7919 * 4096) % (size - 768 * 1024);
            (place, lengths[index % lengths.len()])
        })
        .collect()
}

#[test]
fn many_reads_are_the_reads_whichever_way_they_go() {
    let size = 4 * 1024 * 1024;
    let content = pattern(7, size);
    let file = file(&content);
    for cache in [Cache::Direct, Cache::Buffered] {
        let with_ring = storage(file.path(), cache);
        assert_eq!(with_ring.rings.take().is_some(), io_uring::IoUring::new(4).is_ok());
        drop(with_ring);
        for use_ring in [true, false] {
            let storage = storage(file.path(), cache);
            if !use_ring {
                storage.rings.refuse();
            }
            for _ in 0..2 {
                let mut buffers: Vec<_> =
                    scattered(size).into_iter().map(|(at, length)| (at, vec![0; length])).collect();
                let mut requests: Vec<_> =
                    buffers.iter_mut().map(|(at, buffer)| (to_u64(*at), &mut buffer[..])).collect();
                storage.read_many(&mut requests).unwrap();
                for (at, buffer) in &buffers {
                    assert!(buffer[..] == content[*at..at + buffer.len()], "{cache:?} {use_ring} at {at}");
                }
            }
            storage.read_many(&mut []).unwrap();
        }
    }
}

#[test]
fn many_writes_are_the_writes_and_one_that_fails_is_named() {
    let size = 1 << 20;
    let (file, content) = (file(&vec![0; size]), pattern(3, size));
    let storage = storage(file.path(), Cache::Direct);
    for count in [1, 5, 100] {
        storage.write(0, &vec![0; size]).unwrap();
        // Every second block, from the last to the first.
        let pieces: Vec<_> = (0..count)
            .rev()
            .map(|number| (to_u64(number * 8192), &content[number * 8192..][..4096]))
            .collect();
        storage.write_many(&pieces).unwrap();
        let mut there = vec![1; size];
        storage.read(0, &mut there).unwrap();
        for (number, blocks) in there.chunks(8192).enumerate() {
            let expected = if number < count { &content[number * 8192..][..4096] } else { &[0; 4096] };
            assert!(blocks[..4096] == *expected && blocks[4096..] == [0; 4096], "{number} of {count}");
        }
        let beyond: Vec<_> = pieces.iter().map(|(_, piece)| (to_u64(size), *piece)).collect();
        assert_eq!(storage.write_many(&beyond).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    storage.write_many(&[]).unwrap();
}

/// Calls `each` with a storage that has io_uring, if the kernel has, and one that does without.
fn both_ways(path: &Path, each: impl Fn(&FileStorage)) {
    for use_ring in [true, false] {
        let storage = storage(path, Cache::Direct);
        if !use_ring {
            storage.rings.refuse();
        }
        each(&storage);
    }
}

#[test]
fn what_arrives_is_told_once_and_can_be_changed() {
    let size = 4 * 1024 * 1024;
    let content = pattern(9, size);
    let file = file(&content);
    both_ways(file.path(), |storage| {
        // Aligned memory and other, both longer and shorter than what a ring has.
        for shift in [0, 1] {
            let places = scattered(size);
            let mut memory = vec![0; places.iter().map(|(_, length)| length).sum::<usize>() + 4097];
            let start = memory.as_ptr().align_offset(4096) + shift;
            let mut rest = &mut memory[start..];
            let mut requests = Vec::new();
            for &(at, length) in &places {
                let (buffer, later) = std::mem::take(&mut rest).split_at_mut(length);
                rest = later;
                requests.push((to_u64(at), buffer));
            }
            let mut seen = vec![0; places.len()];
            let arrived = &mut |number: usize, buffer: &mut [u8]| {
                seen[number] += 1;
                let (at, length) = places[number];
                assert!(*buffer == content[at..at + length], "{number}");
                buffer[0] ^= 0xff;
                Ok(())
            };
            storage.read_each(&mut requests, arrived).unwrap();
            assert!(seen.iter().all(|&times| times == 1));
            assert!(requests.iter().zip(&places).all(|((_, buffer), (at, _))| buffer[0] == !content[*at]));
        }
    });
}

#[test]
fn an_error_or_panic_of_who_waits_for_arrivals_is_his_alone() {
    let content = pattern(4, 32 * 4096);
    let file = file(&content);
    both_ways(file.path(), |storage| {
        let mut memory = vec![0; content.len()];
        let mut requests: Vec<_> = (0..).step_by(4096).zip(memory.chunks_mut(4096)).collect();
        let mut calls = 0;
        let error = storage.read_each(&mut requests, &mut |_, _| {
            calls += 1;
            if calls < 3 { Ok(()) } else { Err(Error::new(ErrorKind::Corrupt, Operation::Read)) }
        });
        assert_eq!((error.unwrap_err().kind(), calls), (ErrorKind::Corrupt, 3));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            storage.read_each(&mut requests, &mut |_, _| panic!("on purpose"))
        }));
        assert!(panicked.is_err());
        storage.read_many(&mut requests).unwrap();
        assert!(memory == content);
    });
}

#[test]
fn more_readers_than_rings_read_what_is_there() {
    let content = pattern(5, 1024 * 1024);
    let file = file(&content);
    let storage = storage(file.path(), Cache::Direct);
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let mut memory = vec![0; content.len()];
                    let mut requests: Vec<_> = (0..).step_by(65536).zip(memory.chunks_mut(65536)).collect();
                    storage.read_many(&mut requests).unwrap();
                    assert!(memory == content);
                }
            });
        }
    });
}

#[test]
fn a_failure_among_many_reads_is_named_and_the_next_ones_work() {
    let file = file(&pattern(3, 128 * 1024));
    for use_ring in [true, false] {
        let storage = storage(file.path(), Cache::Direct);
        if !use_ring {
            storage.rings.refuse();
        }
        // The storage still believes in 128 KiB.
        file.as_file().set_len(64 * 1024).unwrap();
        let mut buffers = vec![[0; 4096]; 32];
        let mut requests: Vec<_> =
            buffers.iter_mut().zip((0..).step_by(4096)).map(|(buffer, at)| (at, &mut buffer[..])).collect();
        let error = storage.read_many(&mut requests).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.offset() >= Some(64 * 1024), "{error}");
        storage.read_many(&mut requests[..16]).unwrap();
        file.as_file().set_len(128 * 1024).unwrap();
    }
}

#[test]
fn grows_and_gives_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.img");
    let storage = FileStorage::create(FileOptions::new(&path)).unwrap();
    assert_eq!((storage.size(), storage.properties().growable), (0, true));
    assert_eq!(storage.write(0, &[1; 4096]).unwrap_err().kind(), ErrorKind::OutOfRange);
    storage.grow(1024 * 1024).unwrap();
    storage.grow(4096).unwrap();
    assert_eq!((storage.size(), std::fs::metadata(&path).unwrap().len()), (1024 * 1024, 1024 * 1024));
    storage.write(0, &pattern(1, 1024 * 1024)).unwrap();
    storage.sync().unwrap();
    let before = std::fs::metadata(&path).unwrap().blocks();
    if storage.punch(65536, 512 * 1024).unwrap() {
        storage.sync().unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() <= before - 1024);
        let mut expected = pattern(1, 1024 * 1024);
        expected[65536..65536 + 512 * 1024].fill(0);
        assert!(std::fs::read(&path).unwrap() == expected);
    }
    let counts = storage.counts();
    assert_eq!((counts.grows, counts.flushes, counts.written_bytes), (1, counts.syncs, 1024 * 1024));
}

#[test]
fn creation_replaces_nothing() {
    let file = file(&[9; 4096]);
    let error = FileStorage::create(FileOptions::new(file.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(std::fs::read(file.path()).unwrap(), [9; 4096]);
}

#[test]
fn a_reader_changes_nothing_and_a_writer_is_alone() {
    let file = file(&[4; 4096]);
    let reader = FileStorage::open(FileOptions { read_only: true, ..FileOptions::new(file.path()) }).unwrap();
    assert_eq!(FileStorage::open(FileOptions::new(file.path())).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(reader.write(0, &[0; 4096]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(reader.punch(0, 4096).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(reader.grow(8192).unwrap_err().kind(), ErrorKind::ReadOnly);
    reader.sync().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), [4; 4096]);
}

#[test]
fn a_failed_sync_ends_all_changes() {
    let file = file(&[4; 4096]);
    let mut storage = storage(file.path(), Cache::Direct);
    storage.replace_sync(|_| Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    assert_eq!(storage.sync().unwrap_err().kind(), ErrorKind::NoSpace);
    storage.replace_sync(|_| Ok(()));
    assert_eq!(storage.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(storage.write(0, &[0; 4096]).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(storage.punch(0, 4096).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(storage.grow(8192).unwrap_err().kind(), ErrorKind::Poisoned);
    storage.read(0, &mut [0; 4096]).unwrap();
    assert_eq!(file.as_file().metadata().unwrap().len(), 4096);
}

#[test]
fn the_administrator_may_know_better() {
    let file = file(&[0; 4096]);
    let open =
        |bytes| FileStorage::open(FileOptions { atomic_write: Some(bytes), ..FileOptions::new(file.path()) });
    assert_eq!(open(512).unwrap().properties().atomic_write, 512);
    assert_eq!(open(16384).unwrap().properties().atomic_write, 16384);
    for bytes in [0, 1, 256, 513, 6144] {
        assert_eq!(open(bytes).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn requests_do_not_allocate_once_there_are_buffers() {
    let file = file(&vec![0; 64 * 1024]);
    let storage = storage(file.path(), Cache::Direct);
    if storage.cache() == Cache::Buffered {
        return;
    }
    let memory = pattern(2, 65 * 1024 + 1);
    let shift = (0..2).find(|&shift| !storage.buffers.accepts(&memory[shift..])).unwrap();
    let addresses: Vec<usize> = (0..100)
        .map(|_| {
            storage.write(0, &memory[shift..shift + 65536]).unwrap();
            storage.buffers.lend(512, |buffer| buffer.as_ptr().addr())
        })
        .collect();
    assert!(addresses.iter().all(|&address| address == addresses[0]));
    let mut written = vec![0; 65536];
    file.as_file().read_exact_at(&mut written, 0).unwrap();
    assert!(written[..] == memory[shift..shift + 65536]);
}

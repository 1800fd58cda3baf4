//! The engine against a disk that is nothing but bytes.

use proptest::prelude::*;

use super::*;
use crate::block::MemoryDisk;
use crate::block::simulated::{Random, SimulatedDisk, SimulatedOptions};

/// Sixty-four clusters and a bit, which ends inside a block.
const SIZE: u64 = 64 * 65536 + 5 * 4096 + 512;

#[derive(Clone, Copy, Debug)]
enum Content {
    Text(u8),
    Noise(u64),
    Zeroes,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { at: u64, length: u64, content: Content },
    Discard { at: u64, length: u64 },
    Zero { at: u64, length: u64, unmap: bool },
    Flush,
    Commit,
    Close,
    Crash,
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    let sectors = SIZE / 512;
    prop_oneof![
        // Blocks, clusters, and anything.
        (0..SIZE / 4096, 1..40u64).prop_map(|(block, count)| (block * 4096, count * 4096)),
        (0..64u64, 1..4u64).prop_map(|(cluster, count)| (cluster * 65536, count * 65536)),
        (0..sectors, 1..300u64).prop_map(|(sector, count)| (sector * 512, count * 512)),
        // A few clusters, again and again.
        (0..48u64, 1..20u64).prop_map(|(block, count)| (block * 4096, count * 4096)),
    ]
    .prop_map(|(at, length)| (at, length.min(SIZE - at)))
}

fn step() -> impl Strategy<Value = Step> {
    let content = prop_oneof![
        4 => any::<u8>().prop_map(Content::Text),
        3 => any::<u64>().prop_map(Content::Noise),
        1 => Just(Content::Zeroes),
    ];
    prop_oneof![
        12 => (range(), content).prop_map(|((at, length), content)| Step::Write { at, length, content }),
        2 => range().prop_map(|(at, length)| Step::Discard { at, length }),
        2 => (range(), any::<bool>()).prop_map(|((at, length), unmap)| Step::Zero { at, length, unmap }),
        2 => Just(Step::Flush),
        1 => Just(Step::Commit),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

fn bytes(content: Content, length: u64) -> Vec<u8> {
    let length = usize::try_from(length).unwrap();
    match content {
        Content::Zeroes => vec![0; length],
        Content::Text(word) => {
            (0..length).map(|at| word.wrapping_add(u8::try_from(at / 512 % 256).unwrap())).collect()
        }
        Content::Noise(seed) => {
            let mut random = Random::new(seed);
            (0..length.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).take(length).collect()
        }
    }
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn parent() -> Arc<dyn BlockDevice> {
    // Shorter than the disk.
    let mut content = bytes(Content::Noise(5), SIZE / 2 / 4096 * 4096);
    content[65536..2 * 65536].fill(0);
    Arc::new(MemoryDisk::from_bytes(content, true).unwrap())
}

struct Setup {
    disk: Arc<SimulatedDisk>,
    backing: Option<Arc<dyn BlockDevice>>,
    options: OpenOptions,
}

impl Setup {
    fn new(backed: bool, options: OpenOptions) -> Self {
        let disk = SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() });
        let backing = backed.then(parent);
        let below = backing.as_ref().map(|backing| Backing {
            path: "parent".to_owned(),
            format: BackingFormat::Raw,
            identity: Identity { size: backing.geometry().size, ..Identity::default() },
            reach: 0,
        });
        create(&disk, &CreateOptions { max_size: Some(1 << 30), backing: below, ..CreateOptions::new(SIZE) })
            .unwrap();
        Self { disk: Arc::new(disk), backing, options }
    }

    fn open(&self) -> Selfie {
        let storage = Arc::clone(&self.disk) as Arc<dyn Storage>;
        Selfie::open(storage, self.options.clone(), self.backing.clone()).unwrap()
    }

    fn model(&self) -> Vec<u8> {
        let mut model = vec![0; usize::try_from(SIZE).unwrap()];
        if let Some(backing) = &self.backing {
            let length = usize::try_from(backing.geometry().size).unwrap();
            backing.read(0, &mut model[..length], &[]).unwrap();
        }
        model
    }
}

fn whole(disk: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![1; usize::try_from(SIZE).unwrap()];
    disk.read(0, &mut content, &[]).unwrap();
    content
}

/// Where two differ first.
fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

fn run(backed: bool, options: OpenOptions, steps: &[Step]) {
    let setup = Setup::new(backed, options);
    let mut model = setup.model();
    let mut image = setup.open();
    for (number, &step) in steps.iter().enumerate() {
        let index =
            |at: u64, length: u64| usize::try_from(at).unwrap()..usize::try_from(at + length).unwrap();
        match step {
            Step::Write { at, length, content } => {
                let data = bytes(content, length);
                image.write(at, &data, &[]).unwrap();
                model[index(at, length)].copy_from_slice(&data);
                let mut back = vec![1; data.len()];
                image.read(at, &mut back, &[]).unwrap();
                assert_eq!(difference(&back, &data), None, "{number}: {step:?}");
            }
            Step::Discard { at, length } => {
                image.discard(at, length).unwrap();
                model[index(at, length)].fill(0);
            }
            Step::Zero { at, length, unmap } => {
                image.write_zeroes(at, length, unmap).unwrap();
                model[index(at, length)].fill(0);
            }
            Step::Flush => image.flush().unwrap(),
            Step::Commit => image.core.commit(true).unwrap(),
            Step::Close => {
                image.close().unwrap();
                let report = check(&*setup.disk).unwrap();
                assert!(report.is_clean() && !report.dirty, "{number}: {report:?}");
                image = setup.open();
            }
            Step::Crash => {
                // What is durable is all that there is.
                image.flush().unwrap();
                drop(image);
                let report = check(&*setup.disk).unwrap();
                assert!(report.is_clean() && report.dirty, "{number}: {report:?}");
                image = setup.open();
            }
        }
        if matches!(step, Step::Close | Step::Crash) || number % 8 == 7 || number + 1 == steps.len() {
            assert_eq!(difference(&whole(&image), &model), None, "{number}: {step:?}");
        }
    }
    let extents = image.map(0, SIZE);
    let mut at = 0;
    for extent in &extents {
        assert_eq!(extent.offset, at);
        at += extent.length;
        let content = &model[usize::try_from(extent.offset).unwrap()..usize::try_from(at).unwrap()];
        match extent.kind {
            ExtentKind::Zero => assert!(content.iter().all(|&byte| byte == 0), "{extent:?}"),
            ExtentKind::Backing => {
                let expected = &setup.model()[usize::try_from(extent.offset).unwrap()..][..content.len()];
                assert_eq!(difference(content, expected), None, "{extent:?}");
            }
            ExtentKind::Data => {}
        }
    }
    assert_eq!(at, SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_disk(steps in proptest::collection::vec(step(), 1..60)) {
        run(false, options(), &steps);
    }

    #[test]
    fn it_is_a_disk_over_another(steps in proptest::collection::vec(step(), 1..60)) {
        run(true, options(), &steps);
    }

    #[test]
    fn it_is_a_disk_without_mappings_in_blocks(steps in proptest::collection::vec(step(), 1..40), backed in any::<bool>()) {
        run(backed, OpenOptions { embed: false, ..options() }, &steps);
    }

    #[test]
    fn it_is_a_disk_however_mappings_are_collected(steps in proptest::collection::vec(step(), 1..40), own in any::<bool>()) {
        let summaries = if own { Summaries::Own } else { Summaries::None };
        run(false, OpenOptions { summaries, ..options() }, &steps);
    }

    #[test]
    fn it_is_a_disk_with_a_thread(steps in proptest::collection::vec(step(), 1..40), backed in any::<bool>()) {
        run(backed, OpenOptions::default(), &steps);
    }
}

mod background;
mod collect;
mod hold;
mod hostile;
mod leaks;
mod reads;
mod space;

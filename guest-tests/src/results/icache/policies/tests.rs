use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

proptest! {
    /// A list that is searched from its beginning.
    #[test]
    fn lru_is_a_list(capacity in 1..20usize, blocks in proptest::collection::vec(0..40u32, 1..400)) {
        let mut cache = Classless::Lru.cache(u32::try_from(capacity).unwrap(), 40);
        let mut list: VecDeque<u32> = VecDeque::new();
        for block in blocks {
            let place = list.iter().position(|&other| other == block);
            prop_assert_eq!(cache.access(block), place.is_some());
            place.map(|place| list.remove(place));
            list.push_front(block);
            list.truncate(capacity);
        }
    }

    /// Whatever they keep, it is no more than they have room for: that many different blocks hit, asked one after the other,
    /// and a block that was never used does not.
    #[test]
    fn nobody_keeps_more_than_its_capacity(
        capacity in 10..30u32,
        blocks in proptest::collection::vec(prop_oneof![0..20u32, 0..100u32], 1..600),
    ) {
        for policy in Classless::ALL {
            let mut hits = 0;
            for asked in 0..100 {
                // Asking changes a cache, so each is asked once.
                let mut cache = policy.cache(capacity, 101);
                blocks.iter().for_each(|&block| _ = cache.access(block));
                let hit = cache.access(asked);
                prop_assert!(!hit || blocks.contains(&asked));
                hits += u32::from(hit);
            }
            prop_assert!(hits <= capacity, "{policy:?} holds {hits} of {capacity}");
            prop_assert!(hits >= capacity.min(u32::try_from(blocks.len()).unwrap()).min(distinct(&blocks)) * 9 / 10);
        }
    }
}

fn distinct(blocks: &[u32]) -> u32 {
    let set: std::collections::HashSet<_> = blocks.iter().collect();
    u32::try_from(set.len()).unwrap()
}

/// A loop that fits, between blocks that come once: the hits of libCacheSim 0.3.5.
#[test]
fn a_loop_between_scans_hits_as_often_as_the_oracle_says() {
    for (policy, expected) in Classless::ALL.into_iter().zip([0, 4000, 4500, 3845]) {
        let mut cache = policy.cache(1000, 40_000);
        let mut hits = 0;
        for round in 0..6 {
            let scan = 10_000 + round * 5_000..15_000 + round * 5_000;
            hits += (0..900).chain(scan).map(|block| u32::from(cache.access(block))).sum::<u32>();
        }
        assert_eq!(hits, expected, "{policy:?}");
    }
}

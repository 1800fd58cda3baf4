//! Small pieces of recorded traces, which `guest-tests/oracle/cut_trace.py` has cut.

use std::path::Path;

use super::find::disks;
use super::policies::Classless;
use super::replay::{Ours, System, Theirs};
use super::trace::{Request, Trace};

fn load(name: &str, order: &[&str]) -> (Trace, Vec<Request>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/traces").join(name);
    let trace = Trace::load(&path).unwrap();
    let requests = order.iter().flat_map(|phase| trace.phase(phase).unwrap().requests.clone()).collect();
    (trace, requests)
}

const FIND: [&str; 5] = ["find", "scan", "find", "scan", "find"];
const JOIN: [&str; 3] = ["join-0", "join-1", "join-0"];

/// A file, the phases that are replayed, and by capacity the hits of LRU, S3-FIFO, LIRS and W-TinyLFU.
type Known = (&'static str, &'static [&'static str], [(u32, [u32; 4]); 2]);

/// The hits of libCacheSim 0.3.5, block by block.
#[test]
fn policies_hit_as_often_as_the_oracle_says() {
    let traces: [Known; 3] = [
        ("find.trace", &FIND, [(1000, [138, 2565, 2755, 2478]), (4000, [5296, 5296, 5296, 5296])]),
        ("mail.trace", &["mail"], [(1000, [0, 97, 112, 104]), (4000, [966, 361, 384, 399])]),
        ("join.trace", &JOIN, [(1000, [36, 1538, 1701, 1522]), (4000, [1077, 5236, 6470, 6546])]),
    ];
    for (name, order, expected) in traces {
        let (trace, requests) = load(name, order);
        for (capacity, hits) in expected {
            let found = Classless::ALL.map(|policy| {
                let mut cache = policy.cache(capacity, trace.blocks());
                let blocks = requests.iter().flat_map(|request| request.blocks());
                blocks.map(|block| u32::from(cache.access(block))).sum::<u32>()
            });
            assert_eq!(found, hits, "{name} {capacity}");
        }
    }
}

/// Where classes are worth something, the engine finds more than the best of the others does.
#[test]
fn classes_are_worth_something() {
    for (name, order, bytes) in [("find.trace", &FIND[..], 8 << 20), ("join.trace", &JOIN, 12 << 20)] {
        let (trace, requests) = load(name, order);
        let seconds = |system: &mut dyn System| {
            requests.iter().for_each(|&request| system.request(request).unwrap());
            system.seconds()
        };
        let mut ours = Ours::new(bytes, &trace, disks()).unwrap();
        let capacity = ours.capacity();
        let ours = seconds(&mut ours);
        let lru = seconds(&mut Theirs::new(Classless::Lru, capacity, &trace, disks()));
        println!("{name}: {ours:.2} s, LRU {lru:.2} s");
        assert!(ours * 1.1 < lru, "{name}: {ours} and {lru}");
    }
}

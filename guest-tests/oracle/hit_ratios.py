#!/usr/bin/env python3
"""Asks libCacheSim for the hit ratios that `cargo results icache` has found without classes.

    python3 -m venv venv && venv/bin/pip install libcachesim==0.3.5
    venv/bin/python guest-tests/oracle/hit_ratios.py TARGET/traces/sources-1.trace TARGET/results/icache.json

Prints both for each policy and size, in hundredths, and ends with status 1 if some differ by more than a thousandth of one.
"""

import json
import sys

import libcachesim

FINDS = 5
POLICIES = {
    "lru": libcachesim.LRU,
    "s3fifo": libcachesim.S3FIFO,
    "lirs": libcachesim.LIRS,
    "wtinylfu": libcachesim.WTinyLFU,
}


def accesses(path):
    """Blocks in the order of the benchmark: a find, and then each time a scan and a find."""
    phases = {}
    with open(path, encoding="ascii") as trace:
        for line in trace:
            words = line.split()
            if words[0] == "P":
                blocks = phases.setdefault(words[1], [])
            elif words[0] in "RW":
                blocks.extend(range(int(words[1]), int(words[1]) + int(words[2])))
    return phases["find"] + (phases["scan"] + phases["find"]) * (FINDS - 1)


def main():
    blocks = accesses(sys.argv[1])
    with open(sys.argv[2], encoding="ascii") as file:
        figures = json.load(file)
    prefix = "find.capacity_blocks."
    sizes = sorted(int(key.removeprefix(prefix)) for key in figures if key.startswith(prefix))
    request = libcachesim.Request()
    request.obj_size = 1
    worst = 0.0
    for size in sizes:
        capacity = int(figures[f"{prefix}{size}"])
        for name, policy in POLICIES.items():
            cache = policy(capacity, hashpower=20)
            hits = 0
            for block in blocks:
                # Zero is no name for it.
                request.obj_id = block + 1
                hits += cache.get(request)
            theirs, ours = 100 * hits / len(blocks), figures[f"find.all_hits_percent.{name}.{size}"]
            worst = max(worst, abs(ours - theirs))
            print(f"{size:5} MiB {name:9} ours {ours:7.3f} libCacheSim {theirs:7.3f}", flush=True)
    print(f"largest difference: {worst:.3f}")
    return worst > 0.001


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Cuts a trace to the first requests of some phases, with the classes of the blocks that they touch.

    guest-tests/oracle/cut_trace.py TARGET/traces/sources-1.trace find:500 scan:1500 > guest-tests/oracle/traces/find.trace
    guest-tests/oracle/cut_trace.py TARGET/traces/mail-1.trace mail:5000 > guest-tests/oracle/traces/mail.trace
    guest-tests/oracle/cut_trace.py TARGET/traces/tpch-1.trace join-0:3000 join-1:3000 > guest-tests/oracle/traces/join.trace
"""

import sys


def runs(classes):
    """Neighbours of the same class: first, count, class."""
    blocks = sorted(block for block in classes if classes[block] != 0)
    first = last = None
    for block in blocks:
        if last is not None and block == last + 1 and classes[block] == classes[first]:
            last = block
            continue
        if first is not None:
            yield first, last + 1 - first, classes[first]
        first = last = block
    if first is not None:
        yield first, last + 1 - first, classes[first]


def main():
    left = {}
    for argument in sys.argv[2:]:
        name, count = argument.split(":")
        left[name] = int(count)
    named, phases, classes = [], [], {}
    with open(sys.argv[1], encoding="ascii") as trace:
        head = next(trace)
        for line in trace:
            words = line.split()
            if words[0] == "C":
                named.append((int(words[1]), int(words[2]), int(words[3])))
            elif words[0] == "P":
                phase = words[1]
                if phase in left:
                    phases.append(line)
            elif left.get(phase, 0) > 0:
                left[phase] -= 1
                phases.append(line)
                first, count = int(words[1]), int(words[2])
                classes.update((block, 0) for block in range(first, first + count))
    for first, count, number in named:
        for block in range(first, first + count):
            if block in classes:
                classes[block] = number
    sys.stdout.write(head)
    for first, count, number in runs(classes):
        print("C", first, count, number)
    sys.stdout.writelines(phases)


if __name__ == "__main__":
    main()

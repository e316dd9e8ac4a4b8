#!/usr/bin/env python3
"""Times CPython's ShareableList as `cargo bench --bench list` times ours.

Run the benchmark first, with the same machine to itself. The results are kept beside criterion's, where ratios.py finds them.
"""

import platform
from itertools import cycle
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList

from ratios import show
from results import sampled, save

GROUPS = ["list_get", "list_set", "list_iterate", "list_create", "list_attach"]
SECONDS = 0.5  # for each measurement
SHORT = "seven c"
LONG = "a text of forty characters, or so it was"


def measure(group, case, function, calls):
    save(group, f"CPython/{case}", sampled(function, SECONDS, calls))


def getting(items):
    at = cycle(range(len(items)))
    return lambda: items[next(at)]


def setting(items, values):
    at, values = cycle(range(len(items))), cycle(values)

    def set_one():
        items[next(at)] = next(values)

    return set_one


def set_other_type(items):
    values = cycle([1, 2.5])

    def set_one():
        items[3] = next(values)

    return set_one


def create(values):
    def create_one():
        items = ShareableList(values)
        items.shm.close()
        items.shm.unlink()

    return create_one


def attach(name):
    def attach_one():
        ShareableList(name=name).shm.close()

    return attach_one


def measure_all():
    for count in (10, 100_000):
        values = list(range(count))
        items = ShareableList(values)
        try:
            whole = max(1, 2000 // count)
            measure("list_get", count, getting(items), 20_000)
            measure("list_set", count, setting(items, [7]), 20_000)
            measure("list_iterate", count, lambda: sum(items), whole)
            measure("list_create", count, create(values), whole)
            measure("list_attach", count, attach(items.shm.name), whole)
        finally:
            items.shm.close()
            # Before 3.13 attaching has registered it several times over, which counts as once.
            items.shm.unlink()
    for case, text in (("short", SHORT), ("long", LONG)):
        items = ShareableList([text] * 10)
        try:
            measure("list_get", case, getting(items), 20_000)
            measure("list_set", case, setting(items, [text]), 20_000)
        finally:
            items.shm.close()
            items.shm.unlink()
    items = ShareableList([0] * 10)
    try:
        measure("list_set", "other type", set_other_type(items), 20_000)
    finally:
        items.shm.close()
        items.shm.unlink()


def main():
    print(f"CPython {platform.python_version()}")
    measure_all()
    show(GROUPS)


if __name__ == "__main__":
    resource_tracker.ensure_running()
    main()

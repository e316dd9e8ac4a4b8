#!/usr/bin/env python3
"""Time CPython's ShareableList as `cargo bench --bench list` times ours, and print how many times as fast ours is.

Run the benchmark first, with the same machine to itself: its results are read from target/criterion (or the directory
given as the only argument). The middle of several runs is taken for each number.
"""

import json
import pathlib
import platform
import statistics
import sys
import time
from itertools import cycle
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList

RUNS = 7
SHORT = "seven c"
LONG = "a text of forty characters, or so it was"


def seconds(function, calls):
    """Seconds that a call takes: the median over several runs of so many calls."""
    runs = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        runs.append((time.perf_counter() - start) / calls)
    return statistics.median(runs)


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


def measurements():
    for count in (10, 100_000):
        values = list(range(count))
        items = ShareableList(values)
        try:
            whole = max(1, 2000 // count)
            yield "list_get", count, seconds(getting(items), 20_000)
            yield "list_set", count, seconds(setting(items, [7]), 20_000)
            yield "list_iterate", count, seconds(lambda: sum(items), whole)
            yield "list_create", count, seconds(create(values), whole)
            yield "list_attach", count, seconds(attach(items.shm.name), whole)
        finally:
            items.shm.close()
            # Before 3.13 attaching has registered it several times over, which counts as once.
            items.shm.unlink()
    for name, text in (("short", SHORT), ("long", LONG)):
        items = ShareableList([text] * 10)
        try:
            yield "list_get", name, seconds(getting(items), 20_000)
            yield "list_set", name, seconds(setting(items, [text]), 20_000)
        finally:
            items.shm.close()
            items.shm.unlink()
    items = ShareableList([0] * 10)
    try:
        yield "list_set", "other type", seconds(set_other_type(items), 20_000)
    finally:
        items.shm.close()
        items.shm.unlink()


def ours(results, group, case):
    """Seconds of the Rust benchmark, or None where it was not run."""
    path = results / group / "ndshm" / str(case).replace(" ", "_") / "new" / "estimates.json"
    if not path.exists():
        path = results / group / "ndshm" / str(case) / "new" / "estimates.json"
    if not path.exists():
        return None
    return json.loads(path.read_text())["median"]["point_estimate"] / 1e9


def show(value):
    for unit, factor in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if value * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "target" / "criterion"
    results = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    print(f"CPython {platform.python_version()}")
    print(f"{'':14}{'items':>12}{'CPython':>12}{'ndshm':>12}{'ratio':>10}")
    for group, case, python in measurements():
        rust = ours(results, group, case)
        shown = ("not run", "") if rust is None else (show(rust), f"{python / rust:.1f}")
        print(f"{group:14}{case!s:>12}{show(python):>12}{shown[0]:>12}{shown[1]:>10}")


if __name__ == "__main__":
    resource_tracker.ensure_running()
    main()

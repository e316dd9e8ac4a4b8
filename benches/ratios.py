#!/usr/bin/env python3
"""Prints what `cargo bench` measured as ratios to the limits in the same group.

Reads target/criterion (or what CARGO_TARGET_DIR says) and needs nothing but Python. Two ratios are given: of the medians, and
of the fastest samples, which other work on the machine disturbs least. A budget that the fastest samples exceed is marked.

    benches/ratios.py [group ...]     groups whose names begin so; all of them without
    benches/ratios.py --strict ...    fails where a budget is exceeded
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent


class Limit(NamedTuple):
    """In groups that match `group`, what matches `subject` takes at most `budget` times as long as `limit`."""

    group: str
    subject: str
    limit: str
    budget: Optional[float]  # None: worth knowing, and nothing is promised


class Measured(NamedTuple):
    """Seconds."""

    median: float
    fastest: float


LIMITS = [
    Limit(r"call.*", r"pool.*", "futex ping-pong", 1.5),
    Limit(r"call on two processors", r"pool.*", "spin ping-pong", 2.0),
    Limit(r"call.*", r"pool", "pipe", None),
    Limit(r"call.*", r"pool", "socket pair", None),
    Limit(r"call.*", r"pool", "ipc-channel", None),
    Limit(r"4096 chunks .*", r"pool", "rayon", 1.2),
    Limit(r"kernel .*", r"pool.*", "rayon", 1.03),
    Limit(r"kernel .*", r"pool", "rayon, shared array", None),
    Limit(r"start.*", r"worker.*", "posix_spawn", 3.0),
    Limit(r"create (?!and|from).*", r"array.*", "memfd", None),
    Limit(r"create (?!and|from).*", r"array", "memfd, fallocate", None),
    Limit(r"create and fill .*", r"array", "memfd", 1.0),
    Limit(r"create and fill .*", r"array, huge pages", "memfd", 0.5),
    Limit(r"create and fill .*", r"array, reserved lazily", "memfd", None),
    Limit(r"create and fill .*", r"array.*", "Vec", None),
    Limit(r"create from .*", r"array.*", "memfd", None),
    Limit(r"create from .*", r"array.*", "Vec", None),
    Limit(r"fill again .*", r"array.*", "memset", None),
    Limit(r"copy again .*", r"array.*", "memcpy", None),
    Limit(r"copy again .*", r"array.*", "rep movsb", None),
    Limit(r"attach to (?!and).*", r"array.*", "memfd", None),
    Limit(r"attach to and read .*", r"array.*", "again", 1.3),
    Limit(r"attach to and write .*", r"array.*", "again", 1.6),
    Limit(r"handoff of 64 MiB", r"shared array", "pipe", 0.1),
    Limit(r"handoff of 64 MiB", r"shared array", "socket pair", 0.1),
    Limit(r"handoff of (?!64 MiB).*", r"shared array", "pipe", None),
    Limit(r"handoff of (?!64 MiB).*", r"shared array", "socket pair", None),
]


def target_dir() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def measured() -> dict[str, dict[str, Measured]]:
    """What was measured last, by group and function, in the order in which it was."""
    found = []
    for path in target_dir().glob("criterion/**/new/estimates.json"):
        # Criterion shortens and cleans the names of its folders; the names themselves stand in this file.
        names = json.loads(path.with_name("benchmark.json").read_text())
        median = json.loads(path.read_text())["median"]["point_estimate"]
        sample = json.loads(path.with_name("sample.json").read_text())
        fastest = min(time / iters for time, iters in zip(sample["times"], sample["iters"]))
        result = Measured(median * 1e-9, fastest * 1e-9)
        found.append((path.stat().st_mtime_ns, names["group_id"], names["function_id"], result))
    groups: dict[str, dict[str, Measured]] = {}
    for _, group, function, result in sorted(found, key=lambda entry: entry[0]):
        groups.setdefault(group, {})[function] = result
    return groups


def duration(seconds: float) -> str:
    for factor, unit in [(1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")]:
        if seconds * factor >= 1 or unit == "ns":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError("the last unit takes all")


def times(ratio: float) -> str:
    return f"{ratio:.3g}×" if ratio < 100 else f"{ratio:.0f}×"


def table(rows: list[list[str]]) -> str:
    """Aligned columns; the first is text, the others are figures."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def ratios(group: str, functions: dict[str, Measured]) -> tuple[list[list[str]], bool]:
    """A row for each subject and limit of the group, and whether all budgets are kept."""
    rows, kept = [], True
    for limit in LIMITS:
        if not re.fullmatch(limit.group, group) or limit.limit not in functions:
            continue
        against = functions[limit.limit]
        for name, subject in functions.items():
            if not re.fullmatch(limit.subject, name):
                continue
            fastest = subject.fastest / against.fastest
            over = limit.budget is not None and fastest > limit.budget
            kept &= not over
            budget = times(limit.budget) if limit.budget is not None else ""
            rows.append([
                f"{name} / {limit.limit}", duration(subject.median), duration(against.median),
                times(subject.median / against.median), times(fastest), budget, "over" if over else "",
            ])
    return rows, kept


def main() -> int:
    arguments = sys.argv[1:]
    strict = "--strict" in arguments
    wanted = tuple(argument for argument in arguments if argument != "--strict") or ("",)
    kept, empty = True, True
    for group, functions in measured().items():
        if not group.startswith(wanted):
            continue
        rows, all_kept = ratios(group, functions)
        if not rows:
            continue
        kept &= all_kept
        empty = False
        print(f"\n{group}")
        print(table([["", "median", "limit", "ratio", "fastest", "budget", ""], *rows]))
    if empty:
        print("nothing was measured: run `cargo bench` first", file=sys.stderr)
        return 1
    return 1 if strict and not kept else 0


if __name__ == "__main__":
    sys.exit(main())

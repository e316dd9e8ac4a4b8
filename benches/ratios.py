#!/usr/bin/env python3
"""Prints what `cargo bench` and the Python scripts here have measured as ratios to the limits and rivals in the same group.

Reads target/criterion (or what CARGO_TARGET_DIR says) and needs nothing but Python. Two ratios are given: of the medians, and
of the fastest samples, which other work on the machine disturbs least and by which a budget is judged. Where it says that
copying wins, data of that size is better sent than shared.

    benches/ratios.py [group ...]     groups whose names begin so; all of them without
    benches/ratios.py --strict ...    fails where a budget is exceeded
"""

import sys

from limits import Row, rows_of
from results import duration, measured, table


def main() -> int:
    arguments = sys.argv[1:]
    strict = "--strict" in arguments
    wanted = tuple(argument for argument in arguments if argument != "--strict") or ("",)
    groups = [group for group in measured() if group.startswith(wanted)]
    rows = show(groups)
    if not rows:
        print("nothing was measured: run `cargo bench` first", file=sys.stderr)
        return 1
    return 1 if strict and not all(row.limit.within(row.fastest) for row in rows) else 0


def show(groups: list[str]) -> list[Row]:
    """Prints what there is to be said of these groups, and returns it."""
    everything = []
    for group in groups:
        rows = rows_of(group, measured().get(group, {}))
        everything += rows
        if rows:
            print(f"\n{group}")
            print(table([["", "median", "limit", "ratio", "fastest", "budget", ""], *map(cells, rows)]))
    return everything


def cells(row: Row) -> list[str]:
    limit = row.limit
    return [
        f"{row.subject} / {row.against}", duration(row.measured.median), duration(row.limit_measured.median),
        limit.shown(row.median), limit.shown(row.fastest), limit.budget_shown(), limit.verdict(row.fastest),
    ]


if __name__ == "__main__":
    sys.exit(main())

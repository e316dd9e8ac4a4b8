"""What each measurement is held against."""

import re
from statistics import median
from typing import NamedTuple, Optional

from results import Groups, Measured, times


class Limit(NamedTuple):
    """In groups that match `group`, what matches `subject` takes at most `budget` times as long as `limit`, which is the best
    that the machine can do."""

    group: str
    subject: str
    limit: str
    budget: Optional[float] = None  # None: worth knowing, and nothing is promised

    def shown(self, ratio: float) -> str:
        return times(ratio)

    def range_shown(self, low: float, high: float) -> str:
        return f"{times(low)} to {times(high)}"

    def within(self, ratio: float) -> bool:
        return self.budget is None or ratio <= self.budget

    def budget_shown(self) -> str:
        return "" if self.budget is None else f"{self.budget:g}×"

    def verdict(self, ratio: float) -> str:
        if self.budget is None:
            return ""
        return "within" if self.within(ratio) else "over"


class Rival(Limit):
    """What one would use instead: `subject` is to be `budget` times as fast."""

    def shown(self, ratio: float) -> str:
        return f"{times(1 / ratio)} ahead" if ratio < 1 else f"{times(ratio)} behind"

    def range_shown(self, low: float, high: float) -> str:
        if low < 1 <= high:
            return f"{self.shown(low)} to {self.shown(high)}"
        slow, fast = (high, low) if high < 1 else (low, high)
        return f"{self.shown(slow).split()[0]} to {self.shown(fast).split()[0]}"

    def within(self, ratio: float) -> bool:
        return self.budget is None or ratio * self.budget <= 1

    def budget_shown(self) -> str:
        return "" if self.budget is None else f"{self.budget:g}× ahead"

    def verdict(self, ratio: float) -> str:
        if self.budget is None and ratio > 1 and "handoff" in self.group and "memory" not in self.limit:
            return "copying wins"
        return super().verdict(ratio)


STREAMS = ["pipe of 1 MiB", "socket pair", "TCP", "ipc-channel"]
OTHERS = ["pipe", "pipe, vmsplice", "process_vm_readv", "ipc-channel, memory kept"]
LOCKS = ["flock", "pthread mutex", "std RwLock", "std RwLock (threads)"]

LIMITS: list[Limit] = [
    Limit(r"call.*", r"pool.*", "futex ping-pong", 1.5),
    Limit(r"call (on two processors|in turns)", r"pool(?!, spin\(0\)).*", "spin ping-pong", 2.0),
    Limit(r"call (on two processors|in turns)", r"pool", "the same cache lines, nothing else"),
    Limit(r"call (on two processors|in turns)", r"pool, writes .*", "the same cache lines and an array's locks"),
    Limit(r"call (on two processors|in turns)", r"the same cache lines.*", "spin ping-pong"),
    *(Rival(r"call.*", r"pool", rival) for rival in ["pipe", "socket pair", "ipc-channel"]),
    *(Rival(r"call", r"pool", rival) for rival in ["multiprocessing, apply", "loky, submit and result"]),
    Limit(r"4096 chunks .*", r"pool", "rayon", 1.2),
    Limit(r"100000 chunks .*", r"pool", "rayon"),
    Limit(r"\d+ chunks with results", r"pool", "pool, numbers into an array"),
    *(Rival(r"4096 chunks in place", r"pool", f"{library}, {how}")
      for library in ["multiprocessing", "joblib with loky"] for how in ["chunks sent", "by number"]),
    Limit(r"kernel .*", r"pool", "rayon, huge pages", 1.03),
    Limit(r"kernel .*", r"pool.*", "rayon", 1.03),
    Limit(r"kernel .*", r"pool", "rayon, shared array"),
    Limit(r"start.*", r"worker.*", "posix_spawn", 3.0),

    Limit(r"create \d.*", r"array.*", "memfd"),
    Limit(r"create \d.*", r"array", "memfd, fallocate"),
    Limit(r"create and fill .*", r"array", "memfd", 0.5),
    Limit(r"create and fill .*", r"array, small pages", "memfd", 1.0),
    Limit(r"create and fill .*", r"array", "anonymous mapping, huge pages"),
    Limit(r"create and fill .*", r"array, reserved.*", "memfd"),
    Rival(r"create and fill .*", r"array.*", "Vec"),
    Limit(r"create from .*", r"array.*", "memfd"),
    Rival(r"create from .*", r"array.*", "Vec"),
    Limit(r"fill again .*", r"array.*", "memset"),
    Limit(r"copy again .*", r"array.*", "memcpy"),
    Limit(r"copy again .*", r"array.*", "rep movsb"),
    Limit(r"attach to \d.*", r"array.*", "memfd"),
    Limit(r"attach to and read .*", r"array", "again", 1.3),
    Limit(r"attach to and write .*", r"array", "again", 1.6),
    # Small pages are faulted in one by one, or entered beforehand: nobody does that faster than the bare system calls.
    Limit(r"attach to and .*", r"array, small pages(, populated)?", "again"),
    Limit(r"attach to and .*", r"array, small pages", "memfd", 1.1),
    Limit(r"attach to and .*", r"array, small pages, populated", "memfd, populated", 1.0),

    Limit(r"handoff of \d+ [MG]iB", r"array(, .*)?", "reading alone"),
    *(Rival(r"handoff of 64 MiB", r"array", rival, 10) for rival in STREAMS),
    *(Rival(r"handoff of (?!64 MiB).*", r"array", rival) for rival in STREAMS),
    *(Rival(r"handoff of .*", r"array", rival) for rival in OTHERS),
    Rival(r"handoff of 64 MiB", r"array made anew", "socket pair", 1.0),
    Rival(r"handoff of (?!64 MiB).*", r"array made anew.*", "socket pair"),
    Rival(r"handoff of 64 MiB", r"array made anew, .*", "socket pair"),
    Rival(r"handoff of .*", r"array made anew.*", "ipc-channel, memory made anew"),
    *(Rival(r"(handoff untouched|first handoff) of .*", r"array.*", rival) for rival in [
        "pipe of 1 MiB", "socket pair", "process_vm_readv", "ipc-channel, memory kept",
    ]),

    *(
        limit
        for kernel in ["saxpy", "5-point stencil", "reduction", "row-wise sort"]
        for limit in [
            Limit(kernel, r"pool", "rayon", 1.03),
            Rival(kernel, r"pool", "one thread"),
            Rival(kernel, r"pool", "Python"),
        ]
    ),

    Limit(r"(read|write) lock", r"array that others can reach", "kernel's lock"),
    Limit(r"(read|write) lock", r"array", "std RwLock"),
    Limit(r"(read|write) lock, .*", r"array", "kernel's lock"),
    *(Rival(r"(read|write) lock, .*", r"array", rival) for rival in LOCKS),
    *(Rival(r"(read|write) lock", r"array that others can reach", rival) for rival in LOCKS),

    Rival(r"list_(get|set)", r"ndshm/10", "CPython/10", 100),
    Rival(r"list_(get|set)", r"ndshm/(100000|short|long|other type)", "CPython"),
    Rival(r"list_(iterate|create|attach)", r"ndshm/.*", "CPython"),
]


class Row(NamedTuple):
    limit: Limit
    subject: str
    against: str
    measured: Measured
    limit_measured: Measured

    @property
    def median(self) -> float:
        return self.measured.median / self.limit_measured.median

    @property
    def fastest(self) -> float:
        """The ratio that other work on the machine disturbs least."""
        return self.measured.fastest / self.limit_measured.fastest


def rows_of(group: str, functions: dict[str, Measured]) -> list[Row]:
    """A row for each subject and limit of the group."""
    rows = []
    for limit in LIMITS:
        if not re.fullmatch(limit.group, group):
            continue
        for name, subject in functions.items():
            if not re.fullmatch(limit.subject, name):
                continue
            # With more than one case in a group (`function/case`) each is held against its own.
            case = name.partition("/")[2]
            against = limit.limit if "/" in limit.limit or not case else f"{limit.limit}/{case}"
            if against in functions:
                rows.append(Row(limit, name, against, subject, functions[against]))
    return rows


class Repeated(NamedTuple):
    """One comparison, made in several runs. A ratio is always one of a single run."""

    rows: list[Row]

    @property
    def limit(self) -> Limit:
        return self.rows[0].limit

    @property
    def against(self) -> str:
        return self.rows[0].against

    @property
    def ours(self) -> float:
        return median(row.measured.median for row in self.rows)

    @property
    def theirs(self) -> float:
        return median(row.limit_measured.median for row in self.rows)

    @property
    def ratio(self) -> float:
        return median(row.median for row in self.rows)

    @property
    def between(self) -> tuple[float, float]:
        """The lowest and the highest of all runs."""
        ratios = [row.median for row in self.rows]
        return min(ratios), max(ratios)


def find(runs: list[Groups], group: str, subject: str, against: str) -> Optional[Repeated]:
    """One comparison; None where it was not measured."""
    rows = [
        row
        for groups in runs
        for row in rows_of(group, groups.get(group, {}))
        if (row.subject, row.against) == (subject, against)
    ]
    return Repeated(rows) if rows else None

"""What was measured: criterion's results and those of the Python scripts beside it, and how numbers are printed."""

import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Measured(NamedTuple):
    """Seconds."""

    median: float
    fastest: float


# By group and function, in the order in which they were measured.
Groups = dict[str, dict[str, Measured]]


def target_dir() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def measured() -> Groups:
    """What was measured last."""
    found = [*of_criterion(), *of_others()]
    groups: Groups = {}
    for _, group, function, result in sorted(found, key=lambda entry: entry[0]):
        groups.setdefault(group, {})[function] = result
    return groups


def runs_dir() -> Path:
    return target_dir() / "bench-runs"


def forget_last() -> None:
    """Nothing of an earlier version is to stand beside what is measured next."""
    shutil.rmtree(target_dir() / "criterion", ignore_errors=True)
    python_results().unlink(missing_ok=True)
    shutil.rmtree(turns_dir(), ignore_errors=True)


def forget_runs() -> None:
    shutil.rmtree(runs_dir(), ignore_errors=True)


def keep_run(number: int) -> None:
    """Puts what was measured last aside, as a whole run of everything."""
    runs_dir().mkdir(parents=True, exist_ok=True)
    (runs_dir() / f"{number}.json").write_text(json.dumps(measured(), indent=1))


def measured_runs() -> list[Groups]:
    """The runs that were put aside; where there are none, what was measured last is the only one."""
    runs = [json.loads(path.read_text()) for path in sorted(runs_dir().glob("*.json"))]
    if not runs:
        return [groups] if (groups := measured()) else []
    return [
        {group: {name: Measured(*result) for name, result in functions.items()} for group, functions in run.items()}
        for run in runs
    ]


def of_criterion():
    """When something was measured, its group and function, and the result."""
    for path in target_dir().glob("criterion/**/new/estimates.json"):
        # Criterion shortens and cleans the names of its folders; the names themselves stand in this file.
        names = json.loads(path.with_name("benchmark.json").read_text())
        median = json.loads(path.read_text())["median"]["point_estimate"]
        sample = json.loads(path.with_name("sample.json").read_text())
        fastest = min(time / iters for time, iters in zip(sample["times"], sample["iters"]))
        function = "/".join(filter(None, [names["function_id"], names["value_str"]]))
        yield path.stat().st_mtime_ns, names["group_id"], function, Measured(median * 1e-9, fastest * 1e-9)


def python_results() -> Path:
    return target_dir() / "bench-python-results.json"


def turns_dir() -> Path:
    """Where `benches/turns` writes what it has measured, a file for each group."""
    return target_dir() / "bench-turns"


def of_others():
    for path in filter(Path.exists, [python_results(), *turns_dir().glob("*.json")]):
        for group, functions in json.loads(path.read_text()).items():
            for function, (at, median, fastest) in functions.items():
                yield at, group, function, Measured(median, fastest)


def save(group: str, function: str, result: Measured) -> None:
    """Keeps what a Python script has measured beside criterion's results."""
    path = python_results()
    groups = json.loads(path.read_text()) if path.exists() else {}
    groups.setdefault(group, {})[function] = [time.time_ns(), *result]
    path.write_text(json.dumps(groups, indent=1))


def sampled(run: Callable[[], object], seconds: float = 1.0, calls: int = 1) -> Measured:
    """What a call of `run` takes, sampled for so long after a first time that does not count."""
    run()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        samples.append((time.perf_counter() - start) / calls)
    return Measured(statistics.median(samples), min(samples))


def duration(seconds: float) -> str:
    for factor, unit in [(1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")]:
        if seconds * factor >= 1 or unit == "ns":
            return f"{three_digits(seconds * factor)} {unit}"
    raise AssertionError("the last unit takes all")


def times(ratio: float) -> str:
    return f"{three_digits(ratio)}×"


def three_digits(number: float) -> str:
    """Three digits that count, or two below 1, never as a power of ten."""
    if number >= 99.95:
        return f"{number:,.0f}"
    if number >= 1:
        return f"{number:#.3g}"
    return f"{number:.2f}" if number >= 0.095 else f"{number:.2g}"


def table(rows: list[list[str]]) -> str:
    """Aligned columns; the first is text, the others are figures."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

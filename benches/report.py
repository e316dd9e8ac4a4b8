#!/usr/bin/env python3
"""Writes what was measured into the README: its table, between the markers there, and benches/chart.svg.

    benches/report.py                from the runs that were measured so, or else from what `cargo bench` has measured last
    benches/report.py --measure      measures everything first: about ten minutes, with the machine to itself
    benches/report.py --measure 3    the same three times, one after the other; ratios are medians then, with their range
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

from chart import Bar, Panel, svg
from limits import find
from results import ROOT, Groups, Measured, duration, forget_last, forget_runs, keep_run, measured_runs, times

README = ROOT / "README.md"
CHART = ROOT / "benches" / "chart.svg"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"

# In this order: a benchmark, the filter for what stands in the report, and what is asked of it beyond the default. What
# Python takes for the same comes after.
BENCHES: list[tuple[str, str, dict[str, str]]] = [
    ("handoff", "", {}),
    ("memory", "(create and fill [^/]*/(memfd|array|Vec)|attach to and [^/]*/(array|again))$", {
        "NDSHM_BENCH_MEMORY_MIB": "1024",
    }),
    ("compute", "", {}), ("lock", "", {}),
    ("pool", "^call|[0-9] chunks|^start", {}), ("turns", "", {}), ("list", "list_[gs]et", {}),
]
SCRIPTS = ["compute.py", "pool.py", "list.py"]

# What is done, in which group, by which of ours, against whom. An empty text repeats the one before.
ROWS = [
    ("64 MiB to a worker that reads all of it", "handoff of 64 MiB", "array", [
        "socket pair", "TCP", "pipe of 1 MiB", "process_vm_readv", "ipc-channel", "ipc-channel, memory kept", "reading alone",
    ]),
    ("the same, made for one message and dropped", "handoff of 64 MiB", "array made anew", ["socket pair"]),
    ("4 KiB to a worker that reads all of it", "handoff of 4 KiB", "array", ["socket pair", "ipc-channel"]),
    ("the same, made for one message and dropped", "handoff of 4 KiB", "array made anew", ["socket pair"]),
    ("an empty call of a worker", "call", "pool", ["futex ping-pong", "multiprocessing, apply"]),
    ("the same, where nobody spins", "call", "pool, spin(0)", ["futex ping-pong"]),
    ("the same, spinning on two processors", "call in turns", "pool", [
        "spin ping-pong", "the same cache lines, nothing else",
    ]),
    ("the same, lent 1 MiB to write", "call in turns", "pool, writes 1 MiB", [
        "spin ping-pong", "the same cache lines and an array's locks",
    ]),
    ("the same, lent 8 GiB to write", "call in turns", "pool, writes 8 GiB", ["spin ping-pong"]),
    ("4096 chunks of 4 KiB, in one call", "4096 chunks in place", "pool", ["rayon", "multiprocessing, by number"]),
    ("the same by one worker", "4096 chunks in place, one worker", "pool", ["rayon"]),
    ("the same by two, each with a number as its result", "4096 chunks with results", "pool", ["rayon"]),
    ("the same with a struct of three numbers", "4096 chunks with structs", "pool", ["rayon"]),
    ("the same with a `String`", "4096 chunks with strings", "pool", ["rayon"]),
    ("100,000 chunks of 128 bytes with a number each", "100000 chunks with results", "pool", ["rayon"]),
    ("add to 512 MiB, bound by memory, 2 workers", "kernel bound by memory, 2 workers", "pool", ["rayon, huge pages", "rayon"]),
    ("the same, bound by arithmetic", "kernel bound by arithmetic, 2 workers", "pool", ["rayon, huge pages", "rayon"]),
    ("start a worker", "start", "worker", ["posix_spawn"]),
    ("create and fill 1 GiB", "create and fill 1 GiB", "array", ["memfd", "Vec"]),
    ("attach to 1 GiB in another process and read it", "attach to and read 1 GiB", "array", ["again"]),
    ("attach to 1 GiB in another process and write it", "attach to and write 1 GiB", "array", ["again"]),
    ("saxpy over 64 MiB", "saxpy", "pool", ["rayon", "Python"]),
    ("5-point stencil over 64 MiB", "5-point stencil", "pool", ["rayon", "Python"]),
    ("sum of squares of 64 MiB", "reduction", "pool", ["rayon", "Python"]),
    ("row-wise sort of 64 MiB", "row-wise sort", "pool", ["rayon", "Python"]),
    ("lock for writing what others can reach", "write lock", "array that others can reach", ["kernel's lock", "flock"]),
    ("get a number from a list", "list_get", "ndshm/10", ["CPython/10"]),
    ("set a number in a list", "list_set", "ndshm/10", ["CPython/10"]),
]

# Words for what stands beside, where the name in its group is too short by itself.
WORDS = {
    "reading alone": "the reading alone, in this process",
    "again": "a pass over mapped pages", "memfd": "memfd, nothing reserved", "kernel's lock": "the bare kernel lock",
    "Python": "NumPy in `multiprocessing`", "futex ping-pong": "a futex's round trip",
    "spin ping-pong": "a spinning round trip", "rayon, huge pages": "rayon, with huge pages too", "CPython/10": "CPython",
}

KERNELS = ["saxpy", "5-point stencil", "reduction", "row-wise sort"]


def measure(runs: int) -> None:
    # Built first, so that no compiler is at work beside a measurement.
    cargo = ["cargo", "bench", "--quiet"]
    names = [argument for bench, _, _ in BENCHES for argument in ("--bench", bench)]
    subprocess.run([*cargo, "--no-run", *names], cwd=ROOT, check=True)
    forget_runs()
    for number in range(runs):
        forget_last()
        for bench, wanted, settings in BENCHES:
            subprocess.run([*cargo, "--bench", bench, "--", wanted], cwd=ROOT, check=True, env={**os.environ, **settings})
        for script in SCRIPTS:
            subprocess.run([sys.executable, ROOT / "benches" / script], cwd=ROOT, check=True)
        keep_run(number)


def ratios(runs: list[Groups]) -> str:
    lines = ["| what | time | beside | time | ratio | budget |", "|---|---|---|---|---|---|"]
    for what, group, subject, rivals in ROWS:
        found = [row for rival in rivals if (row := find(runs, group, subject, rival))]
        for index, row in enumerate(found):
            ours = [what, duration(row.ours)] if index == 0 else ["", ""]
            # By the medians, which are what is shown.
            verdict = {"over": "missed", "within": ""}.get(said := row.limit.verdict(row.ratio), said)
            budget = ", ".join(filter(None, [row.limit.budget_shown(), verdict]))
            ratio = f"**{row.limit.shown(row.ratio)}**"
            if len(row.rows) > 1:
                ratio += f" ({row.limit.range_shown(*row.between)})"
            beside = [WORDS.get(row.against, row.against), duration(row.theirs)]
            lines.append("| " + " | ".join([*ours, *beside, ratio, budget]) + " |")
    return "\n".join(lines) + "\n"


def medians(runs: list[Groups]) -> Groups:
    """For drawing: the median of all runs of each measurement."""
    return {
        group: {
            name: Measured(*(statistics.median(values) for values in zip(*(
                run[group][name] for run in runs if name in run.get(group, {})
            ))))
            for name in functions
        }
        for group, functions in runs[-1].items()
    }


def machine() -> str:
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpu)
    virtual = ", virtual" if re.search(r"^flags.*\bhypervisor\b", cpu, re.M) else ""
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    gib = round(int(memory[1]) / 2**20) if memory else "?"
    release = re.match(r"[\d.]*\d", platform.release())
    name = model[1] if model else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{name}{virtual}, {cores} cores, {gib} GiB, Linux {release[0] if release else platform.release()}"


def chart(groups: Groups) -> str:
    panels = []
    handoff = groups.get("handoff of 64 MiB", {})
    names = ["array", "ipc-channel, memory kept", "socket pair", "process_vm_readv", "pipe, vmsplice", "TCP", "pipe of 1 MiB",
             "pipe", "ipc-channel"]
    labels = {"array": "ndshm: shared array", "pipe": "pipe of 64 KiB"}
    bars = [
        Bar(labels.get(name, name), handoff[name].median, handoff_shown(handoff, name), name == "array")
        for name in names if name in handoff
    ]
    if "array" in handoff:
        bars.sort(key=lambda bar: bar.length)
        panels.append(Panel(
            "64 MiB to a worker process that reads all of it",
            "Milliseconds until it has answered, and how many times as long as ndshm; shorter is better", [bars],
        ))
    kernels = [bars for kernel in KERNELS if (bars := kernel_bars(kernel, groups.get(kernel, {})))]
    if kernels:
        panels.append(Panel(
            "Kernels over arrays of 64 MiB",
            "Time against rayon on a Vec; NumPy in multiprocessing, over its shared memory; shorter is better", kernels,
        ))
    return svg(panels, "Times of ndshm and of what one would use instead; shorter is better")


def handoff_shown(handoff, name: str) -> str:
    shown = duration(handoff[name].median)
    return shown if name == "array" or "array" not in handoff else f"{shown}, {times(handoff[name].median / handoff['array'].median)}"


def kernel_bars(kernel: str, functions) -> list[Bar]:
    if "rayon" not in functions:
        return []
    against = functions["rayon"].median
    names = [("pool", "ndshm"), ("rayon", "rayon"), ("Python", "NumPy")]
    return [
        Bar(f"{kernel}: {label}", functions[name].median / against,
            f"{times(functions[name].median / against)}, {duration(functions[name].median)}", name == "pool")
        for name, label in names if name in functions
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=int, nargs="?", const=1, metavar="RUNS", help="measure first, so often (default: once)")
    if (arguments := parser.parse_args()).measure is not None:
        if arguments.measure < 1:
            parser.error("--measure takes a number of runs, at least 1")
        measure(arguments.measure)
    runs = measured_runs()
    if not runs:
        print("nothing was measured: run this with --measure, or `cargo bench`, first", file=sys.stderr)
        return 1
    text = README.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{README} has no place for the table: the lines {BEGIN.strip()} and {END.strip()} mark it", file=sys.stderr)
        return 1
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    repeated = f" Medians of {len(runs)} runs of everything, and the range of their ratios." if len(runs) > 1 else ""
    section = f"{ratios(runs)}\nMeasured on: {machine()}.{repeated}\n"
    README.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}")
    CHART.write_text(chart(medians(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

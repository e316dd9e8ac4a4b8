#!/usr/bin/env python3
"""What Python's process pools take for the calls that benches/pool measures: an empty call, and 4096 chunks of 4 KiB.

Makes a virtual environment with NumPy and joblib under target/ for itself. Where `cargo bench --bench pool` has run, the
last column gives how many times as long as this crate's pool each of them takes (of the medians).

Chunks are handed over in two ways: sent (pickled, changed and sent back), and by number, where the task changes them in shared
memory that the worker attached to once, which is the best that Python can do.
"""

import os
import statistics
import subprocess
import sys
import time
from multiprocessing import Pool
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from results import duration, measured, table, target_dir, times

REQUIREMENTS = ["numpy", "joblib"]
CHUNKS = 4096
CHUNK_LEN = 512  # of 8 bytes
WORKERS = 2
SECONDS = 1.0  # for each measurement


def enter_environment() -> None:
    """Goes on in the environment's interpreter, which the first run makes."""
    folder = (target_dir() / "bench-python").resolve()
    python = folder / "bin" / "python"
    done = folder / "requirements.txt"
    if Path(sys.prefix).resolve() == folder:
        return
    if not done.exists() or done.read_text().split() != REQUIREMENTS:
        print(f"making {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        done.write_text("\n".join(REQUIREMENTS))
    os.execv(python, [python, *sys.argv])


def empty() -> None:
    pass


def increment(chunk):
    chunk += 1
    return chunk


_attached = {}


def increment_shared(name: str, index: int) -> None:
    import numpy

    if name not in _attached:
        memory = SharedMemory(name=name)
        _attached[name] = memory, numpy.ndarray((CHUNKS, CHUNK_LEN), numpy.uint64, memory.buf)
    _attached[name][1][index] += 1


def median_time(run) -> float:
    """Seconds a run, after one that does not count."""
    run()
    took = []
    end = time.perf_counter() + SECONDS
    while len(took) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def measurements(chunks, name: str):
    """What, which group and function of ours it is held against, and how long it took."""
    from functools import partial

    import joblib
    from joblib.externals.loky import get_reusable_executor

    by_number = partial(increment_shared, name)
    numbers = range(CHUNKS)
    call, in_place = ("call", "pool"), ("4096 chunks in place", "pool")

    with Pool(1) as pool:
        yield "multiprocessing, Pool(1).apply", call, median_time(lambda: pool.apply(empty))
    executor = get_reusable_executor(max_workers=1)
    yield "loky, 1 worker, submit and result", call, median_time(lambda: executor.submit(empty).result())
    executor.shutdown()

    with Pool(WORKERS) as pool:
        yield "multiprocessing, map, chunks sent", in_place, median_time(lambda: pool.map(increment, chunks))
        yield "multiprocessing, map, by number", in_place, median_time(lambda: pool.map(by_number, numbers))
    with joblib.Parallel(n_jobs=WORKERS, backend="loky") as parallel:
        def joblib_map(function, items):
            return lambda: parallel(joblib.delayed(function)(item) for item in items)

        yield "joblib with loky, chunks sent", in_place, median_time(joblib_map(increment, chunks))
        yield "joblib with loky, by number", in_place, median_time(joblib_map(by_number, numbers))
    get_reusable_executor().shutdown()


def main() -> None:
    import numpy

    ours = measured()
    memory = SharedMemory(create=True, size=CHUNKS * CHUNK_LEN * 8)
    try:
        chunks = list(numpy.zeros((CHUNKS, CHUNK_LEN), numpy.uint64))
        rows = [["", "median", "ours", "ratio"]]
        for what, (group, function), seconds in measurements(chunks, memory.name):
            known = ours.get(group, {}).get(function)
            of_ours = [duration(known.median), times(seconds / known.median)] if known else ["not measured", ""]
            rows.append([what, duration(seconds), *of_ours])
        print(table(rows))
    finally:
        memory.close()
        memory.unlink()


if __name__ == "__main__":
    enter_environment()
    main()

#!/usr/bin/env python3
"""What Python's process pools take for the calls that benches/pool measures: an empty call, and 4096 chunks of 4 KiB.

Makes a virtual environment with NumPy and joblib under target/ for itself, runs benches/pool where there is nothing of it yet
to be held against, and keeps its results beside criterion's, where ratios.py finds them.

Chunks are handed over in two ways: sent (pickled, changed and sent back), and by number, where the task changes them in shared
memory that the worker attached to once, which is the best that Python can do.
"""

import subprocess
from multiprocessing import Pool
from multiprocessing.shared_memory import SharedMemory

import environment
from ratios import show
from results import ROOT, measured, sampled, save

CHUNKS = 4096
CHUNK_LEN = 512  # of 8 bytes
WORKERS = 2

# The groups of benches/pool.
CALL = "call"
IN_PLACE = "4096 chunks in place"


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


def measure(chunks, name: str) -> None:
    from functools import partial

    import joblib
    from joblib.externals.loky import get_reusable_executor

    by_number = partial(increment_shared, name)
    numbers = range(CHUNKS)

    with Pool(1) as pool:
        save(CALL, "multiprocessing, apply", sampled(lambda: pool.apply(empty)))
    executor = get_reusable_executor(max_workers=1)
    save(CALL, "loky, submit and result", sampled(lambda: executor.submit(empty).result()))
    executor.shutdown()

    with Pool(WORKERS) as pool:
        save(IN_PLACE, "multiprocessing, chunks sent", sampled(lambda: pool.map(increment, chunks)))
        save(IN_PLACE, "multiprocessing, by number", sampled(lambda: pool.map(by_number, numbers)))
    with joblib.Parallel(n_jobs=WORKERS, backend="loky") as parallel:
        def joblib_map(function, items):
            return lambda: parallel(joblib.delayed(function)(item) for item in items)

        save(IN_PLACE, "joblib with loky, chunks sent", sampled(joblib_map(increment, chunks)))
        save(IN_PLACE, "joblib with loky, by number", sampled(joblib_map(by_number, numbers)))
    get_reusable_executor().shutdown()


def main() -> None:
    import numpy

    if any("pool" not in measured().get(group, {}) for group in (CALL, IN_PLACE)):
        ours = rf"^({CALL}|{IN_PLACE})/pool$"
        subprocess.run(["cargo", "bench", "--quiet", "--bench", "pool", "--", ours], cwd=ROOT, check=True)
    memory = SharedMemory(create=True, size=CHUNKS * CHUNK_LEN * 8)
    try:
        measure(list(numpy.zeros((CHUNKS, CHUNK_LEN), numpy.uint64)), memory.name)
    finally:
        memory.close()
        memory.unlink()
    show([CALL, IN_PLACE])


if __name__ == "__main__":
    environment.enter()
    main()

#!/usr/bin/env python3
"""What Python takes for the kernels that benches/compute measures: a process pool with NumPy over `shared_memory`.

Makes a virtual environment with NumPy under target/ for itself, and keeps its results beside criterion's, where ratios.py
finds them. The arrays are as large, cut into the same chunks, and worked on in place by workers that attached to them once,
which is the best that Python can do; scratch space is kept, and no more is sent than the number of a chunk.
NDSHM_BENCH_COMPUTE_MIB and NDSHM_BENCH_WORKERS are heeded as there.
"""

import os
from multiprocessing import Pool
from multiprocessing.shared_memory import SharedMemory

import environment
from ratios import show
from results import sampled, save

COLUMNS = 2048
ROWS = (int(os.environ.get("NDSHM_BENCH_COMPUTE_MIB", 64)) << 20) // (COLUMNS * 8)
CHUNK_ROWS = (1 << 20) // (COLUMNS * 8)
WORKERS = int(os.environ.get("NDSHM_BENCH_WORKERS", len(os.sched_getaffinity(0))))


class Worker:
    """What a worker keeps from one task to the next."""

    def __init__(self, out: SharedMemory, source: SharedMemory):
        import numpy

        self.memory = out, source
        self.out = numpy.ndarray((ROWS, COLUMNS), numpy.float64, out.buf)
        self.source = numpy.ndarray((ROWS, COLUMNS), numpy.float64, source.buf)
        self.scratch = numpy.empty((CHUNK_ROWS, COLUMNS))


worker: Worker


def begin(out: str, source: str) -> None:
    global worker
    worker = Worker(SharedMemory(name=out), SharedMemory(name=source))


def rows(chunk: int) -> slice:
    return slice(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)


def saxpy(chunk: int) -> None:
    import numpy

    out = worker.out[rows(chunk)]
    scratch = worker.scratch[: len(out)]
    numpy.multiply(worker.source[rows(chunk)], 0.5, out=scratch)
    out += scratch


def stencil(chunk: int) -> None:
    import numpy

    # The first and the last row of the whole array stay as they are.
    first, last = max(chunk * CHUNK_ROWS, 1), min((chunk + 1) * CHUNK_ROWS, ROWS - 1)
    source, out = worker.source, worker.out[first:last, 1:-1]
    numpy.add(source[first - 1 : last - 1, 1:-1], source[first + 1 : last + 1, 1:-1], out=out)
    out += source[first:last, :-2]
    out += source[first:last, 1:-1]
    out += source[first:last, 2:]
    out *= 0.2


def reduction(chunk: int) -> float:
    import numpy

    part = worker.source[rows(chunk)].reshape(-1)
    return float(numpy.dot(part, part))


def sort(chunk: int) -> None:
    out = worker.out[rows(chunk)]
    out[:] = worker.source[rows(chunk)]
    out.sort(axis=1)


KERNELS = {"saxpy": saxpy, "5-point stencil": stencil, "reduction": reduction, "row-wise sort": sort}


def main() -> None:
    # One thread a worker: the processes are what is measured.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    import numpy

    memories = [SharedMemory(create=True, size=ROWS * COLUMNS * 8) for _ in range(2)]
    try:
        parent = Worker(*memories)
        parent.out[:] = 1
        parent.source[:] = numpy.random.default_rng(1).random((ROWS, COLUMNS))
        chunks = range(-(-ROWS // CHUNK_ROWS))
        with Pool(WORKERS, begin, [memory.name for memory in memories]) as pool:
            for group, kernel in KERNELS.items():
                save(group, "Python", sampled(lambda: pool.map(kernel, chunks)))
        del parent
    finally:
        for memory in memories:
            memory.unlink()
    show(list(KERNELS))


if __name__ == "__main__":
    environment.enter()
    main()

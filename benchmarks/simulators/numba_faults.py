"""The planted faults in numba's simulator (NUMBA_ENABLE_CUDASIM=1), the kernels of faults.cu in Python.

    python -m benchmarks.simulators.numba_faults

prints a line of JSON: name -> what was shown with the fault, and without it. What is not there in
numba's language (pointers, vectors, const, volatile, asynchronous copies, malloc in a kernel) or in
its simulator (__syncwarp, shuffles) is left out.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
import warnings

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

import numba  # noqa: E402
import numpy as np  # noqa: E402
from numba import cuda, float32, int32  # noqa: E402

from benchmarks.simulators.faults import BLOCK, BY_NAME, COUNTS, LENGTH, N  # noqa: E402

TIMEOUT = 20
KERNELS = {}


def kernel(function):
    """Keep a function that makes a kernel with or without its fault."""
    KERNELS[function.__name__] = function
    return function


@kernel
def missing_barrier(faulty):
    def run(x, y, counts, n):
        tile = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        tile[t] = x[t]
        if not faulty:
            cuda.syncthreads()
        if cuda.blockIdx.x == 0:
            y[t] = tile[63 - t]

    return run


@kernel
def missing_second_barrier(faulty):
    def run(x, y, counts, n):
        tile = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        total = 0
        for step in range(2):
            tile[t] = x[64 * step + t]
            cuda.syncthreads()
            total += tile[(t + 40) % 64]
            if not faulty:
                cuda.syncthreads()
        if cuda.blockIdx.x == 0:
            y[t] = total

    return run


@kernel
def race_between_blocks(faulty):
    def run(x, y, counts, n):
        place = cuda.threadIdx.x if faulty else cuda.grid(1)
        y[place] = x[cuda.threadIdx.x] + cuda.blockIdx.x

    return run


@kernel
def smoothing_in_place(faulty):
    def run(x, y, counts, n):
        i = cuda.grid(1)
        source = y if faulty else x
        if i + 1 < n:
            y[i] = 0.5 * (source[i] + source[i + 1])

    return run


@kernel
def missing_atomic(faulty):
    def run(x, y, counts, n):
        if faulty:
            counts[0] += 1
        else:
            cuda.atomic.add(counts, 0, 1)

    return run


@kernel
def histogram_in_shared_memory(faulty):
    def run(x, y, counts, n):
        bins = cuda.shared.array(8, int32)
        t = cuda.threadIdx.x
        if t < 8:
            bins[t] = 0
        cuda.syncthreads()
        place = int(x[t]) % 8
        if faulty:
            bins[place] += 1
        else:
            cuda.atomic.add(bins, place, 1)
        cuda.syncthreads()
        if t < 8 and cuda.blockIdx.x == 0:
            counts[t] = bins[t]

    return run


@kernel
def read_past_the_end(faulty):
    def run(x, y, counts, n):
        i, last = cuda.grid(1), 256 if faulty else 255
        if i < n:
            y[i] = x[last - i]

    return run


@kernel
def write_past_the_end(faulty):
    def run(x, y, counts, n):
        i = cuda.grid(1)
        if i < n:
            y[2 * i + (2 if faulty else 1)] = x[i]

    return run


@kernel
def read_before_the_start(faulty):
    def run(x, y, counts, n):
        i = cuda.grid(1)
        if i < n:
            y[i] = x[i - 1 if i else (-1 if faulty else 0)]

    return run


@kernel
def wrong_stride(faulty):
    def run(x, y, counts, n):
        row, column, stride = cuda.blockIdx.x, cuda.threadIdx.x, 256 if faulty else 64
        y[row * stride + column] = x[row * 64 + column]

    return run


@kernel
def index_overflows(faulty):
    def run(x, y, counts, n):
        i = cuda.grid(1)
        factor = np.int32(n << 20) if faulty else n << 20
        scaled = (np.int32(i) if faulty else i) * factor
        y[i] = x[i] if scaled > 0 else 0

    return run


@kernel
def shift_is_too_far(faulty):
    def run(x, y, counts, n):
        t = cuda.threadIdx.x
        if t < 48 and cuda.blockIdx.x == 0:
            counts[t] = np.int32(1) << np.int32(t % (64 if faulty else 31))

    return run


@kernel
def division_by_zero(faulty):
    def run(x, y, counts, n):
        divisor = cuda.threadIdx.x - (3 if faulty else -1)
        if cuda.blockIdx.x == 0:
            counts[cuda.threadIdx.x] = n // divisor

    return run


@kernel
def uninitialised_shared(faulty):
    def run(x, y, counts, n):
        tile = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        if not faulty or t < 32:
            tile[t] = x[t]
        cuda.syncthreads()
        if cuda.blockIdx.x == 0:
            y[t] = tile[63 - t]

    return run


@kernel
def uninitialised_global(faulty):
    def run(x, y, counts, n):
        i = cuda.grid(1)
        if not faulty:
            y[i] = 0
        y[i] += x[i]

    return run


@kernel
def uninitialised_local(faulty):
    def run(x, y, counts, n):
        i = cuda.grid(1)
        if not faulty:
            largest = 0
        for k in range(i, n, 64):
            if x[k] > largest:
                largest = x[k]
        y[i] = largest

    return run


@kernel
def shared_array_bound(faulty):
    def run(x, y, counts, n):
        first, second = cuda.shared.array(64, float32), cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        second[t] = 0
        first[t] = x[t]
        cuda.syncthreads()
        if cuda.blockIdx.x == 0:
            y[t] = first[t + faulty] + second[t]

    return run


@kernel
def dynamic_shared_too_small(faulty):
    def run(x, y, counts, n):
        whole = cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        place = 2 * t if faulty else t
        whole[place] = x[t]
        cuda.syncthreads()
        if cuda.blockIdx.x == 0:
            y[t] = whole[place]

    return run


@kernel
def local_array_bound(faulty):
    def run(x, y, counts, n):
        held = cuda.local.array(4, float32)
        for k in range(4):
            held[k] = k + 1
        t = cuda.threadIdx.x
        held[t % (5 if faulty else 4)] += x[t]
        if cuda.blockIdx.x == 0:
            y[t] = held[0] + held[3]

    return run


@kernel
def divergent_barriers(faulty):
    def run(x, y, counts, n):
        tile = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        if (t < 32) if faulty else (cuda.blockIdx.x == 0):
            tile[t] = x[t]
            cuda.syncthreads()
        else:
            tile[t] = -x[t]
            cuda.syncthreads()
        if cuda.blockIdx.x == 0:
            y[t] = tile[63 - t]

    return run


@kernel
def barrier_for_some(faulty):
    def run(x, y, counts, n):
        tile = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        tile[t] = x[t]
        if not faulty or t < 40:
            cuda.syncthreads()
        if cuda.blockIdx.x == 0 and t < 24:
            y[t] = tile[39 - t]

    return run


@kernel
def barrier_in_an_uneven_loop(faulty):
    def run(x, y, counts, n):
        tile = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        tile[t] = x[t]
        for _ in range(1 + t // 32 if faulty else 2):
            cuda.syncthreads()
            following = tile[(t + 1) % 64]
            cuda.syncthreads()
            tile[t] = following
        if cuda.blockIdx.x == 0:
            y[t] = tile[t]

    return run


@kernel
def flag_without_fence(faulty):
    def run(x, y, counts, n):
        if cuda.blockIdx.x == 0:
            if cuda.threadIdx.x == 0:
                y[0] = x[5]
                if not faulty:
                    cuda.threadfence()
                cuda.atomic.add(counts, 0, 1)
        elif cuda.threadIdx.x == 0:
            while cuda.atomic.add(counts, 0, 0) == 0:
                pass
            cuda.threadfence()
            y[1] = y[0] + 1

    return run


@kernel
def wait_without_end(faulty):
    def run(x, y, counts, n):
        first = cuda.threadIdx.x == 0
        if cuda.blockIdx.x == 0 and first and not faulty:
            cuda.atomic.add(counts, 0, 1)
        if cuda.blockIdx.x == 1 and first:
            while cuda.atomic.add(counts, 0, 0) == 0:
                pass
        y[cuda.grid(1)] = 1

    return run


@kernel
def launch_too_small(faulty):
    def run(x, y, counts, n):
        for k in range(cuda.grid(1), n, n if faulty else cuda.gridsize(1)):
            y[k] = 2 * x[k]

    return run


def launch(name: str, faulty: bool, queue) -> None:
    """Put what a launch shows into the queue: an exception with its line in this file, and numbers."""
    fault = BY_NAME[name]
    x = (np.arange(LENGTH) * 0.5 + 1).astype(np.float32)
    y = np.empty(LENGTH, np.float32) if fault.fresh else np.zeros(LENGTH, np.float32)
    counts = np.zeros(COUNTS, np.int32)
    warnings.simplefilter("always")
    warned: list[str] = []
    warnings.showwarning = lambda text, kind, file, line, *_: warned.append(f"line {line}: {kind.__name__}: {text}")
    try:
        cuda.jit(KERNELS[name](faulty))[fault.grid, BLOCK, 0, fault.shared](x, y, counts, N)
    except Exception as error:  # whatever it is, it is the report that is looked for
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
        place = f"line {own[-1].lineno}: " if own and own[-1].name == "run" else ""
        queue.put((f"{place}{type(error).__name__}: {str(error).splitlines()[0][:80]}", None))
    else:
        queue.put((warned[0] if warned else "", [y[:N].tolist(), counts.tolist()]))


def run(name: str, faulty: bool) -> tuple[str, list | None]:
    """In a process of its own, since a kernel may wait for ever."""
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=launch, args=(name, faulty, queue))
    process.start()
    try:
        found = queue.get(timeout=TIMEOUT)
    except multiprocessing.queues.Empty:
        found = ("hangs", None)
    process.kill()
    process.join()
    return found


def main() -> None:
    found = {}
    for name in KERNELS:
        (faulty, numbers), (sound, right) = run(name, True), run(name, False)
        found[name] = {"faulty": faulty, "sound": sound, "differs": numbers is not None and numbers != right}
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps({"version": numba.__version__, "faults": found}))


if __name__ == "__main__":
    main()

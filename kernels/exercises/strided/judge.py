"""A vector times a number, with fewer threads than elements: y = a * x."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank

GRID, BLOCK = 4, 128  # fewer threads than most vectors have elements


def inputs(rng, n):
    x = rng.normal(size=n).astype(np.float32)
    return {"a": np.float32(rng.normal()), "x": x, "y": blank(n), "n": np.int32(n)}


def expected(a):
    return {"y": a.a * a.x}


def launches(a):
    return [Launch("scale", (GRID,), (BLOCK,), ("a", "x", "y", "n"))]


def sizes(rng):
    threads = GRID * BLOCK
    return [
        {"n": 4 * threads},
        {"n": int(rng.integers(threads + 1, 8 * threads))},
        {"n": int(rng.integers(1, threads))},
    ]


TASK = KernelTask(
    inputs, expected, launches, sizes, measured={"n": 5003}, best=Counts(sectors=1252, wavefronts=0, operations=314)
)

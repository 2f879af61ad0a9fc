"""How often each of 64 numbers occurs."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blocks

BLOCK, BINS, ELEMENTS = 256, 64, 1024  # threads; numbers; elements of a block


def inputs(rng, n):
    x = np.minimum(rng.geometric(0.05, size=n) - 1, BINS - 1).astype(np.int32)
    return {"x": x, "counts": np.zeros(BINS, np.int32), "n": np.int32(n)}


def expected(a):
    return {"counts": np.bincount(a.x, minlength=BINS)}


def launches(a):
    return [Launch("histogram", (blocks(int(a.n), ELEMENTS),), (BLOCK,), ("x", "counts", "n"))]


def sizes(rng):
    return [
        {"n": ELEMENTS},
        {"n": int(rng.integers(1, BLOCK))},
        {"n": int(rng.integers(ELEMENTS + 1, 3 * ELEMENTS))},
    ]


TASK = KernelTask(
    inputs, expected, launches, sizes, measured={"n": 4000}, best=Counts(sectors=532, wavefronts=262, operations=274)
)

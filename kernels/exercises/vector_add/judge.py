"""The sum of two vectors: z = x + y."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

BLOCK = 256  # threads


def inputs(rng, n):
    x, y = rng.normal(size=(2, n)).astype(np.float32)
    return {"x": x, "y": y, "z": blank(n), "n": np.int32(n)}


def expected(a):
    return {"z": a.x + a.y}


def launches(a):
    return [Launch("vector_add", (blocks(int(a.n), BLOCK),), (BLOCK,), ("x", "y", "z", "n"))]


def sizes(rng):
    return [
        {"n": 2 * BLOCK},
        {"n": 1},
        {"n": int(rng.integers(BLOCK + 1, 2 * BLOCK))},
        {"n": int(rng.integers(1, 3000))},
    ]


TASK = KernelTask(
    inputs, expected, launches, sizes, measured={"n": 4099}, best=Counts(sectors=1539, wavefronts=0, operations=387)
)

"""Running sums of each row."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank

BLOCK = 256  # threads


def inputs(rng, rows, width):
    x = rng.uniform(0.5, 1.5, size=(rows, width)).astype(np.float32)
    return {"x": x, "y": blank(rows, width), "width": np.int32(width)}


def expected(a):
    return {"y": np.cumsum(a.x, axis=1)}


def launches(a):
    return [Launch("scan", (len(a.x),), (BLOCK,), ("x", "y", "width"))]


def sizes(rng):
    return [
        {"rows": 2, "width": BLOCK},
        {"rows": 1, "width": int(rng.integers(1, BLOCK))},
        {"rows": 2, "width": 2 * BLOCK + 1},
        {"rows": 3, "width": int(rng.integers(BLOCK + 1, 3 * BLOCK))},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 3, "width": 1000},
    best=Counts(sectors=750, wavefronts=192, operations=384),
)

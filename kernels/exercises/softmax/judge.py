"""The softmax of each row."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

WARPS = 4  # of a block; each has a row
SPREAD = 60.0  # exp(x) of the largest numbers is beyond float32


def inputs(rng, rows, width):
    x = np.resize([1, SPREAD], rows)[:, None] * rng.normal(size=(rows, width))
    x[0] -= 200  # numbers whose exp is 0 as it is
    x = x.astype(np.float32)
    return {"x": x, "p": blank(rows, width), "rows": np.int32(rows), "width": np.int32(width)}


def expected(a):
    e = np.exp(a.x - a.x.max(axis=1, keepdims=True))
    return {"p": e / e.sum(axis=1, keepdims=True)}


def launches(a):
    return [Launch("softmax", (blocks(int(a.rows), WARPS),), (32 * WARPS,), ("x", "p", "rows", "width"))]


def sizes(rng):
    return [
        {"rows": 4, "width": 64},
        {"rows": 2, "width": 256},
        {"rows": 1, "width": int(rng.integers(1, 32))},
        {"rows": int(rng.integers(5, 12)), "width": int(rng.integers(33, 256))},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 10, "width": 200},
    best=Counts(sectors=500, wavefronts=0, operations=140),
)

"""The gradient of a bias: dbias[c] is the sum of dy[r][c] over the rows."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

COLUMNS, WARPS = 32, 8  # of a block


def inputs(rng, rows, width):
    dy = rng.normal(size=(rows, width)).astype(np.float32)
    return {"dy": dy, "dbias": blank(width), "rows": np.int32(rows), "width": np.int32(width)}


def expected(a):
    return {"dbias": a.dy.sum(axis=0)}


def launches(a):
    grid = (blocks(int(a.width), COLUMNS),)
    return [Launch("mend_column_sum", grid, (COLUMNS, WARPS), ("dy", "dbias", "rows", "width"))]


def sizes(rng):
    return [
        {"rows": 16, "width": 64},
        {"rows": int(rng.integers(1, 8)), "width": 32},
        {"rows": int(rng.integers(9, 80)), "width": 32 * int(rng.integers(1, 4)) + int(rng.integers(1, 32))},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 50, "width": 200},
    best=Counts(sectors=1275, wavefronts=210, operations=567),
)

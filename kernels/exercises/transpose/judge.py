"""A matrix transposed: y = x.T."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

TILE, BLOCK_ROWS = 32, 8


def inputs(rng, rows, columns):
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    return {"x": x, "y": blank(columns, rows), "rows": np.int32(rows), "columns": np.int32(columns)}


def expected(a):
    return {"y": a.x.T}


def launches(a):
    grid = (blocks(int(a.columns), TILE), blocks(int(a.rows), TILE))
    return [Launch("transpose", grid, (TILE, BLOCK_ROWS), ("x", "y", "rows", "columns"))]


def sizes(rng):
    rows, columns = (int(number) for number in rng.integers(33, 100, size=2))
    return [
        {"rows": 64, "columns": 32},
        {"rows": 1, "columns": int(rng.integers(2, 40))},
        {"rows": rows, "columns": columns},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 96, "columns": 64},
    best=Counts(sectors=1536, wavefronts=384, operations=768),
)

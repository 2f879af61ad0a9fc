"""The gradient of softmax by rows: ds = p (dp - sum of p dp), written over dp."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blocks

WARPS = 4  # of a block, each with a row


def inputs(rng, rows, width):
    p = np.exp(rng.normal(0, 2, (rows, width)))
    return {
        "p": (p / p.sum(axis=1, keepdims=True)).astype(np.float32),
        "dp": rng.normal(size=(rows, width)).astype(np.float32),
        "rows": np.int32(rows),
        "width": np.int32(width),
    }


def expected(a):
    return {"dp": a.p * (a.dp - (a.p * a.dp).sum(axis=1, keepdims=True))}


def launches(a):
    return [Launch("softmax_ds", (blocks(int(a.rows), WARPS),), (32 * WARPS,), ("p", "dp", "rows", "width"))]


def sizes(rng):
    return [
        {"rows": 4, "width": 64},
        {"rows": 5, "width": int(rng.integers(1, 32))},
        {"rows": int(rng.integers(6, 12)), "width": 255},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 30, "width": 250},
    best=Counts(sectors=3342, wavefronts=0, operations=720),
)

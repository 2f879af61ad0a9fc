"""A matrix product on tensor cores: c = a b, of 16-bit numbers, added up in float."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank

TILE = 32  # rows and columns of c that a block, which is a warp, computes


def inputs(rng, m, n, k):
    return {
        "a": rng.normal(size=(m, k)).astype(np.float16),
        "b": rng.normal(size=(k, n)).astype(np.float16),
        "c": blank(m, n),
        "n": np.int32(n),
        "k": np.int32(k),
    }


def expected(a):
    return {"c": a.a @ a.b}


def launches(a):
    return [Launch("matmul_tensor_cores", (a.c.shape[1] // TILE, len(a.c) // TILE), (32,), tuple("abcnk"))]


def sizes(rng):
    rows, columns, depth = (int(number) for number in rng.integers(2, 4, 3))
    return [
        {"m": TILE, "n": TILE, "k": 16},
        {"m": TILE, "n": 2 * TILE, "k": 48},
        {"m": TILE * rows, "n": TILE * columns, "k": 16 * depth},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"m": 64, "n": 96, "k": 80},
    best=Counts(sectors=2688, wavefronts=0, operations=168),
)

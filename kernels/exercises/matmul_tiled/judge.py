"""A matrix product by tiles in shared memory: c = a b."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

TILE, BLOCK = 64, 256  # rows and columns of c that a block computes; its threads


def inputs(rng, m, n, k):
    return {
        "a": rng.normal(size=(m, k)).astype(np.float32),
        "b": rng.normal(size=(k, n)).astype(np.float32),
        "c": blank(m, n),
        "m": np.int32(m),
        "n": np.int32(n),
        "k": np.int32(k),
    }


def expected(a):
    return {"c": a.a @ a.b}


def launches(a):
    return [Launch("matmul_tiled", (blocks(int(a.n), TILE), blocks(int(a.m), TILE)), (BLOCK,), tuple("abcmnk"))]


def sizes(rng):
    return [
        {"m": 64, "n": 64, "k": 32},
        {"m": 64, "n": 128, "k": int(rng.integers(1, 16))},
        {"m": int(rng.integers(1, 64)), "n": 4 * int(rng.integers(17, 32)), "k": int(rng.integers(17, 32))},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"m": 100, "n": 132, "k": 50},
    best=Counts(sectors=6575, wavefronts=8448, operations=8920),
)

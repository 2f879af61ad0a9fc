"""The sum of each block's 256 elements."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

BLOCK = 256  # threads, and elements


def inputs(rng, n):
    return {"x": rng.normal(size=n).astype(np.float32), "sums": blank(blocks(n, BLOCK)), "n": np.int32(n)}


def expected(a):
    padded = np.pad(a.x, (0, -len(a.x) % BLOCK))
    return {"sums": padded.reshape(-1, BLOCK).sum(axis=1)}


def launches(a):
    return [Launch("block_sum", (len(a.sums),), (BLOCK,), ("x", "sums", "n"))]


def sizes(rng):
    return [{"n": 2 * BLOCK}, {"n": int(rng.integers(1, 32))}, {"n": int(rng.integers(BLOCK + 1, 5 * BLOCK))}]


TASK = KernelTask(
    inputs, expected, launches, sizes, measured={"n": 2000}, best=Counts(sectors=258, wavefronts=72, operations=143)
)

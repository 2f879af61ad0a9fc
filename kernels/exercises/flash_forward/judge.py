"""Causal attention of one head, by tiles of keys and values."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

TILE, WIDTH = 64, 32  # queries of a block, which has as many threads; numbers of a query


def inputs(rng, time):
    """The scores are large: exp of them alone overflows."""
    q, k, v = (rng.normal(0, scale, (time, WIDTH)).astype(np.float32) for scale in (6, 6, 1))
    return {"q": q, "k": k, "v": v, "y": blank(time, WIDTH), "lse": blank(time), "time": np.int32(time)}


def expected(a):
    s = np.where(np.tri(len(a.q)), a.q @ a.k.T / np.sqrt(WIDTH), -np.inf)
    m = s.max(axis=1, keepdims=True)
    lse = m + np.log(np.exp(s - m).sum(axis=1, keepdims=True))
    return {"y": np.exp(s - lse) @ a.v, "lse": lse[:, 0]}


def launches(a):
    return [Launch("flash_forward", (blocks(int(a.time), TILE),), (TILE,), ("q", "k", "v", "y", "lse", "time"))]


def sizes(rng):
    return [{"time": 64}, {"time": int(rng.integers(1, 64))}, {"time": int(rng.integers(65, 80))}]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"time": 100},
    best=Counts(sectors=2125, wavefronts=5988, operations=5473),
)

"""Launcher of dropout.cu: the functions of minillm/layers/dropout.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.random_streams import stream
from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, blocks_for, check_array, empty
from minillm.kernels.vectors import instance, instances

THREADS = 256
CUDA = CudaFile(__file__, "dropout.cu", instances("dropout", ResourceLimit(registers=40)))


def dropout_forward(x, p, rng_key, batch_offset=0):
    """x (...), p in [0, 1), rng_key (a tuple)  ->  y (...), saved. The mask is that of the CPU, bit
    for bit.

    x[0] is row `batch_offset` of the batch.
    """
    check_array("dropout_forward", "x", x, dtype=FLOATS)
    if not 0 <= p < 1:
        raise ValueError(f"dropout_forward: p is {p}: it must be at least 0 and below 1")
    saved = (stream(*rng_key).philox_key, p, x.shape, batch_offset * math.prod(x.shape[1:]))
    return _dropped(x, saved), saved


def dropout_backward(dy, saved):
    """dy (...)  ->  dx (...)"""
    shape = saved[2]
    check_array("dropout_backward", "dy", dy, shape=shape, dtype=FLOATS, because=f"x is {shape}")
    return _dropped(dy, saved)


def _dropped(x, saved):
    philox_key, p, _, first = saved
    y = empty(x.shape, x, x.dtype)
    random = (philox_key[0], philox_key[1], np.uint64(round(p * 2**32)), np.float32(1 / (1 - p)))
    grid = (blocks_for(first % 8 + x.size, 8 * THREADS) if x.size else 0,)
    kernel = instance("dropout", first % 8, (x,))  # the array begins at eight numbers of Philox if first % 8 is 0
    CUDA.launch(kernel, grid, (THREADS,), (x, y, *random, np.int64(first), np.int64(x.size)))
    return y

"""Launcher of dropout.cu: the functions of minillm/layers/dropout.py for arrays on "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.backend import stream
from minillm.kernels.launch import Ceiling, CudaFile, blocks_for, check_array, empty

THREADS = 256
CUDA = CudaFile(__file__, "dropout.cu", {"dropout": Ceiling(registers=40)})


def dropout_forward(x, p, key):
    """x (...), p in [0, 1), key (a tuple)  ->  y (...), saved. The mask is that of the CPU, bit for bit."""
    check_array("dropout_forward", "x", x)
    if not 0 <= p < 1:
        raise ValueError(f"dropout_forward: p is {p}: it must be at least 0 and below 1")
    saved = (stream(*key).philox_key, p, x.shape)
    return _dropped(x, saved), saved


def dropout_backward(dy, saved):
    """dy (...)  ->  dx (...)"""
    _, _, shape = saved
    check_array("dropout_backward", "dy", dy, shape=shape, because=f"x is {shape}")
    return _dropped(dy, saved)


def _dropped(x, saved):
    philox_key, p, _ = saved
    y = empty(x.shape, x)
    random = (philox_key[0], philox_key[1], np.uint64(round(p * 2**32)), np.float32(1 / (1 - p)))
    CUDA.launch("dropout", (blocks_for(x.size, 8 * THREADS),), (THREADS,), (x, y, *random, np.int64(x.size)))
    return y

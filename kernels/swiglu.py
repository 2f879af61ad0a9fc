"""Launcher of swiglu.cu: the functions of minillm/layers/swiglu.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.backend.precision import dtype_name
from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, blocks_for, check_array, empty
from minillm.kernels.vectors import NEIGHBOURS, instance, instances

THREADS = 256
MAX_BLOCKS = 8192  # beyond it a thread takes several vectors

CUDA = CudaFile(
    __file__,
    "swiglu.cu",
    {
        **instances("swiglu_forward", ResourceLimit(registers=48)),
        **instances("swiglu_backward", ResourceLimit(registers=64)),
    },
)


def swiglu_forward(gate, up):
    """gate and up (..., F)  ->  h (..., F), saved"""
    check_array("swiglu_forward", "gate", gate, dtype=FLOATS)
    expected = dict(like=gate, shape=gate.shape, dtype=gate.dtype, because=f"gate is {gate.shape}")
    check_array("swiglu_forward", "up", up, **expected)
    h = empty(gate.shape, gate, gate.dtype)
    _launch("swiglu_forward", (gate, up, h))
    return h, (gate, up)


def swiglu_backward(dh, saved):
    """dh (..., F)  ->  dgate and dup (..., F)"""
    gate, up = saved
    expected = dict(like=gate, shape=gate.shape, dtype=gate.dtype, because=f"gate is {gate.shape}")
    check_array("swiglu_backward", "dh", dh, **expected)
    dgate, dup = empty(gate.shape, gate, gate.dtype), empty(gate.shape, gate, gate.dtype)
    _launch("swiglu_backward", (dh, gate, up, dgate, dup))
    return dgate, dup


def _launch(name, arrays):
    count, neighbours = arrays[0].size, NEIGHBOURS[dtype_name(arrays[0].dtype)]
    grid = (blocks_for(count, THREADS * neighbours, MAX_BLOCKS),)
    CUDA.launch(instance(name, 0, arrays), grid, (THREADS,), (*arrays, np.int64(count)))

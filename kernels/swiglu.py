"""Launcher of swiglu.cu: the functions of minillm/layers/swiglu.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import FLOATS, NUMBERS, CudaFile, ResourceLimit, blocks_for, c_type, check_array, empty

THREADS = 256
MAX_BLOCKS = 8192  # beyond it a thread takes several elements

_instances = {}
for _number in NUMBERS.values():
    _instances[f"swiglu_forward<{_number}>"] = ResourceLimit(registers=40)
    _instances[f"swiglu_backward<{_number}>"] = ResourceLimit(registers=64)
CUDA = CudaFile(__file__, "swiglu.cu", _instances)


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


def _launch(kernel, arrays):
    count = arrays[0].size
    grid = (blocks_for(count, THREADS, MAX_BLOCKS),)
    CUDA.launch(f"{kernel}<{c_type(arrays[0])}>", grid, (THREADS,), (*arrays, np.int64(count)))

"""Launcher of naive.cu, rung 1: the functions of minillm/layers/attention.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.attention import matrix
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for

THREADS = 256
CUDA = CudaFile(
    __file__,
    "naive.cu",
    {
        "matmul_abt": ResourceLimit(registers=56),
        "matmul_ab": ResourceLimit(registers=64),
        "matmul_atb": ResourceLimit(registers=64),
        "softmax_forward": ResourceLimit(registers=48),
        "softmax_backward": ResourceLimit(registers=80),
    },
)


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0, starts=None):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    The arguments are those of layers/attention.py, but for `window`, which `starts` expresses
    (`first_keys`); the errors those of `check_forward` in arguments.py.
    """
    return matrix.forward(CUDA, _launch_product, q, k, v, causal, dropout, rng_key, batch_offset, starts)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    return matrix.backward(CUDA, _launch_product, dy, saved)


def _launch_product(kernel, result, problem, arrays, *scalars):
    """One thread for each number of the result."""
    sizes = np.array([problem.B, problem.H, problem.H_kv, problem.T, problem.D], np.int32)
    CUDA.launch(kernel, (blocks_for(result.size, THREADS),), (THREADS,), (*arrays, problem.starts, *sizes, *scalars))

"""Launcher of tiled.cu, rung 2: the functions of minillm/layers/attention.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.attention import matrix
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for

TILE, ROWS = 32, 4  # rows and columns of a tile of results; rows of a thread
TILES = 2 * 4 * TILE * (TILE + 1)  # bytes of shared memory
CUDA = CudaFile(
    __file__,
    "tiled.cu",
    {
        "matmul_abt": ResourceLimit(registers=72, shared=TILES),
        "matmul_ab": ResourceLimit(registers=72, shared=TILES),
        "matmul_atb": ResourceLimit(registers=72, shared=TILES),
        "softmax_forward": ResourceLimit(registers=48),
        "softmax_backward": ResourceLimit(registers=80),
    },
    constants={"TILE": TILE, "ROWS": ROWS},
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
    """One block for each tile of each head's result."""
    B, H, rows, columns = result.shape
    grid = (B * H, blocks_for(rows, TILE), blocks_for(columns, TILE))
    sizes = np.array([problem.H, problem.H_kv, problem.T, problem.D], np.int32)
    CUDA.launch(kernel, grid, (TILE, TILE // ROWS), (*arrays, problem.starts, *sizes, *scalars))

"""Launcher of online.cu, rung 3: the functions of minillm/layers/attention.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.attention.arguments import FlashSaved, check_backward, check_forward
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty

WIDTHS = (32, 64, 96)  # of heads: for 128, dk and dv of a key would not fit into the registers of a thread
ROWS, TILE = 32, 16  # rows of a block, one a thread; rows of a tile
DELTA_WARPS = 4  # of a block of row_delta, a row each
KERNELS = {"online_forward": 1, "online_backward_queries": 2, "online_backward_keys": 2}  # -> matrices owned

INSTANCES = {"row_delta<float>": ResourceLimit(registers=48)}
for _kernel, _owned in KERNELS.items():
    for _width in WIDTHS:
        _shared = 4 * (_owned * ROWS + 2 * TILE) * (_width + 1)
        INSTANCES[f"{_kernel}<{_width}>"] = ResourceLimit(registers=255, shared=_shared)
CUDA = CudaFile(__file__, "online.cu", INSTANCES, constants={"ROWS": ROWS, "TILE": TILE}, one_by_one=True)


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0, starts=None):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    The arguments are those of layers/attention.py, but for `window`, which `starts` expresses
    (`first_keys`); the errors those of `check_forward` in arguments.py.
    """
    problem = check_forward(q, k, v, causal, dropout, rng_key, batch_offset, starts, widths=WIDTHS)
    y, lse = empty(q.shape, q), empty(q.shape[:3], q)
    _launch("online_forward", problem, problem.H, (q, k, v, y, lse))
    return y, FlashSaved(problem, q, k, v, y, lse)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    problem, q, k, v, y, lse = saved
    check_backward(dy, q)
    # forward: _launch("online_forward", problem, problem.H, (q, k, v, y, lse)):
    # delta_i = sum_d dy_id y_id is what the gradient of the softmax subtracts
    delta = _row_delta(dy, y)
    dq, dk, dv = empty(q.shape, q), empty(k.shape, q), empty(v.shape, q)
    _launch("online_backward_queries", problem, problem.H, (q, k, v, dy, lse, delta, dq))
    _launch("online_backward_keys", problem, problem.H_kv, (q, k, v, dy, lse, delta, dk, dv))
    return dq, dk, dv


def _row_delta(dy, y):
    """delta_i of every query, by delta.cuh."""
    delta = empty(y.shape[:3], y)
    arguments = (dy, y, delta, np.int64(delta.size), np.int32(y.shape[3]))
    CUDA.launch("row_delta<float>", (blocks_for(delta.size, DELTA_WARPS),), (32 * DELTA_WARPS,), arguments)
    return delta


def _launch(kernel, problem, heads, arrays):
    grid = (problem.B * heads, blocks_for(problem.T, ROWS))
    CUDA.launch(f"{kernel}<{problem.D}>", grid, (ROWS,), (*arrays, *problem.last))

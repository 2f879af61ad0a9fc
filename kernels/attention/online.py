"""Launcher of online.cu, rung 3: the functions of minillm/layers/attention.py for arrays on "cuda" and "cudasim"."""

from __future__ import annotations

from minillm.kernels.attention.arguments import check_backward, check_forward, gradient_average
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty

WIDTHS = (32, 64, 96)  # of heads: dk and dv of one 128 wide would take all registers of a thread
ROWS, TILE = 64, 16  # rows of a block, one a thread; rows of a tile that streams by


def _shared(owned_matrices: int, width: int) -> int:
    """Bytes of shared memory: the rows owned, and a tile of each of two matrices."""
    return 4 * (owned_matrices * ROWS + 2 * TILE) * (width + 1)


KERNELS = {"online_forward": 1, "online_backward_queries": 2, "online_backward_keys": 2}  # -> matrices owned
INSTANCES = {"gradient_average<float>": ResourceLimit(registers=48)}
for _kernel, _owned in KERNELS.items():
    for _width in WIDTHS:
        INSTANCES[f"{_kernel}<{_width}>"] = ResourceLimit(registers=255, dynamic_shared=_shared(_owned, _width))
CUDA = CudaFile(__file__, "online.cu", INSTANCES, options=(f"-DROWS={ROWS}", f"-DTILE={TILE}"))


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved"""
    problem = check_forward(q, k, v, causal, dropout, rng_key, batch_offset, widths=WIDTHS)
    y, log_sum_exp = empty(q.shape, q), empty(q.shape[:3], q)
    _launch("online_forward", problem, problem.heads, (q, k, v, y, log_sum_exp))
    return y, (problem, q, k, v, y, log_sum_exp)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    problem, q, k, v, y, log_sum_exp = saved
    check_backward(dy, q)
    average = gradient_average(CUDA, dy, y)
    dq, dk, dv = empty(q.shape, q), empty(k.shape, q), empty(v.shape, q)
    given = (q, k, v, dy, log_sum_exp, average)
    _launch("online_backward_queries", problem, problem.heads, (*given, dq))
    _launch("online_backward_keys", problem, problem.kv_heads, (*given, dk, dv))
    return dq, dk, dv


def _launch(kernel, problem, heads, arrays):
    grid = (problem.batch * heads, blocks_for(problem.time, ROWS))
    shared = _shared(KERNELS[kernel], problem.width)
    CUDA.launch(f"{kernel}<{problem.width}>", grid, (ROWS,), (*arrays, *problem.scalars), shared)

"""Attention with the T x T matrix in memory: the order of kernels that rungs 1 and 2 share.

They differ in how they multiply: `launch_product(kernel, result, problem, arrays, *scalars)`
belongs to the rung. What is saved is the same for both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minillm.kernels.attention.arguments import Problem, check_backward, check_forward
from minillm.kernels.launch import blocks_for, empty

ROWS_PER_BLOCK = 4  # of softmax.cuh: one warp a row


class MatrixSaved(NamedTuple):
    """What backward needs of forward."""

    problem: Problem
    q: Any  # (B, H, T, D)
    k: Any  # (B, H_kv, T, D)
    v: Any  # (B, H_kv, T, D)
    p: Any  # (B, H, T, T)
    dropped: Any  # (B, H, T, T): p itself without dropout


def forward(cuda, launch_product, q, k, v, causal, dropout, rng_key, batch_offset, starts):
    """q (B, H, T, D), k and v (B, H_kv, T, D)  ->  y (B, H, T, D), saved"""
    problem = check_forward(q, k, v, causal, dropout, rng_key, batch_offset, starts)
    shape = (problem.B, problem.H, problem.T, problem.T)
    p, y = empty(shape, q), empty(q.shape, q)
    dropped = empty(shape, q) if problem.dropout[2] else p  # without dropout the two are one array
    masked = np.float32(-np.inf)
    launch_product("matmul_abt", p, problem, (q, k, p), np.float32(problem.scale), np.int32(problem.causal), masked)
    _launch_rows(cuda, "softmax_forward", problem, (p, dropped))
    launch_product("matmul_ab", y, problem, (dropped, v, y), np.int32(problem.causal))
    return y, MatrixSaved(problem, q, k, v, p, dropped)


def backward(cuda, launch_product, dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    problem, q, k, v, p, dropped = saved
    check_backward(dy, q)
    causal = np.int32(problem.causal)
    dq, dk, dv, ds = empty(q.shape, q), empty(k.shape, q), empty(v.shape, q), empty(p.shape, q)
    # forward: launch_product("matmul_ab", y, problem, (dropped, v, y), np.int32(problem.causal)):
    # y = dropped @ v
    launch_product("matmul_atb", dv, problem, (dropped, dy, dv), causal)
    launch_product("matmul_abt", ds, problem, (dy, v, ds), np.float32(1), causal, np.float32(0))
    # forward: _launch_rows(cuda, "softmax_forward", problem, (p, dropped)): softmax(s) * factor
    _launch_rows(cuda, "softmax_backward", problem, (p, ds), np.float32(problem.scale))
    # forward: launch_product("matmul_abt", p, problem, (q, k, p), ...): s = q @ k^T / sqrt(D)
    launch_product("matmul_ab", dq, problem, (ds, k, dq), causal)
    launch_product("matmul_atb", dk, problem, (ds, q, dk), causal)
    return dq, dk, dv


def _launch_rows(cuda, kernel, problem, arrays, *scalars):
    rows = problem.B * problem.H * problem.T
    arguments = (*arrays, np.int64(rows), np.int32(problem.T), *scalars, problem.drop)
    cuda.launch(kernel, (blocks_for(rows, ROWS_PER_BLOCK),), (32 * ROWS_PER_BLOCK,), arguments)

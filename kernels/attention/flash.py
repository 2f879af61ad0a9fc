"""Launcher of flash.cu, rung 4: the functions of minillm/layers/attention.py for arrays on "cuda" and "cudasim"."""

from __future__ import annotations

from minillm.kernels.attention.arguments import check_backward, check_forward, gradient_average
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty

OWNED, THREADS = 64, 128  # rows and threads of a block
STREAMED = {
    32: (64, 32),
    64: (64, 32),
    96: (32, 16),
    128: (32, 16),
}  # D -> rows of a tile that streams by: forward, backward


def _forward_shared(width: int, streamed: int) -> int:
    """Bytes of shared memory: the queries, one tile of keys or values, the probabilities."""
    return 4 * ((OWNED + streamed) * (width + 4) + OWNED * (streamed + 4))


def _backward_shared(width: int, streamed: int) -> int:
    """Bytes of shared memory: two tiles of rows owned, two of rows that stream by, the gradient of the scores."""
    return 4 * (2 * (OWNED + streamed) * (width + 4) + OWNED * (streamed + 4))


def shared_bytes(width: int) -> int:
    """Bytes of shared memory that heads of this width take at most."""
    forward, backward = STREAMED[width]
    return max(_forward_shared(width, forward), _backward_shared(width, backward))


WIDTHS = tuple(STREAMED)
REGISTERS = 255  # two blocks of 128 threads share the 65,536 registers of a multiprocessor
INSTANCES = {"gradient_average<float>": ResourceLimit(registers=48)}
for _width, (_forward, _backward) in STREAMED.items():
    _shared = _backward_shared(_width, _backward)
    _arch = 75 if _shared <= 64 * 1024 else 80
    INSTANCES |= {
        f"flash_forward<{_width}, {_forward}>": ResourceLimit(
            REGISTERS, dynamic_shared=_forward_shared(_width, _forward)
        ),
        f"flash_backward_queries<{_width}, {_backward}>": ResourceLimit(REGISTERS, 0, _shared, _arch),
        f"flash_backward_keys<{_width}, {_backward}>": ResourceLimit(REGISTERS, 0, _shared, _arch),
    }
CUDA = CudaFile(__file__, "flash.cu", INSTANCES)


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved"""
    problem = check_forward(q, k, v, causal, dropout, rng_key, batch_offset, widths=WIDTHS)
    y, log_sum_exp = empty(q.shape, q), empty(q.shape[:3], q)
    streamed, _ = STREAMED[problem.width]
    shared = _forward_shared(problem.width, streamed)
    grid = (problem.batch * problem.heads, blocks_for(problem.time, OWNED))
    arguments = (q, k, v, y, log_sum_exp, *problem.scalars)
    CUDA.launch(f"flash_forward<{problem.width}, {streamed}>", grid, (THREADS,), arguments, shared)
    return y, (problem, q, k, v, y, log_sum_exp)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    problem, q, k, v, y, log_sum_exp = saved
    check_backward(dy, q)
    average = gradient_average(CUDA, dy, y)
    dq, dk, dv = empty(q.shape, q), empty(k.shape, q), empty(v.shape, q)
    _, streamed = STREAMED[problem.width]
    template, shared = f"<{problem.width}, {streamed}>", _backward_shared(problem.width, streamed)
    blocks = blocks_for(problem.time, OWNED)
    given = (q, k, v, dy, log_sum_exp, average)
    CUDA.launch(
        f"flash_backward_queries{template}",
        (problem.batch * problem.heads, blocks),
        (THREADS,),
        (*given, dq, *problem.scalars),
        shared,
    )
    CUDA.launch(
        f"flash_backward_keys{template}",
        (problem.batch * problem.kv_heads, blocks),
        (THREADS,),
        (*given, dk, dv, *problem.scalars),
        shared,
    )
    return dq, dk, dv

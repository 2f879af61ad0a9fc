"""Launcher of flash.cu, rung 4: the functions of minillm/layers/attention.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

from minillm.kernels.attention.arguments import FlashSaved, check_backward, check_forward, layout_of, room_for_gradients
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty
from minillm.kernels.layout import heads_in_tokens, memory

OWNED, THREADS = 64, 128  # rows and threads of a block
PADDING = 4  # floats that each row in shared memory is longer
TILE_ROWS = {32: (64, 32), 64: (64, 32), 96: (32, 16), 128: (32, 16)}  # D -> rows of a tile: forward, backward
WIDTHS = tuple(TILE_ROWS)
REGISTERS = 255  # two blocks of 128 threads share the 65,536 registers of a multiprocessor


def _forward_shared(width: int, rows: int) -> int:
    """Bytes of shared memory: the queries, one tile of keys or values, the probabilities."""
    return 4 * ((OWNED + rows) * (width + PADDING) + OWNED * (rows + PADDING))


def _backward_shared(width: int, rows: int) -> int:
    """Bytes of shared memory: the rows owned and a tile of two matrices each, the gradient of the
    scores.
    """
    return 4 * (2 * (OWNED + rows) * (width + PADDING) + OWNED * (rows + PADDING))


def shared_bytes(width: int) -> int:
    """Bytes of shared memory that heads of this width take at most."""
    forward, backward = TILE_ROWS[width]
    return max(_forward_shared(width, forward), _backward_shared(width, backward))


def _instances() -> dict[str, ResourceLimit]:
    instances = {}
    for width, (forward, backward) in TILE_ROWS.items():
        shared = _backward_shared(width, backward)
        arch = 75 if shared <= 64 * 1024 else 80
        limit = ResourceLimit(REGISTERS, dynamic_shared=_forward_shared(width, forward))
        instances[f"flash_forward<{width}, {forward}>"] = limit
        for kernel in ("flash_backward_queries", "flash_backward_keys"):
            instances[f"{kernel}<{width}, {backward}>"] = ResourceLimit(REGISTERS, 0, shared, arch)
    return instances


CUDA = CudaFile(
    __file__,
    "flash.cu",
    _instances(),
    constants={"OWNED": OWNED, "THREADS": THREADS, "PADDING": PADDING},
    one_by_one=True,
)


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0, starts=None):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    q, k and v may be views: the steps between tokens, heads and rows of the batch are free, rows
    begin at multiples of 16 bytes. In the memory of y the heads of a token lie side by side. The
    arguments are those of layers/attention.py, but for `window`, which `starts` expresses
    (`first_keys`); the errors those of `check_forward` in arguments.py.
    """
    problem = check_forward(q, k, v, causal, dropout, rng_key, batch_offset, starts, widths=WIDTHS, views=True)
    y, lse = heads_in_tokens(q.shape, q), empty(q.shape[:3], q)
    _launch("flash_forward", problem, problem.H, (q, k, v, y, lse), layout_of(q=q, k=k, v=v, y=y))
    return y, FlashSaved(problem, q, k, v, y, lse)


def attention_backward(dy, saved, out=None):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)

    dy may be a view, as q in `attention_forward`. out: arrays or views that dq, dk and dv are
    written to; None: new ones, which lie as y does. Raises TypeError or ValueError for a dy or an
    out that does not fit q, k and v.
    """
    problem, q, k, v, y, lse = saved
    check_backward(dy, q, views=True)
    dq, dk, dv = room_for_gradients(out, q, k, v)
    layout, delta = layout_of(q=q, k=k, v=v, y=y, dy=dy, dq=dq, dk=dk, dv=dv), empty(lse.shape, lse)
    # forward: _launch("flash_forward", problem, problem.H, ...): dq, and delta for the other
    # kernel: delta_i = sum_d dy_id y_id is what the gradient of the softmax subtracts
    _launch("flash_backward_queries", problem, problem.H, (q, k, v, y, dy, lse, delta, dq), layout)
    # forward: _launch("flash_forward", problem, problem.H, ...): dk and dv
    _launch("flash_backward_keys", problem, problem.H_kv, (q, k, v, dy, lse, delta, dk, dv), layout)
    return dq, dk, dv


def _launch(kernel, problem, heads, arrays, layout):
    forward, backward = TILE_ROWS[problem.D]
    if kernel == "flash_forward":
        rows, shared = forward, _forward_shared(problem.D, forward)
    else:
        rows, shared = backward, _backward_shared(problem.D, backward)
    grid = (problem.B * heads, blocks_for(problem.T, OWNED))
    arguments = (*map(memory, arrays), layout, *problem.last)
    CUDA.launch(f"{kernel}<{problem.D}, {rows}>", grid, (THREADS,), arguments, shared)

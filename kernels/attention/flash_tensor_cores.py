"""Launcher of flash_tensor_cores.cu, rung 5: attention for arrays on "cuda" and "cudasim".

The functions are those of minillm/layers/attention.py. float32 arrays are multiplied as TF32,
bfloat16 arrays as they are. It takes a GPU of sm_80 or later.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from minillm.backend.precision import dtype_name
from minillm.kernels.attention import TENSOR_CORE_ARCHITECTURE, TENSOR_CORE_WIDTHS
from minillm.kernels.attention.arguments import FlashSaved, check_backward, check_forward, layout_of, room_for_gradients
from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty
from minillm.kernels.layout import heads_in_tokens, memory

WIDTHS, DTYPES = TENSOR_CORE_WIDTHS, ("bfloat16", "float32")
OPERANDS = {"bfloat16": ("Bf16", 2), "float32": ("Tf32", 4)}  # dtype -> the kernels' Operand, bytes of a number
PADDING = 16  # bytes that each row in shared memory is longer


class Tiling(NamedTuple):
    """How a kernel cuts its work.

    owned_matrices: whose rows a block owns, in shared memory. warps: of a block. groups: of 16 rows
    that a warp owns. tile_rows: of the matrices that it goes over. blocks: that a multiprocessor
    has to hold, which limits registers. kept: whether a warp keeps its rows in registers.
    """

    operand: str
    number_bytes: int
    owned_matrices: int
    warps: int
    groups: int
    tile_rows: int
    blocks: int
    kept: bool

    @property
    def owned(self) -> int:
        """Rows of a block."""
        return 16 * self.groups * self.warps

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def template(self, width: int) -> str:
        numbers = (width, self.warps, self.groups, self.tile_rows, self.blocks)
        return f"<{self.operand}, {', '.join(map(str, numbers))}, {str(self.kept).lower()}>"

    def shared(self, width: int) -> int:
        """Bytes of shared memory: the rows owned, and two tiles of each of two matrices."""
        return (self.owned_matrices * self.owned + 4 * self.tile_rows) * (width * self.number_bytes + PADDING)


# D -> warps, groups, rows of a tile, blocks of a multiprocessor, kept. Two groups read each row of
# a tile once for 32 rows. What is kept, and how many blocks there are, is what the registers allow:
# each of these compiles without spilling (tests/kernels/test_compile.py).
FORWARD = {
    "bfloat16": {32: (4, 2, 64, 2, True), 64: (4, 2, 64, 2, True), 96: (4, 2, 32, 2, False), 128: (4, 2, 32, 2, False)},
    "float32": {32: (4, 2, 32, 2, True), 64: (4, 2, 32, 2, False), 96: (4, 1, 32, 2, True), 128: (4, 1, 32, 2, True)},
}
QUERIES = {
    "bfloat16": {32: (4, 2, 32, 2, True), 64: (4, 2, 32, 2, False), 96: (4, 2, 32, 2, False), 128: (4, 1, 32, 2, True)},
    "float32": {32: (4, 2, 16, 2, True), 64: (4, 2, 16, 2, False), 96: (4, 1, 16, 2, False), 128: (4, 1, 16, 1, False)},
}
KEYS = {
    "bfloat16": {
        32: (4, 2, 32, 2, True),
        64: (4, 2, 16, 2, False),
        96: (4, 1, 32, 2, False),
        128: (4, 1, 16, 2, False),
    },
    "float32": {32: (4, 2, 16, 2, True), 64: (4, 2, 16, 2, False), 96: (4, 1, 16, 2, False), 128: (4, 1, 16, 1, False)},
}


def forward_tiling(dtype: str, width: int) -> Tiling:
    return Tiling(*OPERANDS[dtype], 1, *FORWARD[dtype][width])


def queries_tiling(dtype: str, width: int) -> Tiling:
    """Of the kernel for dQ."""
    return Tiling(*OPERANDS[dtype], 2, *QUERIES[dtype][width])


def keys_tiling(dtype: str, width: int) -> Tiling:
    """Of the kernel for dK and dV."""
    return Tiling(*OPERANDS[dtype], 2, *KEYS[dtype][width])


REGISTERS = 255
INSTANCES = {}
for _kernel, _tiling_for in (
    ("flash_forward", forward_tiling),
    ("flash_backward_queries", queries_tiling),
    ("flash_backward_keys", keys_tiling),
):
    for _dtype, _width in product(DTYPES, WIDTHS):
        _tiling = _tiling_for(_dtype, _width)
        INSTANCES[_kernel + _tiling.template(_width)] = ResourceLimit(REGISTERS, dynamic_shared=_tiling.shared(_width))
CUDA = CudaFile(
    __file__,
    "flash_tensor_cores.cu",
    INSTANCES,
    TENSOR_CORE_ARCHITECTURE,
    constants={"PADDING": PADDING},
    one_by_one=True,
)


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0, starts=None):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    q, k and v may be views: the steps between tokens, heads and rows of the batch are free, rows
    begin at multiples of 16 bytes. In the memory of y the heads of a token lie side by side. The
    arguments are those of layers/attention.py, but for `window`, which `starts` expresses
    (`first_keys`); the errors those of `check_forward` in arguments.py.
    """
    problem = check_forward(
        q, k, v, causal, dropout, rng_key, batch_offset, starts, dtypes=DTYPES, widths=WIDTHS, views=True
    )
    y, lse = heads_in_tokens(q.shape, q), empty(q.shape[:3], q)
    _launch("flash_forward", forward_tiling, problem, problem.H, (q, k, v, y, lse), layout_of(q=q, k=k, v=v, y=y))
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
    # forward: _launch("flash_forward", forward_tiling, problem, ...): dq, and delta for the other
    # kernel: delta_i = sum_d dy_id y_id is what the gradient of the softmax subtracts
    _launch("flash_backward_queries", queries_tiling, problem, problem.H, (q, k, v, y, dy, lse, delta, dq), layout)
    # forward: _launch("flash_forward", forward_tiling, problem, ...): dk and dv
    _launch("flash_backward_keys", keys_tiling, problem, problem.H_kv, (q, k, v, dy, lse, delta, dk, dv), layout)
    return dq, dk, dv


def _launch(kernel, tiling_for, problem, heads, arrays, layout):
    tiling = tiling_for(dtype_name(arrays[0].dtype), problem.D)
    grid = (problem.B * heads, blocks_for(problem.T, tiling.owned))
    arguments = (*map(memory, arrays), layout, *problem.last)
    CUDA.launch(kernel + tiling.template(problem.D), grid, (tiling.threads,), arguments, tiling.shared(problem.D))

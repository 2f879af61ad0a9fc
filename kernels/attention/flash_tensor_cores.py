"""Launcher of flash_tensor_cores.cu, rung 4: the functions of minillm/layers/attention.py for arrays on "cuda" and "cudasim".

float32 arrays are multiplied as TF32, bfloat16 arrays as they are. It takes a GPU of sm_80 or later.
"""

from __future__ import annotations

from typing import NamedTuple

from minillm.kernels.attention import TENSOR_CORE_ARCHITECTURE, TENSOR_CORE_WIDTHS
from minillm.kernels.attention.arguments import check_backward, check_forward, gradient_average
from minillm.kernels.launch import Ceiling, CudaFile, blocks_for, empty

WIDTHS = TENSOR_CORE_WIDTHS
PADDING = 16  # bytes that each row in shared memory is longer


class Tiling(NamedTuple):
    """How a kernel cuts its work: warps of a block, each with 16 rows, and rows of a tile that streams by."""

    operand: str
    number_bytes: int
    owned_matrices: int  # in shared memory
    warps: int
    streamed: int

    @property
    def owned(self) -> int:
        """Rows of a block."""
        return 16 * self.warps

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def template(self, width: int) -> str:
        return f"<{self.operand}, {width}, {self.warps}, {self.streamed}>"

    def shared(self, width: int) -> int:
        """Bytes of shared memory: the rows owned, and two tiles of each of two matrices."""
        return (self.owned_matrices * self.owned + 4 * self.streamed) * (width * self.number_bytes + PADDING)


# The widest heads with TF32 take 101,376 bytes, all that a block may have on sm_86 and sm_89.
FORWARD = {"bfloat16": Tiling("Bf16", 2, 1, 8, 64), "float32": Tiling("Tf32", 4, 1, 4, 32)}
BACKWARD = {"bfloat16": Tiling("Bf16", 2, 2, 4, 32), "float32": Tiling("Tf32", 4, 2, 4, 16)}

REGISTERS = 255
INSTANCES = {f"gradient_average<{number}>": Ceiling(registers=48) for number in ("float", "__nv_bfloat16")}
for _width in WIDTHS:
    for _kernel, _tilings in (
        ("flash_forward", FORWARD),
        ("flash_backward_queries", BACKWARD),
        ("flash_backward_keys", BACKWARD),
    ):
        for _tiling in _tilings.values():
            _ceiling = Ceiling(REGISTERS, dynamic_shared=_tiling.shared(_width))
            INSTANCES[_kernel + _tiling.template(_width)] = _ceiling
CUDA = CudaFile(__file__, "flash_tensor_cores.cu", INSTANCES, minimum_arch=TENSOR_CORE_ARCHITECTURE)


def attention_forward(q, k, v, causal=True, dropout=0.0, key=None, first_row=0):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved"""
    problem = check_forward(q, k, v, causal, dropout, key, first_row, dtypes=tuple(FORWARD), widths=WIDTHS)
    y, log_sum_exp = empty(q.shape, q, q.dtype), empty(q.shape[:3], q)
    _launch("flash_forward", FORWARD, problem, problem.heads, (q, k, v, y, log_sum_exp))
    return y, (problem, q, k, v, y, log_sum_exp)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    problem, q, k, v, y, log_sum_exp = saved
    check_backward(dy, q)
    average = gradient_average(CUDA, dy, y)
    dq, dk, dv = (empty(x.shape, x, x.dtype) for x in (q, k, v))
    given = (q, k, v, dy, log_sum_exp, average)
    _launch("flash_backward_queries", BACKWARD, problem, problem.heads, (*given, dq))
    _launch("flash_backward_keys", BACKWARD, problem, problem.kv_heads, (*given, dk, dv))
    return dq, dk, dv


def _launch(kernel, tilings, problem, heads, arrays):
    tiling = tilings[arrays[0].dtype.name]
    grid = (problem.batch * heads, blocks_for(problem.time, tiling.owned))
    arguments = (*arrays, *problem.scalars)
    CUDA.launch(
        kernel + tiling.template(problem.width), grid, (tiling.threads,), arguments, tiling.shared(problem.width)
    )

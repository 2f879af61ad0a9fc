"""Matrix products in the precision of the model. All layers multiply by way of this module.

    matmul(a, b)                      a @ b, in the dtype of a
    matmul(a, b, dtype="float32")     the gradient of a weight: bfloat16 operands, float32 result
    matmul(a, b, out=c, add=True)     c += a @ b

Sums are in float32 for all operands (in float64 for float64). If one operand is bfloat16 the other
is rounded to bfloat16: weights are stored in float32 and multiplied by bfloat16 activations.
float32 matrices are multiplied exactly, unless the model has the precision "tf32" (precision.py).

On a GPU, `cublasGemmEx` of cuBLAS takes bfloat16 operands, sums in float32, and writes either
dtype; TF32 is a compute type of the single call, so there is no mode to restore. Elsewhere the
operands are rounded, upcast, and multiplied in float32: the product of two bfloat16 numbers is
exact there, so only the order of additions differs from the GPU.

cuBLAS stores matrices by columns. A row-major matrix in memory is its transpose in column-major
order, so row-major C = A B is computed as C^T = B^T A^T, without copying A or B.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module, device_of
from minillm.backend.hooks import instrumented
from minillm.backend.precision import bfloat16, is_bfloat16, rounded_to_tf32, tf32_enabled, upcast
from minillm.errors import UserError

# Numbers of library_types.h and cublas_api.h.
CUDA_TYPES = {"float32": 0, "bfloat16": 14}  # CUDA_R_32F, CUDA_R_16BF
COMPUTE_FLOAT32, COMPUTE_TF32 = 68, 77  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT: cuBLAS chooses, tensor cores included
NO_TRANSPOSE, TRANSPOSED = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
ALIGNED = 8  # numbers of bfloat16 in 16 bytes: where rows begin there, tensor cores load them at full speed
LOW_PRECISION_CAPABILITY = 80  # of the first GPUs (Ampere) whose tensor cores take bfloat16 and TF32
ZERO, ONE = np.zeros((), np.float32), np.ones((), np.float32)  # cuBLAS reads both from the host


def matmul(a, b, out=None, dtype=None, add=False):
    """a (..., N, K) or (K,) @ b (..., K, M)  ->  (..., N, M) or (M,), of `dtype`, by default that
    of a.

    out: an array for the result, which also sets the dtype; with `add` the product is added to it.
    """
    with instrumented("matrix product", "matmul", a, b, *(() if out is None else (out,))):
        return (_on_host if array_module(a) is np else _on_gpu)(a, b, out, dtype, add)


def empty_operand(rows: int, width: int, like):
    """A new matrix (rows, at least width) for operands of products with `like`; None unless `like`
    is bfloat16.

    On a GPU its rows begin at multiples of 16 bytes for any width: use its first `width` columns.
    """
    if not is_bfloat16(like):
        return None
    width = -(-width // ALIGNED) * ALIGNED if device_of(like) == "cuda" else width
    return array_module(like).empty_like(like, shape=(rows, width), order="C")


def check_gpu(array, precision: str) -> None:
    """Raises UserError if `array` is on a GPU that cannot multiply matrices in `precision`."""
    if device_of(array) == "cuda" and precision in ("tf32", "bfloat16"):
        capability = int(array.device.compute_capability)
        if capability < LOW_PRECISION_CAPABILITY:
            raise UserError(
                f"dtype {precision} needs a GPU of compute capability 8.0 or later, this one has "
                f"{capability // 10}.{capability % 10}: use float32"
            )


def _on_host(a, b, out, dtype, add):
    if is_bfloat16(a) or is_bfloat16(b):
        dtype = out.dtype if out is not None else np.dtype(a.dtype if dtype is None else dtype)
        product = (_rounded(a) @ _rounded(b)).astype(dtype, copy=False)
    elif tf32_enabled() and a.dtype == b.dtype == np.float32:
        product = rounded_to_tf32(a) @ rounded_to_tf32(b)
    elif out is not None and not add:
        return np.matmul(a, b, out=out)
    else:
        product = a @ b
    if out is None:
        return product
    if add:
        np.add(out, product, out=out)  # `+=` would give a simulated array another name
    else:
        out[...] = product
    return out


def _rounded(x):
    """Round float32 numbers to bfloat16; the result is float32."""
    return (x if is_bfloat16(x) else x.astype(bfloat16())).astype(np.float32)


# --------------------------------------------------------------------------------------------------------- cuBLAS


def _on_gpu(a, b, out, dtype, add):
    if a.ndim == 1:
        return _on_gpu(a[None], b, None if out is None else out[None], dtype, add)[0]
    if a.ndim != 2 or b.ndim != 2 or {a.dtype.name, b.dtype.name} - CUDA_TYPES.keys():
        return _stacked_on_gpu(a, b, out, dtype, add)
    dtype = out.dtype if out is not None else np.dtype(a.dtype if dtype is None else dtype)
    a, b = _operand(a, b), _operand(b, a)
    if out is None:
        out = array_module(a).empty((a.shape[0], b.shape[1]), dtype)
    if not a.shape[1]:
        out *= 1 if add else 0
    elif out.size:
        gemm(a, b, out, add)
    return out


def _operand(x, like):
    """x in bfloat16 where `like` is."""
    if not is_bfloat16(like) or is_bfloat16(x):
        return x
    if x.strides[0] < x.strides[1]:  # stored by columns: the weight of a head, transposed
        return _operand(x.T, like).T
    rounded = empty_operand(*x.shape, like)[:, : x.shape[1]]
    rounded[...] = x
    return rounded


def _stacked_on_gpu(a, b, out, dtype, add):
    """Stacks of matrices, and float64: CuPy's own product. (Stacks in bfloat16 are attention's,
    which has a kernel.)
    """
    xp, a, b, dtype = array_module(a), upcast(a), upcast(b), np.dtype(a.dtype if dtype is None else dtype)
    if out is None:
        return xp.matmul(a, b).astype(dtype, copy=False)
    if add:
        out += xp.matmul(a, b)
        return out
    return xp.matmul(a, b, out=out)


def gemm(a, b, out, add: bool) -> None:
    """out (N, M) = a (N, K) @ b (K, M), or += with `add`, by cublasGemmEx. out is row-major; a and
    b have any strides.
    """
    from cupy.cuda.device import get_cublas_handle
    from cupy_backends.cuda.libs import cublas

    a, b = (x if layout(x) else x.copy() for x in (a, b))
    compute = COMPUTE_TF32 if tf32_enabled() and a.dtype == np.float32 else COMPUTE_FLOAT32
    (b_operation, b_step), (a_operation, a_step), (_, out_step) = layout(b), layout(a), layout(out)
    with a.device:
        cublas.gemmEx(
            get_cublas_handle(), b_operation, a_operation, b.shape[1], a.shape[0], a.shape[1], ONE.ctypes.data,
            b.data.ptr, CUDA_TYPES[b.dtype.name], b_step, a.data.ptr, CUDA_TYPES[a.dtype.name], a_step,
            (ONE if add else ZERO).ctypes.data, out.data.ptr, CUDA_TYPES[out.dtype.name], out_step, compute,
            DEFAULT_ALGORITHM,
        )  # fmt: skip


def layout(x) -> tuple[int, int] | None:
    """cuBLAS's description of x^T for a matrix x (N, M): (operation, leading dimension in
    elements).

    None if neither rows nor columns are contiguous.

    >>> layout(np.zeros((3, 5))), layout(np.zeros((5, 3)).T), layout(np.zeros((3, 8))[:, :5]), layout(np.zeros((6, 8))[:, ::2])
    ((0, 5), (1, 3), (0, 8), None)
    """
    rows, columns = x.shape
    row_step, column_step = (stride // x.itemsize for stride in x.strides)
    if (columns == 1 or column_step == 1) and (rows == 1 or row_step >= columns):
        return NO_TRANSPOSE, max(row_step if rows > 1 else 1, columns)
    if (rows == 1 or row_step == 1) and (columns == 1 or column_step >= rows):
        return TRANSPOSED, max(column_step if columns > 1 else 1, rows)
    return None

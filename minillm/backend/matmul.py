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
exact there, so only the order of additions differs from the GPU. To large results of float32 or
float64 the product itself adds (blas.py).

cuBLAS stores matrices by columns. A row-major matrix in memory is its transpose in column-major
order, so row-major C = A B is computed as C^T = B^T A^T, without copying A or B.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minillm.backend.arrays import array_module, current_on, device_of
from minillm.backend.blas import add_product
from minillm.backend.hooks import instrumented
from minillm.backend.precision import bfloat16, dtype_name, is_bfloat16, rounded_to_tf32, tf32_enabled, upcast
from minillm.errors import UserError

# Numbers of library_types.h and cublas_api.h.
CUDA_TYPES = {"float32": 0, "bfloat16": 14}  # CUDA_R_32F, CUDA_R_16BF
COMPUTE_FLOAT32, COMPUTE_TF32 = 68, 77  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT: cuBLAS chooses, tensor cores included
NO_TRANSPOSE, TRANSPOSED = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
ALIGNED = 8  # numbers of bfloat16 in 16 bytes: where rows begin there, tensor cores load them at full speed
LOW_PRECISION_CAPABILITY = 80  # of the first GPUs (Ampere) whose tensor cores take bfloat16 and TF32
LARGE = 1 << 17  # numbers of a result that the product itself adds to; for smaller ones the call costs more
_NUMBERS = np.array([0, 1], np.float32)  # cuBLAS reads alpha and beta from the host
ZERO, ONE = _NUMBERS.ctypes.data, _NUMBERS.ctypes.data + _NUMBERS.itemsize  # their addresses


def matmul(a, b, out=None, dtype=None, add=False):
    """a (..., N, K) or (K,) @ b (..., K, M)  ->  (..., N, M) or (M,), of `dtype`, by default that
    of a.

    out: an array for the result, which also sets the dtype; with `add` the product is added to it.
    """
    product = _on_gpu if device_of(a) == "cuda" else _on_host
    arrays = (a, b) if out is None else (a, b, out)
    return instrumented("matrix product", "matmul", arrays, product, a, b, out, dtype, add)


def empty_operand(rows: int, width: int, like):
    """A new matrix (rows, at least width) for operands of products with `like`; None unless `like`
    is bfloat16.

    On a GPU its rows begin at multiples of 16 bytes for any width: use its first `width` columns.
    """
    if not is_bfloat16(like):
        return None
    if device_of(like) == "cuda":
        return array_module(like).empty((rows, -(-width // ALIGNED) * ALIGNED), like.dtype)
    return np.empty_like(like, shape=(rows, width), order="C")


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
    elif out is not None and out.size >= LARGE and add_product(a, b, out):
        return out
    else:
        product = a @ b
    if out is None:
        return product
    if add:
        np.add(out, product, out=out)  # out += product would return another view of a simulated array
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
    if a.ndim != 2 or b.ndim != 2 or not (_has_cuda_type(a) and _has_cuda_type(b)):
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
    if not current_on(a):
        with a.device:
            return gemm(a, b, out, add)
    a, (a_operation, a_step) = _with_layout(a)
    b, (b_operation, b_step) = _with_layout(b)
    _, out_step = layout(out)
    (rows, inner), columns = a.shape, b.shape[1]
    compute = COMPUTE_TF32 if tf32_enabled() and dtype_name(a.dtype) == "float32" else COMPUTE_FLOAT32
    gemm_ex, get_handle = _cublas(array_module(a))
    gemm_ex(
        get_handle(), b_operation, a_operation, columns, rows, inner, ONE,
        b.data.ptr, CUDA_TYPES[dtype_name(b.dtype)], b_step, a.data.ptr, CUDA_TYPES[dtype_name(a.dtype)], a_step,
        ONE if add else ZERO, out.data.ptr, CUDA_TYPES[dtype_name(out.dtype)], out_step, compute, DEFAULT_ALGORITHM,
    )  # fmt: skip


def _has_cuda_type(x) -> bool:
    return dtype_name(x.dtype) in CUDA_TYPES


def _with_layout(x):
    """x and its `layout`; of a copy, where x has none."""
    found = layout(x)
    return (x, found) if found else _with_layout(x.copy())


@lru_cache(maxsize=2)
def _cublas(cupy):
    """`gemmEx`, and the function that gives the handle of the current thread and device."""
    from cupy_backends.cuda.libs import cublas

    return cublas.gemmEx, cupy.cuda.device.get_cublas_handle


def layout(x) -> tuple[int, int] | None:
    """cuBLAS's description of x^T for a matrix x (N, M): (operation, leading dimension in
    elements).

    None if neither rows nor columns are contiguous.

    >>> layout(np.zeros((3, 5))), layout(np.zeros((5, 3)).T), layout(np.zeros((3, 8))[:, :5]), layout(np.zeros((6, 8))[:, ::2])
    ((0, 5), (1, 3), (0, 8), None)
    """
    rows, columns = x.shape
    row_bytes, column_bytes = x.strides
    row_step, column_step = row_bytes // x.itemsize, column_bytes // x.itemsize
    if (columns == 1 or column_step == 1) and (rows == 1 or row_step >= columns):
        return NO_TRANSPOSE, max(row_step if rows > 1 else 1, columns)
    if (rows == 1 or row_step == 1) and (columns == 1 or column_step >= rows):
        return TRANSPOSED, max(column_step if columns > 1 else 1, rows)
    return None

"""Products of matrices, in NumPy: what cuBLAS is asked for, on the same memory."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from minillm.kernels.standin import recording


def multiply(product) -> None:
    """C = alpha op(A) op(B) + beta C, in float32 (float64 where C is), one matrix of a batch after the other.

    Written for the transposes, C^T = op(B)^T op(A)^T: a matrix by columns is its transpose by rows.
    """
    from minillm.backend.precision import rounded_to_tf32

    p = product
    sums = np.float64 if recording.CUDA_TYPES[p.c_type] == "float64" else np.float32
    tf32 = recording.COMPUTE_TYPES[p.compute] == "tf32"
    for i in range(p.batch):
        a = matrix(_address(p, "a", i), p.a_type, *((p.k, p.m) if p.op_a else (p.m, p.k)), p.lda)
        b = matrix(_address(p, "b", i), p.b_type, *((p.n, p.k) if p.op_b else (p.k, p.n)), p.ldb)
        c = matrix(_address(p, "c", i), p.c_type, p.m, p.n, p.ldc)
        a, b = (x.T if operation else x for x, operation in ((a, p.op_a), (b, p.op_b)))
        a, b = (rounded_to_tf32(x) if tf32 else x.astype(sums, copy=False) for x in (a, b))
        result = p.alpha * (b @ a) if p.alpha != 1 else b @ a
        c[...] = result + p.beta * c.astype(sums, copy=False) if p.beta else result


def matrix(address: int, cuda_type: int, rows: int, columns: int, step: int) -> np.ndarray:
    """A matrix (rows, columns) by columns, as its transpose (columns, rows) in the memory where it lies."""
    dtype = _dtypes()[recording.CUDA_TYPES[cuda_type]]
    if not rows * columns:
        return np.zeros((columns, rows), dtype)
    size = ((columns - 1) * step + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(flat, (columns, rows), (step * dtype.itemsize, dtype.itemsize))


@cache
def _dtypes() -> dict[str, np.dtype]:
    from minillm.backend.precision import bfloat16

    return {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64), "bfloat16": bfloat16()}


def _address(product, which: str, index: int) -> int:
    """Where matrix number `index` of a batch begins."""
    first = getattr(product, which)
    if product.addresses:
        return ctypes.c_uint64.from_address(first + 8 * index).value
    itemsize = _dtypes()[recording.CUDA_TYPES[getattr(product, f"{which}_type")]].itemsize
    return first + index * getattr(product, f"step_{which}") * itemsize

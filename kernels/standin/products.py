"""Products of matrices, in NumPy: what cuBLAS is asked for, on the same memory."""

from __future__ import annotations

import numpy as np

from minillm.kernels.standin import recording
from minillm.kernels.standin.memory import cuda_dtype, matrix, number, pointer_at


def multiply(product) -> None:
    """C = alpha op(A) op(B) + beta C, one matrix of a batch after the other, in the type in which
    sums are kept.

    Written for the transposes, C^T = op(B)^T op(A)^T: a matrix by columns is its transpose by rows.
    """
    p = product
    a_type, b_type, c_type = (cuda_dtype(t) for t in (p.a_type, p.b_type, p.c_type))
    sums = _type_of_sums(p, c_type)
    scalar = np.dtype(np.float16) if recording.COMPUTE_TYPES.get(p.compute) == "float16" and p.compute < 68 else sums
    alpha, beta = (number(bytes(x), scalar, bool(p.device_scalars)) for x in (p.alpha, p.beta))
    for i in range(p.batch):
        a = matrix(_address(p, "a", i, a_type), a_type, *((p.k, p.m) if p.op_a else (p.m, p.k)), p.lda)
        b = matrix(_address(p, "b", i, b_type), b_type, *((p.n, p.k) if p.op_b else (p.k, p.n)), p.ldb)
        c = matrix(_address(p, "c", i, c_type), c_type, p.m, p.n, p.ldc)
        a, b = _operand(p, a, p.op_a, sums), _operand(p, b, p.op_b, sums)
        result = alpha * (b @ a) if alpha != 1 else b @ a
        c[...] = result + beta * c.astype(sums, copy=False) if beta else result


def _operand(p, x: np.ndarray, operation: int, sums: np.dtype) -> np.ndarray:
    """op(X)^T of X^T: transposed for "T", and conjugate for "C"."""
    from minillm.backend.precision import rounded_to_tf32

    if recording.COMPUTE_TYPES.get(p.compute) == "tf32" and sums == np.float32:
        x = rounded_to_tf32(x)
    x = x.astype(sums, copy=False)
    return (x, x.T, x.conj().T)[operation]


def _type_of_sums(p, c_type: np.dtype) -> np.dtype:
    """float32 unless the result is wider; int32 for products of integers."""
    if c_type in (np.float64, np.complex64, np.complex128, np.int32):
        return c_type
    return np.dtype(np.float32)


def _address(p, which: str, index: int, dtype: np.dtype) -> int:
    """Where matrix number `index` of a batch begins."""
    first = getattr(p, which)
    if p.addresses:
        return pointer_at(first, index)
    return (first or 0) + index * getattr(p, f"step_{which}") * dtype.itemsize

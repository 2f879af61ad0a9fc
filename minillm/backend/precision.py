"""Which numbers a model computes with: the names that `--dtype` takes, and what is kept in which precision.

                                            float32    tf32       bfloat16    float64
    weights, their gradients, moments       float32    float32    float32     float64
    what travels between layers             float32    float32    bfloat16    float64
    operands of matrix products             float32    tf32       bfloat16    float64
    sums inside a matrix product            float32    float32    float32     float64
    inside norms, GELU, softmax             float32    float32    float32     float64
    logits, loss, AdamW                     float32    float32    float32     float64

A float has a sign, 8 bits of exponent and 23 bits of mantissa. bfloat16 keeps the upper half, 7 bits of mantissa; TF32 keeps
10 bits of the operands of a product, in float32 arrays. Both keep the whole exponent, so no gradient falls out of range, and
no loss has to be scaled.

Why the weights stay in float32 (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.1): a step changes a
weight by about a thousandth of itself, less than half of bfloat16's last place, 2^-9. The sum would be the old weight:

>>> bf16 = bfloat16().type
>>> bool(bf16(1.0) + bf16(0.001) == bf16(1.0))
True

Why a sum is in float32: its terms arrive one by one, and each is small beside what is there. Norms, softmax and loss are
sums too. An element-wise result, rounded once, errs by 2^-9 of itself, which the next layer does not notice (Kalamkar et al.,
"A Study of BFLOAT16 for Deep Learning Training", 2019).

A layer that is no matrix product begins with `upcast(x)` and ends with `downcast(y, x)`, which do nothing to any other dtype;
its CUDA kernel does the same in registers. Matrix products are in matmul.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import numpy as np

from minillm.errors import UserError

PRECISIONS = ("float32", "float64", "tf32", "bfloat16")
_tf32: ContextVar[bool] = ContextVar("tf32", default=False)


def weight_dtype(precision) -> np.dtype:
    """The dtype of weights, gradients and moments for a name in PRECISIONS. Raises UserError for any other name."""
    name = precision if isinstance(precision, str) else np.dtype(precision).name
    if name not in PRECISIONS:
        raise UserError(f'unknown dtype "{name}": use one of {", ".join(PRECISIONS)}')
    return np.dtype("float64" if name == "float64" else "float32")


def activation_dtype(precision) -> np.dtype:
    """The dtype of what travels between layers for a name in PRECISIONS."""
    return bfloat16() if precision == "bfloat16" else weight_dtype(precision)


@lru_cache(maxsize=1)
def bfloat16() -> np.dtype:
    """NumPy's and CuPy's dtype for bfloat16. Raises UserError without the package that brings it."""
    try:
        import ml_dtypes
    except ImportError:
        raise UserError("dtype bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Inside, products of float32 matrices are those of `precision`: rounded to TF32 for "tf32", else exact."""
    token = _tf32.set(precision == "tf32")
    try:
        yield
    finally:
        _tf32.reset(token)


def tf32_enabled() -> bool:
    """Whether products of float32 matrices may be rounded to TF32. Off unless a model asks for it."""
    return _tf32.get()


def is_bfloat16(array) -> bool:
    return array.dtype.itemsize == 2 and array.dtype.name == "bfloat16"


def upcast(x):
    """x itself, or in float32 where it is bfloat16: what a layer computes with."""
    return x.astype("float32") if is_bfloat16(x) else x


def downcast(y, like):
    """y in the dtype of `like`: itself, or rounded to bfloat16. What a layer hands on."""
    return y.astype(like.dtype, copy=False) if is_bfloat16(like) else y


def rounded_to_tf32(x):
    """float32 numbers with 10 bits of mantissa, ties away from zero, as tensor cores take them.

    >>> rounded_to_tf32(np.float32([1 + 2**-10, 1 + 2**-11, 1 + 2**-12])) - 1
    array([0.00097656, 0.00097656, 0.        ], dtype=float32)
    """
    bits = x.view(np.uint32) + np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)
    return bits.view(np.float32)

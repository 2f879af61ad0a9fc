"""The precisions of a model, by the names of `--dtype`, and which numbers have which dtype.

                                            float32    tf32       bfloat16    float64
    weights, their gradients, moments       float32    float32    float32     float64
    activations between layers              float32    float32    bfloat16    float64
    operands of matrix products             float32    tf32       bfloat16    float64
    sums inside a matrix product            float32    float32    float32     float64
    inside norms, GELU, softmax             float32    float32    float32     float64
    logits on a device                      float32    float32    bfloat16    float64
    logits on the CPU; loss, AdamW          float32    float32    float32     float64

A float32 has a sign, 8 bits of exponent and 23 bits of mantissa. bfloat16 keeps the upper half, 7
bits of mantissa. TF32 keeps 10 bits of the operands of a product, in float32 arrays. Both keep the
whole exponent, so gradients do not underflow and the loss needs no scaling.

Why the weights stay in float32 (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section
3.1): a step changes a weight by about a thousandth of itself, less than half of bfloat16's last
place, 2^-9. The sum would be the old weight:

>>> bf16 = bfloat16().type
>>> bool(bf16(1.0) + bf16(0.001) == bf16(1.0))
True

Why sums are in float32: each term is small compared with the sum so far. Norms, softmax and loss
are sums as well. An element-wise result is rounded once, with a relative error of 2^-9, which does
not affect training (Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training", 2019).

A layer that is not a matrix product begins with `upcast(x)` and ends with `downcast(y, x)`, which
do nothing for any other dtype; its CUDA kernel does the same in registers. Matrix products are in
matmul.py.
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
KEPT_WEIGHTS = ("stored", "float16")  # of pretrained/stored_weights.py: nothing is computed in them


def weight_dtype(precision) -> np.dtype:
    """The dtype of weights, gradients and moments for a name in PRECISIONS.

    Raises UserError for any other name.
    """
    name = precision if isinstance(precision, str) else np.dtype(precision).name
    if name not in PRECISIONS:
        only = " (it keeps the weights of a model that only reads and writes)" if name in KEPT_WEIGHTS else ""
        raise UserError(f'unknown dtype "{name}": use one of {", ".join(PRECISIONS)}{only}')
    return np.dtype("float64" if name == "float64" else "float32")


def activation_dtype(precision) -> np.dtype:
    """The dtype of the activations between layers for a name in PRECISIONS."""
    return bfloat16() if precision == "bfloat16" else weight_dtype(precision)


@lru_cache(maxsize=1)
def bfloat16() -> np.dtype:
    """NumPy's and CuPy's dtype for bfloat16. Raises UserError without the package ml_dtypes."""
    try:
        import ml_dtypes
    except ImportError:
        raise UserError("dtype bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Compute products of float32 matrices in `precision`: operands rounded to TF32 for "tf32",
    else exact.
    """
    token = _tf32.set(precision == "tf32")
    try:
        yield
    finally:
        _tf32.reset(token)


def tf32_enabled() -> bool:
    """Whether operands of float32 products are rounded to TF32.

    Off unless the model has this precision.
    """
    return _tf32.get()


def is_bfloat16(array) -> bool:
    """Whether the array's dtype is bfloat16."""
    return dtype_name(array.dtype) == "bfloat16"


@lru_cache(maxsize=256)
def dtype_name(dtype) -> str:
    """The name of a NumPy dtype, such as "float32"; ">f4" if its bytes are swapped.

    NumPy puts `dtype.name` together anew each time, in Python: 1.5 us, a thousand times a step. The
    look-up takes 0.1 us.
    """
    return str(dtype)


def gradient_dtype(weight) -> np.dtype:
    """The dtype of a weight's gradient: that of the weight, float32 for its copy in bfloat16."""
    return np.dtype("float32") if is_bfloat16(weight) else weight.dtype


def upcast(x):
    """x in float32 if it is bfloat16, else x: the numbers that a layer computes with."""
    return x.astype("float32") if is_bfloat16(x) else x


def downcast(y, like):
    """y in the dtype of `like`: rounded if that is bfloat16, else y.

    The numbers that a layer returns.
    """
    return y.astype(like.dtype, copy=False) if is_bfloat16(like) else y


def rounded_to_tf32(x):
    """float32 numbers with 10 bits of mantissa, ties away from zero, as tensor cores take them.

    >>> rounded_to_tf32(np.float32([1 + 2**-10, 1 + 2**-11, 1 + 2**-12])) - 1
    array([0.00097656, 0.00097656, 0.        ], dtype=float32)
    """
    bits = x.view(np.uint32) + np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)
    return bits.view(np.float32)

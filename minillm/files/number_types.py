"""Numbers as files store them: float32, or rounded to half of its size.

    f32     as computed
    f16     IEEE half precision: 10 bits of mantissa, up to 65,504
    bf16    the upper half of a float32: 7 bits of mantissa, and the whole range

Both are rounded to the nearest number, and to the even one of two that are as near.
"""

from __future__ import annotations

import numpy as np

from minillm.errors import UserError

BYTES = {"f32": 4, "f16": 2, "bf16": 2}


def stored(array: np.ndarray, kind: str, name: str) -> np.ndarray:
    """A float32 array as numbers of `kind`: float32, float16, or the bits of a bfloat16 as uint16.

    name: of the tensor, for messages. Raises UserError for a number that float16 cannot hold.

    >>> one = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)      # halfway between two of bfloat16's
    >>> (stored(one, "bf16", "x").astype("u4") << 16).view("f4").tolist()
    [1.0, 1.015625]
    """
    if kind == "f32":
        return np.ascontiguousarray(array, "<f4")
    if kind == "bf16":
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(array, "<f2")
    if np.isinf(half).any():
        largest = float(np.abs(array).max())
        raise UserError(f"{name} holds {largest:g}, which f16 cannot: its largest number is 65504; use bf16 or f32")
    return half

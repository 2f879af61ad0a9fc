"""Numbers as files store them, turned into float32: the formulas, one function a format.

    BF16    the upper half of a float32                          w = bits << 16
    F16     sign, 5 bits of exponent (bias 15), 10 of mantissa   w = 2^(127 - 15) (bits << 13, sign moved up)
    Q8_0    32 numbers with a scale d (F16)                      w_i = d q_i,          q_i int8
    Q4_0    the same, of 4 bits                                  w_i = d (n_i - 8),    n_i = 0 .. 15
    Q4_1    with a smallest number m (F16)                       w_i = d n_i + m

Of the 16 bytes of a group of 4 bits, the lower halves are numbers 0 .. 15 and the upper ones 16 ..
31 (ggml/src/ggml-quants.c of llama.cpp). A format that is not here is expanded by the package
`gguf`.

NumPy's own conversion of float16 takes 1.6 ns a number, the formula 0.26: a float16's bits in the
places of a float32 are the number divided by 2^112, zero and denormal numbers included, infinities
and NaN not: files with such numbers are refused (`groups_not_finite`).

A word of 32 bits holds two numbers of 16. A shift and a mask give both, each for all words in one
call: `halves`. That is half of the numbers a call, and no conversion from 16 to 32 bits:

    BF16    lower half: word << 16                      upper half: word & FFFF0000
    F16     lower half: ((word << 16) >> 3) & 8FFFE000  upper half: (word >> 3) & 8FFFE000

where >> copies the sign, and F16's numbers are still divided by 2^112.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIGN_AND_VALUE = np.array(0x8FFFE000, np.uint32).view(np.int32)  # of a float16's bits, moved up
EXPONENT_GAP = np.float32(2.0**112)
UPPER_HALF = np.array(0xFFFF0000, np.uint32).view(np.int32)


class NumberFormat(NamedTuple):
    """How a matrix's rows are stored: groups of `group` numbers, each in `group_bytes` bytes.

    expand(stored, out): rows of bytes, uint8 (R, groups * group_bytes), written as float32 (R,
    groups * group), in C order. halves(words, out): of 16 bits, words int32 (..., C / 2) as int32
    (2, ..., C / 2), the bits of numbers 0, 2, 4, ... and 1, 3, 5, ..., divided by 2^exponent.
    """

    name: str
    group: int
    group_bytes: int
    expand: Callable
    halves: Callable | None = None
    exponent: int = 0


def expand_bf16(stored, out) -> None:
    """w = bits << 16"""
    bits = out.view(np.uint32)
    bits[...] = stored.view("<u2")
    bits <<= 16


def expand_f16(stored, out) -> None:
    """w = 2^112 (sign, exponent and mantissa at their places in a float32)"""
    bits = out.view(np.int32)
    bits[...] = stored.view("<i2")  # the sign is copied into all upper bits
    bits <<= 13
    bits &= SIGN_AND_VALUE
    out *= EXPONENT_GAP


def halves_bf16(words, out) -> None:
    """w = bits << 16, of both halves of each word"""
    np.left_shift(words, 16, out=out[0])
    np.bitwise_and(words, UPPER_HALF, out=out[1])


def halves_f16(words, out) -> None:
    """2^-112 w: sign, exponent and mantissa at their places in a float32, of both halves"""
    np.left_shift(words, 16, out=out[0])
    np.right_shift(out[0], 3, out=out[0])
    np.right_shift(words, 3, out=out[1])
    np.bitwise_and(out, SIGN_AND_VALUE, out=out)


def expand_q8_0(stored, out) -> None:
    """w_i = d q_i"""
    groups, w = _in_groups(stored, out, 34)
    w[...] = groups[..., 2:].view(np.int8)
    w *= _half(groups, 0)


def expand_q4_0(stored, out) -> None:
    """w_i = d (n_i - 8)"""
    groups, w = _in_groups(stored, out, 18)
    _write_nibbles(groups[..., 2:], w)
    out -= np.float32(8)
    w *= _half(groups, 0)


def expand_q4_1(stored, out) -> None:
    """w_i = d n_i + m"""
    groups, w = _in_groups(stored, out, 20)
    _write_nibbles(groups[..., 4:], w)
    w *= _half(groups, 0)
    w += _half(groups, 2)


def _in_groups(stored, out, group_bytes: int):
    """stored (R, G, group_bytes) and out (R, G, 32), views"""
    return stored.reshape(len(stored), -1, group_bytes), out.reshape(len(out), -1, 32)


def _half(groups, start: int):
    """The float16 at a byte of each group, as float32 (R, G, 1)."""
    return groups[..., start : start + 2].view("<f2").astype(np.float32)


def _write_nibbles(n, w) -> None:
    """n (R, G, 16) bytes  ->  w (R, G, 32): their lower halves, then their upper ones"""
    np.bitwise_and(n, 15, out=w[..., :16], casting="unsafe")
    np.right_shift(n, 4, out=w[..., 16:], casting="unsafe")


# ------------------------------------------------------------------------------------------------- numbers that are none

INFINITY = {"BF16": 0x7F80, "F16": 0x7C00}  # as bits; those of NaN are larger
SCALES = {"Q8_0": 1, "Q4_0": 1, "Q4_1": 2}  # numbers of F16 at the beginning of a group: d, or d and m


def groups_not_finite(stored, number_format: NumberFormat) -> np.ndarray | None:
    """Which groups of rows of bytes hold a NaN or an infinity, bool (R, groups), from their bits:
    nothing is expanded. None for a format that does not say.
    """
    if number_format.name in INFINITY:
        return (stored.view("<u2") & 0x7FFF) >= INFINITY[number_format.name]
    if number_format.name in SCALES:  # n is finite, so d n + m is where d and m are
        groups = stored.reshape(len(stored), -1, number_format.group_bytes)
        scales = groups[..., : 2 * SCALES[number_format.name]].view("<u2")
        return ((scales & 0x7FFF) >= INFINITY["F16"]).any(axis=-1)
    return None


FORMATS = {
    each.name: each
    for each in (
        NumberFormat("BF16", 1, 2, expand_bf16, halves_bf16),
        NumberFormat("F16", 1, 2, expand_f16, halves_f16, 112),
        NumberFormat("Q8_0", 32, 34, expand_q8_0),
        NumberFormat("Q4_0", 32, 18, expand_q4_0),
        NumberFormat("Q4_1", 32, 20, expand_q4_1),
    )
}

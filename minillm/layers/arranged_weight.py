"""Weights of 8 or 4 bits, their bytes in an order in which they become float32 fast.

Files have the numbers of a group side by side, behind their scale: (rows, groups, bytes of a
group). NumPy then works through 32 numbers at a time, and its calls cost more than the numbers.
Here byte i of a group is followed by byte i of the same group in the next row, for all rows of a
strip: (groups, bytes, rows). It takes the same memory, and a call works through many thousand
numbers. With n_gir the number i of group g in row r, d_gr the scale, and m_gr what is added:

    w_gir = d_gr n_gir + m_gr
    y_r = sum_g,i x_gi w_gir = sum_g (d_gr sum_i x_gi n_gir  +  m_gr sum_i x_gi)

So one token is multiplied by the numbers as they are, and its sums by the scales; m is -8 d in
Q4_0. A byte of two numbers of 4 bits, n + 16 n', needs no shift: it is multiplied as it is.

    x n + x' n' = (x - x'/16) n  +  x'/16 (n + 16 n')
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.backend.skinny_matmul import MOST_ROWS, SMALL
from minillm.files.number_formats import SCALES, expand_f16

GROUP = 32  # numbers
ROWS = 32  # that are arranged at a time: they and their columns fit the processor's cache


class Strip(NamedTuple):
    """Some rows of a matrix of G groups, R rows in all.

    numbers: (G, 32, R) int8, or (G, 16, R) uint8 of two numbers each. scales: (1 or 2, G, R)
    uint16, F16's bits.
    """

    numbers: np.ndarray
    scales: np.ndarray


def arranged(stored, name: str) -> Strip:
    """stored: rows of bytes, uint8 (R, G * bytes of a group), of the format of that name."""
    count = SCALES[name]
    groups = stored.reshape(len(stored), -1, (GROUP if name == "Q8_0" else GROUP // 2) + 2 * count)
    R, G, size = groups.shape
    numbers, scales = np.empty((G, size - 2 * count, R), np.uint8), np.empty((count, G, R), np.uint16)
    for start in range(0, R, ROWS):
        part = groups[start : start + ROWS]
        numbers[..., start : start + ROWS] = part[..., 2 * count :].transpose(1, 2, 0)
        scales[..., start : start + ROWS] = part[..., : 2 * count].copy().view("<u2").transpose(2, 1, 0)
    return Strip(numbers.view(np.int8) if name == "Q8_0" else numbers, scales)


class Inputs(NamedTuple):
    """What the numbers of a strip are multiplied by. x: (N, G, 32), for the bytes as they are.
    sums: (N, G), of the inputs of a group, or None where nothing is added to the numbers.
    """

    x: np.ndarray
    sums: np.ndarray | None


def inputs_for(x, name: str) -> Inputs:
    """x (N, I) float32"""
    x = x.reshape(len(x), -1, GROUP)
    if name == "Q8_0":
        return Inputs(x, None)
    sums, x, half = x.sum(axis=-1), x.copy(), GROUP // 2
    x[..., half:] *= np.float32(1 / 16)
    x[..., :half] -= x[..., half:]
    return Inputs(x, sums)


def arranged_product(inputs: Inputs, strip: Strip, room) -> np.ndarray:
    """y (N, R) = x @ W^T. room: memory for float32 numbers, `room_for` of them."""
    N, (G, _, R) = len(inputs.x), strip.numbers.shape
    n = room[: G * GROUP * R].reshape(G, GROUP, R)
    scales = room[n.size : n.size + strip.scales.size].reshape(strip.scales.shape)
    _write_numbers(strip.numbers, n)
    expand_f16(strip.scales.view(np.uint8).reshape(len(scales), -1), scales.reshape(len(scales), -1))
    d = scales[0]
    if N == 1:
        y = (inputs.x.reshape(G, 1, GROUP) @ n)[:, 0]  # (G, 1, 32) @ (G, 32, R)
        y *= d
        y = np.add.reduce(y, axis=0, keepdims=True)
    else:
        n *= d[:, None]
        y = _product_of_rows(inputs.x.reshape(N, -1), n.reshape(-1, R))  # (N, I) @ (I, R)
    if inputs.sums is not None:
        y += inputs.sums @ (scales[1] if len(scales) > 1 else d * np.float32(-8))  # (N, G) @ (G, R)
    return y


def _product_of_rows(x, w):
    """x (N, I) @ w (I, R); of few rows in small products, as skinny_matmul.py says"""
    if len(x) > MOST_ROWS:
        return x @ w
    y, width = np.empty((len(x), w.shape[1]), np.float32), max(16, SMALL // x.size // 16 * 16)
    for start in range(0, w.shape[1], width):
        np.matmul(x, w[:, start : start + width], out=y[:, start : start + width])
    return y


def room_for(strip: Strip) -> int:
    """How many float32 numbers are needed beside a strip for its product."""
    G, _, R = strip.numbers.shape
    return G * GROUP * R + strip.scales.size


def _write_numbers(numbers, n) -> None:
    """numbers (G, 32 or 16, R)  ->  n (G, 32, R) float32; of two in a byte, n and n + 16 n'"""
    if numbers.dtype == np.int8:
        n[...] = numbers
    else:
        half = GROUP // 2
        n[:, :half] = numbers & 15
        n[:, half:] = numbers

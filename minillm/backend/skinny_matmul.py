"""A matrix product for a few rows: the tokens of a draft, the beams of a search, or a few texts.

A product of one row with a matrix reads the matrix once, at the speed of memory. For more rows a
BLAS first copies (packs) the matrix into another order for the products that follow; with a few
rows the packing takes three times as long as the products. OpenBLAS skips it for small products, if
the processor has AVX-512 and M N K is at most a million. So here the matrix is multiplied in
blocks, small enough for that, and for a block to stay in the processor's cache.

    x @ W^T, W stored as (out, in): y[:, block] = x @ W[block]^T                 every head, and all of Llama's
    x @ W,   W stored as (in, out): y = sum of x[:, block] @ W[block]            GPT-2's

Milliseconds of one core for M rows:

                                                         M = 1     2      5      8     12
    x (M, 768) @ W^T, W (50257, 768)    one product       11.3  32.2   35.5   36.3   37.7
                                        in blocks         11.3  12.0   14.5   15.6   16.4
    x (M, 768) @ W, 11 W (768, 3072)    one product        4.6  15.0   17.5   18.1   18.7
                                        in blocks          6.6  11.2   20.7   14.7   16.3

All blocks of a thread are one call of NumPy. In a loop of Python two threads wait for each other at
every block, for only one may run Python: a token of each of 8 texts then took GPT-2 124M 119 ms,
and takes 51 (3 texts: 113 and 45).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from minillm.backend.threads import thread_count

MOST_ROWS, LEAST = 12, 1 << 18  # rows of x; numbers of the matrix
SMALL = 1_000_000  # M N K of the largest product that OpenBLAS makes without packing
BLOCK = 1 << 17  # numbers of W (O, I) in a block, at most: half a megabyte
INPUTS, ALIGNED = 128, 256  # of W (I, O): inputs and outputs of a block


def skinny_gains(x, weight) -> bool:
    """Whether `skinny_matmul` is the faster way for x (M, I) and a weight."""
    return (
        1 < len(x) <= MOST_ROWS
        and weight.size >= LEAST
        and type(weight) is np.ndarray
        and weight.dtype == x.dtype == np.float32
        and _has_small_products()
    )


def skinny_matmul(x, weight, transposed: bool):
    """x (M, I) @ weight (I, O), or, if transposed, @ weight^T, weight (O, I)  ->  (M, O)

    The outputs are divided among threads so that the result does not depend on their number.
    """
    if not transposed:
        y = np.empty((len(x), weight.shape[1]), x.dtype)
        _share(_add_blocks_of_inputs, x, weight, y, weight.shape[1], ALIGNED)
        return y
    y = np.empty((len(weight), len(x)), x.dtype)
    rows = _rows_of_a_block(len(x), weight.shape[1])
    _share(_write_blocks_of_outputs, np.ascontiguousarray(x.T), weight, y, len(weight), rows)
    return np.ascontiguousarray(y.T)


def _rows_of_a_block(M: int, inputs: int) -> int:
    """How many rows of W (O, I) are a block, for x (M, I)."""
    rows = min(BLOCK, SMALL // M) // inputs
    return max(1, rows // 32 * 32 or rows)


def _write_blocks_of_outputs(columns, weight, y, start: int, stop: int) -> None:
    """y[start:stop] = weight[start:stop] @ columns: (O, I) @ (I, M)"""
    rows = _rows_of_a_block(columns.shape[1], weight.shape[1])
    whole = start + (stop - start) // rows * rows
    for first, last, height in ((start, whole, rows), (whole, stop, stop - whole)):
        if first < last:
            blocks, places = (each[first:last].reshape(-1, height, each.shape[1]) for each in (weight, y))  # views
            np.matmul(blocks, columns, out=places)  # (n, rows, I) @ (I, M)


def _add_blocks_of_inputs(x, weight, y, start: int, stop: int) -> None:
    """y[:, start:stop] = x @ weight[:, start:stop]: (M, I) @ (I, O)"""
    whole = start + (stop - start) // ALIGNED * ALIGNED
    for first, last, width in ((start, whole, ALIGNED), (whole, stop, stop - whole)):
        if first < last:
            strips = weight[:, first:last].reshape(len(weight), -1, width).swapaxes(0, 1)  # (s, I, width), a view
            places = y[:, first:last].reshape(len(x), -1, width).swapaxes(0, 1)  # (s, M, width)
            places[...] = _sums_of_blocks(x, strips)


def _sums_of_blocks(x, strips):
    """x (M, I) @ each of strips (s, I, width)  ->  (s, M, width): blocks of inputs and their sum"""
    M, (s, inputs, width) = len(x), strips.shape
    whole = inputs // INPUTS * INPUTS
    rows = x[:, :whole].reshape(M, -1, INPUTS).swapaxes(0, 1)  # (n, M, INPUTS), a view
    products = rows[None] @ strips[:, :whole].reshape(s, -1, INPUTS, width)  # (s, n, M, width)
    sums = np.add.reduce(products, axis=1)
    if whole < inputs:
        sums += x[:, whole:] @ strips[:, whole:]
    return sums


def _share(multiply, x, weight, y, outputs: int, unit: int) -> None:
    """Call `multiply` for all outputs, in as many parts as NumPy's BLAS has threads, each a
    multiple of `unit`.
    """
    threads = thread_count() or 1
    share = -(-outputs // (unit * threads)) * unit
    first, *others = ((start, min(start + share, outputs)) for start in range(0, outputs, share))
    waiting = [_pool(threads).submit(multiply, x, weight, y, *part) for part in others]
    multiply(x, weight, y, *first)
    for each in waiting:
        each.result()


@lru_cache(maxsize=1)
def _has_small_products() -> bool:
    return thread_count() is not None and bool(np._core._multiarray_umath.__cpu_features__.get("AVX512_SKX"))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="skinny matmul")

"""A matrix product for a few rows: the tokens of a draft, the beams of a search, or a few texts.

A product of one row with a matrix reads the matrix once, at the speed of memory. For more rows a
BLAS first copies (packs) the matrix into another order for the products that follow; with a few
rows the packing takes three times as long as the products. OpenBLAS skips it for small products, if
the processor has AVX-512 and M N K is at most a million. So here the matrix is multiplied in
blocks, small enough for that, and for a block to stay in the processor's cache.

    x @ W^T, W stored as (out, in): y[:, block] = x @ W[block]^T                 every head, and all of Llama's
    x @ W,   W stored as (in, out): y += x[:, block] @ W[block]                  GPT-2's

Milliseconds of one core for M rows:

                                                         M = 1     2      5      8     12
    x (M, 768) @ W^T, W (50257, 768)    one product       10.0  29.0   32.8   33.4   36.3
                                        in blocks         11.3  11.6   14.1   15.3   16.3
    x (M, 768) @ W, 11 W (768, 3072)    one product        4.0  12.3   14.7   14.9   17.1
                                        in blocks          6.7   7.1    9.4   11.3   14.7
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from minillm.backend.threads import thread_count

MOST_ROWS = 12
BLOCK, BLOCK_OF_INPUTS = 1 << 16, 1 << 15  # numbers of the matrix in a block; times MOST_ROWS they are below a million
ALIGNED = 64  # the share of a thread is a multiple of this many outputs


def skinny_gains(x, weight) -> bool:
    """Whether `skinny_matmul` is the faster way for x (M, I) and a weight."""
    return (
        1 < len(x) <= MOST_ROWS
        and weight.size >= 4 * BLOCK
        and type(weight) is np.ndarray
        and weight.dtype == x.dtype == np.float32
        and _has_small_products()
    )


def skinny_matmul(x, weight, transposed: bool):
    """x (M, I) @ weight (I, O), or, if transposed, @ weight^T, weight (O, I)  ->  (M, O)

    The outputs are divided among threads so that the result does not depend on their number.
    """
    if not transposed:
        y = np.zeros((len(x), weight.shape[1]), x.dtype)
        _share(_add_blocks_of_inputs, x, weight, y, weight.shape[1], ALIGNED)
        return y
    y = np.empty((len(weight), len(x)), x.dtype)
    rows = max(1, BLOCK // weight.shape[1])
    _share(_write_blocks_of_outputs, np.ascontiguousarray(x.T), weight, y, len(weight), rows)
    return np.ascontiguousarray(y.T)


def _write_blocks_of_outputs(columns, weight, y, start: int, stop: int) -> None:
    """y[start:stop] = weight[start:stop] @ columns: (O, I) @ (I, M)"""
    rows = max(1, BLOCK // weight.shape[1])
    for first in range(start, stop, rows):
        last = min(first + rows, stop)
        np.matmul(weight[first:last], columns, out=y[first:last])


def _add_blocks_of_inputs(x, weight, y, start: int, stop: int) -> None:
    """y[:, start:stop] += x @ weight[:, start:stop]: (M, I) @ (I, O)"""
    rows = max(1, BLOCK_OF_INPUTS // weight.shape[1])
    product = np.empty((len(x), stop - start), x.dtype)
    for first in range(0, len(weight), rows):
        np.matmul(x[:, first : first + rows], weight[first : first + rows, start:stop], out=product)
        y[:, start:stop] += product


def _share(multiply, x, weight, y, outputs: int, unit: int) -> None:
    """Call `multiply` for all outputs, in as many parts as NumPy's BLAS has threads, each a
    multiple of `unit`.
    """
    threads = thread_count() or 1
    share = -(-outputs // (unit * threads)) * unit
    starts = range(0, outputs, share)
    parts = [(start, min(start + share, outputs)) for start in starts]
    if len(parts) == 1:
        multiply(x, weight, y, 0, outputs)
    else:
        list(_pool(threads).map(lambda part: multiply(x, weight, y, *part), parts))


@lru_cache(maxsize=1)
def _has_small_products() -> bool:
    return thread_count() is not None and bool(np._core._multiarray_umath.__cpu_features__.get("AVX512_SKX"))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="skinny matmul")

"""A matrix product for a few rows, such as the tokens that a draft proposes, the beams of a search, or a handful of texts.

A product of one row with a matrix reads the matrix once, as fast as memory gives it. For more rows a BLAS first copies the
matrix into another order, piece by piece, so that the many products that follow find it where they need it; with a few rows
the copying takes three times as long as the products. OpenBLAS leaves it out for small products, where the processor has
AVX-512 and M N K is at most a million. So the matrix is multiplied in blocks of so few rows that each product is a small one,
and that a block stays in the processor's cache. Five rows then take 1.4 times the time of one, in place of 3:

    milliseconds of one core, x (M, 768) @ W^T with W (50257, 768)       M = 1     2      5      8     12
    one product                                                           10.0  29.0   32.8   33.4   36.3
    in blocks                                                             11.3  11.6   14.1   15.3   16.3

This is for matrices stored as (out, in), whose rows are multiplied as they lie in memory: all of Llama's, and every head.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from minillm import blas

MOST_ROWS = 12
BLOCK = 1 << 16  # numbers of the matrix in a block: 256 KiB, and MOST_ROWS * BLOCK is below a million


def few_rows_gain(x, weight) -> bool:
    """Whether `few_rows_product` is the faster way for x (M, I) and weight (O, I)."""
    return (
        1 < len(x) <= MOST_ROWS
        and weight.size >= 4 * BLOCK
        and type(weight) is np.ndarray
        and weight.dtype == x.dtype == np.float32
        and _has_small_products()
    )


def few_rows_product(x, weight):
    """x (M, I) @ weight^T, weight (O, I)  ->  (M, O). The numbers do not depend on how many threads share the work."""
    columns = np.ascontiguousarray(x.T)  # (I, M)
    y = np.empty((len(weight), len(x)), x.dtype)
    rows = max(1, BLOCK // weight.shape[1])

    def multiply(start: int, stop: int) -> None:
        for first in range(start, stop, rows):
            last = min(first + rows, stop)
            np.matmul(weight[first:last], columns, out=y[first:last])  # (rows, I) @ (I, M)

    threads = blas.thread_count() or 1
    share = -(-len(weight) // (rows * threads)) * rows  # whole blocks
    starts = range(0, len(weight), share)
    if len(starts) == 1:
        multiply(0, len(weight))
    else:
        list(_pool(threads).map(multiply, starts, [min(start + share, len(weight)) for start in starts]))
    return np.ascontiguousarray(y.T)


@lru_cache(maxsize=1)
def _has_small_products() -> bool:
    return blas.thread_count() is not None and bool(np._core._multiarray_umath.__cpu_features__.get("AVX512_SKX"))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="few rows")

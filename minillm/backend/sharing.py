"""Work on arrays that is divided among the cores, as a BLAS divides its products.

NumPy computes everything but products on one core: a quarter of the work for a prompt of 8 x 128
tokens of GPT-2 124M, while the products are shared. `by_rows` computes an operation whose rows do
not depend on each other in blocks of rows: each core takes the next block, and a block with its
temporary arrays stays in the core's cache.

There are as many threads as NumPy's BLAS has (threads.py), so who gives the BLAS one thread gets no
more here. Which thread takes a part changes no bit of the result.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from minillm.backend.threads import blas_threads, thread_count

BLOCK = 1 << 17  # numbers of the widest array in a block of rows
_sharing = threading.Lock()  # held while all cores work


def by_rows(function, *arrays, out=None):
    """y = function(*arrays) for arrays (..., C_i) whose leading axes are the same, computed in
    blocks of rows: function takes (n, C_i) and returns y (n, C).

    out (..., C) in C order: where y is written, which may be one of the arrays; by default a new
    array like the first. The whole arrays are one call where they are on a device, or too small to
    gain.
    """
    first, widest = arrays[0], max(x.shape[-1] for x in arrays)
    N, rows = first.size // first.shape[-1], max(1, BLOCK // widest)
    if N < 2 * rows or not all(type(x) is np.ndarray for x in arrays):
        return function(*arrays)
    arrays = [x.reshape(N, x.shape[-1]) for x in arrays]
    y = np.empty(first.shape, first.dtype) if out is None else out
    y_rows = y.reshape(N, -1)

    def compute(start: int) -> None:
        block = slice(start, start + rows)
        y_rows[block] = function(*(x[block] for x in arrays))

    shared(compute, range(0, N, rows))
    return y


def shared(work, parts, on_cpu: bool = True) -> None:
    """work(part) for each of `parts`; each thread takes the next one when it is done with one.

    on_cpu=False: the work is that of a device, and this thread does all of it.
    A product inside `work` has one thread. An exception of `work` is raised when all threads have
    ended. Where other work is shared at the moment, by another thread, this one does all parts.
    """
    waiting = deque(parts)
    threads = min(thread_count() or 1, len(waiting))
    if not on_cpu or threads < 2 or not _sharing.acquire(blocking=False):
        _work_off(work, waiting)
        return
    try:
        with blas_threads(1):
            others = [_pool(threads - 1).submit(_work_off, work, waiting) for _ in range(threads - 1)]
            try:
                _work_off(work, waiting)
            finally:
                for each in others:
                    each.exception()  # waits
            for each in others:
                each.result()
    finally:
        _sharing.release()


def _work_off(work, waiting: deque) -> None:
    while True:
        try:
            part = waiting.popleft()
        except IndexError:
            return
        work(part)


@lru_cache(maxsize=2)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="shared work")


def _forget_threads() -> None:
    """A forked process has the pool, and none of its threads."""
    global _sharing
    _sharing = threading.Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)

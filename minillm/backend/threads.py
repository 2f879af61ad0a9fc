"""Cores, and the threads of NumPy's BLAS, which does the matrix products.

NumPy's wheels contain OpenBLAS, whose C functions are called here. With another BLAS (Apple's
Accelerate, MKL) the number of threads is unknown and cannot be set.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

TOKENS_PER_WORKER = 256  # with fewer, Python's own work between the array operations outweighs them
_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(batch_size: int, context_length: int, device: str = "cpu") -> int:
    """How many parts a batch is best cut into: one for each core, as far as there is enough to do
    for each.

    A GPU, or the simulator of one, has its own threads: there the batch stays whole.
    """
    if device != "cpu":
        return 1
    return max(1, min(cores(), batch_size, batch_size * context_length // TOKENS_PER_WORKER))


def thread_count() -> int | None:
    """How many threads a large matrix product uses, or None for an unknown BLAS."""
    function = _find("get_num_threads")
    return function() if function else None


@contextmanager
def blas_threads(count: int) -> Iterator[bool]:
    """Use `count` threads for matrix products in the block. Yields whether this BLAS can be set."""
    before, function = thread_count(), _find("set_num_threads")
    if function is None or before is None:
        yield False
        return
    function(count)
    try:
        yield True
    finally:
        function(before)


def blas_kernels() -> str:
    """The processor for which OpenBLAS chose its kernels, such as "Haswell"; "unknown" of another
    BLAS.
    """
    function = _find("get_corename")
    if function is None:
        return "unknown"
    function.restype = ctypes.c_char_p
    return (function() or b"unknown").decode()


def function_of_blas(symbol: str):
    """The C function of this name that NumPy's BLAS has, or None."""
    if sys.platform == "win32":  # symbols of a library that another one loaded cannot be looked up there
        return None
    return getattr(ctypes.CDLL(np._core._multiarray_umath.__file__), symbol, None)


@lru_cache(maxsize=4)
def _find(name: str):
    found = (function_of_blas(pattern.format(name)) for pattern in _NAMES)
    return next((function for function in found if function is not None), None)

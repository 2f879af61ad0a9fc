"""The C allocator: keep freed memory for the next array."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks up to 32 MiB for the next allocation instead of handing them
    to the kernel.

    A training step allocates the same arrays again and again. By default glibc maps each large one
    anew, and the kernel then has to zero every page of it: benchmarks/train_step.py measures the
    cost. Linux with glibc only; elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library (musl)
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
    mallopt(m_mmap_threshold, 32 << 20)  # glibc accepts no more than HEAP_MAX_SIZE / 2
    mallopt(m_trim_threshold, (1 << 31) - 1)

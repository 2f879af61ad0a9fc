"""How much memory arrays really took: the largest sum at any moment, by the allocator's own
account.

On the host NumPy reports each array to `tracemalloc`, on a GPU CuPy's pool calls a hook for each
block that it hands out or takes back (blocks are multiples of 512 bytes). Both count what is in
use, not what the process or the pool keeps for later. The copies between guards that the simulator
of kernels makes for a launch are none of the step's arrays, and not counted.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from minillm.backend.hooks import add_hook


class Peak:
    """bytes: the largest sum since the last reset."""

    bytes = 0

    def reset(self) -> None:
        """Begin anew."""


@contextmanager
def measured_peak(device: str) -> Iterator[Peak]:
    """Counts the memory of arrays that are made inside, on "cpu", "cudasim" or "cuda".

    >>> import numpy as np
    >>> with measured_peak("cpu") as peak:
    ...     total = np.ones(1_000_000).sum() + np.ones(2_000_000).sum()
    >>> 16_000_000 <= peak.bytes < 16_100_000
    True
    """
    with _pool_peak() if device == "cuda" else _traced_peak() as peak:
        yield peak


@contextmanager
def _traced_peak() -> Iterator[Peak]:
    gc.collect()
    tracemalloc.start()
    peak = _Traced()
    try:
        with add_hook(peak.look_away):
            yield peak
        peak.at_end = peak.bytes
    finally:
        tracemalloc.stop()


class _Traced(Peak):
    before_launch = at_end = 0

    @property
    def bytes(self) -> int:
        return max(self.before_launch, tracemalloc.get_traced_memory()[1]) if tracemalloc.is_tracing() else self.at_end

    def reset(self) -> None:
        self.before_launch = 0
        tracemalloc.reset_peak()

    @contextmanager
    def look_away(self, kind: str, name: str, arrays) -> Iterator[None]:
        """Watches kernels (backend/hooks.py), which are simulated here: what happens inside counts
        for nothing.
        """
        if kind == "kernel":
            self.before_launch = self.bytes
        yield
        if kind == "kernel":
            tracemalloc.reset_peak()


@contextmanager
def _pool_peak() -> Iterator[Peak]:
    import cupy

    class Hook(cupy.cuda.MemoryHook):
        name = "minillm peak"
        used = largest = 0

        def malloc_postprocess(self, **block):
            self.used += block["mem_size"]
            self.largest = max(self.largest, self.used)

        def free_postprocess(self, **block):
            self.used -= block["mem_size"]

    hook = Hook()

    class OfPool(Peak):
        @property
        def bytes(self) -> int:
            return hook.largest

        def reset(self) -> None:
            hook.largest = hook.used

    with hook:
        yield OfPool()

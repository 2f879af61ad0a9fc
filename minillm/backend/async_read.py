"""Reading from a device without waiting for it.

The host puts work into the GPU's queue and does not wait for it: while the GPU computes one step,
the host prepares the next. A single `float(loss)` ends this, because it returns only when all work
queued before it is done; then the GPU is idle until the host has queued more. So nothing is read
during a training step. `AsyncRead` queues a copy, and the host reads the numbers one step later,
when they have arrived.

    reading = AsyncRead(loss, norm)     # queues a copy and returns
    ...                                 # queue more work
    loss, norm = reading.numbers()      # waits for the copy alone
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minillm.backend.arrays import SYNC_METHODS, device_of, forbid_sync, may_wait


class AsyncRead:
    """Numbers (0-d arrays of one device) that are copied to the host as float64; host numbers are
    kept.
    """

    def __init__(self, *arrays):
        self._arrived = None
        if device_of(arrays[0]) == "cuda":
            self._numbers = self._copied_by_gpu(arrays)
        else:
            self._numbers = [np.asarray(array).view(np.ndarray).copy() for array in arrays]

    def _copied_by_gpu(self, arrays):
        """Copy into pinned memory, which the GPU writes to directly; the event marks the end of the
        copy.
        """
        import cupy
        import cupyx

        numbers = [cupyx.empty_pinned((), "float64") for _ in arrays]
        for number, array in zip(numbers, arrays):
            array.get(out=number, blocking=False)
        self._arrived = cupy.cuda.Event(disable_timing=True)
        self._arrived.record()
        return numbers

    def arrived(self) -> bool:
        """Whether the copy is complete; does not wait."""
        return self._arrived is None or self._arrived.done

    def numbers(self) -> list[float]:
        """The numbers; waits until the copy is complete."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(number) for number in self._numbers]


@contextmanager
def no_waits() -> Iterator[None]:
    """Raise HostSyncError for every blocking copy from a device to the host in the block. For
    tests.
    """
    token = may_wait.set(False)
    try:
        with _guarded(sys.modules["cupy"].ndarray) if "cupy" in sys.modules else _no_guard():
            yield
    finally:
        may_wait.reset(token)


@contextmanager
def _no_guard() -> Iterator[None]:
    yield


@contextmanager
def _guarded(array_class) -> Iterator[None]:
    """Guard CuPy's methods that copy to the host; only `get(blocking=False)` does not wait."""
    inherited = {name: getattr(array_class, name) for name in ("get", *SYNC_METHODS) if hasattr(array_class, name)}
    own = {name: method for name, method in vars(array_class).items() if name in inherited}

    def forbidding(name):
        def method(self, *arguments, **named):
            if named.get("blocking", True):
                forbid_sync(name)
            return inherited[name](self, *arguments, **named)

        return method

    for name in inherited:
        setattr(array_class, name, forbidding(name))
    try:
        yield
    finally:
        for name in inherited:
            if name in own:
                setattr(array_class, name, own[name])
            else:  # it is a base class's
                delattr(array_class, name)

"""Reading from a device without waiting for it.

The host only tells a GPU what to do, and is far ahead of it: while the GPU works at one step the host prepares the next. A
single `float(loss)` ends this, because it returns when everything that was asked for before is done; the GPU then idles until
the host has caught up. So inside of a training step nothing is read. `AsyncRead` lets numbers travel by themselves: they are
copied when it is their turn, and read a step later, when they have long arrived.

    later = AsyncRead(loss, norm)       # asks for a copy, and returns
    ...                             # tell the device what to do next
    loss, norm = later.numbers()    # waits for the copy alone
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minillm.backend.arrays import SYNC_METHODS, device_of, forbid_sync, may_wait


class AsyncRead:
    """Numbers (0-d, float64, of one device) on their way to the host; numbers of the host stay as they are."""

    def __init__(self, *arrays):
        self._arrived = None
        if device_of(arrays[0]) == "cuda":
            self._numbers = self._copied_by_gpu(arrays)
        else:
            self._numbers = [np.asarray(array).view(np.ndarray).copy() for array in arrays]

    def _copied_by_gpu(self, arrays):
        """Into pinned memory, which a GPU can write to on its own; the event comes to pass when it has."""
        import cupy
        import cupyx

        numbers = [cupyx.empty_pinned((), "float64") for _ in arrays]
        for number, array in zip(numbers, arrays):
            array.get(out=number, blocking=False)
        self._arrived = cupy.cuda.Event(disable_timing=True)
        self._arrived.record()
        return numbers

    def arrived(self) -> bool:
        """Whether `numbers` has nothing to wait for; does not wait itself."""
        return self._arrived is None or self._arrived.done

    def numbers(self) -> list[float]:
        """The numbers; waits until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(number) for number in self._numbers]


@contextmanager
def no_waits() -> Iterator[None]:
    """Inside, a copy from a device to the host that waits raises HostSyncError. For tests, and to find such copies."""
    token = may_wait.set(False)
    try:
        with _watched(sys.modules["cupy"].ndarray) if "cupy" in sys.modules else _nothing_to_watch():
            yield
    finally:
        may_wait.reset(token)


@contextmanager
def _nothing_to_watch() -> Iterator[None]:
    yield


@contextmanager
def _watched(array_class) -> Iterator[None]:
    """CuPy's arrays: all their ways to the host, of which `get(blocking=False)` alone does not wait."""
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

"""Ranks imitated by threads of one process: a layer that ranks share, checked like any other layer.

    world = imitated_ranks(2)                              two communicators (layers/ranks.py)
    together(world, lambda communicator: ...)              what each rank returns, of one call each
    Together(lambda communicator: a layer, 2)              the layers of all ranks as one layer

The ranks compute at the same time, each in a thread, and exchange arrays at barriers. A rank that
waits for others that do not come gives up after SECONDS, and one that exchanges something else than
the others is named.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context

import numpy as np

from minillm.checks.subjects import GradientError
from minillm.layers.layer import Layer, Parameter
from minillm.layers.ranks import share_of

SECONDS = 10  # that a rank waits for another one


class ImitatedRank:
    """The communicator of one of several threads.

    exchanged: what this rank has exchanged, (name of the method, numbers in the array).
    """

    def __init__(self, rank: int, meeting: Meeting):
        self.rank, self.size = rank, meeting.size
        self._meeting = meeting
        self.exchanged: list[tuple[str, int]] = []

    def __copy__(self) -> ImitatedRank:
        return self

    def sum(self, array) -> None:
        """array: the sum over all ranks, in place, in the order of the ranks."""
        self._exchange("sum", array, sum)

    def maximum(self, array) -> None:
        """array: the largest over all ranks, in place."""
        self._exchange("maximum", array, lambda arrays: np.max(arrays, axis=0))

    def _exchange(self, name: str, array, combine) -> None:
        self.exchanged.append((name, array.size))
        array[...] = self._meeting.exchange(self.rank, name, array, combine)


class Meeting:
    """Where the threads of all ranks exchange arrays."""

    def __init__(self, size: int):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self._brought: list = [None] * size
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def threads(self) -> ThreadPoolExecutor:
        """A thread for each rank but the first, for all calls: a check has thousands. They end when
        this object is forgotten. A forked process has none of them, and gets its own.
        """
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(max(1, self.size - 1))
        return self._pool[1]

    def exchange(self, rank: int, name: str, array, combine):
        """combine(the arrays of all ranks). Raises ValueError where they do not fit."""
        self._brought[rank] = name, array
        self.barrier.wait()
        what = [f"{name} of {array.dtype}{array.shape}" for name, array in self._brought]
        if len(set(what)) > 1:
            raise ValueError(f"the ranks do not exchange the same: {'; '.join(what)}")
        result = combine([array for _, array in self._brought])
        self.barrier.wait()  # before anything is written over what others still read
        return result


def imitated_ranks(size: int) -> list[ImitatedRank]:
    """The communicators of so many ranks, for threads of this process."""
    meeting = Meeting(size)
    return [ImitatedRank(rank, meeting) for rank in range(size)]


def together(world: Sequence[ImitatedRank], task: Callable) -> list:
    """[task(communicator) for each rank], all at the same time.

    Raises what the first rank raised that did not only wait for another one.
    """
    meeting = world[0]._meeting
    meeting.barrier.reset()

    def run(communicator):
        try:
            return task(communicator)
        except BaseException:
            meeting.barrier.abort()
            raise

    own: Future = Future()
    waiting = [meeting.threads().submit(copy_context().run, run, communicator) for communicator in world[1:]]
    try:
        own.set_result(run(world[0]))  # in this thread, where a tracer may look on
    except Exception as error:
        own.set_exception(error)
    finally:
        wait(waiting)
    errors = [error for each in (own, *waiting) if (error := each.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [each.result() for each in (own, *waiting)]


class Together(Layer):
    """The layers of all ranks as one layer, for `gradcheck`.

    make: communicator -> the layer of that rank. whole: names of parameters that every rank has
    whole: they are parameters of the first rank here, and the others have to get the same gradient,
    to the last bit. reads: how many numbers the last axis of x has, of which each rank reads its
    share; None where it reads all. parts: whether each rank gives its share of the outputs, and not
    all of them. Raises GradientError where ranks disagree on what should be the same in all.
    """

    def __init__(self, make: Callable, size: int = 2, whole=(), reads: int | None = None, parts: bool = False):
        self._world = imitated_ranks(size)
        self.ranks = [make(communicator) for communicator in self._world]
        self._whole, self._reads, self._parts = tuple(whole), reads, parts

    def parameters(self) -> dict[str, Parameter]:
        found = super().parameters()
        hidden = tuple(f"ranks.{rank}.{name}" for rank in range(1, len(self.ranks)) for name in self._whole)
        return {name: parameter for name, parameter in found.items() if name not in hidden}

    def zero_grad(self) -> None:
        for layer in self.ranks:
            layer.zero_grad()

    def forward(self, x, *others, **settings):
        """x (..., I) and other arguments, the same for all ranks  ->  y"""
        first, *more = (layer.parameters() for layer in self.ranks)
        for parameters in more:
            for name in self._whole:
                parameters[name].value = first[name].value
        given = [x[..., self._share(rank)] for rank in range(len(self.ranks))]
        results = together(self._world, lambda own: self.ranks[own.rank].forward(given[own.rank], *others, **settings))
        self.save_for_backward([np.shape(y)[-1] if self._parts else None for y in results])
        return np.concatenate(results, axis=-1) if self._parts else _agreed("forward", results)

    def backward(self, *dy):
        """dy, of y, where forward's result has a gradient  ->  dx"""
        widths = self.take_saved()
        given = [dy] * len(self.ranks)
        if self._parts:
            given = [(part,) for part in np.split(dy[0], np.cumsum(widths)[:-1], axis=-1)]
        results = together(self._world, lambda own: self.ranks[own.rank].backward(*given[own.rank]))
        for name in self._whole:
            _agreed(f"the gradient of {name}", [layer.parameters()[name].grad for layer in self.ranks])
        if results[0] is None:
            return None
        return _agreed("dx", results) if self._reads is None else np.concatenate(results, axis=-1)

    def decode(self, x, cache):
        """The new tokens x (B, t, I) or ids (B, t)  ->  y; see Layer.decode."""
        given = [x[..., self._share(rank)] for rank in range(len(self.ranks))]
        results = together(self._world, lambda own: self.ranks[own.rank].decode(given[own.rank], cache))
        return np.concatenate(results, axis=-1) if self._parts else _agreed("decode", results)

    def _share(self, rank: int) -> slice:
        if self._reads is None:
            return slice(None)
        own = share_of(rank, len(self.ranks), self._reads)
        return slice(own.start, own.stop)


def _agreed(what: str, arrays: list):
    """What all ranks have the same, to the last bit."""
    first, *others = arrays
    for rank, other in enumerate(others, start=1):
        if not np.array_equal(first, other, equal_nan=True):
            raise GradientError(f"{what}: rank {rank} has other numbers than rank 0, where all should have the same")
    return first

"""The gradients of the parts of a batch, in flat arrays, and their sum along the tree.

With S parts, N ranks and T threads a rank there are N T workers. Worker w computes the parts
`parts_of(w, N T, S)` one after the other, and adds them as far as the tree allows (tree.py). Each
array has the layout of layout.py, so that the sum is one addition of arrays, and what a rank owns
of it is one slice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minillm.distributed.communicator import Communicator, Terms
from minillm.distributed.layout import Layout
from minillm.distributed.tree import Running, nodes_of, parts_of, slots_needed
from minillm.layers.layer import Parameter

BLOCK = 1 << 15  # elements added at a time: two of them fit a core's L2 cache


class Gradients:
    """The arrays of one rank, and who computes which part.

    parts: S; threads: T. Allocates memory of the communicator, which all ranks do together.
    """

    def __init__(self, layout: Layout, dtype, parts: int, threads: int, communicator: Communicator):
        self.layout, self.parts, self.communicator = layout, parts, communicator
        ranks = range(communicator.size)
        workers = communicator.size * threads
        self._ranges = [[parts_of(r * threads + t, workers, parts) for t in range(threads)] for r in ranks]
        of_thread = [max(1, *(slots_needed(ranges[t], parts) for ranges in self._ranges)) for t in range(threads)]
        count = sum(of_thread)
        memory = communicator.of_each(count * layout.size, dtype)
        self._everyone = memory and [self._by_thread(each, of_thread) for each in memory]
        self._own = None if memory else self._by_thread(communicator.shared(count * layout.size, dtype), of_thread)
        self._views: dict[int, dict] = {}  # of an array, by its place in memory: name -> the parameter's view

    @property
    def _slots(self) -> list[list[np.ndarray]]:
        """Thread -> its arrays. A process that starts others does not know its rank before."""
        return self._everyone[self.communicator.rank] if self._everyone else self._own

    def range_of(self, thread: int) -> range:
        """The parts that a thread of this rank computes."""
        return self._ranges[self.communicator.rank][thread]

    def running(self, thread: int) -> Running:
        """The sum of a thread's parts, nothing added so far."""
        slots = self._slots[thread]

        def add(i: int, j: int) -> None:
            slots[i] += slots[j]

        return Running(self.parts, add)

    def views(self, thread: int, slot: int) -> dict:
        """Name -> where the parameter's gradient is in an array of a thread."""
        array = self._slots[thread][slot]
        if id(array) not in self._views:
            self._views[id(array)] = self.layout.views(array)
        return self._views[id(array)]

    def terms(self) -> Terms:
        """What this rank brings to the sum, once its threads have computed their parts."""
        nodes = [[node for part in ranges for node in nodes_of(part, self.parts)] for ranges in self._ranges]
        everyone = self._everyone and [self._terms_of(rank, each) for rank, each in enumerate(self._everyone)]
        return Terms(self.parts, nodes, self._terms_of(self.communicator.rank, self._slots), everyone)

    def sum(self, share) -> np.ndarray:
        """The first array (size,), in which the slices that this rank owns now have the sum over
        all parts. All ranks call it.

        share(function, items): calls the function for each item, on all threads
        (DataParallel.share).
        """
        terms = self.terms()
        if self.communicator.size == 1:
            blocks = range(0, self.layout.size, BLOCK)
            share(lambda start: self.communicator.reduce_scatter(terms, (start, start + BLOCK)), blocks)
        else:
            for section in self.layout.sections:
                self.communicator.reduce_scatter(terms, self.layout.bounds(section, self.communicator.size))
        return terms.arrays[0]

    def _terms_of(self, rank: int, slots: list[list]) -> list:
        """The arrays of a rank's nodes, in order; of a rank without parts its first array."""
        found = []
        for part, arrays in zip(self._ranges[rank], slots):
            found += arrays[: len(nodes_of(part, self.parts))]
        return found or slots[0][:1]

    def _by_thread(self, memory: np.ndarray, of_thread: list[int]) -> list[list[np.ndarray]]:
        arrays: Iterator = iter(memory.reshape(-1, self.layout.size))
        return [[next(arrays) for _ in range(count)] for count in of_thread]


def put_home(parameters: dict[str, Parameter], views: dict) -> None:
    """Let backward write the gradients of parameters into views of a flat array."""
    for name, view in views.items():
        parameters[name].home = view


def complete(parameters: dict[str, Parameter], views: dict) -> set[str]:
    """Make sure that the views have the gradients of the part that was computed, and forget those
    of the parameters  ->  the names of parameters that got none, whose views are zero.
    """
    missing = set()
    for name, view in views.items():
        parameter = parameters[name]
        if parameter.grad is None:
            view[...] = 0
            missing.add(name)
        elif parameter.grad is not view:
            view[...] = parameter.grad
        parameter.home = None
        parameter.zero_grad()
    return missing

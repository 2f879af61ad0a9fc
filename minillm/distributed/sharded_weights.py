r"""Sharded weights (ZeRO-3): a rank keeps the weights that it owns, and gathers those of a block
for as long as the block runs.

Source: Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models" (SC 2020), sections 5.3 and 7.2. With P weights, of which p are in the largest
block and e below and above the blocks:

    gather(block)     w[block] = all_gather(w_r[block])    before its forward, before its backward
    release(block)    all but the own share is forgotten   after each of the two

    memory    P  ->  P / N + p + e
    sent      P (N-1)/N for gradients; and for weights, in place of P (N-1)/N after the step, up to
              2 P (N-1)/N in each round: 3 P (N-1)/N in all, half as much again as ZeRO-1 and 2

What lies below and above the blocks is gathered once in a pass, and released where backward comes
to the last block: e is sent once, not twice. Nothing is sent after a step: the next gather brings
it.

The own share stays where it is, in the array of all weights, and so do the views of it that layers
have: only pages are given back and filled again (pages.py).
"""

from __future__ import annotations

from minillm.distributed.communicator import Communicator
from minillm.distributed.layout import Layout
from minillm.distributed.pages import Pages
from minillm.layers.layer import Parameter


class ShardedWeights:
    """array (layout.size,): all weights, of which those of the own share are there at any time, and
    a section's from `gather` to `release`.

    Raises UserError where the operating system cannot take back pages.
    """

    def __init__(self, layout: Layout, dtype, communicator: Communicator):
        self.layout, self.communicator = layout, communicator
        self._pages = Pages(layout.size, dtype)
        self.array = self._pages.array
        self._owned = layout.owned(communicator.rank, communicator.size)

    def fill(self, parameters: dict[str, Parameter]) -> None:
        """Take over the values of parameters, section after section, of which the own share is
        kept; they become views of the array.
        """
        views = self.layout.views(self.array)
        for section, place in enumerate(self.layout.sections):
            for entry in self.layout.entries_of(place):
                views[entry.name][...] = parameters[entry.name].peek()
                parameters[entry.name].value = views[entry.name]
            self.release(section)

    def gather(self, section: int) -> None:
        """All ranks call it: a section's weights from all of them."""
        place = self.layout.sections[section]
        if place.start < place.stop:
            bounds = [bound - place.start for bound in self.layout.bounds(place, self.communicator.size)]
            self.communicator.all_gather(self.array[place], bounds)

    def release(self, section: int) -> None:
        """Forget a section's weights but for the own share."""
        place, own = self.layout.sections[section], self._owned[section]
        self._pages.give_back(slice(place.start, own.start))
        self._pages.give_back(slice(own.stop, place.stop))

    def gather_all(self) -> None:
        """All ranks call it: all weights, as evaluation by single tokens and saving need them."""
        for section in range(len(self.layout.sections)):
            self.gather(section)

    def release_all(self) -> None:
        """Forget all but the own share."""
        for section in range(len(self.layout.sections)):
            self.release(section)

    def resident(self) -> int:
        """Bytes that have memory now: see Pages."""
        return self._pages.resident()

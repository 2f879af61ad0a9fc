"""The communicator of a process that is alone: nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence

from minillm.distributed.communicator import Communicator, Terms
from minillm.distributed.tree import add_up


class Alone(Communicator):
    """One rank, which owns everything."""

    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """The sum of this rank's own terms."""
        place = slice(*bounds)
        known = dict(zip(terms.nodes[0], (array[place] for array in terms.arrays)))
        return add_up(known, (0, terms.parts))

    def all_gather(self, array, bounds: Sequence[int]) -> None:
        """Nothing to do."""

    def broadcast(self, array, root: int = 0) -> None:
        """Nothing to do."""

    def sum(self, array) -> None:
        """Nothing to do."""

    def maximum(self, array) -> None:
        """Nothing to do."""

    def barrier(self) -> None:
        """Nothing to do."""

    def split(self, colour: int, key: int) -> Alone:
        """Itself."""
        return self

"""Which part of a tensor a rank has, where ranks share it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minillm.backend.arrays import array_module, contiguous
from minillm.layers.ranks import share_of, sum_over_ranks


@dataclass(frozen=True)
class Cut:
    """A part of a tensor, cut along one axis.

    axis: 0 or 1. count: the length of the whole tensor there. groups: of so many pieces side by
    side, all of one length, a rank has its share of each: 3 for queries, keys and values in one
    matrix. unit: what belongs together along the axis, such as the width of a head. rank, ranks:
    who has this part, and among how many the tensor is shared. communicator: theirs (ranks.py).

    >>> Cut(0, 12, groups=3, unit=2, rank=1, ranks=2).slices()
    [slice(2, 4, None), slice(6, 8, None), slice(10, 12, None)]
    """

    axis: int
    count: int
    groups: int = 1
    unit: int = 1
    rank: int = 0
    ranks: int = 1
    communicator: object = field(default=None, compare=False, repr=False)

    def slices(self, rank: int | None = None) -> list[slice]:
        """The places of this rank's part, or another's, along the axis of the whole tensor."""
        group = self.count // self.groups
        own = share_of(self.rank if rank is None else rank, self.ranks, group // self.unit)
        starts = range(0, self.count, group)
        return [slice(start + own.start * self.unit, start + own.stop * self.unit) for start in starts]

    def length(self, rank: int | None = None) -> int:
        """How long the part is along the axis."""
        return sum(each.stop - each.start for each in self.slices(rank))

    def part_of(self, whole):
        """An array of its own with this rank's part; without memory where `whole` has none."""
        if whole.size and not any(whole.strides):
            shape = list(whole.shape)
            shape[self.axis] = self.length()
            return np.broadcast_to(whole[(0,) * whole.ndim], shape)
        parts = [whole[self._at(each)] for each in self.slices()]
        return contiguous(array_module(whole).concatenate(parts, axis=self.axis))

    def put(self, part, whole) -> None:
        """Write this rank's part to its places of the whole tensor."""
        start = 0
        for each in self.slices():
            stop = start + each.stop - each.start
            whole[self._at(each)] = part[self._at(slice(start, stop))]
            start = stop

    def whole_of(self, part):
        """The whole tensor of the parts of all ranks: a weight, its gradient, a moment. All
        ranks call it in the same order.

        Each adds its part to zeros at the places of the others, which is exact.
        """
        whole = array_module(part).zeros(self.whole_shape(part.shape), dtype=part.dtype)
        self.put(part, whole)
        return sum_over_ranks(whole, self.communicator)

    def whole_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the whole tensor, of a part's."""
        return (*shape[: self.axis], self.count, *shape[self.axis + 1 :])

    def largest_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the largest part that any rank has, of a part's."""
        longest = max(self.length(rank) for rank in range(self.ranks))
        return (*shape[: self.axis], longest, *shape[self.axis + 1 :])

    def _at(self, place: slice) -> tuple:
        return (slice(None),) * self.axis + (place,)

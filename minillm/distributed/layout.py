"""One flat buffer: where each parameter lies in it, and which part of it belongs to which rank.

All gradients lie one after the other in one array, and so do all weights; a parameter's array is a
view. A collective then takes a slice, and no shape has to be divisible by anything:

    | wte ............ | wpe .... | h.0.ln_1.weight | ... | padding |
    | rank 0         | rank 1         | rank 2         | rank 3     |

The buffer is made of cells of CELL elements, and a rank owns whole cells. Parameters begin at
multiples of ALIGNMENT elements. What lies between them is zero, and stays zero.

A buffer has one section or more, and each rank owns its share of each section. With one section a
rank owns one slice. With a section for each block a block can be reduced as soon as it is complete.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CELL = 1024  # elements: the sum of squares is one number a cell, so that it does not depend on the owner
ALIGNMENT = 16  # elements: 64 bytes of float32, a line of a cache


@dataclass(frozen=True)
class Entry:
    """A parameter in the buffer: elements start to start + size."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Piece:
    """What a rank owns of a parameter: its elements `part`, in C order, which are `place` of the
    buffer.
    """

    entry: Entry
    part: slice
    place: slice

    @property
    def is_whole(self) -> bool:
        return self.part == slice(0, self.entry.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the parameter where it is whole, else one dimension."""
        return self.entry.shape if self.is_whole else (self.part.stop - self.part.start,)


class Layout:
    """Where the parameters of a model lie in a flat buffer.

    shapes: name -> shape, in the order of the buffer. sections: lists of names that follow each
    other in this order, one for each section; None for one section of all. whole: a rank owns whole
    parameters, for optimizers whose step is not element by element (Muon). room: name -> elements
    to keep for a parameter, if it has fewer.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        sections: Sequence[Sequence[str]] | None = None,
        whole: bool = False,
        room: Mapping[str, int] | None = None,
    ):
        self.whole, room = whole, room or {}
        self.entries: dict[str, Entry] = {}
        self.sections: list[slice] = []
        position = 0
        sections = [list(shapes)] if sections is None else sections
        if [name for names in sections for name in names] != list(shapes):
            raise ValueError("the sections have to name every parameter once, in the order of the model")
        for names in sections:
            start = position
            for name in names:
                self.entries[name] = entry = Entry(name, tuple(shapes[name]), position)
                position = _rounded_up(entry.start + max(entry.size, room.get(name, 0)), CELL if whole else ALIGNMENT)
            position = _rounded_up(position, CELL)
            self.sections.append(slice(start, position))
        self.size = position

    def in_one_section(self) -> Layout:
        """The same layout, which ranks own as one section."""
        other = copy.copy(self)
        other.sections = [slice(0, self.size)]
        return other

    def name_at(self, section: slice) -> str:
        """The first parameter of a section."""
        return next(entry.name for entry in self.entries.values() if entry.start >= section.start)

    def bounds(self, section: slice, ranks: int) -> list[int]:
        """ranks + 1 positions: rank r owns [bounds[r], bounds[r + 1]) of a section."""
        cells = (section.stop - section.start) // CELL
        equal = [section.start + CELL * (cells * rank // ranks) for rank in range(ranks + 1)]
        if not self.whole:
            return equal
        starts = [*(entry.start for entry in self.entries_of(section)), section.stop]
        nearest = [min(starts, key=lambda start: abs(start - bound)) for bound in equal[1:-1]]
        return [section.start, *nearest, section.stop]

    def owned(self, rank: int, ranks: int) -> list[slice]:
        """The slices of the buffer that a rank owns, one for each section."""
        return [slice(*self.bounds(section, ranks)[rank : rank + 2]) for section in self.sections]

    def pieces(self, owned: Sequence[slice]) -> list[Piece]:
        """The parts of parameters that lie in slices of the buffer, in order."""
        found = []
        for slice_ in owned:
            for entry in self.entries.values():
                start, stop = max(entry.start, slice_.start), min(entry.place.stop, slice_.stop)
                if start < stop:
                    found.append(Piece(entry, slice(start - entry.start, stop - entry.start), slice(start, stop)))
        return found

    def entries_of(self, section: slice) -> list[Entry]:
        """The parameters of a section, in order."""
        return [entry for entry in self.entries.values() if section.start <= entry.start < section.stop]

    def views(self, buffer) -> dict:
        """Name -> the parameter's array, a view of the buffer (size,)."""
        return {name: buffer[entry.place].reshape(entry.shape) for name, entry in self.entries.items()}


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

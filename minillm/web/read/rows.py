"""Forward and backward side by side: a backward statement beside the forward lines that it
differentiates.

Rows are in the order of forward, and every statement of the two functions is in one row. Read from
the last row to the first, backward is in the order in which it runs, as far as it takes forward in
reverse; inside of a row the statements are in the order of the source. A row spans the forward
lines from the first to the last that its backward statements differentiate. A backward statement
without a partner has a row without forward, just before what it prepares.
"""

from __future__ import annotations

from dataclasses import dataclass

from minillm.web.read.operation import Operation, Pair, Place, sources
from minillm.web.read.quotations import leaves, lines_of
from minillm.web.read.ties import Reading, readings

ABOVE_ALL = -1


@dataclass(frozen=True)
class Row:
    """What belongs side by side. One of the two may be empty."""

    forward: tuple[Place, ...]
    backward: tuple[Place, ...]


def rows(operation: Operation) -> dict[Pair, list[Row]]:
    """The rows of every pair, in the order of forward."""
    found, readings_of = sources(operation), {}
    for reading in readings(operation):
        readings_of.setdefault(reading.pair, []).append(reading)
    return {
        pair: _rows(
            pair, [Place(pair.forward, *lines_of(node)) for node in leaves(found[pair.forward].tree.body)], read
        )
        for pair, read in readings_of.items()
    }


def _rows(pair: Pair, forward: list[Place], read: list[Reading]) -> list[Row]:
    """forward: the places of all statements of the forward function. read: of both functions."""
    passages = [passage for reading in read for passage in reading.passages]
    without = [place for reading in read if reading.function == pair.backward for place in reading.alone]
    inside = {place for passage in passages for place in passage.statements if place.function == pair.forward}
    forward = [place for place in forward if place not in inside]
    beside: list[list[Place]] = [[] for _ in forward]  # for each forward statement the backward ones
    joined: list[tuple[int, int]] = []  # first and last of the forward statements that share a row
    anchors = {}  # a backward statement -> the number of its forward statement
    for passage in passages:
        at = [number for number, place in enumerate(forward) if place in passage.forward]
        at = at or [anchors[place] for place in list(anchors)[-1:]]  # in a function that forward calls
        if not at:
            without += passage.statements
        elif passage.statements:
            joined.append((min(at), max(at)))
            beside[min(at)] += passage.statements
            anchors |= dict.fromkeys(passage.statements, min(at))
    alone: dict[int, list[Place]] = {}
    for place in without:
        following = [number for tied, number in anchors.items() if _follows(tied, place)]
        alone.setdefault(following[0] if following else ABOVE_ALL, []).append(place)
    return _put_together(forward, beside, joined, alone)


def _put_together(forward, beside, joined, alone) -> list[Row]:
    found = [Row((), tuple(alone[ABOVE_ALL]))] if ABOVE_ALL in alone else []
    number = 0
    while number < len(forward):
        last = number
        while last < (reach := max((end for start, end in joined if start <= last), default=last)):
            last = reach
        span = range(number, last + 1)
        backward = sorted((place for each in span for place in beside[each]), key=_in_file)
        found.append(Row(tuple(forward[number : last + 1]), tuple(backward)))
        if without := [place for each in span for place in alone.get(each, ())]:
            found.append(Row((), tuple(sorted(without, key=_in_file))))
        number = last + 1
    return found


def _follows(place: Place, other: Place) -> bool:
    return place.function == other.function and place.first > other.first


def _in_file(place: Place) -> int:
    return place.first

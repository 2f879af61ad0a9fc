"""One flat buffer: no element has two owners, none has no owner, and what is padding stays zero."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm.distributed import layout
from minillm.distributed.layout import ALIGNMENT, CELL, Layout

SHAPES = st.lists(st.lists(st.integers(1, 40), min_size=0, max_size=3).map(tuple), min_size=1, max_size=9)


def problem(module, shapes, cuts, whole: bool, ranks: int) -> str:
    """What is wrong with a layout of parameters of these shapes; empty if nothing is.

    cuts: numbers of parameters after which a section ends.
    """
    named = {f"p{number}": shape for number, shape in enumerate(shapes)}
    names, edges = list(named), sorted({0, len(named), *(cut for cut in cuts if cut < len(named))})
    sections = [names[first:last] for first, last in zip(edges, edges[1:])]
    made = module.Layout(named, sections, whole)
    owner = np.zeros(made.size, int)
    for rank in range(ranks):
        for own in made.owned(rank, ranks):
            owner[own] += 1
    if (owner != 1).any():
        return "an element has no owner, or several"
    for section, names in zip(made.sections, sections):
        bounds = made.bounds(section, ranks)
        if bounds != sorted(bounds) or [bounds[0], bounds[-1]] != [section.start, section.stop]:
            return "the bounds of a section"
        if any(bound % CELL for bound in bounds):
            return "a bound is not at a cell"
        if any(
            not section.start <= made.entries[name].start <= made.entries[name].place.stop <= section.stop
            for name in names
        ):
            return "a parameter is not in its section"
        if not whole and max(np.diff(bounds)) - min(np.diff(bounds)) > CELL:
            return "the shares of a section are not alike"
    return problem_of_pieces(made, ranks) or problem_of_views(made)


def problem_of_pieces(made, ranks: int) -> str:
    """Pieces are checked by the numbers 0, 1, ... in each parameter."""
    buffer, seen = np.full(made.size, -1), {name: [] for name in made.entries}
    for view in made.views(buffer).values():
        view[...] = np.arange(view.size).reshape(view.shape)
    for rank in range(ranks):
        owned = made.owned(rank, ranks)
        for piece in made.pieces(owned):
            numbers = buffer[piece.place]
            if not any(own.start <= piece.place.start <= piece.place.stop <= own.stop for own in owned):
                return "a piece is not its rank's"
            if numbers.tolist() != list(range(piece.part.start, piece.part.stop)):
                return "the place of a piece does not have its part"
            if math.prod(piece.shape) != numbers.size or (piece.is_whole and piece.shape != piece.entry.shape):
                return "the shape of a piece"
            if made.whole and not piece.is_whole:
                return "a parameter is cut"
            seen[piece.entry.name] += numbers.tolist()
    if any(numbers != list(range(made.entries[name].size)) for name, numbers in seen.items()):
        return "pieces overlap, or miss something"
    return ""


def problem_of_views(made) -> str:
    """Parameters do not overlap, and what no parameter has is left as it is: zero."""
    buffer = np.zeros(made.size)
    for view in made.views(buffer).values():
        if not np.may_share_memory(view, buffer) and view.size:
            return "a view is a copy"
        view += 1
    if buffer.max(initial=0) > 1 or buffer.sum() != sum(entry.size for entry in made.entries.values()):
        return "parameters overlap, or padding is not zero"
    if any(entry.start % (CELL if made.whole else ALIGNMENT) for entry in made.entries.values()):
        return "a parameter is not aligned"
    return ""


CASE = dict(shapes=SHAPES, cuts=st.lists(st.integers(1, 8), max_size=3), whole=st.booleans(), ranks=st.integers(1, 7))


@given(**CASE)
@settings(max_examples=60, deadline=None)
def test_every_layout(shapes, cuts, whole, ranks):
    assert problem(layout, shapes, cuts, whole, ranks) == ""


def test_by_hand():
    """A matrix of 1,500 and a vector of 3 numbers: two cells; rank 0 has the first 1,024 numbers."""
    made = Layout({"w": (50, 30), "b": (3,)})
    assert (made.size, made.entries["w"].place, made.entries["b"].place) == (2048, slice(0, 1500), slice(1504, 1507))
    assert made.owned(0, 2) == [slice(0, 1024)] and made.owned(1, 2) == [slice(1024, 2048)]
    pieces = made.pieces(made.owned(1, 2))
    assert [(piece.entry.name, piece.part, piece.place) for piece in pieces] == [
        ("w", slice(1024, 1500), slice(1024, 1500)),
        ("b", slice(0, 3), slice(1504, 1507)),
    ]
    assert [piece.is_whole for piece in pieces] == [False, True]
    assert [piece.shape for piece in pieces] == [(476,), (3,)]


def test_whole_parameters_by_hand():
    """Bounds move to the nearest beginning of a parameter: none is cut."""
    made = Layout({"a": (1000,), "b": (5000,), "c": (1000,)}, whole=True)
    assert [entry.start for entry in made.entries.values()] == [0, 1024, 6144]
    assert made.bounds(made.sections[0], 2) == [0, 1024, 7168] or made.bounds(made.sections[0], 2) == [0, 6144, 7168]
    assert all(piece.is_whole for rank in range(2) for piece in made.pieces(made.owned(rank, 2)))


def test_more_ranks_than_cells():
    """Some ranks own nothing; the others own all."""
    made = Layout({"w": (5,)})
    slices = [made.owned(rank, 4)[0] for rank in range(4)]
    assert sorted(own.stop - own.start for own in slices) == [0, 0, 0, 1024]


@pytest.mark.parametrize("sections", [[["a"]], [["b"], ["a"]], [["a", "b"], ["a"]], []])
def test_sections_that_do_not_name_every_parameter_once(sections):
    with pytest.raises(ValueError, match="name every parameter once"):
        Layout({"a": (2,), "b": (2,)}, sections)


FAULTS = {
    "bounds are not at cells": (
        "CELL * (cells * rank // ranks)",
        "CELL * cells * rank // ranks",
        "the rules of the layout",
    ),
    "bounds forget where the section begins": (
        "equal = [section.start + CELL",
        "equal = [CELL",
        "the rules of the layout",
    ),
    "pieces overlap": (
        "max(entry.start, slice_.start)",
        "max(entry.start, slice_.start - 1)",
        "the rules of the layout",
    ),
    "a piece ends too early": (
        "min(entry.place.stop, slice_.stop)",
        "min(entry.place.stop, slice_.stop - 1)",
        "the rules of the layout",
    ),
    "the part of a piece counts from its slice": (
        "slice(start - entry.start, stop",
        "slice(start - slice_.start, stop",
        "the rules of the layout",
    ),
    "a piece of one element is lost": ("if start < stop:", "if start + 1 < stop:", "the rules of the layout"),
    "padding is part of a parameter": (
        "buffer[entry.place].reshape(entry.shape)",
        "buffer[entry.start : entry.place.stop + 1]",
        "the rules of the layout",
    ),
    "padding is not zero": (
        "views(self, buffer) -> dict:",
        "views(self, buffer, one=1) -> dict:\n        buffer[-1] = one",
        "the rules of the layout",
    ),
    "parameters overlap": (
        "_rounded_up(entry.start + max(entry.size, room.get(name, 0)),",
        "_rounded_up(entry.start + max(entry.size, room.get(name, 0)) - 1,",
        "the rules of the layout",
    ),
    "parameters are not aligned": ("CELL if whole else ALIGNMENT)", "CELL if whole else 1)", "the rules of the layout"),
    "a section does not end with a cell": (
        "            position = _rounded_up(position, CELL)\n",
        "",
        "the rules of the layout",
    ),
    "whole parameters are cut": ("if not self.whole:", "if True:", "the rules of the layout"),
    "the last cells have no owner": ("*nearest, section.stop]", "*nearest, starts[-2]]", "the rules of the layout"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    faulty = planted(layout, *FAULTS[fault][:2])
    cases = [
        ([(50, 30), (3,), (7, 7, 40), (1,), ()], cuts, whole) for cuts in ([], [2], [1, 4]) for whole in (False, True)
    ]
    cases += [([(16,), (17,), (1024,), (1025,)], [1, 2], whole) for whole in (False, True)]
    found = [problem(layout, *case, ranks) for case in cases for ranks in (1, 2, 3, 5)]
    assert found == [""] * len(found)

    def wrong(case, ranks) -> bool:
        try:
            return bool(problem(faulty, *case, ranks))
        except ValueError:  # arrays that do not fit each other
            return True

    assert any(wrong(case, ranks) for case in cases for ranks in (1, 2, 3, 5))

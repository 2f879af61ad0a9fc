"""The code of a tensor as Read shows it: gradients beside the forward lines they differentiate.

A passage (source_lines.py) is a function with marked lines. Here its statements get the ties that
Read has of them, and the forward functions that they are tied to are shown, too, also where the
tensor itself was computed elsewhere: q is computed by a projection, dq by attention's backward.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from minillm.inspection.source_lines import ROOT, Passage
from minillm.web.read.operation import OPERATIONS, Operation, Place, Source, Tie, sources
from minillm.web.read.ties import ties


def columns(forward: list[Passage], backward: list[Passage]) -> dict[str, list[dict]]:
    """Both columns as JSON: passages with title, place, first, lines, marked and statements.

    A statement is {"first", "last", "id", "lights"}: lights are the ids that it is tied to. The
    functions that are there for their ties alone have "partner": true.
    """
    left, right = ([_passage(passage) for passage in side] for side in (forward, backward))
    shown = {each["id"] for passage in (*left, *right) for each in passage["statements"]}
    partners: dict[str, dict] = {}
    for passage, there in zip(backward, right):
        marked = [each for each in there["statements"] if _is_marked(each, there)]
        wanted = {identity for each in marked for identity in each["lights"]} - shown
        partners |= {partner["place"]: partner for partner in _partners(_path(passage.function), wanted)}
    return {"forward": [*left, *partners.values()], "backward": right}


def _passage(passage: Passage) -> dict:
    lines, first = passage.lines
    path = _path(passage.function)
    return {
        "title": passage.title,
        "place": passage.place,
        "first": first,
        "lines": lines,
        "marked": sorted(passage.marked),
        "statements": _statements_in(path, first, len(lines)),
    }


def _path(function) -> str:
    return getattr(inspect.unwrap(function), "__code__", function).co_filename


def _partners(path: str, wanted: set[str]) -> Iterator[dict]:
    """The forward functions of a module that have the statements `wanted`."""
    found = {source.first: source for identity, source in _forward_sources(path).items() if identity in wanted}
    for first, source in sorted(found.items()):
        lines = textwrap.dedent("\n".join(source.lines)).splitlines()
        yield {
            "title": "differentiated:",
            "place": f"{source.path.relative_to(ROOT) if source.path.is_relative_to(ROOT) else source.path}:{first}",
            "first": first,
            "lines": lines,
            "marked": [],
            "statements": _statements_in(path, first, len(lines)),
            "partner": True,
        }


def _statements_in(path: str, first: int, count: int) -> list[dict]:
    return [each for each in _statements(path) if first <= each["first"] < first + count]


def _is_marked(statement: dict, passage: dict) -> bool:
    return any(statement["first"] <= line <= statement["last"] for line in passage["marked"])


# ------------------------------------------------------------------------------------------------- Read's ties


@cache
def _ties(name: str) -> list[Tie]:
    return ties(OPERATIONS[name])


@cache
def _operations() -> dict[str, list[Operation]]:
    """Path of a module -> its operations, without those that only lessons have."""
    found: dict[str, list[Operation]] = {}
    for operation in OPERATIONS.values():
        if operation.module.startswith("minillm.layers."):
            found.setdefault(str(Path(operation.home.__file__)), []).append(operation)
    return found


@cache
def _statements(path: str) -> list[dict]:
    """The tied statements of a module, in the order of the file."""
    found: dict[str, dict] = {}

    def statement(place: Place) -> dict:
        identity = _identity(path, place)
        return found.setdefault(identity, {"first": place.first, "last": place.last, "id": identity, "lights": []})

    for operation in _operations().get(path, ()):
        for tie in _ties(operation.name):
            partners = [statement(place)["id"] for place in tie.forward]
            lights = statement(tie.backward)["lights"]
            lights += [identity for identity in partners if identity not in lights]
    return sorted(found.values(), key=lambda each: each["first"])


def _identity(path: str, place: Place) -> str:
    return f"{Path(path).stem}:{place.function}:{place.first}"


@cache
def _forward_sources(path: str) -> dict[str, Source]:
    """Identity of a tied forward statement of a module -> the function that it is in."""
    return {
        _identity(path, place): sources(operation)[place.function]
        for operation in _operations().get(path, ())
        for tie in _ties(operation.name)
        for place in tie.forward
    }

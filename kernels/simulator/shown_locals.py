"""The variables of a warp's threads at a line, as a table: what the runtime's locals.cpp has
collected.
"""

from __future__ import annotations

import ctypes
import math
import textwrap
from dataclasses import dataclass

import numpy as np

from minillm.kernels.simulator.elf import plain_name

LONGEST = 60  # characters of a value
WIDE = 12  # characters: columns that are wider come last
UNSET = "unset"
KEPT = "\x01"  # a space at which no line ends


@dataclass(frozen=True)
class Lane:
    """A thread of the warp: its index in the block, how often it came to the line, and its
    variables as text; "" if it did not come so often.
    """

    thread: tuple[int, int, int]
    times: int
    text: str


@dataclass(frozen=True)
class Values:
    """What the lanes of a warp had. variables: of each lane its names and values, None for a lane
    that did not come to the line; asked: the number of the lane that was asked for.
    """

    kernel: str
    warp: int
    asked: int
    lanes: list[Lane]
    variables: list[dict[str, str] | None]

    def rows(self, width: int = 80) -> list[str]:
        """What is equal in all lanes first, then a line for each lane."""
        there = [each for each in self.variables if each is not None]
        names = list(dict.fromkeys(name for each in there for name in each))
        equal = [name for name in names if len(there) > 1 and len({each.get(name) for each in there}) == 1]
        rows = []
        if equal:
            whole = (f"{name} = {there[0][name]}".replace(" ", KEPT) for name in equal)  # one is not divided
            text = textwrap.fill(
                f"equal in all lanes: {'; '.join(whole)}", width, subsequent_indent="  ", break_on_hyphens=False
            )
            rows += text.replace(KEPT, " ").splitlines()
        rest = sorted((name for name in names if name not in equal), key=lambda name: self._width(name) > WIDE)
        return rows + [row for group in self._groups(rest, width) for row in self._table(group, width)]

    def _table(self, names: list[str], width: int) -> list[str]:
        cells = [["", "lane", "thread", *names]]
        for number, (lane, values) in enumerate(zip(self.lanes, self.variables)):
            mark = ">" if number == self.asked else ""
            first = [mark, str(number), _index(lane.thread)]
            cells.append([*first, *([values.get(name, "") for name in names] if values else [self._absent(lane)])])
        widths = [max(len(row[i]) for row in cells) for i in range(3)] + [self._width(name) for name in names]
        return ["  ".join(_aligned(row, widths)).rstrip() for row in cells]

    def _groups(self, names: list[str], width: int) -> list[list[str]]:
        """The columns of each of the tables that are no wider than `width`."""
        groups, room = [[]], 0
        left = width - 1 - 2 - 4 - 2 - max(len("thread"), *(len(_index(lane.thread)) for lane in self.lanes))
        for name in names:
            needed = 2 + self._width(name)
            if groups[-1] and room + needed > left:
                groups.append([])
                room = 0
            groups[-1].append(name)
            room += needed
        return groups

    def _width(self, name: str) -> int:
        return max(len(name), *(len(each.get(name, "")) for each in self.variables if each is not None))

    def _absent(self, lane: Lane) -> str:
        return "- does not come to this line" if not lane.times else f"- comes to this line {lane.times} times only"


def lanes_of(runtime, block: tuple[int, int, int], warp: int) -> list[Lane]:
    """What the runtime has collected of a warp in a block of that size."""
    runtime.minillm_sim_break_text.restype = ctypes.c_char_p
    count = min(32, math.prod(block) - 32 * warp)
    return [
        Lane(
            _thread(32 * warp + lane, block),
            runtime.minillm_sim_break_times(lane),
            runtime.minillm_sim_break_text(lane).decode("utf-8", "replace"),
        )
        for lane in range(count)
    ]


def read_values(lanes: list[Lane], library, launch, kernel: str, asked: int) -> Values:
    """The variables of lanes, with pointers named by the arrays of a launch of a library."""
    regions = [launch.regions[i] for i in range(launch.region_count)]

    def values(lane: Lane) -> dict[str, str] | None:
        if not lane.text:
            return None
        pairs = (part.split("\x1e", 1) for part in lane.text.split("\x1d"))
        shown = ((name, _value(tokens.split("\x1f")[:-1], regions, library)) for name, tokens in pairs)
        return {name: text for name, text in shown if text}

    first = lanes[0].thread
    block = tuple(launch.block)
    warp = (first[0] + block[0] * (first[1] + block[1] * first[2])) // 32
    return Values(kernel, warp, asked, lanes, [values(lane) for lane in lanes])


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    """Cells to the right of their columns; a text in the place of values as it is."""
    if row[-1].startswith("- "):
        return [*(f"{cell:>{width}}" for cell, width in zip(row[:3], widths)), row[3]]
    return [f"{cell:>{width}}" for cell, width in zip(row, widths)]


def _value(tokens: list[str], regions, library) -> str:
    """A value from its tokens: a letter and a text each; "n" is a bracket or a field's name."""
    text, after_name = "", False
    for token in tokens:
        kind, value = token[:1], token[1:]
        opens_or_closes = kind == "n" and value in ("[", "]", "{", "}", "...")
        if kind == "p":
            shown = _pointer(value, regions, library)
        else:
            shown = value if kind in "nt" else UNSET if kind == "?" else _number(kind, value, in_array="[" in text)
        closes = kind == "n" and value in ("]", "}")
        if text and not closes and not text.endswith(("[", "{")) and not after_name:
            text += " "
        text += shown + (" " if kind == "n" and not opens_or_closes else "") + ("]" if value == "..." else "")
        after_name = kind == "n" and not opens_or_closes
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _number(kind: str, text: str, in_array: bool) -> str:
    """The shortest text of a float (f) or a double (d), in an array with five digits."""
    number = np.float32(text) if kind == "f" else np.float64(text)
    if in_array:
        return f"{number:.5g}"
    shortest = f"{number:.6g}"
    return shortest if type(number)(shortest) == number or not np.isfinite(number) else str(number)


def _pointer(text: str, regions, library) -> str:
    """An address by the array that it lies in."""
    address, element, shared = map(int, text.split(":"))
    if not address:
        return "null"
    for region in regions:
        if region.address <= address <= region.address + region.size and region.kind != region.CONSTANTS:
            name = region.name.decode()
            name = name.partition("(")[2].rstrip(")") or name.removeprefix("the variable ")
            return f"&{name}[{_offset(address - region.address, max(1, region.element), element)}]"
    offset = address - shared
    if 0 <= offset <= library.shared_size:
        for symbol in library.symbols:
            if symbol.size and symbol.offset <= offset < symbol.offset + symbol.size:
                return f"&{plain_name(symbol.name)}[{_offset(offset - symbol.offset, element or 1, element)}]"
        return f"&shared[{_offset(offset - library.shared_offset, element or 1, element)}]"
    return f"0x{address:x}"


def _offset(distance: int, unit: int, element: int) -> str:
    """The element at a distance in bytes; what is no whole number of elements is said."""
    unit = unit if unit > 1 else max(1, element)
    return str(distance // unit) if distance % unit == 0 else f"{distance / unit:.6g}"


def _thread(number: int, block: tuple[int, int, int]) -> tuple[int, int, int]:
    return number % block[0], number // block[0] % block[1], number // (block[0] * block[1])


def _index(thread: tuple[int, int, int]) -> str:
    return ",".join(map(str, thread)) if any(thread[1:]) else str(thread[0])

"""What the lines of a kernel ask of memory: sectors of global memory and wavefronts of shared memory, actual and ideal.

A warp's access to global memory is served in sectors of 32 bytes: 32 neighbouring floats are 4 sectors, 32 floats a row
apart are 32 ("not coalesced"). Shared memory has 32 banks of 4 bytes; lanes that want different words of one bank wait for each
other, and each turn is a wavefront ("bank conflict"). Ideal is what the same bytes would take if they lay side by side.

    with configured(mode="profile") as profile:
        kernel(grid, block, arguments)
    print(profile.annotated())
    profile.lines                       a list of Line, in the order of the source
    profile.total("global").actual      sectors; times 32 is the bytes that moved between the multiprocessors and the cache

It is a count and not a measurement: there is no cache and no clock. The n-th time that the lanes of a warp come to the same
place, since they last met at a barrier or a shuffle, counts as one instruction of the warp.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minillm.kernels.simulator.lines import source_lines

KINDS = ("load", "store", "atomic")
SECTOR_BYTES = 32
CONTEXT = 2  # lines shown around each that has figures


@dataclass
class Line:
    """What one line of the source did, in all launches of a kernel together.

    space: "global" or "shared". kind: "load", "store" or "atomic". instructions: of warps. bytes: asked for, each byte once an
    instruction. actual and ideal: sectors (global) or wavefronts (shared).
    """

    kernel: str
    file: str
    number: int
    space: str
    kind: str
    instructions: int = 0
    bytes: int = 0
    actual: int = 0
    ideal: int = 0


class Profile:
    """The lines of all kernels that ran in the mode "profile"."""

    def __init__(self):
        self._lines: dict[tuple, Line] = {}
        self._sources: dict[str, str] = {}

    def add(self, kernel: str, library: Path, records, source: tuple[str, str]) -> None:
        """Take up what a launch counted: records as profile.h describes them, source the kernel's file and its text."""
        file, text = source
        self._sources[file] = text
        places = source_lines(library, [record.pc - 1 for record in records])
        for record in records:
            file, _, number = places[record.pc - 1].rpartition(":")
            number = int(number) if number.isdigit() else 0
            space, kind = ("global", "shared")[record.shared], KINDS[record.kind]
            key = (kernel, file, number, space, kind)
            line = self._lines.setdefault(key, Line(*key))
            for field in ("instructions", "bytes", "actual", "ideal"):
                setattr(line, field, getattr(line, field) + getattr(record, field))

    @property
    def lines(self) -> list[Line]:
        return [self._lines[key] for key in sorted(self._lines)]

    def total(self, space: str, kernel: str | None = None) -> Line:
        """The sum over all lines for "global" or "shared" memory, of one kernel or of all."""
        total = Line(kernel or "", "", 0, space, "")
        for line in self.lines:
            if line.space == space and kernel in (None, line.kernel):
                for field in ("instructions", "bytes", "actual", "ideal"):
                    setattr(total, field, getattr(total, field) + getattr(line, field))
        return total

    def annotated(self) -> str:
        """Each file's source with the figures of its lines beside it.

        Lines far from any that has figures are left out; one that takes twice the ideal or more is marked with "!".
        """
        parts = []
        for file in dict.fromkeys(line.file for line in self.lines):
            text = self._sources.get(file)
            if text is None and Path(file).is_file():  # a header
                text = Path(file).read_text(encoding="utf-8")
            parts.append(self._annotated_file(file, text.splitlines() if text else []))
        for total, unit in ((self.total("global"), "sectors"), (self.total("shared"), "wavefronts")):
            moved = f" ({total.actual * SECTOR_BYTES:,} bytes)" if unit == "sectors" else ""
            ratio = f", {total.actual / total.ideal:.2f} times the ideal" if total.ideal else ""
            parts.append(f"{total.space} memory: {total.actual:,} {unit}{moved}{ratio}")
        return "\n".join(parts)

    def _annotated_file(self, file: str, source: list[str]) -> str:
        figures: dict[int, dict[str, Line]] = {}
        for line in self.lines:
            if line.file == file:
                cell = figures.setdefault(line.number, {}).setdefault(line.space, Line("", file, 0, line.space, ""))
                cell.actual += line.actual
                cell.ideal += line.ideal
        rows = [
            f"{'global sectors':>21} {'shared wavefronts':>21}",
            f"{'actual':>11} {'ideal':>9} {'actual':>11} {'ideal':>9}        {Path(file).name}",
        ]
        shown = sorted({n for number in figures for n in range(number - CONTEXT, number + CONTEXT + 1)})
        previous = None
        for number in (n for n in shown if 1 <= n <= max(len(source), max(figures))):
            if previous is not None and number != previous + 1:
                rows.append(f"{'':>43}    ...")
            previous = number
            code = source[number - 1] if number <= len(source) else ""
            columns = " ".join(_cell(figures.get(number, {}).get(space)) for space in ("global", "shared"))
            rows.append(f"{columns} {number:>5}  {code}".rstrip())
        return "\n".join(rows)


def _cell(line: Line | None) -> str:
    if line is None:
        return " " * 21
    mark = "!" if line.actual >= 2 * line.ideal else " "
    return f"{mark}{line.actual:>10,} {line.ideal:>9,}"

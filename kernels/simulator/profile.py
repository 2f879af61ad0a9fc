"""The memory traffic of each line of a kernel: sectors of global memory and wavefronts of shared
memory.

A warp's access to global memory is served in sectors of 32 bytes: 32 neighbouring floats are 4
sectors, 32 floats a row apart are 32 ("not coalesced"). Shared memory has 32 banks of 4 bytes;
lanes that access different words of one bank are served one after the other, and each turn is a
wavefront ("bank conflict"). Ideal is the number for the same bytes in neighbouring addresses.

    with configured(mode="profile") as profile:
        kernel(grid, block, arguments)
    print(profile.annotated())
    profile.lines                       a list of Line, in the order of the source
    profile.total("global").actual      sectors; times 32 is the bytes that moved between the multiprocessors and the cache

It is a count and not a measurement: there is no cache and no clock. The n-th execution of the same
place by the lanes of a warp, since their last barrier or shuffle, counts as one instruction of the
warp.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from minillm.kernels.simulator.lines import source_lines
from minillm.kernels.simulator.watching import KINDS, WatchedBlock

SECTOR_BYTES = 32
CONTEXT = 2  # lines shown around each that has figures


@dataclass
class Line:
    """The accesses of one line of the source, in all launches of a kernel together.

    space: "global" or "shared". kind: "load", "store" or "atomic". instructions: of warps. bytes:
    each byte once an instruction. actual and ideal: sectors (global) or wavefronts (shared).
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
    """The lines of all kernels that ran in the mode "profile".

    watch: the number of a block whose accesses are kept lane by lane, in the first launch of each
    kernel; they are in `blocks` then.
    """

    def __init__(self, watch: int | None = None):
        self.watch = watch
        self.blocks: dict[str, WatchedBlock] = {}  # kernel -> its first launch
        self._lines: dict[tuple, Line] = {}
        self._sources: dict[str, str] = {}

    def watches(self, kernel: str) -> bool:
        """Whether the accesses of the launch of a kernel that is about to run are kept."""
        return self.watch is not None and kernel not in self.blocks

    def keep(self, block: WatchedBlock) -> None:
        """Take up the accesses of one block."""
        self.blocks[block.kernel] = block

    def add(self, kernel: str, library: Path, records, source: tuple[str, str]) -> None:
        """Take up what a launch counted: records as profile.h describes them, source the kernel's
        file and its text.
        """
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

    def annotated(self, width: int = 80) -> str:
        """The source of each kernel with the figures below its lines, then a total for each kernel.

        width: columns of the text; longer source lines are folded. Lines far from any that has
        figures are left out. "!" marks twice the ideal or more.
        """
        parts = []
        for kernel, file in dict.fromkeys((line.kernel, line.file) for line in self._lines.values()):
            parts.append(self._annotated_kernel(kernel, file, width))
        kernels = list(dict.fromkeys(line.kernel for line in self._lines.values()))
        if len(kernels) > 1:
            parts.append(self._table(kernels))
        for total, unit in ((self.total("global"), "sectors"), (self.total("shared"), "wavefronts")):
            moved = f" ({total.actual * SECTOR_BYTES:,} bytes)" if unit == "sectors" else ""
            ratio = f", {total.actual / total.ideal:.2f} times the ideal" if total.ideal else ""
            parts.append(f"{total.space} memory: {total.actual:,} {unit}{moved}{ratio}")
        return "\n".join(parts)

    def _annotated_kernel(self, kernel: str, file: str, width: int) -> str:
        source = self.text(file).splitlines()
        figures: dict[int, dict[str, Line]] = {}
        for line in (each for each in self.lines if (each.kernel, each.file) == (kernel, file)):
            cell = figures.setdefault(line.number, {}).setdefault(line.space, Line("", file, 0, line.space, ""))
            cell.actual += line.actual
            cell.ideal += line.ideal
        near = {n for number in figures for n in range(number - CONTEXT, number + CONTEXT + 1)}
        shown = sorted(n for n in near if n in figures or 1 <= n <= len(source))
        codes = [source[n - 1] if n <= len(source) else "" for n in shown]
        codes = textwrap.dedent("\n".join(codes)).split("\n")
        rows = [f"{kernel} ({Path(file).name})"]
        for previous, number, code in zip([None, *shown], shown, codes):
            if previous is not None and number != previous + 1:
                rows.append("     ...")
            first, *rest = _folded(code, width - 7)
            rows += [f"{number:>5}  {first}".rstrip(), *(f"{'':>5}  {part}" for part in rest)]
            rows += [_figures(cell) for cell in figures.get(number, {}).values()]
        return "\n".join(rows)

    def text(self, file: str) -> str:
        """The text of a source that the lines are of."""
        if file not in self._sources and Path(file).is_file():  # a header
            self._sources[file] = Path(file).read_text(encoding="utf-8")
        return self._sources.get(file, "")

    def _table(self, kernels: list[str]) -> str:
        rows = [f"{'kernel':<38} {'global bytes':>12} {'of ideal':>8} {'wavefronts':>10} {'of ideal':>8}"]
        for kernel in kernels:
            memory, shared = self.total("global", kernel), self.total("shared", kernel)
            ratios = [f"{each.actual / each.ideal:.2f}" if each.ideal else "n/a" for each in (memory, shared)]
            name, moved = kernel.replace(", ", ","), SECTOR_BYTES * memory.actual
            rows.append(f"{name:<38} {moved:>12,} {ratios[0]:>8} {shared.actual:>10,} {ratios[1]:>8}")
        return "\n".join(rows)


def _figures(line: Line) -> str:
    unit = "sectors" if line.space == "global" else "wavefronts"
    mark = "!" if line.actual >= 2 * line.ideal else " "
    return f"{mark}{'':>12}{line.space}: {line.actual:,} {unit}, ideal {line.ideal:,}"


def _folded(code: str, width: int) -> list[str]:
    """A source line in parts of at most `width` columns."""
    indent = " " * (len(code) - len(code.lstrip()) + 4)
    options = dict(subsequent_indent=indent, break_on_hyphens=False, replace_whitespace=False)
    return textwrap.wrap(code, max(width, 2 * len(indent)), **options) or [""]

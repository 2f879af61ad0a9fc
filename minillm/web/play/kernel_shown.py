"""A run of a kernel as the page shows it: what `minillm simulate` prints, as dictionaries."""

from __future__ import annotations

from pathlib import Path

from minillm import kernels
from minillm.checks.simulation import Simulation
from minillm.kernels.simulator import Profile
from minillm.kernels.simulator.errors import Fault
from minillm.kernels.simulator.profile import Line
from minillm.kernels.simulator.watching import Access, WatchedBlock


def shown(simulation: Simulation) -> dict:
    """The whole run; numbers are the profile's own."""
    profile = simulation.profile if simulation.mode == "profile" else None
    return {
        "mode": simulation.mode,
        "well": simulation.well,
        "rows": simulation.rows,
        "seconds": simulation.seconds,
        "findings": simulation.findings,
        "faults": [shown_fault(fault) for fault in simulation.faults],
        "headers": _headers(simulation.faults),
        "kernels": shown_kernels(profile) if profile else [],
        "totals": _totals(profile, None) if profile else None,
    }


def shown_kernels(profile: Profile) -> list[dict]:
    """Each kernel that ran: the files of its lines, its totals, the block that was watched."""
    names = dict.fromkeys([*profile.blocks, *(line.kernel for line in profile.lines)])  # in the order of their launches
    return [
        {
            "name": name,
            "files": _files(profile, name),
            "totals": _totals(profile, name),
            "block": shown_block(profile.blocks[name]) if name in profile.blocks else None,
        }
        for name in names
    ]


def shown_block(block: WatchedBlock) -> dict:
    """A block: its number, the launch's size, what each warp touched at each place."""
    return {
        "number": block.block,
        "grid": block.grid,
        "dimensions": block.dimensions,
        "complete": block.complete,
        "accesses": [shown_access(access) for access in block.accesses],
    }


def shown_access(access: Access) -> dict:
    """An access of a warp; "array" is one name, or a list where lanes touch different arrays."""
    one = len(set(access.arrays)) == 1
    return {
        "file": Path(access.file).name,
        "line": access.number,
        "place": access.place,
        "space": access.space,
        "kind": access.kind,
        "size": access.size,
        "warp": access.warp,
        "lanes": access.lanes,
        "ever": access.ever,
        "times": access.times,
        "actual": access.actual,
        "ideal": access.ideal,
        "array": access.arrays[0] if one else access.arrays,
        "elements": access.elements,
        "units": access.units,
    }


def shown_fault(fault: Fault) -> dict:
    """A fault: threads are numbers within their block, blocks numbers within the grid."""
    other = None
    if fault.other is not None:
        other = {
            "file": Path(fault.other.file).name,
            "line": fault.other.number,
            "thread": fault.other.thread,
            "block": fault.other.block,
        }
    return {
        "kernel": fault.kernel,
        "text": fault.text,
        "file": Path(fault.file).name,
        "line": fault.number,
        "thread": _number(fault.thread, fault.dimensions),
        "block": _number(fault.block, fault.grid),
        "grid": fault.grid,
        "dimensions": fault.dimensions,
        "times": fault.times,
        "other": other,
    }


def _headers(faults: list[Fault]) -> dict[str, list[str]]:
    """The sources of minillm's own headers in which there are faults: name -> lines."""
    paths = {Path(fault.file) for fault in faults}
    ours = Path(kernels.__file__).parent
    return {path.name: path.read_text(encoding="utf-8").splitlines() for path in paths if ours in path.parents}


def _files(profile: Profile, kernel: str) -> list[dict]:
    found: dict[str, dict[int, list[dict]]] = {}
    for line in profile.lines:
        if line.kernel == kernel:
            found.setdefault(line.file, {}).setdefault(line.number, []).append(_figures(line))
    return [
        {"name": Path(file).name, "source": profile.text(file).splitlines(), "lines": lines}
        for file, lines in sorted(found.items(), key=lambda each: not each[0].endswith(".cu"))
    ]


def _totals(profile: Profile, kernel: str | None) -> dict:
    return {space: _figures(profile.total(space, kernel)) for space in ("global", "shared")}


def _figures(line: Line) -> dict:
    return {
        "space": line.space,
        "kind": line.kind,
        "instructions": line.instructions,
        "bytes": line.bytes,
        "actual": line.actual,
        "ideal": line.ideal,
    }


def _number(index: tuple[int, int, int], size: tuple[int, int, int]) -> int:
    """The number of a thread in its block or of a block in its grid: x counts fastest."""
    return (index[2] * size[1] + index[1]) * size[0] + index[0]

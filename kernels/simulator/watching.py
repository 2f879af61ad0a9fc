"""What the lanes of one block touch: the first time that each warp executes an instruction.

    with configured(mode="profile", profile=Profile(watch=0)) as profile:
        kernel(grid, block, arguments)
    profile.blocks["saxpy<float>"].accesses     a list of Access: which lanes, which elements

The sectors and wavefronts of such an access are those that the profile adds up (profile.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass

from minillm.kernels.simulator.elf import plain_name
from minillm.kernels.simulator.lines import source_lines

KINDS = ("load", "store", "atomic")
SECTOR_BYTES, BANK_BYTES, BANKS = 32, 4, 32


@dataclass(frozen=True)
class Access:
    """One warp, one instruction, the first time.

    place: the same number for all warps. space: "global" or "shared". kind: "load", "store" or
    "atomic". size: bytes of a lane. lanes: that took part then, ever: in any of the `times` that
    the warp executed it. actual, ideal: sectors or wavefronts. arrays, elements, units: for each of
    the lanes, the name of the array, the element (of shared memory: the word of 4 bytes) counted
    from its start, and the sector, counted from there, or the bank.
    """

    file: str
    number: int
    place: int
    space: str
    kind: str
    size: int
    warp: int
    lanes: tuple[int, ...]
    ever: tuple[int, ...]
    times: int
    actual: int
    ideal: int
    arrays: tuple[str, ...]
    elements: tuple[int, ...]
    units: tuple[int, ...]


@dataclass(frozen=True)
class WatchedBlock:
    """The accesses of a block in a launch.

    block: its number. grid, dimensions: of the launch and of its blocks. complete: whether there
    was room for all.
    """

    kernel: str
    block: int
    grid: tuple[int, int, int]
    dimensions: tuple[int, int, int]
    complete: bool
    accesses: list[Access]

    @classmethod
    def of(cls, kernel: str, library, launch) -> WatchedBlock:
        """From a launch of a kernel of the library that has just run."""
        records = [launch.watched_accesses[i] for i in range(launch.watched)]
        places = source_lines(library.path, [record.pc - 1 for record in records])
        regions = {launch.regions[i].address: launch.regions[i] for i in range(launch.region_count)}
        accesses = [_access(record, places[record.pc - 1], regions, library) for record in records]
        complete = launch.watched < launch.max_watched
        return cls(kernel, launch.watched_block, tuple(launch.grid), tuple(launch.block), complete, accesses)


def _access(record, place: str, regions: dict, library) -> Access:
    file, _, number = place.rpartition(":")
    lanes = _lanes(record.lanes)
    starts = [record.start[lane] for lane in lanes]
    addresses = [record.address[lane] for lane in lanes]
    if record.shared:
        found = [_shared_array(library, address - start) for address, start in zip(addresses, starts)]
        units = tuple(address // BANK_BYTES % BANKS for address in addresses)
    else:
        found = [_array(regions[start], address - start) for address, start in zip(addresses, starts)]
        units = tuple(address // SECTOR_BYTES - start // SECTOR_BYTES for address, start in zip(addresses, starts))
    arrays, elements = zip(*found)
    return Access(
        file, int(number) if number.isdigit() else 0, record.pc, ("global", "shared")[record.shared], KINDS[record.kind],
        record.size, record.warp, lanes, _lanes(record.ever), record.times, record.actual, record.ideal,
        arrays, elements, units,
    )  # fmt: skip


def _lanes(mask: int) -> tuple[int, ...]:
    return tuple(lane for lane in range(32) if mask >> lane & 1)


def _array(region, offset: int) -> tuple[str, int]:
    """The name of an argument, and the element at a distance in bytes from its start.

    A region is called "argument 0 (x)" where the source shows the name.
    """
    name = region.name.decode()
    return name.partition("(")[2].rstrip(")") or name, offset // region.element


def _shared_array(library, offset: int) -> tuple[str, int]:
    """The name of a shared array, and the word at a distance in bytes from the start of the block's
    shared memory.
    """
    for symbol in library.symbols:
        if symbol.size and symbol.offset <= offset < symbol.offset + symbol.size:
            return plain_name(symbol.name), (offset - symbol.offset) // BANK_BYTES
    return "dynamic shared memory", (offset - library.shared_offset) // BANK_BYTES

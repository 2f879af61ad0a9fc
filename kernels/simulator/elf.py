"""What an ELF file holds: shared arrays (thread-local storage), variables, constants,
instructions.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

SHT_SYMTAB, SHT_NOBITS, SHF_TLS, STT_OBJECT, STT_TLS = 2, 8, 0x400, 1, 6  # <elf.h>
PT_LOAD, PT_TLS, PT_GNU_RELRO, PF_X, PF_W = 1, 7, 0x6474E552, 1, 2


class SharedSymbol(NamedTuple):
    name: str  # mangled
    offset: int  # from the start of the module's thread-local block
    size: int
    defined: bool


def shared_symbols(path: Path) -> list[SharedSymbol]:
    """The thread-local symbols of a 64-bit little-endian object file or library."""
    data = path.read_bytes()
    section_offset, (entry_size, count) = struct.unpack_from("<Q", data, 0x28)[0], struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, section_offset + i * entry_size) for i in range(count)]
    symbols = []
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind != SHT_SYMTAB:
            continue
        names = sections[link][4]
        for position in range(offset, offset + size, 24):
            name, info, _, section, value, length = struct.unpack_from("<IBBHQQ", data, position)
            if info & 15 == STT_TLS:
                start = names + name
                text = data[start : data.index(b"\0", start)].decode()
                symbols.append(SharedSymbol(text, value, length, section != 0))
    return symbols


def shared_name(symbol: str) -> str:
    """The name of a shared array from its symbol, without its function.

    >>> shared_name("_ZZ6kernelILi100EEvPfE4tile"), shared_name("_ZZ6kernelPfE4tile_0")
    ('tile', 'tile')
    """
    ends = re.finditer(r"(?<!\d)(\d+)(?=([A-Za-z_]\w*)$)", re.sub(r"_\d+$", "", symbol))
    return next((end[2] for end in ends if len(end[2]) == int(end[1])), symbol)


def shared_block_size(path: Path) -> int:
    """Bytes of the thread-local block of a library."""
    data = path.read_bytes()
    offset, (entry_size, count) = struct.unpack_from("<Q", data, 0x20)[0], struct.unpack_from("<HH", data, 0x36)
    for i in range(count):
        kind, _, _, _, _, _, size, _ = struct.unpack_from("<IIQQQQQQ", data, offset + i * entry_size)
        if kind == PT_TLS:
            return size
    return 0


def section_names(path: Path) -> list[str]:
    """The names of the sections of a 64-bit little-endian object file."""
    data = path.read_bytes()
    section_offset = struct.unpack_from("<Q", data, 0x28)[0]
    entry_size, count, of_names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, section_offset + i * entry_size) for i in range(count)]
    names = sections[of_names][4]
    return [data[names + name : data.index(b"\0", names + name)].decode() for name, *_ in sections]


def with_shared_arrays_apart(path: Path, gap: int) -> None:
    """Give each section of shared arrays in an object file `gap` bytes more (-fdata-sections: each
    array has one).
    """
    data = bytearray(path.read_bytes())
    section_offset, (entry_size, count) = struct.unpack_from("<Q", data, 0x28)[0], struct.unpack_from("<HH", data, 0x3A)
    for header in range(section_offset, section_offset + count * entry_size, entry_size):
        kind, flags = struct.unpack_from("<IQ", data, header + 4)
        size = struct.unpack_from("<Q", data, header + 32)[0]
        if kind == SHT_NOBITS and flags & SHF_TLS and size:
            struct.pack_into("<Q", data, header + 32, size + gap)
    path.write_bytes(data)


class Variable(NamedTuple):
    name: str
    address: int  # from where the library is loaded
    size: int


class Image:
    """A 64-bit little-endian library as it is loaded; addresses count from its start."""

    def __init__(self, path: Path):
        self.data = path.read_bytes()
        self.symbols = list(self._symbols())
        self.segments = list(self._segments())

    def symbol(self, name: str) -> int:
        return next(address for each, _, address, _, _ in self.symbols if each == name)

    def variables(self) -> list[Variable]:
        """The objects in memory that can be written."""
        constant = self.constants()
        return [
            Variable(plain_name(name), address, size)
            for name, kind, address, size, section in self.symbols
            if kind == STT_OBJECT and size and section and not any(a <= address < a + s for a, s in constant)
        ]

    def constants(self) -> list[tuple[int, int]]:
        """Address and size of what can only be read: string literals, tables of virtual
        functions.
        """
        return [
            (address, size)
            for kind, flags, address, size in self.segments
            if (kind == PT_LOAD and not flags & (PF_W | PF_X)) or kind == PT_GNU_RELRO
        ]

    def instructions(self) -> tuple[int, int]:
        """Address and size of the code."""
        return next((address, size) for kind, flags, address, size in self.segments if kind == PT_LOAD and flags & PF_X)

    def _symbols(self):
        section_offset = struct.unpack_from("<Q", self.data, 0x28)[0]
        entry_size, count = struct.unpack_from("<HH", self.data, 0x3A)
        sections = [struct.unpack_from("<IIQQQQIIQQ", self.data, section_offset + i * entry_size) for i in range(count)]
        for _, kind, _, _, offset, size, link, *_ in sections:
            if kind == SHT_SYMTAB:
                names = sections[link][4]
                for position in range(offset, offset + size, 24):
                    name, info, _, section, value, length = struct.unpack_from("<IBBHQQ", self.data, position)
                    start = names + name
                    text = self.data[start : self.data.index(b"\0", start)].decode()
                    yield text, info & 15, value, length, section

    def _segments(self):
        offset = struct.unpack_from("<Q", self.data, 0x20)[0]
        entry_size, count = struct.unpack_from("<HH", self.data, 0x36)
        for i in range(count):
            kind, flags, _, address, _, _, size, _ = struct.unpack_from("<IIQQQQQQ", self.data, offset + i * entry_size)
            yield kind, flags, address, size


def plain_name(name: str) -> str:
    """A variable's name from its symbol.

    >>> plain_name("_ZL7counter"), plain_name("counter")
    ('counter', 'counter')
    >>> plain_name("_ZN2my5tableE"), plain_name("_ZZ6kernelPfE5calls")
    ('my::table', 'calls')
    """
    if not name.startswith("_Z"):
        return name
    rest, parts = name[2:], []
    while found := re.search(r"\d+", rest):
        length = int(found[0])
        parts.append(rest[found.end() : found.end() + length])
        rest = rest[found.end() + length :]
    if name.startswith("_ZN"):
        return "::".join(parts)
    return parts[-1] if parts else name

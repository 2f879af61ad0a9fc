"""The names in a shared library, read from its ELF file: what it defines and what it needs of
others.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _DYNSYM, _FUNCTION = 2, 11, 2
_VERSION_NEEDED, _VERSION_OF_SYMBOLS = 0x6FFFFFFE, 0x6FFFFFFF


class Function(NamedTuple):
    """A function that a library defines: where it is from the library's start, and its size in
    bytes.
    """

    address: int
    size: int


class SharedLibrary:
    """A 64-bit little-endian ELF file. Raises ValueError where it is none."""

    def __init__(self, path: Path):
        self._data = path.read_bytes()
        if self._data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is no 64-bit ELF file")
        start, count = *struct.unpack_from("<Q", self._data, 0x28), struct.unpack_from("<H", self._data, 0x3C)[0]
        self._sections = [_SECTION.unpack_from(self._data, start + i * _SECTION.size) for i in range(count)]

    def functions(self) -> dict[str, Function]:
        """What it defines, name -> Function, from the full symbol table (local names, too)."""
        return {
            name: Function(address, size)
            for name, info, defined, address, size in self._symbols(_SYMTAB)
            if defined and info & 15 == _FUNCTION
        }

    def needed(self) -> dict[str, str]:
        """What it takes from other libraries, name -> the version asked for ("libcublas.so.13")."""
        versions = self._versions()
        symbols = list(self._symbols(_DYNSYM))
        indices = next((s for s in self._sections if s[1] == _VERSION_OF_SYMBOLS), None)
        if indices is None:
            return {}
        numbers = struct.unpack_from(f"<{len(symbols)}H", self._data, indices[4])
        return {
            symbol[0]: versions[number & 0x7FFF]
            for symbol, number in zip(symbols, numbers)
            if not symbol[2] and number & 0x7FFF in versions
        }

    def _symbols(self, kind: int):
        for section in self._sections:
            if section[1] == kind:
                names = self._sections[section[6]][4]
                for at in range(section[4], section[4] + section[5], _SYMBOL.size):
                    name, info, _, index, address, size = _SYMBOL.unpack_from(self._data, at)
                    yield self._text(names + name), info, index, address, size

    def _versions(self) -> dict[int, str]:
        """Index -> name, from the section of versions needed (Elf64_Verneed with its
        Elf64_Vernaux).
        """
        found = {}
        for section in self._sections:
            if section[1] != _VERSION_NEEDED:
                continue
            names, library = self._sections[section[6]][4], section[4]
            while True:
                _, count, _, first, following = struct.unpack_from("<HHIII", self._data, library)
                entry = library + first
                for _ in range(count):
                    _, _, index, name, step = struct.unpack_from("<IHHII", self._data, entry)
                    found[index] = self._text(names + name)
                    entry += step
                if not following:
                    break
                library += following
        return found

    def _text(self, at: int) -> str:
        return self._data[at : self._data.index(b"\0", at)].decode()

"""The symbols of an ELF file that live in thread-local storage: the kernels' shared arrays."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

SHT_SYMTAB, STT_TLS, PT_TLS = 2, 6, 7  # <elf.h>


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


def shared_block_size(path: Path) -> int:
    """Bytes of the thread-local block of a library."""
    data = path.read_bytes()
    offset, (entry_size, count) = struct.unpack_from("<Q", data, 0x20)[0], struct.unpack_from("<HH", data, 0x36)
    for i in range(count):
        kind, _, _, _, _, _, size, _ = struct.unpack_from("<IIQQQQQQ", data, offset + i * entry_size)
        if kind == PT_TLS:
            return size
    return 0

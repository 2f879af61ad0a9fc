"""Reading the header of a GGUF file, with every count, length and offset checked against its size.

A file may be malicious, or an incomplete download; the package `gguf` trusts its input. It also
makes arrays of NumPy for each string, of which a vocabulary has 49,152 and its merges as many more;
`_Header.strings` reads them in one loop.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from minillm.errors import UserError
from minillm.files.kinds import misnamed

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}  # GGUF's number -> struct's letter
STRING, ARRAY = 8, 9
LONGEST_STRING, LARGEST_DIMENSION = 1 << 26, 1 << 40

FORMER_KINDS = {  # of tensors, by GGUF's number
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


class TensorPlace(NamedTuple):
    """A tensor as the header describes it.

    shape: as GGUF has it, the fastest axis first. kind: GGUF's number of its type. start: its first
    byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


def read_header(path: Path) -> tuple[dict, list[TensorPlace]]:
    """The keys with their values, and where the tensors are.

    Raises UserError unless every count, length and offset fits the file. Allocates nothing that is
    larger than the header.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: a text in its header is no UTF-8 ({error.reason})") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is empty") from None  # mmap's word for it


class _Header:
    """Parses a header by the format's description."""

    def __init__(self, path: Path, data):
        self.path, self.data, self.at = path, data, 0

    def read(self) -> tuple[dict, list[TensorPlace]]:
        if self.data[:4] != MAGIC:
            if kind := misnamed(self.path):
                raise UserError(f"{self.path} is {kind}")
            raise self.broken("it does not begin with GGUF")
        self.at = 4
        version, tensors, keys = self.number("<I"), self.number("<Q"), self.number("<Q")
        if version not in VERSIONS and int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise UserError(f"{self.path} is a GGUF file for big-endian machines: minillm reads little-endian ones")
        if version not in VERSIONS:
            raise UserError(f"{self.path}: version {version} of GGUF; minillm reads {' and '.join(map(str, VERSIONS))}")
        alignment, settings = 32, {}
        for _ in range(self.counted(keys, 13, "keys")):
            key = self.string("a key")
            if (name := str(key, "utf-8")) in settings:
                raise self.broken(f"{key[:60]!r} occurs twice")
            kind = self.number("<I")
            settings[name] = self.value(kind, key)
            if name == "general.alignment":
                if kind != 4:
                    raise self.broken("general.alignment is no whole number")
                alignment = settings[name]
        if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise self.broken(f"its alignment is {alignment}")
        described = [self.tensor() for _ in range(self.counted(tensors, 24, "tensors"))]
        start = self.at + -self.at % alignment
        places = {}
        for name, shape, kind, offset in described:
            if name in places:
                raise self.broken(f"tensor {name[:60]!r} occurs twice")
            if start + offset > len(self.data) or offset % alignment:
                raise self.broken(
                    f"tensor {name[:60]!r} is at {offset}, outside the file of {len(self.data)} bytes: it was cut off, or "
                    "it is the first of several pieces, to be put together again (cat PIECE PIECE > WHOLE)"
                )
            places[name] = TensorPlace(str(name, "utf-8"), tuple(shape), kind, start + offset)
        return settings, list(places.values())

    def tensor(self) -> tuple[bytes, list[int], int, int]:
        name, dimensions = self.string("a tensor"), self.number("<I")
        if not 1 <= dimensions <= 4:
            raise self.broken(f"tensor {name[:60]!r} has {dimensions} dimensions")
        shape = [self.number("<Q") for _ in range(dimensions)]
        if not all(0 < n < LARGEST_DIMENSION for n in shape) or math.prod(shape) > 8 * len(self.data):
            raise self.broken(f"tensor {name[:60]!r} of shape {shape} cannot be in a file of {len(self.data)} bytes")
        kind = self.number("<I")
        if kind in FORMER_KINDS:
            raise UserError(
                f"{self.path}: tensor {name[:60]!r} is stored as {FORMER_KINDS[kind]}, which llama.cpp has given up: get the "
                "model in another type, Q8_0 or Q4_K_M"
            )
        return name, shape, kind, self.number("<Q")

    def value(self, kind: int, key: bytes, depth: int = 0):
        if kind == STRING:
            return str(self.string(repr(key[:60])), "utf-8")
        if kind in SCALARS:
            return self.number("<" + SCALARS[kind])
        if kind != ARRAY or depth == 2:
            raise self.broken(f"{key[:60]!r} has a value of the unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in SCALARS:
            width = struct.calcsize("<" + SCALARS[inner])
            return self.numbers(f"<{self.counted(count, width, f'values of {key[:60]!r}')}{SCALARS[inner]}")
        count = self.counted(count, 8, f"values of {key[:60]!r}")
        if inner == STRING:
            return self.strings(count, key)
        return [self.value(inner, key, depth + 1) for _ in range(count)]

    def strings(self, count: int, key: bytes) -> list[str]:
        """`count` times `string`, in one loop without calls: a vocabulary has 100,000."""
        data, size, at, length_at = self.data, len(self.data), self.at, struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            start = at + 8
            if start > size:
                break
            at = start + length_at(data, at)[0]
            if at > size or at - start > LONGEST_STRING:
                self.at = start - 8
                self.string(repr(key[:60]))  # says what is wrong
            found.append(str(data[start:at], "utf-8"))
        self.at = at
        self.skip(8 * (count - len(found)))  # says that the file ends, if it was left early
        return found

    def string(self, what: str) -> bytes:
        length = self.number("<Q")
        if length > LONGEST_STRING:
            raise self.broken(f"{what} should be {length} bytes long")
        start = self.at
        self.skip(length)
        return self.data[start : self.at]

    def number(self, form: str):
        return self.numbers(form)[0]

    def numbers(self, form: str) -> list:
        start = self.at
        self.skip(struct.calcsize(form))
        return list(struct.unpack_from(form, self.data, start))

    def skip(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise self.broken(f"it ends at {len(self.data)} bytes, in the middle of its header")
        self.at += count

    def counted(self, count: int, least_bytes: int, what: str) -> int:
        if count * least_bytes > len(self.data) - self.at:
            raise self.broken(f"it should have {count} {what}, more than fit into {len(self.data)} bytes")
        return count

    def broken(self, why: str) -> UserError:
        return UserError(f"{self.path} is damaged: {why}")

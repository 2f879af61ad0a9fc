"""Validation of a GGUF header: every count, length and offset against the size of the file.

The package `gguf` trusts its input. A file may be malicious, or an incomplete download.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from minillm.errors import UserError
from minillm.files.kinds import misnamed

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by GGUF's number of the type
STRING, ARRAY = 8, 9
LONGEST_STRING, LARGEST_DIMENSION = 1 << 26, 1 << 40

FORMER_KINDS = {  # of tensors, by GGUF's number
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


def check_gguf(path: Path) -> None:
    """Raises UserError unless every count, length and offset in the header fits the file. Allocates
    nothing large.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(path, data).check()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is empty") from None  # mmap's word for it


class _Header:
    """Parses a header by the format's description, without storing it."""

    def __init__(self, path: Path, data):
        self.path, self.data, self.at = path, data, 0

    def check(self) -> None:
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
        alignment, seen = 32, set()
        for _ in range(self.counted(keys, 13, "keys")):
            key = self.string("a key")
            if key in seen:
                raise self.broken(f"{key[:60]!r} occurs twice")
            seen.add(key)
            kind = self.number("<I")
            if key == b"general.alignment":
                if kind != 4:
                    raise self.broken("general.alignment is no whole number")
                alignment = struct.unpack_from("<I", self.data, self.at)[0]
            self.value(kind, key)
        if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise self.broken(f"its alignment is {alignment}")
        offsets = [self.tensor() for _ in range(self.counted(tensors, 24, "tensors"))]
        start = self.at + -self.at % alignment
        for name, offset in offsets:
            if start + offset > len(self.data) or offset % alignment:
                raise self.broken(
                    f"tensor {name[:60]!r} is at {offset}, outside the file of {len(self.data)} bytes: it was cut off, or "
                    "it is the first of several pieces, to be put together again (cat PIECE PIECE > WHOLE)"
                )

    def tensor(self) -> tuple[bytes, int]:
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
        return name, self.number("<Q")

    def value(self, kind: int, key: bytes, depth: int = 0) -> None:
        if kind == STRING:
            self.string(repr(key[:60]))
        elif kind in SCALAR_BYTES:
            self.skip(SCALAR_BYTES[kind])
        elif kind == ARRAY and depth < 2:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in SCALAR_BYTES:
                self.skip(SCALAR_BYTES[inner] * self.counted(count, SCALAR_BYTES[inner], f"values of {key[:60]!r}"))
            else:
                for _ in range(self.counted(count, 8, f"values of {key[:60]!r}")):
                    self.value(inner, key, depth + 1)
        else:
            raise self.broken(f"{key[:60]!r} has a value of the unknown type {kind}")

    def string(self, what: str) -> bytes:
        length = self.number("<Q")
        if length > LONGEST_STRING:
            raise self.broken(f"{what} should be {length} bytes long")
        start = self.at
        self.skip(length)
        return self.data[start : self.at]

    def number(self, form: str) -> int:
        start = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)[0]

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

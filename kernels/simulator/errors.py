"""What the simulator raises."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minillm.errors import UserError


@dataclass(frozen=True)
class Fault:
    """What a thread did that the GPU does not allow.

    text: one line that has all of it in words. file, number: the line of the source, 0 where it is
    not known. block, thread: (x, y, z); grid, dimensions: of the launch and of a block. other: the
    access that it conflicts with.
    """

    kernel: str
    text: str
    file: str
    number: int
    block: tuple[int, int, int]
    thread: tuple[int, int, int]
    grid: tuple[int, int, int]
    dimensions: tuple[int, int, int]
    times: int
    other: OtherAccess | None


class OtherAccess(NamedTuple):
    """thread: its number within its block. block: its number in the order in which blocks ran."""

    file: str
    number: int
    thread: int
    block: int


class SimulatorError(RuntimeError):
    """The kernel did something that the GPU does not allow: the message says what, in which line,
    block and thread.

    findings: the separate faults, one text each. faults: the same as data, empty where no thread is
    known.
    """

    def __init__(self, message: str, findings=(), faults: Sequence[Fault] = ()):
        super().__init__(message)
        self.findings = list(findings)
        self.faults = list(faults)


class CompileError(SimulatorError):
    """A kernel's source cannot be compiled; the message is one line.

    log: all that the compiler said.
    """

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


class CompilerExhausted(UserError):
    """The compiler had no room for what a source asks of it."""

    def __init__(self):
        super().__init__(
            "g++ had no room for this source: it, or what its macros, templates and tables make of it, is too large"
        )


class CompilerMissing(UserError):
    """There is no C++ compiler.

    Everything that does not simulate CUDA kernels works without one.
    """

    def __init__(self):
        if os.environ.get("CXX"):
            super().__init__(
                f"CXX names the compiler {os.environ['CXX']!r}, which is not there: unset it, or name g++'s path"
            )
            return
        super().__init__(
            'device "cudasim" compiles CUDA kernels with g++, which is not installed: '
            "apt install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora)"
        )

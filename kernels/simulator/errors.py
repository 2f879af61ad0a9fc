"""What the simulator raises."""

import os

from minillm.errors import UserError


class SimulatorError(RuntimeError):
    """The kernel did something that the GPU does not allow: the message says what, in which line,
    block and thread.

    findings: the separate faults, one text each.
    """

    def __init__(self, message: str, findings=()):
        super().__init__(message)
        self.findings = list(findings)


class CompileError(SimulatorError):
    """A kernel's source cannot be compiled; the message is one line.

    log: all that the compiler said.
    """

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


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

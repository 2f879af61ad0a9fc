"""What the simulator raises."""

from minillm.errors import UserError


class SimulatorError(RuntimeError):
    """The kernel did something that the GPU does not allow: the message says what, in which line, block and thread.

    findings: the separate faults, one text each.
    """

    def __init__(self, message: str, findings=()):
        super().__init__(message)
        self.findings = list(findings)


class CompileError(SimulatorError):
    """g++ refused the kernel's source; the message is the compiler's."""


class CompilerMissing(UserError):
    """There is no C++ compiler. Everything that does not simulate CUDA kernels works without one."""

    def __init__(self):
        super().__init__(
            'device "cudasim" compiles CUDA kernels with g++, which is not installed: '
            "apt install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora)"
        )

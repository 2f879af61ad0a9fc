"""g++, or clang++ in its place: which one there is, where its results are kept, how it is run."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minillm.errors import UserError
from minillm.kernels.simulator.errors import CompileError, CompilerExhausted, CompilerMissing

# What clang++ has not, and what it has in its place.
OF_GCC = {
    "-fno-gnu-unique": (),
    "-fno-extern-tls-init": (),
    "-ftrack-macro-expansion=0": (),
    "-Wno-narrowing": ("-Wno-c++11-narrowing",),
    "-fsanitize=thread": ("-fsanitize=thread", "-mllvm", "-tsan-instrument-atomics=0"),  # they report themselves
    "--param=tsan-distinguish-volatile=1": ("-mllvm", "-tsan-distinguish-volatile=1"),
}
# How g++, the assembler and the linker say that a limit of memory or of a file's size was reached.
EXHAUSTED = re.compile(
    r"^(?:[^:\n]*: )?(?:out of memory allocating|virtual memory exhausted|memory exhausted)|"
    r"error: (?:Killed|File size limit exceeded) signal terminated|File too large$",
    re.MULTILINE,
)

_seconds = 0.0  # that this process has waited for the compiler


@functools.cache
def compiler() -> str | None:
    """The path of g++, or of clang++ where there is none ($CXX if set); or None."""
    return shutil.which(os.environ["CXX"]) if os.environ.get("CXX") else shutil.which("g++") or shutil.which("clang++")


@functools.cache
def is_clang() -> bool:
    """Whether the compiler is clang++."""
    return "clang" in toolchain()


def seconds_compiling() -> float:
    """How long this process has waited for the compiler so far."""
    return _seconds


def compiler_available() -> bool:
    """Whether kernels can be simulated on this machine."""
    return compiler() is not None and sys.platform == "linux"


def cache_folder() -> Path:
    """Where compiled kernels are kept: $MINILLM_CACHE, else the user's cache folder.

    It may be deleted at any time.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MINILLM_CACHE") or Path(base) / "minillm") / "simulator"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror
        raise UserError(
            f"compiled kernels cannot be kept in {folder} ({reason}): name a folder in MINILLM_CACHE"
        ) from None
    return folder


@functools.cache
def toolchain() -> str:
    """The compiler, its version, the machine.

    Raises UserError where there is none that serves.
    """
    if sys.platform != "linux":
        raise UserError("kernels are simulated on Linux only: elsewhere in a container or a virtual machine with Linux")
    if compiler() is None:
        raise CompilerMissing
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"{compiler()} {version} {platform.machine()}"


def run(*arguments, folder: Path | None = None, complaint=None) -> str:
    """Run the compiler, and return its warnings; `complaint` makes a line of its errors."""
    (log,) = run_together([arguments], folder, complaint)
    return log


def run_together(commands, folder: Path | None = None, complaint=None) -> list[str]:
    """Run the compiler once for each list of arguments, at the same time. What ends this function
    early ends the compilers, too.
    """
    if compiler() is None:
        raise CompilerMissing
    started, running = time.perf_counter(), []
    try:
        for arguments in commands:
            running.append(_started(arguments, folder))
        logs = [process.communicate()[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stderr.close()
    global _seconds
    _seconds += time.perf_counter() - started
    for process, log in zip(running, logs):
        _check(process.returncode, log, complaint)
    return logs


def _started(arguments, folder: Path | None) -> subprocess.Popen:
    given = [word for each in map(str, arguments) for word in (OF_GCC.get(each, (each,)) if is_clang() else (each,))]
    return subprocess.Popen(
        [compiler(), *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
    )


def _check(returncode: int, log: str, complaint) -> None:
    if returncode:
        if "No space left on device" in log:
            raise UserError(f"no space is left for compiled kernels ({cache_folder()}): name a folder in MINILLM_CACHE")
        if EXHAUSTED.search(log):
            raise CompilerExhausted
        raise CompileError(
            complaint(log) if complaint else f"g++ does not compile the simulator's runtime:\n{log}", log
        )


def digest(*parts) -> str:
    """A name for what is made from the parts."""
    made = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()[:24]

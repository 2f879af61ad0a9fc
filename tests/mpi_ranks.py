"""Tests that start several ranks under mpiexec, where there is one."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEARCHED = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
TWO = "from minillm.distributed.launch import world; print(world().size)"
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    "PYTHONUNBUFFERED": "",  # a line that is written piece by piece mixes with those of other ranks
}
TIMEOUT = 300  # seconds, after which a hanging test is given up


@functools.cache
def why_no_mpi() -> str:
    """Why no ranks can be started here; "" where they can."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed (extra mpi)"
    if shutil.which("mpiexec", path=SEARCHED) is None:
        return "there is no mpiexec"
    done = mpiexec(2, "-c", TWO)
    return "" if done.returncode == 0 else f"mpiexec and mpi4py do not work together: {done.stdout[-300:]}"


def mpiexec(size: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python arguments` in `size` ranks; its stdout has standard error as well."""
    command = [shutil.which("mpiexec", path=SEARCHED), "-n", str(size), sys.executable, *arguments]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **ENVIRONMENT, **environment},
    )


@pytest.fixture(scope="session")
def ranks():
    """`mpiexec` as a fixture; the test is skipped where it does not work."""
    if reason := why_no_mpi():
        pytest.skip(reason)
    return mpiexec

"""Programs that use CuPy, run by `minillm simulate` in a process of their own."""

import importlib.util
import os
import subprocess
import sys

import pytest
from kernel_testing import needs_compiler


def needs_cupy():
    """Skip where CuPy is not installed."""
    needs_compiler()
    if importlib.util.find_spec("cupy") is None or sys.platform != "linux":
        pytest.skip('CuPy is not installed: pip install -e ".[standin]"')


def simulate(*arguments, cwd=None, text=""):
    """What `minillm simulate` with these arguments does: a CompletedProcess. text: standard input."""
    command = [sys.executable, "-m", "minillm", "simulate", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, cwd=cwd, input=text, capture_output=True, encoding="utf-8", env=environment)

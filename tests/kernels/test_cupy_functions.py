"""What CuPy computes on the stand-in for a GPU is what NumPy computes, for each sort of kernel that CuPy writes."""

import json
from pathlib import Path

from cupy_programs import needs_cupy, simulate


def test_functions_agree_with_numpy():
    needs_cupy()
    done = simulate(Path(__file__).with_name("cupy_functions.py"))
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == {} and done.returncode == 0

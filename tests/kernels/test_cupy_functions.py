"""What CuPy computes on the stand-in for a GPU is what NumPy computes, for each sort of kernel that CuPy writes."""

import json
import subprocess
import sys
from pathlib import Path

from cupy_programs import needs_cupy, simulate

HERE = Path(__file__).parent


def test_functions_agree_with_numpy():
    needs_cupy()
    done = simulate(HERE / "cupy_functions.py")
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == {} and done.returncode == 0


def test_the_kernels_of_all_types_compile():
    needs_cupy()
    command = [sys.executable, "-m", "minillm.kernels.standin", HERE / "cupy_sources.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, wrong = json.loads(done.stdout)
    assert count > 1000 and wrong == {}

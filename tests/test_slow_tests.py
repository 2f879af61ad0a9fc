"""Each pattern of slow_tests.py fits a test: one that was renamed would be in the plain run again, or in none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slow_tests import PATTERNS

from minillm.backend.threads import thread_count

ROOT = Path(__file__).parent.parent


def test_a_test_has_one_thread():
    """What conftest.py asks of the BLAS came before NumPy was loaded."""
    assert os.environ["OPENBLAS_NUM_THREADS"] != "1" or thread_count() in (None, 1)


def slow_ids():
    """The ids of all tests that are marked slow, by pytest itself."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "--collect-only",
        "-m",
        "slow",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    done = subprocess.run([*command, "-q", "tests"], cwd=ROOT, capture_output=True, text=True)
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    assert ids, done.stdout + done.stderr
    return ids


@pytest.mark.slow
def test_every_pattern_fits_a_slow_test():
    """One test for all patterns: the names of all tests are asked for once, which takes seconds."""
    names = slow_ids()
    assert not [pattern for pattern in PATTERNS if not any(re.search(pattern, name) for name in names)]

"""Each pattern of slow_tests.py fits a test: one that was renamed would be in the plain run again, or in none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from slow_tests import PATTERNS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def slow_ids():
    files = sorted({ROOT / "tests" / re.match(r"([a-z_/]+)", pattern)[1] for pattern in PATTERNS})
    found = {path for file in files for path in file.parent.glob(f"{file.name}*.py")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "-q", "-q", "-m", "slow", "--no-header"]
    command += ["-o", "addopts=--import-mode=importlib", *map(str, sorted(found))]
    done = subprocess.run([*command, "-vv"], cwd=ROOT, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_fits_a_slow_test(slow_ids, pattern):
    assert any(re.search(pattern, name) for name in slow_ids)

"""What the tests of kernels share: where they run, how errors are measured, how faults are planted."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from minillm.kernels.simulator import compiler_available


def needs_compiler():
    """Skip where there is no C++ compiler; in continuous integration (CI=true) that is a failure."""
    if not compiler_available():
        reason = "the simulator needs a C++ compiler (apt install g++)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def relative_error(actual, expected):
    """The error of a result, norm-wise; infinite where it is not finite."""
    if expected is None or actual is None:
        return 0.0 if actual is expected else math.inf
    assert actual.shape == expected.shape
    distance, norm = np.linalg.norm(actual.astype(np.float64) - expected), np.linalg.norm(expected)
    if not np.isfinite(distance):
        return math.inf
    return float(distance / norm) if norm else float(distance)


def with_headers(file):
    """The text of a CudaFile with its own headers in place of the #include lines, each once."""
    seen = set()
    folders = [option.removeprefix("-I") for option in file.options if option.startswith("-I")]

    def read(match):
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        path = next((path for folder in folders if os.path.isfile(path := os.path.join(folder, name))), None)
        if path is None:  # the simulator's own
            return match[0]
        with open(path, encoding="utf-8") as header:
            return expand(header.read().replace("#pragma once", ""))

    def expand(text):
        return re.sub(r'^#include "(.*)"$', read, text, flags=re.MULTILINE)

    return expand(file.text)


def assert_faults_are_documented(faults):
    """docs/planted-faults.md has a row for each of the faults, with what notices it."""
    table = (Path(__file__).parent.parent / "docs" / "planted-faults.md").read_text(encoding="utf-8")
    words = {"check": "check mode", "numbers": "the comparison with NumPy"}
    missing = [row for name, fault in faults.items() if (row := f"| {name} | {words[fault[3]]} |") not in table]
    assert not missing, "docs/planted-faults.md lacks:\n" + "\n".join(missing)

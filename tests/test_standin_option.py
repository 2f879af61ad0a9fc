"""pytest --standin: tests marked gpu run on the stand-in or fail with a reason; without it they are skipped with one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ONE = "tests/backend/test_cublas_call.py::test_nothing_to_sum_up"


def run_pytest(*options, **environment):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-rs", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_without_a_gpu_the_reason_names_the_command():
    done = run_pytest(ONE, CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 0 and "1 skipped" in done.stdout
    assert "`pytest -m gpu --standin` runs this test without a GPU" in " ".join(done.stdout.split())


def test_where_the_standin_cannot_work_nothing_is_skipped():
    done = run_pytest("--standin", ONE, CXX="/not/there", CC="/not/there", PATH="/not/there")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and "skipped" not in done.stdout
    assert done.stderr.startswith("ERROR: --standin: ") and done.stderr.strip().count("\n") == 0


def test_with_it_only_tests_of_a_gpu_run():
    """The other tests of the file expect a machine as it is."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    done = run_pytest("--standin", "--collect-only", "tests/backend/test_precision.py")
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert found and all("cuda" in line for line in found), done.stdout + done.stderr


def test_ci_installs_the_versions_of_cupy_that_the_standin_knows():
    script = (ROOT / ".ci" / "run").read_text()
    extras = script.split('-e ".[')[1].split("]")[0].split(",")
    assert "standin" in extras

"""Programs as people write them for CuPy: each compares its numbers with NumPy's, and prints what it should.

They run one after the other in one process, since compiled kernels and the import of CuPy are most of the time.
"""

import json
from pathlib import Path

import pytest
from cupy_programs import needs_cupy, simulate

SCRIPTS = sorted(path.stem for path in (Path(__file__).parent / "cupy_scripts").glob("*.py"))
RUNNER = """
import contextlib, io, json, runpy, sys, traceback
results = {}
for path in sys.argv[1:]:
    printed, failure = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(path, run_name="__main__")
    except Exception:
        failure = traceback.format_exc()
    results[path] = printed.getvalue(), failure
print(json.dumps(results))
"""
LAST_LINES = {  # of those that print no rounded numbers
    "tiled_matmul": "largest difference from A @ B below 1e-4: True",
    "softmax_rows": "each row sums to one: True",
    "n_body": "momentum is kept: True",
    "streams_and_events": "events passed: True",
    "graph_capture": "after the graph: [21. 21. 21.]",
    "fft_refused": "names cuFFT: True",
    "sorting": "groups: [0 1 2 3 4 5 6 7]",
    "whole_grid": "without the argument it is refused: True",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name of a script -> (what it printed, its exception)."""
    needs_cupy()
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "runner.py").write_text(RUNNER)
    paths = [Path(__file__).parent / "cupy_scripts" / f"{name}.py" for name in SCRIPTS]
    done = simulate(folder / "runner.py", *paths, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {Path(path).stem: tuple(result) for path, result in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_agrees_with_numpy(name, results):
    printed, failure = results[name]
    assert not failure, failure
    assert printed.rstrip().endswith(LAST_LINES.get(name, "")) and printed.strip()


def test_a_cooperative_launch_in_check_mode(tmp_path):
    needs_cupy()
    text = (
        (Path(__file__).parent / "cupy_scripts" / "whole_grid.py").read_text(encoding="utf-8").partition("kernel =")[0]
    )
    for code in ("CODE", 'CODE.replace("grid.sync", "cg::this_thread_block().sync")'):
        text += f"kernel = cp.RawKernel({code}, 'centre', enable_cooperative_groups=True)\n"
        text += "kernel((2,), (32,), (cp.asarray(x), cp.zeros(2), np.int32(100)))\nprint('launched')\n"
    (tmp_path / "program.py").write_text(text)
    done = simulate("--check", "program.py", cwd=tmp_path)
    assert done.stdout.split() == ["launched"] * 2 and "check mode: 2 findings\n" in done.stderr, done.stderr
    assert "program.py:17: centre, block (1, 0, 0)" in done.stderr and "not cooperative" not in done.stderr

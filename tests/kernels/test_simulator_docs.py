"""The example of docs/simulator.md runs."""

import re
from pathlib import Path

import pytest

from minillm.kernels.simulator import compiler_available

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")
def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
    assert (
        "kernel.cu:5: saxpy<float>, block (3, 0, 0), thread (232, 0, 0): out-of-bounds read" in capsys.readouterr().out
    )

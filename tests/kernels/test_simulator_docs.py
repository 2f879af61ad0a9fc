"""The examples of docs/simulator.md run."""

import re
from pathlib import Path

import pytest

from minillm.kernels.simulator import compiler_available

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")
def test_the_examples_run(capsys):
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert len(examples) == 2
    assert "kernel.cu:5: saxpy<float>, block (3, 0, 0), thread (232, 0, 0): out-of-bounds read" in printed
    assert "global: 375 sectors, ideal 375" in printed  # one line reads x and y, and writes y

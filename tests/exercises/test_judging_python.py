"""A .py file of an exercise: gradients are judged by gradcheck, mistakes end in a line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from minillm.checks.exercises import python_judge
from minillm.checks.exercises.judging import judge
from minillm.kernels.exercises.task import PythonTask

SOLUTION = """
def cube_forward(x):
    return x**3, x


def cube_backward(dy, saved):
    dx = 3 * saved**2
    dx = dx * dy
    return dx
"""


def check(module, rng, size, gradcheck):
    gradcheck((module.cube_forward, module.cube_backward), rng.normal(size=size["n"]), input_names=["x"])


@pytest.fixture
def judged(tmp_path):
    def judge_text(text, task=None):
        (tmp_path / "cube.py").write_text(text, encoding="utf-8")
        task = task or PythonTask(("cube_forward", "cube_backward"), check, lambda rng: [{"n": 3}, {"n": 5}])
        cube = SimpleNamespace(name="cube", task=task, skeleton=Path("skeleton.py"))
        verdict = judge(cube, tmp_path / "cube.py", 1)
        verdict.problem = verdict.problem.replace(str(tmp_path / "cube.py"), "cube.py")
        return verdict

    return judge_text


def test_solved(judged):
    verdict = judged(SOLUTION)
    assert verdict.solved and verdict.stars == 3 and verdict.right == ["n 3", "n 5"]


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("3 * saved", "2 * saved", "cube.py:8: cube"),  # the last line that assigns dx
        ("cube_backward", "backward", "cube.py has no function cube_backward"),
        ("dx * dy\n", "dx * dy +\n", "cube.py:8: invalid syntax"),
        ("dx * dy", "dx * dz", "cube.py:8: NameError: name 'dz' is not defined"),
        ("dx = dx * dy", "dx = (dx * dy).sum()", "cube.py: "),
        ("\ndef cube_forward", "\nimport nothing_of_this_name\ndef cube_forward", "cube.py:2: ModuleNotFoundError"),
        ("\ndef cube_forward", "\nexit()\ndef cube_forward", "cube.py:2: SystemExit"),
        ("dx = dx * dy", "while True: pass", "cube.py:8: it still runs after 0.2 seconds"),
    ],
)
def test_a_mistake_is_named(judged, old, new, words, monkeypatch):
    if "while True" in new:  # the others take as long as the machine needs
        monkeypatch.setattr(python_judge, "SECONDS", 0.2)
    assert old in SOLUTION
    verdict = judged(SOLUTION.replace(old, new))
    assert verdict.problem.startswith(words), verdict.problem
    assert verdict.stars == 0


def test_what_the_task_asserts_itself(judged):
    def check(module, rng, size, gradcheck):
        if module.cube_forward(2.0)[0] != 9:
            raise AssertionError("the cube of 2 should be 9")

    assert judged(SOLUTION, PythonTask(("cube_forward",), check)).problem == "cube.py: the cube of 2 should be 9"

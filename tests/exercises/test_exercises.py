"""Every exercise: its solution reaches three stars, and typical wrong answers are caught with their line.

The first line of a wrong answer, `// LINE: WORDS`, is what the verdict has to say.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernel_testing import needs_compiler

from minillm.checks.exercises.judging import judge
from minillm.kernels.exercises.registry import EXERCISES, exercise

HERE = Path(__file__).parent
WRONG = sorted((HERE / "wrong").iterdir())
FIRST_LINE = re.compile(r"(?://|#) (?P<line>\d+): (?P<words>.+)")


def needs(path):
    if path.suffix == ".cu":
        needs_compiler()


@pytest.mark.parametrize("name", [each.name for each in EXERCISES])
def test_the_solution_has_three_stars(name):
    path = HERE / "solutions" / exercise(name).file
    needs(path)
    verdict = judge(exercise(name), path, seed=7)
    assert verdict.solved, verdict.text()
    assert verdict.counts == verdict.best and verdict.stars == 3
    given = exercise(name).skeleton.read_text(encoding="utf-8").splitlines()
    assert sum(line not in given for line in path.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.name)
def test_a_wrong_answer_is_caught_with_its_line(path):
    needs(path)
    expected = FIRST_LINE.match(path.read_text(encoding="utf-8"))
    verdict = judge(exercise(path.stem.rpartition("-")[0]), path, seed=7)
    assert not verdict.solved
    assert verdict.problem.startswith(f"{path}:{expected['line']}: ") and expected["words"] in verdict.problem


@pytest.mark.parametrize("name", [each.name for each in EXERCISES])
def test_the_skeleton_compiles_and_is_wrong(name):
    chosen = exercise(name)
    needs(chosen.skeleton)
    verdict = judge(chosen, chosen.skeleton, seed=7)
    assert not verdict.solved and "g++" not in verdict.problem


@pytest.mark.parametrize("name", [each.name for each in EXERCISES])
def test_three_wrong_answers_and_some_hints(name):
    assert sum(path.stem.rpartition("-")[0] == name for path in WRONG) >= 3
    assert len(exercise(name).hints) >= 2


@pytest.mark.parametrize("path", sorted((HERE / "fewer_stars").iterdir()), ids=lambda path: path.name)
def test_a_right_answer_with_more_traffic_has_fewer_stars(path):
    needs_compiler()
    verdict = judge(exercise(path.stem.rpartition("-")[0]), path, seed=7)
    assert verdict.solved, verdict.text()
    assert verdict.stars == int(path.read_text(encoding="utf-8").splitlines()[0].removeprefix("// "))

"""minillm exercise: the list, the files that it writes, hints, and what is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kernel_testing import needs_compiler
from typer.testing import CliRunner

from minillm.checks.exercises.progress import keep_stars, progress_file, stars_so_far
from minillm.cli.app import app
from minillm.errors import UserError
from minillm.kernels.exercises.registry import EXERCISES
from minillm.kernels.simulator.toolchain import toolchain

SOLUTION = Path(__file__).parents[1] / "exercises" / "solutions" / "vector_add.cu"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A folder of the reader's own, with a cache of its own for what is remembered alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "minillm.checks.exercises.progress.progress_file", lambda: tmp_path / "cache" / "exercises.json"
    )


def exercise(*arguments):
    result = CliRunner().invoke(app, ["exercise", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_list_names_all_of_them_and_the_next_one():
    code, output = exercise()
    assert code == 0 and all(each.name in output for each in EXERCISES)
    assert f"0 of {len(EXERCISES)} solved" in output and "next: minillm exercise vector_add" in output
    assert max(map(len, output.splitlines())) <= 80


def test_from_the_skeleton_to_the_next_exercise():
    needs_compiler()
    code, output = exercise("vector_add")
    assert code == 0 and "z[i] = x[i] + y[i]" in output and "wrote vector_add.cu" in output
    code, output = exercise("vector_add", "--seed", 3)
    assert code == 1 and "vector_add.cu:4: " in output and "data race" in output
    assert "minillm exercise vector_add --seed 3" in output
    Path("vector_add.cu").write_text(SOLUTION.read_text())
    code, output = exercise(1)
    assert code == 0 and "★★★  solved" in output and "next: minillm exercise strided" in output
    assert " 1  ★★★  vector_add" in exercise()[1]


def test_a_link_to_nothing_is_not_written_over(tmp_path):
    Path("vector_add.cu").symlink_to(tmp_path / "elsewhere.cu")
    code, output = exercise("vector_add")
    assert code == 2 and "does not exist" in output and Path("vector_add.cu").is_symlink()


def test_the_next_one_is_the_next_that_is_not_solved():
    needs_compiler()
    keep_stars("strided", 3)
    assert exercise("vector_add", SOLUTION)[1].endswith("next: minillm exercise block_sum\n")
    for each in EXERCISES[2:]:
        keep_stars(each.name, 3)
    assert exercise("vector_add", SOLUTION)[1].endswith("all solved, with all stars\n")


def test_a_file_is_never_overwritten(tmp_path):
    needs_compiler()
    Path("vector_add.cu").write_text("mine")
    code, output = exercise("vector_add")
    assert code == 1 and "has no kernel vector_add" in output
    assert Path("vector_add.cu").read_text() == "mine"


def test_another_file():
    needs_compiler()
    assert exercise("vector_add", SOLUTION)[0] == 0
    assert not Path("vector_add.cu").exists()
    code, output = exercise("vector_add", "none.cu")
    assert code == 2 and output == "none.cu does not exist"


def test_hints_one_after_the_other():
    given = [exercise("vector_add", "--hint")[1] for _ in range(4)]
    assert [text[:12] for text in given] == ["hint 1 of 3:", "hint 2 of 3:", "hint 3 of 3:", "hint 3 of 3:"]
    assert not Path("vector_add.cu").exists()


def test_the_text_again():
    assert exercise("vector_add", "--text") == (0, EXERCISES[0].text + "\n")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("vectoradd",), 'no exercise "vectoradd": did you mean "vector_add"?'),
        (("99",), 'no exercise "99"'),
        (("--hint",), "name an exercise"),
    ],
)
def test_what_cannot_be_done(arguments, words):
    code, message = exercise(*arguments)
    assert code == 2 and message.startswith(words)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr("minillm.kernels.simulator.toolchain.compiler", lambda: None)
    monkeypatch.setattr("minillm.kernels.simulator.compiler.toolchain", toolchain.__wrapped__)
    code, message = exercise("vector_add", SOLUTION)
    assert code == 2 and "g++, which is not installed" in message and "\n" not in message


def test_the_most_stars_are_kept():
    keep_stars("scan", 2)
    keep_stars("scan", 1)
    assert stars_so_far() == {"scan": 2}


@pytest.mark.parametrize("contents", ["{", "[]", '{"scan": 3}', '{"scan": {"stars": "x"}}'])
def test_what_is_remembered_may_be_damaged(tmp_path, contents):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "exercises.json").write_text(contents)
    assert stars_so_far() == {}
    keep_stars("scan", 1)
    assert json.loads((tmp_path / "cache" / "exercises.json").read_text())["scan"]["stars"] == 1


def test_where_nothing_can_be_remembered(tmp_path):
    (tmp_path / "cache").write_text("a file")
    keep_stars("scan", 1)
    assert stars_so_far() == {}


def test_the_folder_of_what_is_remembered(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("MINILLM_CACHE", "/somewhere")
    assert progress_file() == Path("/somewhere/exercises.json")

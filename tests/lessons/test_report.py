"""How a lesson is printed: by a lesson made up here, whose words and numbers are known; and what all lessons point to."""

import ast
import io
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from minillm.checks.cases import GRADCHECKED
from minillm.cli.app import app
from minillm.errors import UserError
from minillm.lessons import NAMES, find_lesson, report
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.waiting import waiting

ROOT = Path(__file__).parents[2]
PAIRS = Table("Pairs", ("a", "two words"), [("one", "1.5"), ("three", "-20")])


def made_up(holds=True, sentence=None, error=None):
    def measure(*sentences):
        if error:
            raise UserError(error)
        statement = f"1 is 1 in {sentences[0] if sentences else 'nothing'}"
        return Measured([PAIRS], [Finding(statement, holds)], lambda figure: figure.subplots().plot([1, 2, 4]))

    commands = ("minillm info     # what there is",)
    return Lesson("A title", "A claim.", "An idea.", measure, commands, ("minillm/backend/environment.py",), sentence)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80, highlight=False)


def test_a_lesson_is_printed(console, tmp_path):
    assert report.give_lesson(3, made_up(), tmp_path, None, False, console)
    path = tmp_path / f"03-{NAMES[3]}.png"
    told = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert [line for line in told if line] == [
        "3  A title",
        "An idea.",
        "Claim. A claim.",
        "Pairs",
        "a      two words",
        "────────────────",
        "one          1.5",
        "three        -20",
        "yes  1 is 1 in nothing",
        f"Picture: {path}",
        "Try this",
        "  minillm info     # what there is",
        "Files to read: minillm/backend/environment.py",
    ]


def test_the_picture(console, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    report.check_folder(tmp_path / "new" / "folder")
    report.give_lesson(3, made_up(), tmp_path / "new" / "folder", None, False, console)
    path = tmp_path / "new" / "folder" / f"03-{NAMES[3]}.png"
    first, pixels = path.read_bytes(), image.imread(path)
    assert pixels.shape == (495, 880, 4) and 0.005 < (pixels[..., :3] < 0.9).any(axis=-1).mean() < 0.5
    report.give_lesson(3, made_up(), tmp_path / "new" / "folder", None, False, console)
    assert path.read_bytes() == first and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_picture_that_cannot_be_written(console, tmp_path):
    (tmp_path / f"03-{NAMES[3]}.png").mkdir()
    with pytest.raises(UserError, match="png cannot be written .*: choose another folder with --out"):
        report.give_lesson(3, made_up(), tmp_path, None, False, console)


def test_without_matplotlib_a_line_says_what_brings_it(console, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report.give_lesson(3, made_up(), tmp_path, None, False, console)
    told = console.file.getvalue()
    assert 'the picture needs matplotlib, which is not installed: pip install "minillm[plots]"\n' in told
    assert "Try this" in told and not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        UserError, match=r'--show needs matplotlib, which is not installed: pip install "minillm\[plots\]"'
    ):
        report.give_lessons("8", tmp_path, None, True, console)


def test_a_window_shows_the_picture(console, tmp_path, monkeypatch):
    figure_module = pytest.importorskip("matplotlib.figure")
    figures, shown = [], []

    def make(**settings):
        figures.append(figure_module.Figure(**settings))
        return figures[-1]

    pyplot = SimpleNamespace(figure=make, show=lambda: shown.append(len(figures[0].axes)))
    monkeypatch.setattr(report, "import_pyplot", lambda: pyplot)
    report.give_lesson(3, made_up(), tmp_path, None, True, console)
    assert shown == [1] and figures[0].get_suptitle() == "A title"


def test_the_sentence(console, tmp_path):
    for given, read in ((None, "its own"), ("mine", "mine")):
        report.give_lesson(3, made_up(sentence="its own"), tmp_path, given, False, console)
        assert f"1 is 1 in {read}\n" in console.file.getvalue()


def test_a_claim_that_fails(console, tmp_path):
    assert not report.give_lesson(3, made_up(holds=False), tmp_path, None, False, console)
    assert "\nNO   1 is 1 in nothing\n" in console.file.getvalue()


class TestAll:
    @pytest.fixture
    def give(self, console, tmp_path, monkeypatch):
        """A function that gives all of these lessons in the place of the real ones."""

        def give(*lessons, sentence=None):
            monkeypatch.setattr(report, "NAMES", tuple("abcde"[: len(lessons)]))
            monkeypatch.setattr(report, "find_lesson", lambda name: ("abcde".index(name), lessons["abcde".index(name)]))
            return report.give_lessons("all", tmp_path, sentence, False, console), console.file.getvalue()

        return give

    def test_all_hold(self, give):
        held, told = give(made_up(), made_up())
        assert held and told.count("Claim.") == 2 and told.endswith("\nAll claims held.\n")

    def test_some_fail(self, give):
        held, told = give(made_up(), made_up(holds=False), made_up(), made_up(holds=False))
        assert not held and told.count("Claim.") == 4 and told.endswith("\nClaims that did not hold: b, d\n")

    def test_one_cannot_be_given_here(self, give, console):
        with pytest.raises(UserError, match=r"^lessons that could not be given: b \(no compiler\)$"):
            give(made_up(), made_up(error="no compiler"), made_up())
        assert console.file.getvalue().count("yes  1 is 1") == 2

    def test_the_sentence_goes_to_those_that_read_one(self, give):
        _, told = give(made_up(), made_up(sentence="its own"), sentence="mine")
        assert "1 is 1 in nothing" in told and "1 is 1 in mine" in told


def test_a_table_in_a_narrow_terminal():
    """Words and numbers stay whole, long cells are folded."""
    text = "a text of many words that has to be folded"
    rows = [("temperature 0.5", "1,234.5", text), ("greedy", "-0.1", text)]
    table = Table("T", ("written by", "a long perplexity", "text"), rows)
    for width in (40, 41, 45, 60):
        console = Console(file=io.StringIO(), width=width)
        report.print_table(console, table)
        told = console.file.getvalue()
        assert max(map(len, told.splitlines())) <= width
        assert all(whole in told for whole in ("written by", "temperature 0.5", "perplexity", "1,234.5"))
        assert set(text.split()) <= set(told.split())


def test_numbers_are_at_the_right(console):
    rows = [("1", "5%", "NaN", "7 a"), ("22", "-1,000", "", "b")]
    report.print_table(console, Table("A title that is longer than the table", ("n", "p", "x", "y"), rows))
    told = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert told[0] == "A title that is longer than the table"
    assert told[-2:] == ["1       5%  NaN  7 a", "22  -1,000       b"]


# ------------------------------------------------------------------------------------------------- what lessons point to


def test_a_lesson_is_found_by_name_and_number():
    assert [find_lesson(name) for name in NAMES] == [find_lesson(str(n)) for n in range(len(NAMES))]
    assert len({find_lesson(name)[1].title for name in NAMES}) == len(NAMES) == 17
    for wrong in ("17", "-1", "all", "", "Temperature", "1.0"):
        with pytest.raises(UserError, match="here are 0 to 16, one-page, likelihood,"):
            find_lesson(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_to_read_is_there(name):
    read = find_lesson(name)[1].read
    assert read and [path for path in read if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_command_to_try_can_be_given(name, tmp_path):
    commands = find_lesson(name)[1].commands
    assert commands
    for command in commands:
        check_command(shlex.split(command.replace("MODEL", str(tmp_path)), comments=True))


@pytest.mark.parametrize(
    "command",
    ["minillm nothing", "minillm lesson temperature --colour red", "minillm generate MODEL --top-k many", "minillm lesson x",
     "minillm lesson temperature 8", "minillm gradcheck relu", "python -m benchmarks.nothing", "rm -r MODEL"],
)  # fmt: skip
def test_a_command_that_cannot_be_given_is_noticed(command):
    with pytest.raises((AssertionError, UserError, typer.BadParameter.__base__)):
        check_command(shlex.split(command))


def check_command(words: list[str]) -> None:
    """Raises if the command line does not have that command, or not these options; nothing is run."""
    if words[:2] == ["python", "-m"]:
        assert find_spec(words[2]), words
        return
    if words[:2] == ["python", "-c"]:
        for line in ast.parse(words[2]).body:
            if isinstance(line, ast.ImportFrom):
                exec(compile(ast.Module([line], []), "imports", "exec"), {})  # raises for what is not there
        return
    assert words[0] == "minillm", words
    command, context, rest = typer.main.get_command(app), None, words[1:]
    while hasattr(command, "commands"):
        context = command.make_context(command.name, list(rest), parent=context)
        _, command, rest = command.resolve_command(context, rest)
    parameters = command.make_context(words[1], list(rest), parent=context).params
    if words[1] == "lesson":
        find_lesson(parameters["name"])
    if words[1] == "gradcheck":
        assert set(parameters["layers"] or ()) <= set(GRADCHECKED), words


# ------------------------------------------------------------------------------------------------- while a lesson computes


def test_a_terminal_shows_what_is_being_done_and_removes_it():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with waiting("measuring", console), waiting("training the small model"):
        pass
    told = console.file.getvalue()
    assert "measuring" in told and "training the small model" in told and "0:00:00" in told
    assert told.endswith("\x1b[2K")  # the last line is erased


def test_a_file_shows_nothing():
    console = Console(file=io.StringIO(), width=80)
    with waiting("measuring", console):
        pass
    assert console.file.getvalue() == ""

"""minillm lesson, as a user sees it."""

import os
import subprocess
import sys

import pytest

from minillm.lessons import NAMES, find_lesson, temperature
from minillm.lessons.small_model import small_model


@pytest.fixture(scope="module", autouse=True)
def trained():
    """The small model is in the cache before a command's time is counted."""
    small_model()


def complaint(done, told=""):
    """The one line that a failure prints; what was printed before it."""
    assert done.stderr.startswith("minillm: ") and done.stderr.count("\n") == 1, done.stderr
    assert told in done.stdout and (told or done.stdout == "")
    return done.stderr


def test_they_are_listed(minillm, tmp_path):
    told = minillm("lesson").stdout.splitlines()
    for number, name in enumerate(NAMES):
        assert any(line.split()[:2] == [str(number), name] for line in told), name
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_lesson_by_name_and_by_number_is_the_same(minillm, tmp_path):
    """Deterministic: the same words, numbers and picture in two processes."""
    told = minillm("lesson", "temperature").stdout
    number, lesson = find_lesson("temperature")
    unwrapped = " ".join(told.split())
    for part in (f"{number} {lesson.title}", f"Claim. {lesson.claim}", lesson.sentence, "Try this", lesson.read[0]):
        assert part in unwrapped
    assert told.count("\nyes  ") == 4 and "\nNO " not in told and "MODEL" not in told
    assert [line for line in told.splitlines() if len(line) > 80 and not line.startswith("  minillm ")] == []
    pytest.importorskip("matplotlib")
    assert "\nPicture: lessons/08-temperature.png\n" in told.replace(os.sep, "/")
    picture = (tmp_path / "lessons" / "08-temperature.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    command = [sys.executable, "-m", "minillm", "lesson", "8", "--out", "other"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8").stdout
    assert again.replace("other", "lessons", 1) == told
    assert (tmp_path / "other" / "08-temperature.png").read_bytes() == picture


def test_a_sentence_of_the_readers_own(minillm):
    told = minillm("lesson", "temperature", "--text", "If the").stdout
    assert 'The next token after "If the"' in told


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["entropy"], 'no lesson "entropy": did you mean "cross-entropy"? There are 0 to 16, one-page,'),
        (["overfit"], 'did you mean "overfitting"?'),
        (["17"], 'no lesson "17": there are 0 to 16'),
        (["adam", "--text", "A sentence."], "lesson adam takes no --text"),
        (["temperature", "--text", ""], "--text is empty: give a sentence"),
        (["temperature", "--out", "text.txt"], "text.txt cannot be written (File exists): choose another folder with --out"),
        (["temperature", "--out", "text.txt/in"], "cannot be written (Not a directory): choose another folder with --out"),
        (["adam", "--html", "a.html", "--text", "A sentence."], "lesson adam takes no --text"),
        (["temperature", "--html", "text.txt/a.html"], "cannot be written (File exists): choose another file with --html"),
        (["temperature", "--html", "a.html", "--out", "b"], "pictures are inside the page: leave out --out"),
        (["temperature", "--html", "a.html", "--show"], "pictures are inside the page: leave out --show"),
        (["--html", "a.html"], "--html is for a lesson that is given: name one"),
        (["temperature", "cuts"], "Got unexpected extra argument"),
    ],
)  # fmt: skip
def test_complaints(minillm, tmp_path, arguments, message):
    assert message in complaint(minillm("lesson", *arguments, expect=2))
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_sentence_longer_than_the_context(minillm):
    told = minillm("lesson", "attention", "--text", "a b " * 100, expect=2)
    assert "context_length of 64" in complaint(told, "Claim.")


def test_a_window_that_cannot_be_opened(minillm, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert "--show needs a screen" in complaint(minillm("lesson", "temperature", "--show", expect=2))


def test_a_page(minillm, tmp_path):
    told = minillm("lesson", "temperature", "--html", "new/t.html", "--text", "If the").stdout
    assert told == " 8  temperature: the claim holds\nPage: new/t.html\n".replace("/", os.sep)
    page = (tmp_path / "new" / "t.html").read_text(encoding="utf-8")
    assert "The next token after &quot;If the&quot;" in page
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "t.html", "text.txt"]


def test_a_claim_that_fails_gives_exit_code_1(minillm, monkeypatch):
    monkeypatch.setattr(temperature, "TEMPERATURES", temperature.TEMPERATURES[::-1])
    done = minillm("lesson", "temperature", expect=1)
    assert done.stderr == ""
    assert "\nNO   entropy rises from" in done.stdout and done.stdout.count("\nyes  ") == 3
    assert "the claim does not hold" in minillm("lesson", "temperature", "--html", "t.html", expect=1).stdout

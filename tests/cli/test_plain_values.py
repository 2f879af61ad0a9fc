"""Values of the command line that are read without typer's validators are those that typer reads."""

import os
from pathlib import Path

import pytest
import typer

from minillm.cli import app, options, plain_values
from minillm.cli.plain_values import Choice, Kind, plain_value

GENERATE = [
    "run",
    "run --prompt 3 --max-tokens 12 --max-time 2 --temperature 0.5 --top-k 5 --json --seed -0",
    "run --temperature 7 --top-p 0.30 --stop a --stop 7 --ban-token 5 --ban-token 6 --logit-bias 3:-1.5",
    "run --order hf --early-stopping never --special allow --chart there.png --draft other",
    "run --temperature 1e-1 --max-tokens 1_0 --seed +5",
]
WRONG = [
    "",
    "run --max-tokens 0",
    "run --max-tokens 1.5",
    "run --max-time -1",
    "run --temperature warm",
    "run --temperature 1,5",
    "run --order alphabetic",
    "run --ban-token 5 --ban-token x",
    "run --top-k",
    "run --seed 2\u0664x",
]
OTHERS = ["train a.txt b.txt --betas 0.9 --betas 0.95 --lr 0.01 --tie-embeddings", "gradcheck gelu --method complex"]


def outcome(line: str):
    """The values that a command line gives, or the message of the error."""
    group = typer.main.get_command(app.app)
    name, *words = line.split()
    try:
        context = group.commands[name].make_context(name, words)
    except typer.BadParameter.__base__ as error:
        return error.format_message()
    return {name: (type(value).__name__, repr(value), str(value)) for name, value in context.params.items()}


@pytest.mark.parametrize("line", [*(f"generate {words}" for words in (*GENERATE, *WRONG)), *OTHERS])
def test_typer_reads_the_same_values_and_says_the_same(line, monkeypatch):
    here = outcome(line)
    monkeypatch.setattr(plain_values, "read_plain_values", lambda parameters, kinds: None)
    monkeypatch.setattr(options, "read_plain_values", lambda parameters, kinds: None)
    assert here == outcome(line)


@pytest.mark.parametrize(
    "value, kind",
    [
        *((text, Kind(int, False, 1, 9)) for text in ("0", "10", "1.0", "1_0", " 1", "+1", "\u0661", "", True, 1.0)),
        *((text, Kind(float, False, 0, 1)) for text in ("-0.1", "1.01", "nan", "inf", "1e-1", ".5", "5.", True)),
        *((value, Kind(str, False, None, None)) for value in (5, b"a", None)),
        *((value, Kind(bool, False, None, None)) for value in ("true", 1)),
        *((value, Kind(int, True, None, None)) for value in ("12", (), ("1", "x"))),
        ("a", Kind(Choice("Letter", {"a": "a"}), False, None, None)),
        ("a\0b", Kind(Path, False, None, None)),
    ],
)
def test_what_is_not_plain_is_left_to_typer(value, kind):
    assert plain_value(value, kind) is plain_values._NOT_PLAIN


def test_a_file_that_may_not_be_read_is_left_to_typer(tmp_path, monkeypatch):
    path, kind = tmp_path / "model.gguf", Kind(Path, False, None, None)
    assert plain_value(str(path), kind) == path  # is not there: the command says so
    path.touch()
    assert plain_value(str(path), kind) == path
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert plain_value(str(path), kind) is plain_values._NOT_PLAIN


def test_a_command_is_made_when_it_is_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(app, "_make_command", lambda name: made.append(name))
    commands = app.Commands()
    assert list(commands) == list(app.NAMES) and len(commands) == len(app.NAMES) and "lessons" not in commands
    assert commands.get("lessons") is None and made == []
    assert commands.get("generate") is commands["generate"] is None and made == ["generate"]

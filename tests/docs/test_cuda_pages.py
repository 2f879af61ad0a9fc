"""Every command of docs/cuda.md, kernels.md and simulator.md runs, and prints what the page says.

A fence whose first line is `// file: NAME` or `# file: NAME` is a file. In a ```console fence a line that begins with "$ "
is a command, and the lines below it are its output; a line `...` stands for any lines.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_testing import needs_compiler

from minillm.kernels import use_kernels

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def parts(page):
    """The files of a page, name -> text, and its commands with their outputs, in order."""
    files, commands = {}, []
    for language, text in FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
        named = re.match(r"(?://|#) file: (\S+)\n", text)
        if named:
            files[named[1]] = text
        if language == "console":
            for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                line, _, output = command.partition("\n")
                commands.append((line, output.splitlines()))
    return files, commands


def matches(expected, found):
    """Whether the lines are those expected, where a line "..." stands for any number of lines."""
    pattern = "".join("(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in expected)
    return re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in found)) is not None


def test_dots_stand_for_any_lines():
    assert matches(["a", "...", "c"], ["a", "b", "b", "c"]) and matches(["...", "c"], ["c"]) and matches([], [])
    assert not matches(["a", "...", "c"], ["a", "c", "d"]) and not matches(["a"], ["a", "b"])


@pytest.mark.parametrize("page", ["cuda.md", "kernels.md", "simulator.md"])
def test_the_commands_of_a_page(page, tmp_path):
    needs_compiler()
    files, commands = parts(page)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(DOCS.parent), "COLUMNS": "80", "NO_COLOR": "1"}
    settings = dict(shell=True, cwd=tmp_path, env=environment, text=True)
    for command, expected in commands:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
        assert matches(expected, result.stdout.splitlines()), f"$ {command}\n{result.stdout}"


def test_the_python_of_kernels_md_runs():
    (example,) = [text for language, text in FENCE.findall((DOCS / "kernels.md").read_text()) if language == "python"]
    try:
        exec(compile(example, "kernels.md", "exec"), {})
    finally:
        use_kernels(True)

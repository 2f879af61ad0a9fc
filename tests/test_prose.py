"""Docstrings and comments can be read: no long lines, and no phrases that hide who does what."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NARROW = ("minillm", "kernels")  # folders whose prose has at most WIDTH columns
FOLDERS = (*NARROW, "benchmarks", "tests")
SUFFIXES = (".py", ".cu", ".cuh", ".h", ".cpp")
FILES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in SUFFIXES and path != Path(__file__)
]
WIDTH = 100  # columns of a line of prose; code lines may have 120
WORDS = re.compile(
    r"\b(nobody|somebody|anybody|whoever|stands?|comes by|one's own|(is|are|be|was|were) told)\b(?!-)",
    re.IGNORECASE,
)
VERDICT = re.compile(r"\bcannot be told\b")  # the name of a verdict of gradcheck
TABLE = re.compile(r"\S {2,}\S")  # columns: a table or an aligned formula
COMMENT = re.compile(r"(?<![:\"'\w])//.*")  # in C++, not the // of an address


def prose(source: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line of a docstring, of every comment, alone or after code, and of
    the words in the name of every test.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield from ((number, lines[number - 1]) for number in range(first.lineno, first.end_lineno + 1))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type == tokenize.COMMENT:
            alone = lines[token.start[0] - 1].lstrip().startswith("#")
            yield token.start[0], lines[token.start[0] - 1] if alone else token.string


def prose_of_cpp(source: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every comment from // on; the whole line where it is alone."""
    for number, line in enumerate(source.splitlines(), 1):
        if comment := COMMENT.search(line):
            yield number, line if line.lstrip().startswith("//") else comment[0]


def too_long(line: str) -> bool:
    """Whether a line of prose is; doctests, tables and rulers between sections are none."""
    text = line.strip().replace("  ->  ", " -> ")
    is_prose = not text.startswith((">>>", "...")) and not TABLE.search(text) and "-----" not in text
    return len(line) > WIDTH and is_prose


def word_in(line: str) -> re.Match | None:
    """A word that is not used, the name of the verdict aside."""
    return WORDS.search(VERDICT.sub("", line))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments(path):
    narrow = path.relative_to(ROOT).parts[0] in NARROW
    read = prose if path.suffix == ".py" else prose_of_cpp
    found = []
    for number, line in read(path.read_text(encoding="utf-8")):
        if narrow and too_long(line):
            found.append(f"{path}:{number}: {len(line)} columns, at most {WIDTH}")
        if word := word_in(line):
            found.append(f"{path}:{number}: write who or what instead of {word[0]!r}")
    assert not found, "\n".join(found)


def test_the_rule_notices():
    """One line of each kind; a table, a doctest, a verdict and a stand-in are no faults."""
    wide = "word " * 25
    source = f'"""Head.\n\n{wide}\n    a    {wide}\n>>> {wide}\n"""\n# {wide}\nx = 1  # nobody knows\n'
    lines = dict(prose(source))
    assert [number for number, line in lines.items() if too_long(line)] == [3, 7]
    assert [number for number, line in lines.items() if word_in(line)] == [8]
    source = "def test_a_fault_is_told():\n    pass  # cannot be told here: a stand-in\n\n\n# it stands there\n"
    assert sorted(number for number, line in prose(source) if word_in(line)) == [1, 5]
    source = f'int x;  // x stands for y\n// {wide}\nf("http://stands");\n'
    lines = dict(prose_of_cpp(source))
    assert [number for number, line in lines.items() if word_in(line)] == [1]
    assert [number for number, line in lines.items() if too_long(line)] == [2]

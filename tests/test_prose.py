"""Docstrings and comments can be read: no long lines, and no phrases that hide who does what."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("minillm", "kernels") for path in sorted((ROOT / folder).rglob("*.py"))]
WIDTH = 100  # columns of a line of prose; code lines may have 120
WORDS = re.compile(r"\b(nobody|somebody|anybody|whoever|is told|are told)\b", re.IGNORECASE)
TABLE = re.compile(r"\S {2,}\S")  # columns: a table or an aligned formula


def prose(source: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line of a docstring, and of every comment, alone or after code."""
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
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type == tokenize.COMMENT:
            alone = lines[token.start[0] - 1].lstrip().startswith("#")
            yield token.start[0], lines[token.start[0] - 1] if alone else token.string


def too_long(line: str) -> bool:
    """Whether a line of prose is; doctests, tables and rulers between sections are none."""
    text = line.strip().replace("  ->  ", " -> ")
    is_prose = not text.startswith((">>>", "...")) and not TABLE.search(text) and "-----" not in text
    return len(line) > WIDTH and is_prose


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments(path):
    found = []
    for number, line in prose(path.read_text(encoding="utf-8")):
        if too_long(line):
            found.append(f"{path}:{number}: {len(line)} columns, at most {WIDTH}")
        if word := WORDS.search(line):
            found.append(f"{path}:{number}: write who or what instead of {word[0]!r}")
    assert not found, "\n".join(found)


def test_the_rule_notices():
    """One line of each kind; a table and a doctest may be wide."""
    wide = "word " * 25
    source = f'"""Head.\n\n{wide}\n    a    {wide}\n>>> {wide}\n"""\n# {wide}\nx = 1  # nobody knows\n'
    lines = dict(prose(source))
    assert [number for number, line in lines.items() if too_long(line)] == [3, 7]
    assert [number for number, line in lines.items() if WORDS.search(line)] == [8]

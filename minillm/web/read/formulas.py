"""The formulas of a derivation, and the names in them.

Formulas are the parts of indented lines that have an equation, a product or an index, and code
between back quotes in a sentence. A name there has an index (`p_ij`), is defined (`mean = ...`) or
has a letter or two; any other may be a word of English.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTIONS = {"sum", "exp", "log", "sqrt", "tanh", "erf", "max", "min", "softmax", "over", "of", "rotate"}
SHORT_WORDS = {"a", "an", "as", "at", "be", "by", "i", "j", "if", "in", "is", "it", "no", "of", "on", "or", "so", "to"}
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*")
RATIO = re.compile(r"\bd(?P<above>[A-Za-z]\w*)/d(?P<below>[A-Za-z]\w*)")
INDEX = re.compile(r"(?<=[A-Za-z0-9])_[a-z]{1,2}$")
DEFINED = re.compile(r"['^]?\s*=(?!=)")  # what follows a name that is defined
CODE = re.compile(r"`([^`]+)`")
FORMULA = re.compile(r"=|@|\^|\w_[a-z]{1,2}\b")
SEGMENT = re.compile(r"\S+(?: \S+)*")  # parted from the next one by two spaces or more
WORD = re.compile(r" [a-z]{3,}\b")


@dataclass(frozen=True)
class Word:
    """A name in a formula. sure: it is a symbol; else it may be a word of English."""

    name: str
    line: int
    column: int
    spelling: str
    sure: bool


def formula_words(path: Path) -> list[Word]:
    """The names in the formulas of a module's docstring, with lines and columns of its file."""
    return [
        Word(word.name, line, start + word.column, word.spelling, word.sure)
        for line, text in _docstring_lines(path)
        for start, piece in _formulas(text)
        for word in _words(piece)
    ]


def _docstring_lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a module's docstring, as they are in its file."""
    text = path.read_text(encoding="utf-8")
    node = ast.parse(text).body[0]
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return list(enumerate([lines[0].replace('"""', "   ", 1), *lines[1:]], node.lineno))


def _formulas(text: str) -> Iterator[tuple[int, str]]:
    """The formulas of a line with their columns: of an indented line its parts, of another one the
    code between back quotes.
    """
    if not text.startswith("    "):
        yield from ((code.start(1), code[1]) for code in CODE.finditer(text))
        return
    for segment in SEGMENT.finditer(text):
        start = segment.start()
        for piece in segment[0].split(": "):
            if FORMULA.search(piece):
                yield start, piece
            start += len(piece) + len(": ")


def _words(formula: str) -> Iterator[Word]:
    """The names in a formula, with columns in it."""
    ratios = list(RATIO.finditer(formula))
    for ratio in ratios:
        below = INDEX.sub("", ratio["below"])
        if ratio["above"] == "L":
            yield Word(f"d{below}", 0, ratio.start(), ratio[0], True)
        else:
            yield Word(INDEX.sub("", ratio["above"]), 0, ratio.start("above"), ratio["above"], True)
            yield Word(below, 0, ratio.start("below"), ratio["below"], True)
    for token in IDENTIFIER.finditer(formula):
        name, before, after = INDEX.sub("", token[0]), formula[: token.start()], formula[token.end() :]
        if name in FUNCTIONS or before.endswith("^") or any(r.start() <= token.start() < r.end() for r in ratios):
            continue
        certain = name != token[0] or DEFINED.match(after) or len(name) < 3 and name.lower() not in SHORT_WORDS
        if certain or not (len(name) < 3 and WORD.match(after)):
            yield Word(name, 0, token.start(), token[0], bool(certain))

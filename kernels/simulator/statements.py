"""Where the statements of a function begin, in C++ text that no compiler has seen."""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

from minillm.kernels.simulator.source import functions, masked

WORD = re.compile(r"[A-Za-z_]\w*")
CONTROL = ("if", "for", "while", "switch")
LABEL = re.compile(r"(?:case\b[^;{}?]*?[^:]:(?!:)|(?:default|[A-Za-z_]\w*)\s*:(?!:))")
PREFIX = re.compile(r"\[\[[^\]]*\]\]|_Pragma\s*\([^)]*\)|__pragma\s*\([^)]*\)")
PRAGMA = re.compile(r"[ \t]*#[ \t]*pragma\b")
CLASS = re.compile(r"\b(?:struct|class|union|enum)\b")
BEFORE_A_BLOCK = re.compile(r"(?:\)|\b(?:else|do|try|mutable|noexcept|const|constexpr)|\)\s*->\s*[\w:<>,\s*&]+)\s*$")


class Statement(NamedTuple):
    """A statement: text[start:end], for if, for, while and switch their heads only.

    way: how a call is put before it. "listed": by itself. "controlled": what `if (...)` or `for
    (...)` executes without braces. "condition": the end of a do loop, where `start` is behind the
    parenthesis.
    """

    start: int
    end: int
    way: str


class Text:
    """A source whose functions' statements are asked for by line."""

    def __init__(self, source: str):
        self.source = source
        self.plain = masked(source)
        self.functions = functions(source)
        self._lines = [0, *(found.end() for found in re.finditer("\n", source))]

    def line(self, position: int) -> int:
        """The number of the line of a position, from 1 on."""
        return bisect.bisect_right(self._lines, position)

    def function_at(self, line: int):
        """The function that a line is part of, its head included; None if there is none."""
        return next((f for f in self.functions if self.line(f.start) <= line <= self.line(f.end - 1)), None)

    def statements(self, function) -> list[Statement]:
        """Those of a function's body, in order."""
        found: list[Statement] = []
        _Reader(self.plain, found).block(function.body + 1, function.end - 1)
        return sorted(found)

    def statement_at(self, function, line: int) -> Statement | None:
        """The first statement that begins on a line, or else the innermost that goes on there."""
        every = self.statements(function)
        begun = [each for each in every if self.line(each.start) == line]
        if begun:
            return begun[0]
        if line <= self.line(function.body):
            return every[0] if every else None
        over = [each for each in every if self.line(each.start) < line <= self.line(max(each.start, each.end - 1))]
        return over[-1] if over and self._has_text(line) else None

    def insertion(self, statement: Statement) -> int:
        """Where a call before a statement is put: before the pragmas that belong to it, too."""
        line = self.line(statement.start)
        position = statement.start
        if self.source[self._lines[line - 1] : position].strip():
            return position
        while line > 1 and PRAGMA.match(self.source[self._lines[line - 2] : self._lines[line - 1]]):
            line -= 1
            position = self._lines[line - 1]
        return position

    def lines_near(self, function, line: int) -> list[int]:
        """The last line before and the first one after a line on which a statement begins."""
        begun = sorted({self.line(each.start) for each in self.statements(function)})
        before, after = [each for each in begun if each < line], [each for each in begun if each > line]
        return before[-1:] + after[:1]

    def _has_text(self, line: int) -> bool:
        end = self._lines[line] if line < len(self._lines) else len(self.plain)
        return re.search(r"\w", self.plain[self._lines[line - 1] : end]) is not None


class _Reader:
    """Goes through a body; what it finds is put into `found`."""

    def __init__(self, plain: str, found: list[Statement]):
        self.plain = plain
        self.found = found

    def block(self, position: int, end: int) -> None:
        """The statements between two braces."""
        while (position := self._skip(position)) < end:
            position = self.statement(position, end, "listed")

    def statement(self, position: int, end: int, way: str) -> int:
        """Read one statement; returns the position behind it."""
        position = self._skip(position)
        while position < end and (skipped := PREFIX.match(self.plain, position)):
            position = self._skip(skipped.end())
        if position >= end:
            return end
        if self.plain[position] in ";})]":
            return position + 1
        if self.plain[position] == "{":
            closing = self._closing(position, end)
            self.block(position + 1, closing)
            return closing + 1
        label = LABEL.match(self.plain, position)
        if label:
            return self.statement(label.end(), end, way)
        word = WORD.match(self.plain, position)
        if word and word[0] in CONTROL:
            return self._controlled(position, word, end, way)
        if word and word[0] in ("else", "try"):
            return self.statement(word.end(), end, "controlled")
        if word and word[0] == "do":
            return self._do(position, word, end, way)
        return self._simple(position, end, way)

    def _controlled(self, position: int, word, end: int, way: str) -> int:
        """if (...) ..., for (...) ... and their relatives; a macro that opens a loop, too."""
        opening = self.plain.find("(", word.end(), end)
        if opening < 0:
            return end
        closing = self._closing(opening, end)
        self.found.append(Statement(position, closing + 1, way))
        self._lambdas(opening + 1, closing)
        behind = self.statement(closing + 1, end, "controlled")
        following = WORD.match(self.plain, self._skip(behind))
        if word[0] == "if" and following and following[0] == "else":
            return self.statement(following.end(), end, "controlled")
        return behind

    def _do(self, position: int, word, end: int, way: str) -> int:
        self.found.append(Statement(position, word.end(), way))
        behind = self._skip(self.statement(word.end(), end, "controlled"))
        following = WORD.match(self.plain, behind)
        opening = self.plain.find("(", behind, end)
        if not following or following[0] != "while" or opening < 0:
            return behind
        closing = self._closing(opening, end)
        self.found.append(Statement(opening + 1, closing, "condition"))
        return closing + 1

    def _simple(self, position: int, end: int, way: str) -> int:
        """A declaration or an expression up to its semicolon, or a macro's call before a block."""
        i = position
        while i < end:
            letter = self.plain[i]
            if letter == ";":
                break
            if letter == "{" and re.fullmatch(r"\w+\s*\(.*\)\s*", self.plain[position:i], re.DOTALL):
                self.found.append(Statement(position, i, way))
                return self.statement(i, end, "controlled")
            if letter in "([{":
                closing = self._closing(i, end)
                if letter == "{":
                    self._inner(position, i, closing)
                else:
                    self._lambdas(i + 1, closing)
                i = closing
            elif letter in ")}]":
                break
            i += 1
        self.found.append(Statement(position, min(i + 1, end), way))
        return i + 1

    def _lambdas(self, start: int, end: int) -> None:
        """The bodies of the functions without a name in an expression."""
        i = start
        while 0 <= (i := self.plain.find("{", i, end)):
            closing = self._closing(i, end)
            self._inner(start, i, closing)
            i = closing + 1

    def _inner(self, start: int, opening: int, closing: int) -> None:
        """What is between the braces of an expression: a block, a list of values, or a class."""
        head = self.plain[start:opening]
        if CLASS.search(head) and "(" not in head:
            return
        if BEFORE_A_BLOCK.search(head) or _is_lambda_without_parameters(head):
            self.block(opening + 1, closing)
        else:
            self._lambdas(opening + 1, closing)

    def _skip(self, position: int) -> int:
        while position < len(self.plain) and self.plain[position].isspace():
            position += 1
        return position

    def _closing(self, opening: int, end: int) -> int:
        """The bracket that closes the one at `opening`; `end` if there is none."""
        depth = 0
        for i in range(opening, end):
            letter = self.plain[i]
            depth += (letter in "([{") - (letter in ")]}")
            if depth == 0:
                return i
        return end


def _is_lambda_without_parameters(head: str) -> bool:
    """Whether `[...]` in front of a brace is a capture and no array's bound."""
    text = head.rstrip()
    if not text.endswith("]"):
        return False
    depth = 0
    for i in range(len(text) - 1, -1, -1):
        depth += (text[i] == "]") - (text[i] == "[")
        if depth == 0:
            return not re.search(r"[\w\]>)]\s*$", text[:i]) or re.search(r"\breturn\s*$", text[:i]) is not None
    return False

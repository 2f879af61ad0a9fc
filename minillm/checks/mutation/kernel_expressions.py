"""Expressions of CUDA sources, with the precedence of C++."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from minillm.checks.mutation.kernel_tokens import ASSIGNMENTS, PRECEDENCE, QUALIFIERS, Reader, Unreadable


@dataclass
class Node:
    """A part of a source text: text[start:end]."""

    kind: str
    start: int
    end: int
    op: str = ""
    parts: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


class Expressions(Reader):
    """Reads expressions into nodes."""

    def arguments(self, opening: str, closing: str) -> list[Node]:
        self.take(opening)
        parts = []
        while self.text() != closing:
            parts.append(self.braces() if self.text() == "{" else self.assignment())
            if not self.takes(","):
                break
        self.take(closing)
        return parts

    def comma(self) -> Node:
        left = self.assignment()
        while self.text() == ",":
            self.at += 1
            right = self.assignment()
            left = Node("binary", left.start, right.end, ",", [left, right])
        return left

    def assignment(self) -> Node:
        left = self.ternary()
        if self.text() in ASSIGNMENTS or (self.text() == ">" and self.text(1) == ">=" and self.adjacent()):
            op = self.take()
            op += self.take() if op == ">" else ""
            right = self.braces() if self.text() == "{" else self.assignment()
            return Node("assign", left.start, right.end, op, [left, right])
        return left

    def adjacent(self) -> bool:
        return self.tokens[self.at][3] == self.tokens[self.at + 1][2]

    def ternary(self) -> Node:
        condition = self.binary(1)
        if not self.takes("?"):
            return condition
        then = self.assignment()
        self.take(":")
        other = self.assignment()
        asked = Node("condition", condition.start, condition.end, "?", [condition])
        return Node("ternary", condition.start, other.end, "", [asked, then, other])

    def operator(self) -> str:
        if self.text() == ">" and self.text(1) == ">" and self.adjacent():
            return ">>"
        return self.text()

    def binary(self, least: int) -> Node:
        left = self.unary()
        while PRECEDENCE.get(op := self.operator(), 0) >= least:
            if op == ">" and self.text(1) == ">=" and self.adjacent():
                break  # >>=
            self.at += 2 if op == ">>" else 1
            right = self.binary(PRECEDENCE[op] + 1)
            left = Node("binary", left.start, right.end, op, [left, right])
        return left

    def unary(self) -> Node:
        start, op = self.start, self.text()
        if op in ("-", "+", "!", "~", "*", "&", "++", "--"):
            self.at += 1
            operand = self.unary()
            return Node("unary", start, operand.end, op, [operand])
        if op == "sizeof":
            self.at += 1
            self.skip_brackets()
            return Node("opaque", start, self.ended)
        if op == "(" and (cast := self.cast()):
            operand = self.unary()
            return Node("cast", start, operand.end, cast, [operand])
        return self.postfix()

    def cast(self) -> str:
        """The type in brackets, if that is what comes here."""
        before, start = self.at, self.start
        self.at += 1
        try:
            first = self.text()
            words = self.skip_type()
            marks = 0
            while self.text() in ("*", "&", "const", "__restrict__"):
                marks += 1
                self.at += 1
            if self.text() == "(" and self.text(1) == "&":  # a reference to an array
                self.skip_brackets()
                self.skip_brackets()
                marks += 1
            if self.takes(")"):
                known = bool(marks) or first in self.types or bool(words & self.types) or first in QUALIFIERS
                operand = self.kind() in ("word", "number", "string") or (known and self.text() in "(*&-+!~")
                if operand and self.text():
                    return self.plain[start : self.ended]
        except Unreadable:
            pass
        self.at = before
        return ""

    def postfix(self) -> Node:
        node = self.primary()
        while True:
            mark = self.text()
            if mark == "(":
                arguments = self.arguments("(", ")")
                node = Node("call", node.start, self.ended, "", [node, *arguments])
            elif mark == "{" and node.kind == "name" and (node.op in self.types or node.op in self.templates):
                arguments = self.arguments("{", "}")
                node = Node("call", node.start, self.ended, "", [node, *arguments])
            elif mark == "[":
                subscripts = self.arguments("[", "]")
                node = Node("index", node.start, self.ended, "", [node, *subscripts])
            elif mark in (".", "->"):
                self.at += 1
                self.takes("template")
                name = self.take()
                self.template_arguments() if self.text() == "<" and self.text(-1) in self.templates else None
                node = Node("member", node.start, self.ended, name, [node])
            elif mark in ("++", "--"):
                self.at += 1
                node = Node("postfix", node.start, self.ended, mark, [node])
            else:
                return node

    def primary(self) -> Node:
        start, kind = self.start, self.kind()
        if self.takes("("):
            inside = self.comma()
            self.take(")")
            return Node("paren", start, self.ended, "", [inside])
        if kind in ("number", "string"):
            text = self.take()
            while self.kind() == "string" and kind == "string":
                self.take()
            return Node("literal", start, self.ended, text)
        if self.text() == "[":  # a lambda
            raise Unreadable("a lambda")
        if kind != "word" and self.text() != "::":
            raise Unreadable(self.text())
        if self.text() in ("new", "delete", "throw", "operator"):
            raise Unreadable(self.text())
        self.takes("::")
        while self.text() in ("unsigned", "long") and self.text(1) in ("int", "long"):
            self.take()
        while True:
            self.takes("template")
            word = self.take()
            if not re.match(r"\w", word):
                raise Unreadable(word)
            if self.text() == "<" and (word in self.templates or self.looks_like_arguments()):
                self.template_arguments()
            if not self.takes("::"):
                break
        return Node("name", start, self.ended, word)

    def looks_like_arguments(self) -> bool:
        """Whether <...> follows that is closed before a call or ::, and has nothing of a comparison
        inside.
        """
        before = self.at
        try:
            return self.template_arguments() and self.text() in ("(", "::")
        except Unreadable:
            return False
        finally:
            self.at = before

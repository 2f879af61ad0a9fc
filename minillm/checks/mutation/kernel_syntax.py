"""The statements and expressions of CUDA functions, as a tree over the source text.

It knows as much of C++ as kernels use: declarations, control flow, and all operators with their
precedence. A statement that it cannot read is left out, and the one behind it is read again. What
must be a constant for the compiler (array sizes, template arguments, case labels, constexpr, const
integers) is left out on purpose.

    kind of a node      op                  parts
    name, literal       the text
    unary, postfix      the operator        operand
    binary, assign      the operator        left, right
    ternary                                 condition, then, else
    call                                    function, arguments ...
    index                                   array, subscripts ...
    member              the name            object
    cast                the type            operand
    paren                                   inside
    list                                    the parts of { ... }
    condition           if, while, for, ?   the expression
    step                                    what a `for` does after each turn
    statement           expression, return, the expression, where it has one
                        continue, break
    block                                   statements, of any kind: the order is that of the text
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"(?P<number>(?:0[xX][0-9a-fA-F']+|0[bB][01']+|(?:\d[\d']*\.?[\d']*|\.\d+)(?:[eE][-+]?\d+)?)[a-zA-Z]*)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<string>\"[^\"]*\"|'[^']*')"
    r"|(?P<mark><<=|>>=|->\*|\.\.\.|::|->|\+\+|--|<<|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^~!<>=?:;,.()\[\]{}])"
)
PRECEDENCE = {"||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "<": 7, ">": 7, "<=": 7, ">=": 7}
PRECEDENCE |= {"<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "%": 10}
ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
QUALIFIERS = {"const", "constexpr", "static", "volatile", "extern", "register", "inline", "mutable", "typename"}
QUALIFIERS |= {"unsigned", "signed", "struct", "__shared__", "__restrict__", "__constant__", "alignas", "__align__"}
TYPES = {
    "void", "bool", "char", "short", "int", "long", "float", "double", "auto", "half", "half2", "size_t", "ptrdiff_t",
    "int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "uint", "ulong", "uchar",
    "ushort", "uintptr_t", "intptr_t", "clock_t", "dim3", "__half", "__half2", "__nv_bfloat16", "__nv_bfloat162",
    "nv_bfloat16", "nv_bfloat162", "unsigned", "signed", "FILE", "cudaTextureObject_t",
    *(f"{name}{n}" for n in "1234" for name in "char uchar short ushort int uint long ulong longlong float double".split()),
}  # fmt: skip
CASTS = {"static_cast", "reinterpret_cast", "const_cast", "dynamic_cast"}
INTEGERS = {"int", "unsigned", "long", "short", "char", "bool", "size_t", "uint", "auto", "signed"}
INTEGERS |= {"int32_t", "uint32_t", "int64_t", "uint64_t"}
KEYWORDS = {"if", "for", "while", "do", "switch", "case", "default", "return", "break", "continue", "goto", "else"}
SKIPPED = {"using", "typedef", "static_assert", "asm", "__asm__", "__asm", "goto", "template", "union", "enum"}


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


class Unreadable(Exception):
    """A construct that the parser does not know."""


def body_of(plain: str, start: int, end: int) -> tuple[Node, int]:
    """The block plain[start:end], braces included, and how many statements could not be read.

    plain: a source as `masked` returns it.
    """
    parser = _Parser(plain, start, end)
    return parser.block(), parser.left_out


def template_names(plain: str) -> set[str]:
    """The names that are followed by template arguments where they are used."""
    found = re.findall(r"\btemplate\s*<[^;{}]*?>\s*[^;{}()=]*?\b(\w+)\s*(?:\(|\{|:(?!:)|;)", plain)
    return {*found, *CASTS, "tiled_partition", "thread_block_tile", "numeric_limits", "reduce", "fragment"}


def type_names(plain: str) -> set[str]:
    """The types of CUDA, and those that a source makes."""
    found = re.findall(r"\b(?:typename|class|struct|union|enum)\s+(\w+)", plain)
    found += re.findall(r"\btypedef\b[^;{}]*?\b(\w+)\s*(?:\[[^;]*\])?\s*;", plain)
    return {*TYPES, *found, *re.findall(r"\busing\s+(\w+)\s*=", plain)}


class _Parser:
    def __init__(self, plain: str, start: int, end: int):
        self.plain = plain
        self.tokens = [
            (each.lastgroup, each[0], each.start(), each.end()) for each in TOKEN.finditer(plain, start, end)
        ]
        self.at = 0
        self.left_out = 0
        self.templates, self.types = template_names(plain), type_names(plain)

    # -------------------------------------------------------------------------------------- tokens

    def text(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][0] if self.at + ahead < len(self.tokens) else ""

    @property
    def start(self) -> int:
        return self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.plain)

    @property
    def ended(self) -> int:
        """Where the token before this one ends."""
        return self.tokens[self.at - 1][3]

    def take(self, text: str = "") -> str:
        if self.at >= len(self.tokens) or (text and self.text() != text):
            raise Unreadable(f"{self.text()!r} in the place of {text!r}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def takes(self, text: str) -> bool:
        if self.text() != text:
            return False
        self.at += 1
        return True

    def skip_brackets(self) -> None:
        """From an opening bracket to behind the one that closes it."""
        pairs, depth = {"(": ")", "[": "]", "{": "}"}, []
        while True:
            token = self.take()
            if token in pairs:
                depth.append(pairs[token])
            elif depth and token == depth[-1]:
                depth.pop()
            if not depth:
                return

    def skip_statement(self) -> None:
        while self.text() not in (";", "}", ""):
            if self.text() in ("(", "[", "{"):
                was_block = self.text() == "{"
                self.skip_brackets()
                if was_block and self.text() != ";":
                    return
            else:
                self.at += 1
        self.takes(";")

    def template_arguments(self) -> bool:
        """Skip <...> if that is what comes here."""
        if self.text() != "<":
            return False
        before, depth = self.at, 0
        while self.at < len(self.tokens):
            token = self.take()
            if token == "<":
                depth += 1
            elif token == ">":
                depth -= 1
                if not depth:
                    return True
            elif token == "(":
                self.at -= 1
                self.skip_brackets()
            elif token in (";", "{", "}", "&&", "||", ")", "="):
                break
        self.at = before
        return False

    # ---------------------------------------------------------------------------------- statements

    def block(self) -> Node:
        start, parts = self.start, []
        self.take("{")
        while self.text() not in ("}", ""):
            parts += self.readable_statement()
        self.takes("}")
        return Node("block", start, self.ended, "", parts)

    def readable_statement(self) -> list[Node]:
        before = self.at
        try:
            return self.statement()
        except Unreadable:
            self.at = before
            self.left_out += 1
            self.skip_statement()
            if self.at == before:
                self.at += 1
            return []

    def statement(self) -> list[Node]:
        start, word = self.start, self.text()
        if word == "{":
            return [self.block()]
        if word == ";":
            self.at += 1
            return []
        if word in SKIPPED:
            self.skip_statement()
            return []
        if word in KEYWORDS:
            return self.control(word)
        if self.kind() == "word" and self.text(1) == ":" and self.text(2) != ":":  # a label
            self.at += 2
            return self.statement()
        if self.is_declaration():
            parts = self.declaration()
            self.take(";")
            return parts
        expression = self.comma()
        self.take(";")
        return [Node("statement", start, self.ended, "expression", [expression])]

    def control(self, word: str) -> list[Node]:
        start = self.start
        self.take()
        if word in ("break", "continue"):
            self.take(";")
            return [Node("statement", start, self.ended, word)]
        if word == "return":
            value = [] if self.text() == ";" else [self.braces() if self.text() == "{" else self.comma()]
            self.take(";")
            return [Node("statement", start, self.ended, "return", value)]
        if word in ("case", "default"):
            while not self.takes(":"):
                self.at += 1
            return []
        if word == "else":
            raise Unreadable(word)
        if word == "do":
            parts = self.statement()
            self.take("while")
            parts.append(self.condition("while"))
            self.take(";")
            return parts
        if word == "for":
            return self.for_loop()
        if self.takes("constexpr"):
            self.skip_brackets()
            parts = []
        else:
            parts = [self.condition(word)]
        parts += self.statement()
        if word == "if" and self.takes("else"):
            parts += self.statement()
        return parts

    def condition(self, word: str) -> Node:
        self.take("(")
        if self.is_declaration():
            raise Unreadable("a declaration as a condition")
        inside = self.comma()
        self.take(")")
        return Node("condition", inside.start, inside.end, word, [inside])

    def for_loop(self) -> list[Node]:
        self.take("(")
        parts = []
        if self.is_declaration():
            before = self.at
            self.skip_type()
            while self.text() in ("*", "&", "&&", "const"):
                self.at += 1
            if self.kind() == "word" and self.text(1) == ":":  # for (float& number : vector)
                self.at += 2
                self.comma()
                self.take(")")
                return self.statement()
            self.at = before
            parts += self.declaration()
        elif self.text() != ";":
            parts.append(self.comma())
        self.take(";")
        if self.text() != ";":
            inside = self.comma()
            parts.append(Node("condition", inside.start, inside.end, "for", [inside]))
        self.take(";")
        if self.text() != ")":
            inside = self.comma()
            parts.append(Node("step", inside.start, inside.end, "", [inside]))
        self.take(")")
        return parts + self.statement()

    # -------------------------------------------------------------------------------- declarations

    def is_declaration(self) -> bool:
        before = self.at
        try:
            if self.text() in QUALIFIERS:
                return True
            if self.kind() != "word":
                return False
            known = self.text() in self.types
            self.skip_type()
            if known and self.text() in ("(", "{"):  # float4(...) is an expression, float (&x)[4] = ... is none
                return self.text(1) in ("&", "*")
            marks = 0
            while self.text() in ("*", "&", "&&", "const", "__restrict__"):
                marks += 1
                self.at += 1
            if self.kind() != "word" or self.text() in KEYWORDS:
                return False
            follows = self.text(1)
            return follows in ("=", ";", ",", "[", "{", ":") or (follows == "(" and (not marks or known))
        except Unreadable:
            return False
        finally:
            self.at = before

    def skip_type(self) -> set[str]:
        """Skip a type without its * and &. Returns its words."""
        words = set()
        sized = {"unsigned", "signed"}
        while self.text() in QUALIFIERS or (self.text() in ("long", "int", "short", "char") and words & sized):
            words.add(self.take())
            if self.text() == "(" and words & {"alignas", "__align__"}:
                self.skip_brackets()
        if not words & sized or self.text() in self.types:
            if self.kind() != "word":
                raise Unreadable("no type")
            while True:
                words.add(self.take())
                if self.text(-1) in self.templates or self.text(-1) not in self.types:
                    self.template_arguments()
                if not self.takes("::"):
                    break
        while self.text() in QUALIFIERS or self.text() in ("long", "int", "short", "char"):
            words.add(self.take())
        return words

    def declaration(self) -> list[Node]:
        """Up to its semicolon: the initialisers."""
        words, parts = self.skip_type(), []
        while True:
            pointer = False
            while self.text() in ("*", "&", "&&", "const", "__restrict__"):
                pointer |= self.take() in ("*", "&")
            if self.text() == "(":  # float (&x)[4]
                self.skip_brackets()
                pointer = True
            elif self.kind() == "word":
                self.take()
            else:
                raise Unreadable("no name")
            while self.text() == "[":
                self.skip_brackets()
            constant = words & {"constexpr", "static", "extern", "__shared__"}
            constant |= {"const"} if "const" in words and words & INTEGERS and not pointer else set()
            found = self.initialiser()
            parts += [] if constant else found
            if not self.takes(","):
                return parts

    def initialiser(self) -> list[Node]:
        if self.takes("="):
            return [self.braces() if self.text() == "{" else self.assignment()]
        if self.text() == "{":
            return [self.braces()]
        if self.text() == "(":
            return self.arguments("(", ")")
        if self.text() == ":":
            raise Unreadable("a bit field")
        return []

    def braces(self) -> Node:
        start, parts = self.start, self.arguments("{", "}")
        return Node("list", start, self.ended, "", parts)

    # --------------------------------------------------------------------------------- expressions

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

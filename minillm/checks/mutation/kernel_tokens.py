"""The words of a CUDA source, and a reader that goes over them."""

from __future__ import annotations

import re

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


class Unreadable(Exception):
    """A construct that the parser does not know."""


def template_names(plain: str) -> set[str]:
    """The names that are followed by template arguments where they are used."""
    found = re.findall(r"\btemplate\s*<[^;{}]*?>\s*[^;{}()=]*?\b(\w+)\s*(?:\(|\{|:(?!:)|;)", plain)
    return {*found, *CASTS, "tiled_partition", "thread_block_tile", "numeric_limits", "reduce", "fragment"}


def type_names(plain: str) -> set[str]:
    """The types of CUDA, and those that a source makes."""
    found = re.findall(r"\b(?:typename|class|struct|union|enum)\s+(\w+)", plain)
    found += re.findall(r"\btypedef\b[^;{}]*?\b(\w+)\s*(?:\[[^;]*\])?\s*;", plain)
    return {*TYPES, *found, *re.findall(r"\busing\s+(\w+)\s*=", plain)}


class Reader:
    """The tokens of plain[start:end], and where it is among them."""

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

"""Where each symbol of an operation occurs: in the derivation, in forward, in backward, in CUDA.

A symbol bears the name that it has in Python. Its spellings elsewhere follow from rules, and from
the table in spellings.py where rules do not reach:

    dv_jd, p_ij           in a derivation: dv and p, without their indices
    dL/dn_i               the gradient dn
    drstd/dx_i            the slope of rstd: the symbols are rstd and x
    dy_rows, q_tile       in code: dy and q, without an ending that says which part or copy

In a derivation only formulas are read, which are indented, and code between back quotes. A word
there is a symbol if it is defined (`mean = ...`), has an index or belongs to the table: "sum over
rows" has no symbol `rows`. In Python and CUDA names are read, and no comments and strings.

    symbols(operation)      name -> its occurrences, for symbols that occur in two columns or more
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from minillm.web.read.operation import Operation, Source, kernel_sources, sources
from minillm.web.read.spellings import IN_CUDA, SPELLINGS, Table

COLUMNS = ("derivation", "forward", "backward", "kernel")
FUNCTIONS = {"sum", "exp", "log", "sqrt", "tanh", "erf", "max", "min", "softmax", "over", "of", "rotate", "branch"}
SHORT_WORDS = {"a", "an", "as", "at", "be", "by", "i", "j", "if", "in", "is", "it", "no", "of", "on", "or", "so", "to"}
BOOKKEEPING = {"self", "xp", "saved", "cache", "like", "out", "cuda", "problem", "kernel", "update", "_", "i", "j"}
DIMENSIONS = {"B", "T", "C", "H", "D", "F", "V", "N"}
INDICES_IN_CUDA = {
    "rows",
    "row",
    "first",
    "second",
    "start",
    "end",
    "block",
}  # numbers there, arrays and slices in Python
ENDING = re.compile(r"(?<=\w)_(rows?|tiles?|sum|partials|quick|column|[ij]|new|old)$")


@dataclass(frozen=True)
class Occurrence:
    """A symbol at a place: line and column of the file, as numbered by editors and from 0.

    where: one of COLUMNS. source: the name of the function or of the CUDA file; "" in a derivation.
    spelling: what is written there, from `column` on.
    """

    where: str
    source: str
    path: Path
    line: int
    column: int
    spelling: str


def symbols(operation: Operation) -> dict[str, list[Occurrence]]:
    """Name -> occurrences in the order of COLUMNS and of the sources."""
    table = SPELLINGS.get(operation.name, {})
    names, in_cuda = _Names(table), _Names(table, IN_CUDA.get(operation.name, {}))
    found = _derivation_names(operation, names)
    arguments: set[str] = set()
    for where, source in _python_sources(operation):
        arguments |= {names.of_code(node.arg) for node in ast.walk(source.tree) if isinstance(node, ast.arg)}
        found += [(names.of_code(each.spelling), each) for each in _python_names(where, source)]
    for source in kernel_sources(operation).values():
        found += [(in_cuda.of_code(each.spelling), each) for each in _cuda_names(source)]
    by_name: dict[str, list[Occurrence]] = {}
    for name, occurrence in found:
        by_name.setdefault(name, []).append(occurrence)
    return {name: here for name, here in sorted(by_name.items()) if _is_symbol(name, here, name in arguments)}


def _is_symbol(name: str, here: list[Occurrence], is_argument: bool) -> bool:
    """Whether a name means the same in all columns. Outside of formulas, names may be alike by
    accident: one of a single letter, and one of CUDA that Python has neither as an argument nor in
    both forward and backward.
    """
    where = {occurrence.where for occurrence in here}
    if len(where) < 2 or name in BOOKKEEPING or name.endswith(("forward", "backward")):
        return False
    if "derivation" in where:
        return True
    return len(name) > 1 and (is_argument or {"forward", "backward"} <= where) or name in DIMENSIONS


class _Names:
    """From what is written to the name of a symbol."""

    def __init__(self, *tables: Table):
        self._name_of: dict[str, str] = {}
        for table in tables:
            for name, spellings in table.items():
                for spelling in spellings:
                    self._name_of[spelling] = name
                    self._name_of.setdefault(f"d{spelling}", f"d{name}")
        self.known = {name for table in tables for name in table}

    def of_code(self, text: str) -> str:
        """Of a name in Python or CUDA."""
        for spelling in (text, ENDING.sub("", text)):
            if spelling in self._name_of:
                return self._name_of[spelling]
        return ENDING.sub("", text)

    def of_formula(self, text: str) -> str:
        """Of a name in a derivation, without its indices."""
        return self._name_of.get(text, text)


# ------------------------------------------------------------------------------------------------------- in Python and CUDA


def _python_sources(operation: Operation) -> Iterator[tuple[str, Source]]:
    backward = {pair.backward for pair in operation.pairs}
    for name, source in sources(operation).items():
        yield "backward" if name in backward else "forward", source


def _python_names(where: str, source: Source) -> Iterator[Occurrence]:
    """The names in a function: no keywords, no strings, no attributes but those of self, no names
    of arguments in calls.
    """
    tokens = [token for token in _tokens(source) if token.type in (tokenize.NAME, tokenize.OP)]
    depth = 0
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None]):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.type != tokenize.NAME or keyword.iskeyword(token.string):
            continue
        names_argument = depth and after and after.string == "=" and before and before.string in "(,"
        attribute = before and before.string == "."
        if not names_argument and (not attribute or _is_of_self(token)):
            line = source.first + token.start[0] - 1
            yield Occurrence(where, source.function, source.path, line, token.start[1], token.string)


def _tokens(source: Source) -> list[tokenize.TokenInfo]:
    """The tokens outside of strings; from Python 3.12 on those of a formatted string are apart."""
    found, inside = [], 0
    for token in tokenize.generate_tokens(io.StringIO("\n".join(source.lines) + "\n").readline):
        kind = tokenize.tok_name[token.type]
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        if not inside:
            found.append(token)
    return found


def _is_of_self(token: tokenize.TokenInfo) -> bool:
    return token.line[: token.start[1]].endswith("self.")


CUDA_TOKEN = re.compile(
    r"""
    (?P<skipped> //[^\n]* | /\*.*?\*/ | ^[ \t]*\#[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \.?\d[\w.+']* )
    | (?P<name> [A-Za-z_]\w* )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def _cuda_names(source: Source) -> Iterator[Occurrence]:
    """The identifiers of a CUDA source: not in comments, strings, numbers and lines of the
    preprocessor.
    """
    text = "\n".join(source.lines)
    for token in CUDA_TOKEN.finditer(text):
        if token["name"] and token["name"] not in INDICES_IN_CUDA:
            line, start = text.count("\n", 0, token.start()), token.start() - text.rfind("\n", 0, token.start()) - 1
            yield Occurrence("kernel", source.function, source.path, line + 1, start, token["name"])


# ---------------------------------------------------------------------------------------------------------- in a derivation

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*")
RATIO = re.compile(r"\bd(?P<above>[A-Za-z]\w*)/d(?P<below>[A-Za-z]\w*)")
INDEX = re.compile(r"(?<=[A-Za-z0-9])_[a-z]{1,2}$")
DEFINED = re.compile(r"['^]?\s*=(?!=)")  # what follows a name that is defined
CODE = re.compile(r"`([^`]+)`")
FORMULA = re.compile(r"=|@|\^|\w_[a-z]{1,2}\b")
SEGMENT = re.compile(r"\S+(?: \S+)*")  # parted from the next one by two spaces or more
WORD = re.compile(r" [a-z]{3,}\b")


@dataclass(frozen=True)
class _Word:
    """A name in a formula. sure: it can be nothing but a symbol; else it may be a word of English."""

    name: str
    line: int
    column: int
    spelling: str
    sure: bool


def _derivation_names(operation: Operation, names: _Names) -> list[tuple[str, Occurrence]]:
    """The symbols in the docstring of an operation, with their places in its file."""
    path = Path(import_module(operation.story or operation.module).__file__)
    words = [
        _Word(names.of_formula(word.name), line, start + word.column, word.spelling, word.sure)
        for line, text in _docstring_lines(path)
        for start, piece in _formulas(text)
        for word in _words(piece)
    ]
    symbols = {word.name for word in words if word.sure} | names.known
    symbols |= {f"d{name}" for name in symbols}
    return [
        (word.name, Occurrence("derivation", "", path, word.line, word.column, word.spelling))
        for word in words
        if word.name in symbols
    ]


def _docstring_lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a module's docstring, as they are in its file."""
    text = path.read_text(encoding="utf-8")
    node = ast.parse(text).body[0]
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return list(enumerate([lines[0].replace('"""', "   ", 1), *lines[1:]], node.lineno))


def _formulas(text: str) -> Iterator[tuple[int, str]]:
    """The formulas of a line with their columns: parts of indented lines, and code in a sentence."""
    if not text.startswith("    "):
        yield from ((code.start(1), code[1]) for code in CODE.finditer(text))
        return
    for segment in SEGMENT.finditer(text):
        start = segment.start()
        for piece in segment[0].split(": "):
            if FORMULA.search(piece):
                yield start, piece
            start += len(piece) + len(": ")


def _words(formula: str) -> Iterator[_Word]:
    """The names in a formula, with columns in it."""
    ratios = list(RATIO.finditer(formula))
    for ratio in ratios:
        below = INDEX.sub("", ratio["below"])
        if ratio["above"] == "L":
            yield _Word(f"d{below}", 0, ratio.start(), ratio[0], True)
        else:
            yield _Word(INDEX.sub("", ratio["above"]), 0, ratio.start("above"), ratio["above"], True)
            yield _Word(below, 0, ratio.start("below"), ratio["below"], True)
    for token in IDENTIFIER.finditer(formula):
        name, before, after = INDEX.sub("", token[0]), formula[: token.start()], formula[token.end() :]
        if name in FUNCTIONS or before.endswith("^") or any(r.start() <= token.start() < r.end() for r in ratios):
            continue
        certain = name != token[0] or DEFINED.match(after) or len(name) < 3 and name.lower() not in SHORT_WORDS
        if certain or not (len(name) < 3 and WORD.match(after)):
            yield _Word(name, 0, token.start(), token[0], bool(certain))

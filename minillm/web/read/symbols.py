"""Where each symbol of an operation occurs: in the derivation, in forward, in backward, in CUDA.

A symbol bears the name that it has in Python. Its spellings elsewhere follow from rules, and from
the table in spellings.py where rules do not reach:

    dv_jd, p_ij           in a derivation: dv and p, without their indices
    dL/dn_i               the gradient dn
    drstd/dx_i            the slope of rstd: the symbols are rstd and x
    dy_rows, q_tile       in code: dy and q, without an ending that says which part or copy

In a derivation only formulas are read (formulas.py), in Python and CUDA only names: no comments, no
strings. "sum over rows" in a formula has no symbol `rows`, and CUDA's number `rows` is not Python's
array.

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

from minillm.web.read.formulas import formula_words
from minillm.web.read.operation import Operation, Source, kernel_sources, sources
from minillm.web.read.spellings import IN_CUDA, IN_TEXT, SPELLINGS, Table

COLUMNS = ("derivation", "forward", "backward", "kernel")
BOOKKEEPING = {"self", "xp", "like", "out", "cache", "cuda", "problem", "kernel", "update", "name", "_", "i", "j"}
INDICES_IN_CUDA = {"rows", "row", "first", "second", "start", "end", "block", "shared"}  # numbers there
ENDING = re.compile(r"(?<=\w)_(rows?|tiles?|sum|partials|quick|column|[ij]|new|old)$")


@dataclass(frozen=True)
class Occurrence:
    """A symbol at a place: line and column of the file, lines numbered from 1 and columns from 0.

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
    """Name -> occurrences, in the order of COLUMNS and of the sources."""
    spelled, in_text, in_cuda = (table.get(operation.name, {}) for table in (SPELLINGS, IN_TEXT, IN_CUDA))
    backward = {pair.backward for pair in operation.pairs}
    python, cuda = _Names(spelled), _Names(spelled, in_cuda)
    found, arguments, variables = [], set(), set()
    for source in sources(operation).values():
        where = "backward" if source.function in backward else "forward"
        found += [(python.of_code(each.spelling), each) for each in _python_names(where, source)]
        arguments |= set(map(python.of_code, _arguments(source)))
        variables |= set(map(python.of_code, _variables(source)))
    for source in kernel_sources(operation).values():
        found += [(cuda.of_code(each.spelling), each) for each in _cuda_names(source)]
    by_name: dict[str, list[Occurrence]] = {}
    for name, occurrence in [*_derivation(operation, _Names(spelled, in_text), arguments), *found]:
        by_name.setdefault(name, []).append(occurrence)
    sure = {name for name in arguments if len(name) > 1} | {f"d{name}" for name in variables} | {*spelled, *in_cuda}
    return {name: here for name, here in sorted(by_name.items()) if _is_symbol(name, here, variables, sure)}


def _derivation(operation: Operation, names: _Names, arguments: set[str]) -> list[tuple[str, Occurrence]]:
    """The symbols in a docstring. A word there is one if it is sure to be a name, belongs to the
    table of spellings, or is an argument in Python; so is the gradient of each of these.
    """
    path = Path(import_module(operation.story or operation.module).__file__)
    words = [(names.of_formula(word.name), word) for word in formula_words(path)]
    known = {name for name, word in words if word.sure} | names.known | arguments
    known |= {f"d{name}" for name in known}
    return [
        (name, Occurrence("derivation", "", path, word.line, word.column, word.spelling))
        for name, word in words
        if name in known
    ]


def _is_symbol(name: str, here: list[Occurrence], variables: set[str], sure: set[str]) -> bool:
    """Whether a name is one of numbers, and means the same in all columns.

    A name that no formula has may be in CUDA by accident. There it is a symbol if it is `sure`: an
    argument in Python, a gradient, or in the table of spellings.
    """
    where = {occurrence.where for occurrence in here}
    if len(where) < 2 or name in BOOKKEEPING or "saved" in name or name.endswith(("forward", "backward")):
        return False
    return "derivation" in where or name in variables and (name in sure or {"forward", "backward"} <= where)


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
        short = ENDING.sub("", text)
        return self._name_of.get(text) or self._name_of.get(short, short)

    def of_formula(self, text: str) -> str:
        """Of a name in a derivation, without its indices."""
        return self._name_of.get(text, text)


# ------------------------------------------------------------------------------------------------------- in Python and CUDA


def _python_names(where: str, source: Source) -> Iterator[Occurrence]:
    """The names in a function: no keywords, no strings, no attributes but those of self, no names
    of arguments in calls.
    """
    tokens = [token for token in _tokens(source) if token.type in (tokenize.NAME, tokenize.OP)]
    depth = 0
    for before, token, after in zip(["", *(t.string for t in tokens)], tokens, [*(t.string for t in tokens[1:]), ""]):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        elif not keyword.iskeyword(token.string):
            in_call = depth and after == "=" and before in ("(", ",")
            attribute = before == "." and not token.line[: token.start[1]].endswith("self.")
            if not in_call and not attribute:
                line = source.first + token.start[0] - 1
                yield Occurrence(where, source.function, source.path, line, token.start[1], token.string)


def _tokens(source: Source) -> list[tokenize.TokenInfo]:
    """The tokens outside of strings. From Python 3.12 on formatted strings have tokens inside."""
    found, inside = [], 0
    for token in tokenize.generate_tokens(io.StringIO("\n".join(source.lines) + "\n").readline):
        kind = tokenize.tok_name[token.type]
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        if not inside:
            found.append(token)
    return found


def _arguments(source: Source) -> set[str]:
    return {node.arg for node in ast.walk(source.tree) if isinstance(node, ast.arg)}


def _variables(source: Source) -> set[str]:
    """The arguments of a function, the names that it assigns, and the attributes of self."""
    nodes = list(ast.walk(source.tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    of_names = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return stored | _arguments(source) | {node.attr for node in of_names if node.value.id == "self"}


CUDA_TOKEN = re.compile(
    r"""
    (?P<skipped> //[^\n]* | /\*.*?\*/ | ^[ \t]*\#[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \.?\d[\w.]* )
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
            line = text.count("\n", 0, token.start()) + 1
            column = token.start() - text.rfind("\n", 0, token.start()) - 1
            yield Occurrence("kernel", source.function, source.path, line, column, token["name"])

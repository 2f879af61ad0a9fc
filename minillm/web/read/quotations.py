"""The comments `# forward: ...` of a function, and what they quote. ties.py has the convention."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass

from minillm.web.read.operation import Source

MARK = "# forward:"
MISSPELT = re.compile(r"#+\s*forward\s*:", re.IGNORECASE)
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef)


@dataclass(frozen=True)
class Comment:
    """One comment, over the lines first to last of the file.

    column: where it begins. parts: what follows each mark.
    """

    first: int
    last: int
    column: int
    parts: tuple[str, ...]

    def quotations(self) -> list[ast.stmt]:
        """The statements and expressions that it quotes.

        Raises SyntaxError for what is no Python.
        """
        return [statement for part in self.parts for statement in ast.parse(split(part)[0]).body]


def split(text: str) -> tuple[str, str]:
    """Quotation and words: they are parted by the first colon outside of brackets and strings.

    >>> split("y = x[:, 1:] @ w: in every row")
    ('y = x[:, 1:] @ w', 'in every row')
    """
    depth, quote = 0, ""
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == ":" and depth == 0:
            return text[:at].strip(), text[at + 1 :].strip()
        else:
            depth += (letter in "([{") - (letter in ")]}")
    return text.strip(), ""


def comments_of(source: Source) -> list[Comment]:
    """The comments of a function, in the order of its lines.

    Lines of comment directly below one another, in one column, are one comment: from the first mark
    on.
    """
    found: list[Comment] = []
    for line, column, text in _comment_lines(source):
        last = found[-1] if found else None
        follows = last is not None and (last.last, last.column) == (line - 1, column)
        marked, parts = text.startswith(MARK), last.parts if follows else ()
        if marked:
            parts += (text.removeprefix(MARK).strip(),)
        elif follows:
            parts = (*parts[:-1], f"{parts[-1]} {text.removeprefix('#').strip()}")
        if follows:
            found[-1] = Comment(last.first, line, column, parts)
        elif marked:
            found.append(Comment(line, line, column, parts))
    return found


def misspelt_marks(source: Source) -> list[int]:
    """The lines of a function with a comment that begins nearly like one, such as `#Forward:`."""
    return [line for line, _, text in _comment_lines(source) if MISSPELT.match(text) and not text.startswith(MARK)]


def _comment_lines(source: Source) -> list[tuple[int, int, str]]:
    """Line, column and text of the comments that have a line for themselves."""
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(source.lines) + "\n").readline)
    return [
        (source.first + token.start[0] - 1, token.start[1], token.string)
        for token in tokens
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    ]


# ------------------------------------------------------------------------------------------------- statements of a function


def headed(node: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks inside of a compound statement; none of a simple one."""
    if not isinstance(node, COMPOUND):
        return []
    handled = [handler.body for handler in getattr(node, "handlers", [])]
    body, orelse, last = (getattr(node, name, []) for name in ("body", "orelse", "finalbody"))
    return [block for block in (body, *handled, orelse, last) if block]


def leaves(body: list[ast.stmt]) -> list[ast.stmt]:
    """All statements of a block and of the blocks inside, but docstrings, in the order of their
    lines. Of a compound statement the node is meant without its blocks.
    """
    found = []
    for node in body:
        if not is_docstring(node):
            found.append(node)
        for block in headed(node):
            found += leaves(block)
    return found


def lines_of(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement; of a compound one those of its header."""
    blocks = headed(node)
    if not blocks:
        return node.lineno, node.end_lineno
    parts = [part for part in header(node) if hasattr(part, "end_lineno")]
    return node.lineno, max([node.lineno, *(part.end_lineno for part in parts)])


def header(node: ast.stmt) -> list[ast.AST]:
    """What a compound statement is made of besides its blocks: test, target, arguments."""
    inside = {id(statement) for block in headed(node) for statement in block}
    parts = [part for part in ast.iter_child_nodes(node) if id(part) not in inside]
    return [part for part in parts if not isinstance(part, ast.ExceptHandler)]


def quotes(quotation: ast.stmt, node: ast.stmt) -> bool:
    """Whether a statement is the one quoted, or has the expression that is quoted. A name or a
    number alone is no quotation.
    """
    if not isinstance(quotation, ast.Expr):
        return not headed(node) and _same(quotation, node)
    if isinstance(quotation.value, (ast.Name, ast.Constant)):
        return False
    parts = header(node) if headed(node) else [node]
    return any(_same(quotation.value, inner) for part in parts for inner in ast.walk(part))


def _same(quoted, found) -> bool:
    """Whether two nodes of syntax trees, or parts of nodes, are equal but for arguments left
    out.
    """
    if isinstance(quoted, ast.AST):
        if type(quoted) is not type(found):
            return False
        if isinstance(quoted, ast.Call) and quoted.args and _is_ellipsis(quoted.args[-1]) and not quoted.keywords:
            given = quoted.args[:-1]
            return _same(quoted.func, found.func) and _same(given, found.args[: len(given)])
        return all(_same(getattr(quoted, name), getattr(found, name)) for name in quoted._fields)
    if isinstance(quoted, list):
        return len(quoted) == len(found) and all(map(_same, quoted, found))
    return quoted == found


def _is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

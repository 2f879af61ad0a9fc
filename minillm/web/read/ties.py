"""The ties of an operation: which forward statements each backward statement differentiates.

The source says so in a comment above the backward statement:

    # forward: y = normed * weight; y += bias: the same weight and bias for every row
    product = dy_rows * normed
    dweight = ones @ product

What follows `# forward:` up to the first colon outside of brackets is a quotation: Python, one or
several statements of the forward function with semicolons between them, or expressions that occur
in it. Quotation and source are compared as syntax trees, so spaces and line ends do not count. What
follows the colon is words. `...` as the last argument of a call leaves out the arguments that
follow. A statement that forward has more than once is the first one below what was quoted before
it. A comment goes on in the lines of comment below it; a line there that begins with `# forward:`
again adds its quotations. A comment covers the statements up to the next such comment in the same
block, with the blocks inside of them.

Forward is the forward function of the pair, and those functions of the operation without a backward
that it calls. A forward function that computes gradients itself, as in cross_entropy.py, quotes its
own statements above.

A comment that is taken out leaves its statements to the one above: mentions.py has the rule by
which that is noticed.

Every statement of a backward function has a partner in this way, but for bookkeeping, which
computes no numbers: what was saved is unpacked, an array gets another dtype or is cut into rows,
what was computed is returned. bookkeeping.py has the rule; it lets no statement pass that assigns
the gradient `dx` of a name `x` of forward.

    ties(operation)         all ties, in the order of the source
    problems(operation)     statements without a partner, and comments that quote no forward line,
                            each with its place and what to do; none for the sources of minillm
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from minillm.web.read.bookkeeping import CLOSING, Bookkeeping
from minillm.web.read.kernel_comments import kernel_problems
from minillm.web.read.mentions import Mentions
from minillm.web.read.operation import Operation, Pair, Place, Source, Tie, shown, sources
from minillm.web.read.quotations import (
    MARK,
    Comment,
    comments_of,
    headed,
    is_docstring,
    leaves,
    lines_of,
    misspelt_marks,
    quotes,
)

RULE = "minillm/web/read/ties.py has the convention"


def ties(operation: Operation) -> list[Tie]:
    """The ties of all pairs, in reading order. A comment with a problem ties nothing."""
    return [
        Tie(statement, passage.forward)
        for reading in readings(operation)
        for passage in reading.passages
        if passage.forward
        for statement in passage.statements
    ]


def problems(operation: Operation) -> list[str]:
    """Where the sources do not keep to the convention: "file:line: what is wrong, what to do".

    In CUDA sources the comments are to quote formulas that the file has: kernel_comments.py.
    """
    found = [problem for reading in readings(operation) for problem in reading.problems]
    return found + [_located(source, line, text) for source, line, text in kernel_problems(operation)]


# ------------------------------------------------------------------------------------------------ reading one function


@dataclass
class Passage:
    """A comment, the forward statements that it quotes, and the statements that it covers."""

    comment: Comment
    forward: tuple[Place, ...]
    statements: list[Place] = field(default_factory=list)


@dataclass
class Reading:
    """What is found in a backward function, or in a forward function that computes gradients.

    alone: the statements without a partner that need none.
    """

    pair: Pair
    function: str
    passages: list[Passage] = field(default_factory=list)
    alone: list[Place] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def readings(operation: Operation) -> list[Reading]:
    """One for each function of an operation that may have comments, in reading order."""
    found = sources(operation)
    names = dict.fromkeys((pair, name) for pair in operation.pairs for name in (pair.forward, pair.backward) if name)
    return [_Reader(operation, pair, found[name], found).read() for pair, name in names]


class _Reader:
    """Goes through one function, block by block."""

    def __init__(self, operation: Operation, pair: Pair, source: Source, found: dict[str, Source]):
        self._source, self._found = source, found
        self._is_backward = source.function == pair.backward
        self._forward = _forward_functions(operation, pair, found)
        self._comments = comments_of(source)
        arguments = source.tree.args
        incoming = {a.arg for a in (*arguments.args, *arguments.kwonlyargs) if a.arg.startswith("d")}
        names = set().union(*map(_names, self._forward))
        self._rule = Bookkeeping(names, incoming)
        self._mentions = Mentions(self._forward, names)
        self._reading = Reading(pair, source.function)

    def read(self) -> Reading:
        if self._is_backward or self._comments:
            self._read_block(self._source.tree.body, self._source.first, None)
        for line in misspelt_marks(self._source):
            self._problem(line, f"this comment ties nothing: write `{MARK} ...`")
        for comment in self._comments:
            if comment not in [passage.comment for passage in self._reading.passages]:
                self._problem(comment.first, "no statement follows this comment in its block: put it above one")
        if self._is_backward:
            self._look_at_mentions()
        return self._reading

    def _look_at_mentions(self) -> None:
        """Whether each statement can be a gradient of what is quoted above it (mentions.py)."""
        nodes = {
            Place(source.function, *lines_of(node)): node
            for source in (*self._forward, self._source)
            for node in leaves(source.tree.body)
        }
        for passage in self._reading.passages:
            quoted = [nodes[place] for place in passage.forward]
            for place in passage.statements if quoted else ():
                missing = self._mentions.missing(nodes[place], quoted)
                if missing:
                    what = f"differentiates none of the lines that are quoted above it, which have no `{missing}`"
                    self._problem(place.first, f"`{_short(nodes[place])}` {what}: quote its own, `{MARK} ...`")

    def _read_block(self, body: list[ast.stmt], above: int, passage: Passage | None) -> None:
        """above: the last line before the block. passage: that of the comment that covers it."""
        inner = passage is not None
        for node in body:
            here = [c for c in self._comments if above < c.first < node.lineno and c.column == node.col_offset]
            for comment in here:
                passage, inner = self._passage(comment), False
                self._reading.passages.append(passage)
            if not is_docstring(node):
                self._read_statement(node, passage, inner)
            _, above = lines_of(node)
            for block in headed(node):
                self._read_block(block, above, passage)
                above = block[-1].end_lineno

    def _read_statement(self, node: ast.stmt, passage: Passage | None, inner: bool) -> None:
        """inner: whether the comment that covers it is in a block around its own, where bookkeeping
        does not belong to it.
        """
        place, needs = (
            Place(self._source.function, *lines_of(node)),
            self._rule.needs_partner(node, passage is not None),
        )
        closing = inner or isinstance(node, CLOSING) or headed(node)
        if passage is not None and (not closing or needs and (self._is_backward or inner)):
            passage.statements.append(place)
        elif needs and self._is_backward:
            what = "needs the forward line that it differentiates: quote it above, `# forward: ...`"
            self._problem(place.first, f"`{_short(node)}` {what}")
        else:
            self._reading.alone.append(place)

    def _passage(self, comment: Comment) -> Passage:
        try:
            quotations = comment.quotations()
        except SyntaxError:
            self._problem(comment.first, "what is quoted is not Python: words follow a colon")
            return Passage(comment, ())
        if not quotations:
            self._problem(comment.first, "the comment quotes nothing: `# forward: <a forward line>: <words>`")
        places: list[Place] = []
        for quotation in quotations:
            here = self._quoted(quotation, comment)
            below = [place for place in here if places and _is_below(place, places[-1])]
            places += here if len(here) < 2 else below[:1] or here
        return Passage(comment, tuple(dict.fromkeys(places)))

    def _quoted(self, quotation: ast.stmt, comment: Comment) -> list[Place]:
        """The forward statements that have what is quoted.

        If there are none, that is a problem, which names other functions that have it.
        """
        places = _places(quotation, self._forward, comment if not self._is_backward else None)
        if not places:
            others = {place.function for place in _places(quotation, list(self._found.values()), None)}
            there = f"; it is in {', '.join(sorted(others))}" if others else ""
            names = ", ".join(source.function for source in self._forward)
            self._problem(
                comment.first, f"`{_short(quotation)}` is in no statement of {names}{there}: quote it as it is there"
            )
        return places

    def _problem(self, line: int, text: str) -> None:
        self._reading.problems.append(_located(self._source, line, text))


def _places(quotation: ast.stmt, functions: list[Source], before: Comment | None) -> list[Place]:
    """Where the functions have what is quoted; before: only above this comment."""
    return [
        Place(source.function, *lines_of(node))
        for source in functions
        for node in leaves(source.tree.body)
        if (before is None or node.lineno < before.first) and quotes(quotation, node)
    ]


def _forward_functions(operation: Operation, pair: Pair, found: dict[str, Source]) -> list[Source]:
    """The forward function of a pair, and those without a backward that it calls."""
    functions = [found[pair.forward]]
    waiting = [each.forward for each in operation.pairs if each.backward is None and each != pair]
    while called := [name for name in waiting if name.rpartition(".")[2] in set().union(*map(_calls, functions))]:
        functions += [found[name] for name in called]
        waiting = [name for name in waiting if name not in called]
    return functions


def _calls(source: Source) -> set[str]:
    """The names of the functions and methods that a function calls."""
    calls = [node.func for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    return {getattr(function, "id", None) or getattr(function, "attr", None) for function in calls}


def _names(source: Source) -> set[str]:
    """All names of a function: its arguments, and those that it assigns."""
    nodes = list(ast.walk(source.tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in nodes if isinstance(node, ast.arg)}


def _is_below(place: Place, other: Place) -> bool:
    return place.function == other.function and place.first > other.first


def _short(node: ast.AST) -> str:
    """The first line of a statement as Python writes it."""
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) <= 60 else f"{text[:57]}..."


def _located(source: Source, line: int, text: str) -> str:
    return f"{shown(source.path)}:{line}: {text} ({RULE})"

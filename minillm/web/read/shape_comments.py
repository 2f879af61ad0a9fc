"""The shapes that the docstrings and comments of a file claim, each with what it is the shape of.

In a docstring, shapes behind names, of arguments before an arrow and of results behind it:

    x (..., I), weight (I, O) or, if transposed, (O, I), bias (O,) or None  ->  y (..., O), saved
    q and k (B, H, T, D)  ->  p and dp (B, H, T, T)
    (B, T, H D) -> (B, H, T, D)             without names: of the first argument, and of the result
    window: an array (T,) of ...            of the argument before the colon
    (T, D/2) for each head                  a sentence that begins with it: of the result
    c_fc: C -> F                            of the weight of a linear layer, inputs and outputs

A class's docstring is about its `forward`. Beside code:

    y = x + b  # (B, T, C) or (T, C)        of y
    y = p @ v  # (B, T, T) @ (B, T, C)      of the operands of a product that the line computes
    y = p @ v  # (B, T, T) @ (B, T, C) or (T, T) @ (T, C)
    y = f(x)   # (T, B) -> (B, T)           of something that the line reads, and of y
    y = f(x)   # (B, T) + (T,)              of two arrays that the line reads
    x: Any     # (B, T, C), y likewise      of a field of a NamedTuple
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from minillm.web.read.shape_text import Shape, half_understood, shapes_in

SENTENCE = re.compile(r"(?<=[.;])\s+|\n\s*\n")
ARROW = re.compile(r"\s->\s")
ALTERNATIVE = re.compile(r",?\s+or\b[^()]*$")
FORMULA = re.compile(r"^.*\S {4,}\S.*$", re.MULTILINE)  # a line of a derivation, with its letters
WIDTHS = re.compile(r"(\w+)(?: and (\w+))?: ([\w ]+?) -> ([\w ]+?)(?=[;.,\n]|$)")
TUPLE = re.compile(r"\((\w+(?:,\s+\w+)+)\)")


@dataclass(frozen=True)
class Claim:
    """Shapes that a comment claims, one of which has to be right.

    kind      of        names
    argument  function  the argument, "" for the first array and "*" for all
    attribute __init__  what it assigns to self
    result    function  its name; position: which of the results, -1 for every array of them
    value     line      position: which target of the statement, -1 for every one
    operand   line      something that the statement reads
    product   line      shapes in pairs: left and right operand
    field     class     the field
    """

    kind: str
    where: str
    line: int
    text: str
    shapes: tuple[Shape, ...]
    name: str = ""
    position: int = -1
    statement: int = 0


@dataclass(frozen=True)
class Unclear:
    """A shape that belongs to nothing that can be observed, by its form alone."""

    line: int
    text: str
    reason: str


class Comments:
    """All claims of a source. unclear: what looks like a shape and is no claim."""

    def __init__(self, source: str):
        self.claims: list[Claim] = []
        self.unclear: list[Unclear] = []
        self._lines = source.splitlines()
        self._tree = ast.parse(source)
        self._comments = dict(_comments(source))
        for node in self._tree.body:
            self._visit(node, ())
        self.claims.sort(key=lambda claim: claim.line)

    def _visit(self, node: ast.AST, within: tuple[str, ...]) -> None:
        if isinstance(node, ast.ClassDef):
            names = (*within, node.name)
            self._docstring(node, ".".join((*names, "forward")), _forward_of(node), is_class=True)
            if any(getattr(base, "id", "") == "NamedTuple" for base in node.bases):
                self._fields(node)
            for part in node.body:
                self._visit(part, names)
        elif isinstance(node, ast.FunctionDef):
            names = (*within, node.name)
            self._docstring(node, ".".join(names), node)
            self._beside_code(node, ".".join(names))
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef) and part is not node:
                    self._docstring(part, ".".join((*names, part.name)), part)

    # ------------------------------------------------------------------------------------------------------ docstrings

    def _docstring(self, node, where: str, function: ast.FunctionDef | None, is_class: bool = False) -> None:
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(node)):
            return
        text = "\n".join(self._lines[first.lineno - 1 : first.end_lineno]).replace('"""', "   ")
        arguments = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)] if function else []
        arguments = [name for name in arguments if name != "self"]
        locals_, attributes = set(), set()
        if is_class:
            attributes = {
                n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
            }
        elif function is not None:
            locals_ = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
        start = 0
        for end in [*(found.start() for found in SENTENCE.finditer(text)), len(text)]:
            sentence = _Sentence(text[start:end], arguments, locals_, attributes)
            line = first.lineno + text[:start].count("\n")
            for kind, name, position, shapes in sentence.claims():
                at = line + text[start : start + shapes[0].start].count("\n")
                quoted = " or ".join([f"{name} {shapes[0]}".strip(), *map(str, shapes[1:])])
                made = f"{node.name}.__init__" if kind == "attribute" else where
                self.claims.append(Claim(kind, made, at, quoted, tuple(shapes), name, position))
            for shape in sentence.unclaimed:
                at = line + text[start : start + shape.start].count("\n")
                self.unclear.append(Unclear(at, str(shape), f"{where}: the text does not say whose shape it is"))
            for group in half_understood(text[start:end], arguments):
                self.unclear.append(Unclear(line, group, f"{where}: not written as a shape"))
            self._widths(text[start:end], arguments, where, line)
            start = end

    def _widths(self, sentence: str, arguments: list[str], where: str, line: int) -> None:
        """Of layers: "c_attn: C -> 3C" is a weight of C inputs and 3C outputs."""
        for found in WIDTHS.finditer(sentence):
            shapes = shapes_in(f"({found[3]}, {found[4]})")
            at = line + sentence[: found.start()].count("\n")
            for name in found.group(1, 2) if shapes else ():
                if name in arguments:
                    quoted = f"{name}: {found[3]} -> {found[4]}"
                    self.claims.append(Claim("argument", where, at, quoted, tuple(shapes), name))

    # ---------------------------------------------------------------------------------------------------- beside code

    def _beside_code(self, function: ast.FunctionDef, where: str) -> None:
        statements = _statements(function)
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        for number in range(function.lineno, function.end_lineno + 1):
            text, is_alone = self._comments.get(number, ("", False))
            if not text or text.startswith("forward:") or (is_alone and number - 1 in self._comments_alone):
                continue
            last = number
            if is_alone:
                while last + 1 in self._comments_alone:
                    last += 1
                text = " ".join(self._comments[line][0] for line in range(number, last + 1))
                last += 1
            statement = statements.get(last)
            shapes = shapes_in(text, names)
            if statement is None:
                self.unclear += [Unclear(number, str(shape), f"{where}: beside no statement") for shape in shapes]
                continue
            for kind, position, claimed in _claims_beside(text, shapes):
                step = 2 if kind == "product" else 1
                quoted = " or ".join(" @ ".join(map(str, claimed[i : i + step])) for i in range(0, len(claimed), step))
                self.claims.append(
                    Claim(kind, where, number, quoted, tuple(claimed), position=position, statement=statement)
                )
            for group in half_understood(text, names):
                self.unclear.append(Unclear(number, group, f"{where}: not written as a shape"))

    @property
    def _comments_alone(self) -> set[int]:
        return {line for line, (_, is_alone) in self._comments.items() if is_alone}

    # ---------------------------------------------------------------------------------------------------------- fields

    def _fields(self, node: ast.ClassDef) -> None:
        for part in node.body:
            text, _ = self._comments.get(part.lineno, ("", False))
            if isinstance(part, ast.AnnAssign) and (shapes := shapes_in(text)):
                names = [part.target.id, *re.findall(r"(\w+) likewise", text)]
                for name in names:
                    quoted = f"{name} {' or '.join(map(str, shapes))}"
                    self.claims.append(Claim("field", node.name, part.lineno, quoted, tuple(shapes), name))


class _Sentence:
    """A sentence of a docstring."""

    def __init__(self, text: str, arguments: list[str], locals_: set[str], attributes: set[str]):
        text = FORMULA.sub(lambda found: " " * len(found[0]), text)
        self._text, self._arguments, self._locals = TUPLE.sub(_opened, text), arguments, locals_
        self._attributes = attributes
        self.unclaimed: list[Shape] = []

    def claims(self) -> Iterator[tuple[str, str, int, list[Shape]]]:
        """(kind, name, position, shapes) for each name that it gives a shape to."""
        shapes = shapes_in(self._text, self._arguments)
        if not shapes:
            return
        arrow = ARROW.search(self._text)
        border = arrow.start() if arrow else len(self._text)
        left = self._grouped([shape for shape in shapes if shape.start < border], 0)
        right = self._grouped([shape for shape in shapes if shape.start >= border], border)
        for before, found in left:
            yield from self._of_argument(before, found, bool(arrow))
        if right:
            yield from self._of_results(arrow.end(), right)

    def _grouped(self, shapes: list[Shape], start: int) -> list[tuple[str, list[Shape]]]:
        """(the text before, alternatives) of each claim."""
        found: list[tuple[str, list[Shape]]] = []
        for shape in shapes:
            before = self._text[start : shape.start]
            if found and ALTERNATIVE.match(before) and _last_word(before) not in self._arguments:
                found[-1][1].append(shape)
            else:
                found.append((before, [shape]))
            start = shape.end
        return found

    def _of_argument(self, before: str, shapes: list[Shape], has_arrow: bool):
        names = _names_before(before)
        if names and names[-1] in self._attributes:
            yield from (("attribute", name, -1, shapes) for name in names)
            return
        names = [name for name in names if name in self._arguments or name in self._locals]
        subject = re.match(r"\W*(\w+)(?: and (\w+))?:\s", before)
        if _last_word(before) == "both":
            names = [name for name in self._arguments if re.search(rf"\b{name}\b", before)]
            yield from (("argument", name, -1, shapes) for name in names)
        elif names and names[-1] == _last_word(before):
            is_result = not has_arrow and before.split()[0] == names[0] and not set(names) & set(self._arguments)
            for position, name in enumerate(names):
                yield ("result", name, position, shapes) if is_result else ("argument", name, -1, shapes)
        elif subject and subject[1] in self._arguments:
            yield from (("argument", name, -1, shapes) for name in subject.groups() if name in self._arguments)
        elif has_arrow:
            yield "argument", "*" if before.rstrip().endswith("arrays") else "", -1, shapes
        elif not before.strip(" \n:") or before.rstrip().endswith(("array", "arrays")):
            yield "result", "", -1, shapes
        else:
            self.unclaimed += shapes

    def _of_results(self, start: int, right: list[tuple[str, list[Shape]]]):
        """Results are counted: a word alone, or words with a shape."""
        position, waiting = 0, []
        for before, shapes in right:
            if before.rstrip().endswith("arrays"):
                yield "result", "", -1, shapes
                continue
            parts = re.split(r",|\band\b|;", before)
            joined = re.search(r"(\w+) and \w+'?\s*$", before)
            for part in parts[:-1]:
                if bare := re.fullmatch(r"(\w+)'?(?:\s*\([^()]*\))?", part.strip(" \n->")):
                    waiting.append((bare[1], position))
                    position += 1
            name = _last_word(parts[-1])
            if name == "both":
                covered, waiting = waiting, []
            else:
                covered = [waiting.pop()] if joined and waiting else []
                covered.append((name if re.fullmatch(r"\W*\w+'?\s*", parts[-1]) else "", position))
                position += 1
            for word, at in covered:
                yield "result", word, at, shapes


# ------------------------------------------------------------------------------------------------------------- helpers


def _claims_beside(text: str, shapes: list[Shape]) -> Iterator[tuple[str, int, list[Shape]]]:
    """(kind, position, shapes) of each claim of a comment beside a statement."""
    values: list[list[Shape]] = []
    found: list[tuple[str, int, list[Shape]]] = []
    previous, end = "", 0
    while shapes:
        shape, *shapes = shapes
        between = text[end : shape.start]
        after = text[shape.end : shapes[0].start].strip() if shapes else ""
        end, last, previous = shape.end, previous, after
        if after == "@":
            if found and found[-1][0] == "product" and re.search(r"\bor\b", between):
                found[-1][2].extend((shape, shapes[0]))
            else:
                found.append(("product", -1, [shape, shapes[0]]))
            end, shapes, previous = shapes[0].end, shapes[1:], ""
        elif "+" in (after, last):
            found.append(("operand", -1, [shape]))
        elif after == "->":
            found.append(("operand", -1, [shape]))
        elif values and ALTERNATIVE.match(between):
            values[-1].append(shape)
        else:
            values += [[shape]] * (2 if between.rstrip().endswith("twice") else 1)
    yield from found
    for position, alternatives in enumerate(values):
        yield "value", -1 if len(values) == 1 else position, alternatives


def _names_before(text: str) -> list[str]:
    """The names in a row at the end of a text: q and y of "attention of q, y"."""
    found = re.search(r"(\w\s+)?((?:\w+'?(?:,\s+|\s+and\s+))*\w+'?)\s*$", text)
    if found is None:
        return []
    names = [name.rstrip("'") for name in re.split(r",\s+|\s+and\s+", found[2])]
    return names[1:] if found[1] and names[1:] else names  # "of one row, x": row belongs to what is before it


def _last_word(text: str) -> str:
    found = re.search(r"(\w+)'?\s*$", text)
    return found[1] if found else ""


def _opened(found: re.Match) -> str:
    """A tuple of names without its parentheses, as long as before."""
    return f" {found[1]} " if shapes_in(found[0]) == [] else found[0]


def _forward_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
    return methods.get("forward") or methods.get("__call__")


def _comments(source: str) -> Iterator[tuple[int, tuple[str, bool]]]:
    """(line, (text, whether it is alone in its line))."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], (token.string.lstrip("# "), token.line.lstrip().startswith("#"))


def _statements(function: ast.FunctionDef) -> dict[int, int]:
    """Line -> the first line of the innermost statement there."""
    found: dict[int, int] = {}
    for node in ast.walk(function):  # outer statements come first
        if isinstance(node, ast.stmt) and node is not function:
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            found.update(dict.fromkeys(range(node.lineno, last + 1), node.lineno))
    return found

"""The shapes that a file's comments tell, and a number for each of their letters.

    # x: (N, D)                                          a comment
    - x: Input data, of shape (N, d_1, ..., d_k)         a docstring, in many styles
    y = x @ w  # (B, T, C) @ (C, 4C) -> (B, T, 4C)       the operands of a product
    x: Float[Array, "N D"]                               an annotation
    N, D = x.shape                                       taken apart in the code

A letter has one number in a whole file. The numbers are small, since every number of a tensor is
tried, and different: a wrong transpose or axis then gives another shape.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from minillm.checks.own_code.source import Code, base_name

Shape = tuple[str, ...]

_DIM = r"(?:[A-Za-z_][\w']*|\d+|\.\.\.)(?:\s*[-+*/]{1,2}\s*(?:[A-Za-z_]\w*|\d+))*|\d+\s*\*?\s*[A-Za-z_]\w*"
_GROUP = re.compile(rf"[(\[]\s*((?:{_DIM})?(?:\s*,\s*(?:{_DIM}))*(?:\s+(?:{_DIM}))*\s*,?)\s*[)\]]")
_ITEM = re.compile(
    r"^\s*(?:[-*+]\s+|:param\s+|:arg\s+|#)?\s*`{0,2}[A-Za-z_][\w., ]*`{0,2}\s*(?:\(.*\))?\s*(?::|--|=|\(|\[)"
)
_NO_SIZES = {"optional", "default", "array", "float", "int", "bool", "str", "self", "None", "True", "False", "i", "j"}

# The preferred numbers of letters: what is halved or split into heads is even.
PREFERRED = {
    **dict.fromkeys(("B", "batch", "batch_size", "bs"), 2),
    **dict.fromkeys(("N", "T", "S", "seq_len", "seq"), 3),
    **dict.fromkeys(("C", "D", "E", "d_model", "embed_dim", "n_embd", "H", "in_features"), 4),
    **dict.fromkeys(("M", "F", "O", "out_features"), 5),
    **dict.fromkeys(("W", "hidden", "hidden_size", "hidden_dim", "d_ff"), 6),
    **dict.fromkeys(("V", "vocab_size", "vocab", "n_classes", "num_classes"), 7),
    **dict.fromkeys(
        ("HH", "WW", "KH", "KW", "kh", "kw", "k", "kernel_size", "filter_size", "pool", "pool_size", "FH", "FW"), 2
    ),
    **dict.fromkeys(("nh", "n_head", "n_heads", "num_heads", "heads", "groups", "n_groups", "num_groups", "G"), 2),
}
_SHARED = {"HH", "WW", "KH", "KW", "kh", "kw", "nh", "n_head", "n_heads", "num_heads", "heads", "G"}
LARGEST_LITERAL = 10  # a larger number in a shape, such as 784, is a letter like the others


class Told(NamedTuple):
    """What a text says of an argument: its shape, and whether it holds integers."""

    shape: Shape
    is_integer: bool = False


class Sizes:
    """The numbers of the letters of one file: different ones where letters meet."""

    def __init__(self):
        self.numbers: dict[str, int] = {}
        self.products: dict[str, tuple[str, ...]] = {}
        self._before: dict[str, int] = {}

    def begin(self) -> None:
        """Another function or class begins: its letters keep the numbers that they had, unless two
        of them that meet here have the same.
        """
        self._before |= self.numbers
        self.numbers, self.products = {}, {}

    def of(self, name: str) -> int:
        """The number of a letter, another one for each."""
        if name in self.products:
            return int(np.prod([self.of(factor) for factor in self.products[name]]))
        if name not in self.numbers:
            wanted, taken = self._before.get(name, PREFERRED.get(name)), set(self.numbers.values())
            if wanted and (wanted not in taken or name in _SHARED):
                self.numbers[name] = wanted
            else:
                step = 2 if wanted and wanted % 2 == 0 else 1
                choices = range(wanted or 3, 99, step)
                self.numbers[name] = next(number for number in choices if number not in taken)
        return self.numbers[name]

    def shape(self, shape: Shape) -> tuple[int, ...]:
        """The numbers of a shape; "..." is two axes, or those between d_1 and d_k."""
        found: list[int] = []
        if len([dim for dim in shape if dim.isidentifier()]) >= 4:  # images: every number is tried
            for name, number in zip(shape, (2, 3, 4, 6)):
                if name not in self.numbers and name not in _SHARED and number not in self.numbers.values():
                    self.numbers[name] = number
        for index, dim in enumerate(shape):
            if dim == "...":
                if index == 0 or not re.search(r"\d$", shape[index - 1]):
                    found += [2, 3] if index == 0 else []
                continue
            found.append(self.number(dim))
        return tuple(found)

    def number(self, dim: str) -> int:
        """The number of one axis: "4C", "H * D", "C // 2", "D + 1", "7"."""
        dim = (
            re.sub(r"(?<![\w.])(\d+)\s*(?=[A-Za-z_])", r"\1*", dim.replace("'", "_"))
            .replace("//", "/")
            .replace("/", "//")
        )
        return self._value(ast.parse(dim, mode="eval").body)

    def _value(self, node: ast.expr) -> int:
        if isinstance(node, ast.Constant):
            return node.value if node.value <= LARGEST_LITERAL else self.of(str(node.value))
        if isinstance(node, ast.Name):
            return self.of(node.id)
        left, right = (
            self._value(node.left),
            node.right.value if isinstance(node.right, ast.Constant) else self._value(node.right),
        )
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        return left * right if isinstance(node.op, ast.Mult) else max(1, left // right)

    def read_products(self, text: str) -> None:
        """D = d_1 * ... * d_k, as it is written in a docstring, holds in one function."""
        self.products = {}
        for name, first, last in re.findall(r"\b([A-Za-z_]\w*)\s*=\s*(\w+_?\d)\s*\*\s*\.\.\.\s*\*\s*(\w+)", text):
            self.products[name] = (first, last)


def told(codes: Iterable[Code], names: Iterable[str], header: str = "") -> dict[str, Told]:
    """What the texts of functions tell of these names, the first one before the others.

    header: further text, as of a class. A gradient has the shape of what it is the gradient of.
    """
    codes, found = list(codes), {}
    names = list(dict.fromkeys(names))
    for code in codes:
        for argument in code.arguments:
            if argument.name in names and (shape := _of_annotation(argument.note)):
                found.setdefault(argument.name, Told(shape, "Int" in argument.note))
    for text in (*_texts(codes), *_items(header)):
        for name, shape in _in_text(text, names):
            found.setdefault(name, Told(shape, _says_integers(text)))
    for code in codes:
        for name, shape in (*_of_products(code), *_of_signature(code), *_taken_apart(code)):
            if name in names:
                found.setdefault(name, Told(shape))
    return found


def says_integers(codes: Iterable[Code], name: str) -> bool:
    """Whether the texts call an argument labels, indices or integers."""
    return any(
        re.search(rf"\b{re.escape(name)}\b\s*(?::|--|=|\(|\[)", text.split("\n")[0]) and _says_integers(text)
        for text in _texts(list(codes))
    )


def is_one_hot(codes: list[Code], name: str) -> bool:
    """Whether an argument is one-hot: by its own name, or by the texts."""
    one_hot = re.compile(r"one.?hot", re.I)
    return bool(one_hot.search(name)) or any(
        re.search(rf"\b{re.escape(name)}\b\s*(?::|--|=|\(|\[)", text) and one_hot.search(text) for text in _texts(codes)
    )


def _texts(codes: list[Code]) -> Iterator[str]:
    for code in codes:
        yield from _items(code.docstring)
        yield from code.comments_above
        for line, comment in code.comments.items():
            before = code.text.splitlines()[line - 1].split("#")[0].strip()
            if not before or not re.match(
                r"[\w.\[\], ]+ *[-+*/@]?= ", before
            ):  # beside an assignment: of what it makes
                yield comment


def _items(text: str) -> Iterator[str]:
    """The parts of a docstring: a line that begins as an item does, with the lines that go on."""
    item = ""
    for line in text.splitlines():
        if not line.strip() or _ITEM.match(line):
            if item:
                yield item
            item = line
        else:
            item = f"{item} {line.strip()}" if item else line
    if item:
        yield item


def _in_text(text: str, names: list[str]) -> Iterator[tuple[str, Shape]]:
    """(name, shape) for each shape in a text that follows a name."""
    end = 0
    for match in _GROUP.finditer(text):
        segment, shape = text[end : match.start()], _dims(match.group(1))
        if not shape or (len(shape) == 1 and not _is_a_shape(match.group(0), segment)):
            continue
        if end and re.fullmatch(r"\s*(?:[@+*x×.-]|->|→)\s*", segment):
            end = match.end()
            continue  # the operand of a formula
        end = match.end()
        for name in _named(segment, names):
            yield name, shape


def _named(segment: str, names: list[str]) -> list[str]:
    """The names that the text before a shape is about."""
    words = r"(?:[A-Za-z_]\w*)"
    joint = r"(?:\s*,\s*|\s+and\s+|\s*/\s*)"
    behind = r"`{0,2}\s*(?::|--|=|\(|\[|has\b|shape|of shape|with shape|is\b|\s*$|,)"
    for match in re.finditer(rf"(?<!if )(?<!If )\b({words}(?:{joint}{words})*){behind}", segment):
        listed = re.split(joint, match.group(1))
        wanted = [name for each in listed for name in names if name == each or base_name(each) == name]
        if wanted and (listed[0] in names or base_name(listed[0]) in names or len(listed) == 1):
            return wanted
        if wanted and listed[-1] in names:
            return [listed[-1]]
    return []


def _dims(text: str) -> Shape:
    dims = [dim.strip() for dim in re.split(r"\s*,\s*", text.strip().strip(",")) if dim.strip()]
    dims = [part for dim in dims for part in (["...", dim[3:].strip()] if dim.startswith("... ") else [dim])]
    if any(dim in _NO_SIZES or not re.fullmatch(_DIM, dim) for dim in dims):
        return ()
    return tuple(dims)


def _is_a_shape(group: str, segment: str) -> bool:
    """(D,) is one; (D) only behind the word shape, or where nothing but a name is before it."""
    inside = group[1:-1].strip()
    return "," in inside or bool(re.search(r"shape\W*$|^\W*\w+\W*$", segment)) and inside.replace(" ", "").isalnum()


def _says_integers(text: str) -> bool:
    return bool(
        re.search(
            r"\b(labels?|indices|indexes|int(?:eger)?s?|int64|int32|token ids?|tokens|ids|class(?:es)? ind\w+)\b",
            text,
            re.I,
        )
    )


def _of_annotation(note: str) -> Shape:
    strings = re.findall(r"""['"]([^'"]+)['"]""", note) or (
        [note] if re.fullmatch(r"[(\[A-Z0-9][\w ,()\[\]]*", note) else []
    )
    if not strings or re.fullmatch(r"[a-z][\w.]*|[A-Z][a-z]\w*(\[.*)?", strings[-1]):
        return ()
    dims = tuple(strings[-1].strip("()[] ").replace(",", " ").split())
    return dims if dims and all(re.fullmatch(_DIM, dim) for dim in dims) else ()


def _of_products(code: Code) -> Iterator[tuple[str, Shape]]:
    """The operands of x @ w, np.dot(x, w) and x.dot(w), with the shapes in the line's comment."""
    for line, comment in code.comments.items():
        shapes = [_dims(group.group(1)) for group in _GROUP.finditer(re.split(r"->|→|=", comment)[0])]
        if len(shapes) != 2 or not re.search(r"[)\]]\s*[@x×.*]\s*[(\[]", comment):
            continue
        for node in code.own_nodes:
            if getattr(node, "lineno", 0) == line and (operands := _operands(node)):
                yield from ((name, shape) for name, shape in zip(operands, shapes) if name and shape)
                break


def _operands(node: ast.AST) -> list[str | None]:
    pair = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        pair = [node.left, node.right]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.dot", "np.matmul", "numpy.dot", "numpy.matmul"):
        pair = node.args[:2]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "dot":
        pair = [node.func.value, *node.args[:1]]
    return [p.id if isinstance(p, ast.Name) else p.attr if isinstance(p, ast.Attribute) else None for p in pair]


def _of_signature(code: Code) -> Iterator[tuple[str, Shape]]:
    """A shape beside an argument that has a line of its own: "x,  # (N, D)"."""
    arguments = {a.arg: a.lineno for a in (*code.tree.args.args, *code.tree.args.kwonlyargs)}
    for name, line in arguments.items():
        if list(arguments.values()).count(line) == 1 and line in code.comments:
            if (match := _GROUP.search(code.comments[line])) and (shape := _dims(match.group(1))):
                yield name, shape


def _taken_apart(code: Code) -> Iterator[tuple[str, Shape]]:
    """N, D = x.shape; also self.x.shape: the constructor's argument has the same name."""
    for node in code.own_nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            target = node.targets[0]
            if isinstance(target, ast.Tuple) and (name := _own_name(node.value.value)):
                if all(isinstance(each, ast.Name) for each in target.elts):
                    names = [each.id for each in target.elts]
                    yield name, tuple(n if n != "_" else f"_{i}" for i, n in enumerate(names))


def _own_name(node: ast.expr) -> str:
    """x of x and of self.x."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""

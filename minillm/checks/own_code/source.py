"""What the text of a function tells, without running it."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from functools import cached_property, lru_cache
from typing import NamedTuple

# What the name of a backward adds to that of its forward, which may end as one of FORWARDS.
ENDS = (
    "_backward", "_bwd", "_backprop", "_backward_pass", "_grad", "_gradient", "_gradients", "_derivative", "_deriv", "_prime",
    "_vjp", "_back", "_der", "_d", "Backward", "Grad", "Derivative", "Prime",
)  # fmt: skip
STARTS = ("backward_", "bwd_", "grad_", "gradient_", "d_", "derivative_", "back_", "d")
FORWARDS = ("", "_forward", "_fwd", "_forward_pass", "_fw", "_function", "Forward", "_loss", "_activation")
FORWARD_STARTS = ("", "forward_", "fwd_")
REQUIRED = inspect.Parameter.empty


class Argument(NamedTuple):
    """An argument of a function. default: REQUIRED if there is none. note: its annotation."""

    name: str
    default: object = REQUIRED
    note: str = ""


class Code:
    """The text of one function. `found` is False where there is none, as for a built-in one."""

    def __init__(self, function):
        self.function = inspect.unwrap(function)
        self.name = getattr(function, "__name__", type(function).__name__)
        try:
            lines, self.line = inspect.getsourcelines(self.function)
            self.text = textwrap.dedent("".join(lines))
            tree = ast.parse(self.text).body[0]
        except (OSError, TypeError, SyntaxError, IndexError):
            self.text, self.line, tree = "", 0, None
        is_function = isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef))
        self.tree = tree if is_function else ast.parse("def f(): pass").body[0]
        self.found = is_function

    @cached_property
    def arguments(self) -> list[Argument]:
        """Its arguments without self."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):
            return []
        if parameters and parameters[0].name in ("self", "cls"):
            parameters = parameters[1:]
        return [
            Argument(p.name, p.default, _note(p.annotation))
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]

    @property
    def names(self) -> list[str]:
        return [argument.name for argument in self.arguments]

    @cached_property
    def returned(self) -> list[str | None]:
        """The names in its last `return`: None for what is an expression; "cache" for a tuple, list
        or dict in the place of one. Empty if it returns nothing.
        """
        found = [node.value for node in self.own_nodes if isinstance(node, ast.Return) and node.value is not None]
        found = [value for value in found if not (isinstance(value, ast.Constant) and value.value is None)]
        if not found:
            return []
        value = found[-1]
        if isinstance(value, ast.Name) and (tuples := self._assigned_tuple(value.id)):
            value = tuples
        return [_name_of(each) for each in value.elts] if isinstance(value, ast.Tuple) else [_name_of(value)]

    @cached_property
    def own_nodes(self) -> list[ast.AST]:
        """Its nodes, without those of functions inside of it, in the order of the text."""
        found, waiting = [], list(self.tree.body)
        while waiting:
            node = waiting.pop(0)
            found.append(node)
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
                waiting[:0] = list(ast.iter_child_nodes(node))
        return found

    @cached_property
    def comments(self) -> dict[int, str]:
        """Line of `text`, from 1 -> its comment, without the mark."""
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        except (tokenize.TokenError, IndentationError):
            return {}
        return {t.start[0]: t.string.lstrip("#: ").rstrip() for t in tokens if t.type == tokenize.COMMENT}

    @property
    def comments_above(self) -> list[str]:
        """The comments directly above the function."""
        text = inspect.getcomments(self.function) if self.found else None
        return [line.lstrip("#: ").rstrip() for line in (text or "").splitlines()]

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    def indexes(self, name: str) -> list[tuple[ast.expr, int]]:
        """(what is indexed, along which axis) wherever an argument is used as an index: W[x],
        p[np.arange(N), y], np.add.at(dW, x, dout).
        """
        found = []
        for node in self.own_nodes:
            if isinstance(node, ast.Subscript):
                parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                found += [(node.value, axis) for axis, part in enumerate(parts) if _mentions(part, name)]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add.at") and len(node.args) == 3:
                parts = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
                found += [(node.args[0], axis) for axis, part in enumerate(parts) if _mentions(part, name)]
        return found

    def keys_of(self, name: str) -> dict[str, object]:
        """The keys with which a dict `name` is read -> the default of `get`, REQUIRED if it is read
        without one.
        """
        found: dict[str, object] = {}
        for node in self.own_nodes:
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == name and isinstance(node.ctx, ast.Load):
                if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                    found[node.slice.value] = REQUIRED
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
                f"{name}.get",
                f"{name}.setdefault",
                f"{name}.pop",
            ):
                if node.args and isinstance(node.args[0], ast.Constant):
                    default = node.args[1] if len(node.args) > 1 else ast.Constant(None)
                    found.setdefault(node.args[0].value, ast.unparse(default))
        return found

    def compared_with(self, name: str) -> list[str]:
        """The strings that an argument is compared with: activation == "relu"."""
        found = []
        for node in self.own_nodes:
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == name:
                inside = [each for right in node.comparators for each in ast.walk(right)]
                found += [
                    each.value for each in inside if isinstance(each, ast.Constant) and isinstance(each.value, str)
                ]
        return found

    def writes_into(self, name: str) -> bool:
        """Whether it writes into the array of an argument: out[...] = y, out += y, out=out."""
        for node in self.own_nodes:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AugAssign)
                else []
            )
            for target in targets:
                base, inside = target, isinstance(node, ast.AugAssign)
                while isinstance(base, ast.Subscript):
                    base, inside = base.value, True
                if inside and isinstance(base, ast.Name) and base.id == name:
                    return True
            if isinstance(node, ast.keyword) and node.arg == "out" and _name_of(node.value) == name:
                return True
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).endswith("copyto")
                and _name_of(node.args[0]) == name
            ):
                return True
        return False

    def _assigned_tuple(self, name: str) -> ast.Tuple | None:
        for node in self.own_nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.targets) == 1:
                if _name_of(node.targets[0]) == name and not name.lower().endswith(("cache", "saved")):
                    return node.value
        return None


@lru_cache(maxsize=256)
def code_of(function) -> Code:
    """The Code of a function, read once."""
    return Code(function)


def base_name(gradient: str) -> str:
    """The name of what a gradient is of: "dx", "grad_x", "x_grad", "dL_dx", "d_x" -> "x"; "" for
    what is no gradient's name.

    >>> [base_name(name) for name in ("dscores", "d_out", "grad_W", "W_grad", "d_L_d_w", "dA_prev", "x")]
    ['scores', 'out', 'W', 'W', 'w', 'A_prev', '']
    """
    for start in ("d_L_d_", "dL_d", "dLd", "grad_", "gradient_", "delta_", "grads_", "d_"):
        if gradient.startswith(start) and len(gradient) > len(start):
            return gradient.removeprefix(start).lstrip("_")
    for end in ("_grad", "_gradient", "_gradients", "_grads", "_delta", "_error"):
        if gradient.endswith(end) and len(gradient) > len(end):
            return gradient.removesuffix(end)
    if gradient.startswith("d") and len(gradient) > 1 and gradient not in NO_GRADIENTS:
        return gradient[1:]
    return ""


NO_GRADIENTS = (
    "data",
    "dim",
    "dims",
    "dtype",
    "depth",
    "dropout",
    "dropout_param",
    "decay",
    "d_model",
    "dict",
    "device",
    "debug",
)


def same_name(one: str, other: str) -> bool:
    """Whether two names are one, but for capitals and underscores."""
    return one.replace("_", "").lower() == other.replace("_", "").lower()


def forward_of(backward: str, names) -> str | None:
    """The name of the forward to a backward's, among `names`.

    >>> forward_of("affine_backward", ["affine_forward", "affine"]), forward_of("dsigmoid", ["sigmoid"])
    ('affine_forward', 'sigmoid')
    """
    if backward in NO_GRADIENTS:
        return None
    bases = [backward.removesuffix(end) for end in ENDS if backward.endswith(end)]
    bases += [backward.removeprefix(start) for start in STARTS if backward.startswith(start)]
    bases += [re.sub(r"(_)?backward(_)?", r"\1forward\2", backward)] if "backward" in backward else []
    bases += [backward.replace("bwd", "fwd")] if "bwd" in backward else []
    bases += [backward.split("_backward")[0]] if "_backward_" in backward else []  # norm_backward_alt
    wanted = [
        f"{start}{base}{end}" for base in bases if base for end in (*FORWARDS[1:], "") for start in FORWARD_STARTS
    ]
    return next((name for name in wanted if name in names and name != backward), None)


def _mentions(node: ast.AST, name: str) -> bool:
    return any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(node))


def _name_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return "cache" if isinstance(node, (ast.Tuple, ast.List, ast.Dict)) else None


def _note(annotation) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else str(annotation)

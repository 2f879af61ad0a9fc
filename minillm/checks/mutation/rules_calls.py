"""The rules for calls: sums, transposes, matrix products, ufuncs with `out=`, einsum."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from minillm.checks.mutation.places import HOW_KEPT, Place, called

SUMS = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "amax": "amin", "amin": "amax", "prod": "sum"}
SUMS |= {"cumsum": "cumprod", "nansum": "nanmean"}
TRANSPOSES = ("transpose", "swapaxes", "moveaxis", "permute", "matrix_transpose")
PRODUCTS = ("matmul", "dot")
OTHER_FUNCTION = {
    "add": "subtract", "subtract": "add", "multiply": "divide", "divide": "multiply", "true_divide": "multiply",
    "maximum": "minimum", "minimum": "maximum", "fmax": "fmin", "fmin": "fmax", "argmax": "argmin", "argmin": "argmax",
    "sin": "cos", "cos": "sin", "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "sinh": "cosh",
    "cosh": "sinh", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like", "ones_like": "zeros_like",
    "less": "less_equal", "less_equal": "less", "greater": "greater_equal", "greater_equal": "greater",
    "logical_and": "logical_or", "logical_or": "logical_and", "triu": "tril", "tril": "triu",
}  # fmt: skip
TWO_OPERANDS = ("add", "subtract", "multiply", "divide", "true_divide", "maximum", "minimum", "power")
ONE_OPERAND = (
    "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sin", "cos", "square", "abs", "absolute", "sign",
    "negative", "reciprocal", "cumsum", "reversed", "sorted", "flip", "conj", "sigmoid", "repeat", "clip", "tril",
    "triu",
)  # fmt: skip
# They change the type of numbers, where they lie or in which order, and no number.
SAME_NUMBERS = (
    "upcast", "downcast", "astype", "contiguous", "ascontiguousarray", "asarray", "array", "copy", "float", "int",
    "quick_to_transpose", "empty", "empty_like", "array_module", "device_of", "dispatch", "kernel_for", "isinstance",
    "len", "getattr", "hasattr", "print",
)  # fmt: skip


def _operand(node: ast.Call) -> ast.expr | None:
    """What a call such as x.sum(axis=0), np.sum(x, axis=0) or exp(x) acts on."""
    function = node.func
    if isinstance(function, ast.Attribute) and not _is_library(function.value):
        return function.value
    return node.args[0] if node.args and not isinstance(node.args[0], ast.Starred) else None


def _is_library(node: ast.expr) -> bool:
    """Whether an expression is NumPy or the like: np, xp, array_module(x)."""
    if isinstance(node, ast.Call):
        return called(node) == "array_module"
    if isinstance(node, ast.Attribute):  # np.add of np.add.reduceat
        return _is_library(node.value)
    return isinstance(node, ast.Name) and node.id in ("np", "xp", "numpy", "cp", "cupy", "math", "jnp", "torch")


def _renamed(node: ast.Call, name: str, arguments: list | None = None) -> ast.Call:
    function = node.func
    renamed = ast.Attribute(function.value, name, ast.Load()) if isinstance(function, ast.Attribute) else None
    return ast.Call(renamed or ast.Name(name, ast.Load()), node.args if arguments is None else arguments, node.keywords)


def _sums(place, observed):
    node, name = place.node, called(place.node)
    if name not in SUMS or (operand := _operand(node)) is None:
        return
    yield "sum dropped", operand
    if isinstance(node.func, ast.Attribute):
        yield "mean for sum" if name == "sum" else f"{SUMS[name]} for {name}", _renamed(node, SUMS[name])


def _transposes(place, observed):
    node, name = place.node, called(place.node)
    if name in TRANSPOSES and (operand := _operand(node)) is not None:
        yield "transpose dropped", operand
    if name in PRODUCTS and len(node.args) >= 2:
        for index, operand in enumerate(node.args[:2]):
            if not _is_transposed(operand):
                turned = ast.Call(
                    ast.Attribute(operand, "swapaxes", ast.Load()), [ast.Constant(-1), ast.Constant(-2)], []
                )
                yield "transpose added", _with_argument(node, index, turned)


def transposed(node: ast.expr) -> ast.expr:
    """The transpose of an expression; of one that has a single axis it is an error."""
    return ast.Call(ast.Attribute(node, "swapaxes", ast.Load()), [ast.Constant(-1), ast.Constant(-2)], [])


def is_statement(place: Place) -> bool:
    """Whether the value of a call is not used."""
    return place.above is not None and isinstance(place.above.node, ast.Expr)


def _is_transposed(node: ast.expr) -> bool:
    named = node.attr if isinstance(node, ast.Attribute) else called(node) if isinstance(node, ast.Call) else ""
    return named in ("T", "mT", *TRANSPOSES)


def _functions(place, observed):
    """Another function in its place, or none; what `out` names is still written to."""
    node, name = place.node, called(place.node)
    is_ufunc = isinstance(node.func, ast.Attribute) and _is_library(node.func.value)
    if (other := OTHER_FUNCTION.get(name)) and is_ufunc:
        yield "another function", _renamed(node, other)
    if name in TWO_OPERANDS and is_ufunc and len(node.args) == 2:
        for kept in node.args:
            yield "operand dropped", _renamed(node, "positive", [kept])
        if name in ("subtract", "divide", "true_divide", "power"):
            yield "operands exchanged", _renamed(node, name, node.args[::-1])
    if name in ONE_OPERAND and (operand := _operand(node)) is not None:
        has_out = any(keyword.arg == "out" for keyword in node.keywords)
        yield "function dropped", _renamed(node, "positive", [operand]) if has_out and is_ufunc else operand
    if name == "where" and len(node.args) == 3:
        condition, inside, outside = node.args
        yield "mask dropped", inside
        yield "mask dropped", outside
        yield "mask negated", _renamed(node, name, [condition, outside, inside])


def _arguments(place, observed):
    """Keywords left out, neighbours exchanged."""
    node, name = place.node, called(place.node)
    if name in SAME_NUMBERS:
        return
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in HOW_KEPT:
            if keyword.arg == "out" and not is_statement(place):
                continue  # the result is the same, in memory of its own
            rest = [*node.keywords[:index], *node.keywords[index + 1 :]]
            rule = "keepdims dropped" if keyword.arg == "keepdims" else "argument dropped"
            yield rule, ast.Call(node.func, node.args, rest)
    if name in (*TWO_OPERANDS, "where", "einsum", "swapaxes", "zip", "max", "min"):
        return
    for index in range(len(node.args) - 1):
        first, second = node.args[index : index + 2]
        if (
            ast.dump(first) != ast.dump(second)
            and not isinstance(first, ast.Starred)
            and not isinstance(second, ast.Starred)
        ):
            changed = [*node.args[:index], second, first, *node.args[index + 2 :]]
            yield "arguments exchanged", ast.Call(node.func, changed, node.keywords)


def _axes(place, observed):
    """Another axis: the last for the first, the next one for any."""
    node = place.node
    for index, keyword in enumerate(node.keywords):
        if keyword.arg != "axis":
            continue
        for other in _other_axes(keyword.value):
            changed = [*node.keywords[:index], ast.keyword("axis", other), *node.keywords[index + 1 :]]
            yield "axis", ast.Call(node.func, node.args, changed)


def _other_axes(node: ast.expr) -> Iterator[ast.expr]:
    value = _number(node)
    if value is not None:
        for other in sorted({0, -1, -2, 1} - {value}):
            yield ast.parse(str(other), mode="eval").body
    elif isinstance(node, ast.Tuple):
        for index in range(len(node.elts)):
            yield ast.Tuple([*node.elts[:index], *node.elts[index + 1 :]], ast.Load())


def _number(node: ast.expr) -> int | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return -node.operand.value if isinstance(node.operand.value, int) else None
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _subscripts(place, observed):
    """Neighbouring letters of an operand, or of the result, exchanged in an einsum."""
    node = place.node
    if called(node) != "einsum" or not node.args or not isinstance(node.args[0], ast.Constant):
        return
    text = node.args[0].value
    for index in range(len(text) - 1):
        if text[index].isalpha() and text[index + 1].isalpha() and text[index] != text[index + 1]:
            changed = text[:index] + text[index + 1] + text[index] + text[index + 2 :]
            yield "subscripts", _with_argument(node, 0, ast.Constant(changed))


def _with_argument(node: ast.Call, index: int, argument: ast.expr) -> ast.Call:
    return ast.Call(node.func, [*node.args[:index], argument, *node.args[index + 1 :]], node.keywords)


CALL_RULES = (_sums, _transposes, _functions, _axes, _subscripts, _arguments)

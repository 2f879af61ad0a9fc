"""The rules: what may go wrong at a place of a backward function.

A rule is a function of a place and of what was observed there. It yields what to put in the place
of its node. The name of a rule says what is wrong then. Rules for expressions are here, those for
calls of functions in rules_calls.py, for statements in rules_statements.py.

Nothing is changed that decides the precision, the memory or the text of a message alone: dtypes,
copies, layouts, errors that are raised. In float64, where gradients are checked, they do nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from minillm.checks.mutation.observed import Observed, dotted
from minillm.checks.mutation.places import Place, called
from minillm.checks.mutation.rules_calls import CALL_RULES, is_statement, transposed
from minillm.checks.mutation.rules_statements import STATEMENT_RULES

OTHER_OPERATOR = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
OTHER_COMPARISON = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
TERMS, FACTORS = (ast.Add, ast.Sub), (ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.Mod, ast.MatMult)
MASKS = (ast.BitAnd, ast.BitOr, ast.BitXor)
TRANSPOSED = ("T", "mT")
OF_THE_SHAPE = ("shape", "ndim", "size", "nbytes")

Rule = Callable[[Place, Observed], Iterator[tuple[str, ast.AST]]]


def changes(place: Place, observed: Observed) -> Iterator[tuple[str, ast.AST]]:
    """(rule, what to put in the place) for everything that the rules know of a place."""
    node = place.node
    if isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
        return
    for rule in RULES.get(type(node), ()):
        yield from rule(place, observed)


# ------------------------------------------------------------------------------------------------- sums and products


def _terms_and_factors(place, observed):
    left, operator, right = place.node.left, place.node.op, place.node.right
    if isinstance(operator, TERMS):
        yield "term dropped", left
        yield "term dropped", right if isinstance(operator, ast.Add) else ast.UnaryOp(ast.USub(), right)
    if isinstance(operator, FACTORS):
        yield "factor dropped", left
        if isinstance(operator, ast.Div):
            yield "factor dropped", ast.BinOp(ast.Constant(1), operator, right)
        elif not isinstance(operator, ast.Pow):
            yield "factor dropped", right
    if isinstance(operator, MASKS):
        yield "mask dropped", left
        yield "mask dropped", right


def _operators(place, observed):
    left, operator, right = place.node.left, place.node.op, place.node.right
    if other := OTHER_OPERATOR.get(type(operator)):
        yield "operator", ast.BinOp(left, other(), right)
    if isinstance(operator, (ast.Sub, ast.Div, ast.MatMult, ast.Pow, ast.FloorDiv, ast.Mod)):
        yield "operands exchanged", ast.BinOp(right, operator, left)
    if isinstance(operator, ast.MatMult):
        for changed in _with_a_transpose([left, right]):
            yield "transpose added", ast.BinOp(changed[0], operator, changed[1])


def _with_a_transpose(operands: list) -> Iterator[list]:
    """The operands of a matrix product, each in turn as its transpose."""
    for index, operand in enumerate(operands):
        if not (isinstance(operand, ast.Attribute) and operand.attr in TRANSPOSED):
            yield [*operands[:index], transposed(operand), *operands[index + 1 :]]


def _signs(place, observed):
    operator, operand = place.node.op, place.node.operand
    above = place.above.node if place.above else None
    if isinstance(above, ast.Call) and called(above) == "reshape":
        return  # -1 for the rest
    if isinstance(operator, ast.USub) and isinstance(operand, ast.Constant):
        yield from _constant_changes(-operand.value)
        yield "sign", operand
    elif isinstance(operator, ast.USub):
        yield "sign", operand
    elif isinstance(operator, ast.Not):
        yield "condition negated", operand
    elif isinstance(operator, ast.Invert):
        yield "mask negated", operand


# -------------------------------------------------------------------------------------------- constants and comparisons


def _constants(place, observed):
    above = place.above.node if place.above else None
    if isinstance(above, ast.UnaryOp) and isinstance(above.op, ast.USub):
        return  # changed with its sign
    if isinstance(place.node.value, bool):
        yield "constant", ast.Constant(not place.node.value)
    elif isinstance(place.node.value, (int, float)):
        yield from _constant_changes(place.node.value)


def _constant_changes(value: int | float) -> Iterator[tuple[str, ast.AST]]:
    others = (value + 1, value - 1) if isinstance(value, int) else (2 * value, 0.0) if value else (1.0,)
    for other in others:
        yield "constant", ast.Constant(other) if other >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-other))


def _comparisons(place, observed):
    node = place.node
    for index, operator in enumerate(node.ops):
        for other in OTHER_COMPARISON[type(operator)]:
            operators = [*node.ops[:index], other(), *node.ops[index + 1 :]]
            yield "comparison", ast.Compare(node.left, operators, node.comparators)


def _conditions(place, observed):
    operator = place.node.op
    yield "condition", ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), place.node.values)
    for index in range(len(place.node.values)):
        rest = [*place.node.values[:index], *place.node.values[index + 1 :]]
        yield "condition dropped", rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)


def _choices(place, observed):
    yield "branch", place.node.body
    yield "branch", place.node.orelse


# ------------------------------------------------------------------------------------------------- names, parts, tuples


def _other_operands(place, observed):
    above = place.above.node if place.above else None
    if isinstance(above, ast.Call) and place.field == "func":
        return
    if isinstance(above, ast.Attribute) and above.attr in OF_THE_SHAPE:
        return
    if isinstance(above, ast.keyword) and above.arg == "out" and not is_statement(place.above.above):
        return
    name = dotted(place.node)
    if name is None or (isinstance(above, ast.Attribute) and dotted(above) in _names_at(observed, place.line)):
        return  # `saved` of `saved.x`
    for other in observed.alike(place.line, name):
        yield "another operand", ast.parse(other, mode="eval").body


def _names_at(observed: Observed, line: int) -> dict:
    return next(iter(observed.lines.get(line, ())), {})


def _attributes(place, observed):
    if place.node.attr in TRANSPOSED:
        yield "transpose dropped", place.node.value
    yield from _other_operands(place, observed)


def _parts(place, observed):
    node = place.node
    inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    kept = [each for each in inside if not (isinstance(each, ast.Constant) and each.value is None)]
    if len(kept) < len(inside):
        only_dots = all(isinstance(each, ast.Constant) and each.value is Ellipsis for each in kept)
        yield "new axis dropped", node.value if only_dots else _subscript(node, kept)
    elif not isinstance(node.slice, ast.Constant):
        yield "index dropped", node.value
    for index, each in enumerate(inside):
        for changed in _other_slices(each):
            yield "slice", _subscript(node, [*inside[:index], changed, *inside[index + 1 :]])


def _subscript(node: ast.Subscript, inside: list) -> ast.Subscript:
    within = inside[0] if len(inside) == 1 else ast.Tuple(inside, ast.Load())
    return ast.Subscript(node.value, within, node.ctx)


def _other_slices(node: ast.AST) -> Iterator[ast.Slice]:
    if not isinstance(node, ast.Slice):
        return
    lower, upper, step = node.lower, node.upper, node.step
    if lower is not None:
        yield ast.Slice(None, upper, step)
        if not isinstance(lower, (ast.Constant, ast.UnaryOp)):
            yield ast.Slice(ast.BinOp(lower, ast.Add(), ast.Constant(1)), upper, step)
    if upper is not None:
        yield ast.Slice(lower, None, step)
        if not isinstance(upper, (ast.Constant, ast.UnaryOp)):
            yield ast.Slice(lower, ast.BinOp(upper, ast.Sub(), ast.Constant(1)), step)
    if step is not None:
        yield ast.Slice(lower, upper, None)


def _exchanged(place, observed):
    elements = place.node.elts
    if isinstance(place.parent, ast.Subscript) and place.field == "slice":
        return
    for index in range(len(elements) - 1):
        if ast.dump(elements[index]) != ast.dump(elements[index + 1]):
            changed = [*elements[:index], elements[index + 1], elements[index], *elements[index + 2 :]]
            yield "exchanged", type(place.node)(changed, ast.Load())


def _loops_inside(place, observed):
    for index in range(len(place.node.ifs)):
        rest = [*place.node.ifs[:index], *place.node.ifs[index + 1 :]]
        yield "condition dropped", ast.comprehension(place.node.target, place.node.iter, rest, place.node.is_async)


RULES: dict[type, tuple[Rule, ...]] = {
    ast.BinOp: (_terms_and_factors, _operators),
    ast.UnaryOp: (_signs,),
    ast.Constant: (_constants,),
    ast.Compare: (_comparisons,),
    ast.BoolOp: (_conditions,),
    ast.IfExp: (_choices,),
    ast.Name: (_other_operands,),
    ast.Attribute: (_attributes,),
    ast.Subscript: (_parts,),
    ast.Tuple: (_exchanged,),
    ast.List: (_exchanged,),
    ast.comprehension: (_loops_inside,),
    ast.Call: CALL_RULES,
    **STATEMENT_RULES,
}

"""The rules for statements: one left out, a branch always taken, += for =, another sign."""

from __future__ import annotations

import ast

from minillm.checks.mutation.places import LIBRARY_OF, called

OTHER_STEP = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip


def _update(place, observed):
    node = place.node
    yield "statement dropped", ast.Pass()
    for other in OTHER_STEP.get(type(node.op), ()):
        yield "operator", ast.AugAssign(node.target, other(), node.value)
    yield f"= for {_symbol(node.op)}=", ast.Assign([node.target], node.value)


def _symbol(operator: ast.operator) -> str:
    return ast.unparse(ast.BinOp(ast.Name("a"), operator, ast.Name("b")))[2:-2]


def _assignment(place, observed):
    node = place.node
    target = node.targets[0]
    if isinstance(target, (ast.Subscript, ast.Attribute)):
        yield "statement dropped", ast.Pass()
    elif isinstance(target, ast.Name) and _is_bound_above(place, target.id):
        yield "statement dropped", ast.Pass()
    if isinstance(target, ast.Subscript) and len(node.targets) == 1:
        yield "+= for =", ast.AugAssign(target, ast.Add(), node.value)
    if _may_be_negative(node.value) and len(node.targets) == 1 and _is_one_number(target):
        yield "sign", ast.Assign([target], ast.UnaryOp(ast.USub(), node.value))


def _may_be_negative(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return called(node) not in (*LIBRARY_OF, "zeros", "zeros_like", "grad_buffer")
    return isinstance(node, ast.BinOp)


def _is_one_number(target: ast.expr) -> bool:
    return isinstance(target, (ast.Name, ast.Subscript))


def _is_bound_above(place, name: str) -> bool:
    """Whether a statement before this one, in the same block or around it, gives the name a value
    that a left-out assignment would leave there.
    """
    while place is not None:
        block = getattr(place.parent, place.field)
        before = block[: place.index] if isinstance(block, list) and place.index is not None else []
        nodes = [each for statement in before for each in ast.walk(statement)]
        if any(isinstance(each, ast.Name) and each.id == name and isinstance(each.ctx, ast.Store) for each in nodes):
            return True
        if isinstance(place.parent, ast.FunctionDef):
            arguments = place.parent.args
            return any(each.arg == name for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))
        place = place.above
    return False


def _expression(place, observed):
    yield "statement dropped", ast.Pass()


def _branch(place, observed):
    node = place.node
    yield "branch", ast.If(ast.Constant(True), node.body, node.orelse)
    yield "branch", ast.If(ast.Constant(False), node.body, node.orelse)


def _loop(place, observed):
    yield "statement dropped", ast.Pass()
    if isinstance(place.node, ast.While):
        yield "branch", ast.If(place.node.test, place.node.body, [])  # once in place of many times


def _jump(place, observed):
    yield "statement dropped", ast.Pass()


def _return(place, observed):
    value = place.node.value
    if isinstance(value, ast.Name) or _may_be_negative(value):
        yield "sign", ast.Return(ast.UnaryOp(ast.USub(), value))
    if isinstance(value, ast.Tuple):
        for index, element in enumerate(value.elts):
            if isinstance(element, ast.Name) or _may_be_negative(element):
                changed = [*value.elts[:index], ast.UnaryOp(ast.USub(), element), *value.elts[index + 1 :]]
                yield "sign", ast.Return(ast.Tuple(changed, ast.Load()))


STATEMENT_RULES = {
    ast.AugAssign: (_update,),
    ast.Assign: (_assignment,),
    ast.Expr: (_expression,),
    ast.If: (_branch,),
    ast.For: (_loop,),
    ast.While: (_loop,),
    ast.Break: (_jump,),
    ast.Continue: (_jump,),
    ast.Return: (_return,),
}

"""How a CUDA kernel is changed: small faults by rule, from its syntax tree.

The rules are those of mutation testing (statements, operators, conditions, constants, increments)
and those that belong to GPUs: barriers, indices of threads and blocks, lanes of a warp.

Source: Zhu, Zaidman, "Massively Parallel, Highly Efficient, but What About the Test Suite Quality?
Applying Mutation Testing to GPU Programs" (2020): sync_removal, gpu_index_replacement,
gpu_index_increment, atom_removal, beside the conventional operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from minillm.checks.mutation.kernel_syntax import Node

BARRIERS = {"__syncthreads", "__syncwarp", "sync", "wait", "__threadfence", "__threadfence_block", "__syncthreads_or"}
BARRIERS |= {"__pipeline_wait_prior", "__threadfence_system", "barrier_arrive", "barrier_wait", "wait_all"}
BORDERS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
OPPOSITE = {"+": "-", "-": "+", "/": "*", "%": "/", "<<": ">>", ">>": "<<", "&": "|", "|": "&", "^": "|"}
EXCHANGED = {"-", "/", "%"}  # operators whose operands are not free to change places
OTHER_ASSIGNMENT = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "&=": "|=", "|=": "&=", "<<=": ">>=", ">>=": "<<="}
EXTREMES = {
    "fmaxf": "fminf",
    "fmax": "fmin",
    "max": "min",
    "atomicMax": "atomicMin",
    "__hmax": "__hmin",
    "umax": "umin",
}
EXTREMES |= {other: name for name, other in EXTREMES.items()}
ONE_ARGUMENT = re.compile(r"_*(?:exp2?|exp10|expm1|log2?|log10|log1p|sqrt|rsqrt|fabs|abs|tanh|erf|rcp|floor|ceil)f?$")
BUILTINS = {"threadIdx": "blockIdx", "blockIdx": "threadIdx", "blockDim": "gridDim", "gridDim": "blockDim"}
SHUFFLES = re.compile(r"__shfl(?:_up|_down|_xor)?_sync$|shfl(?:_up|_down|_xor)?$")
LANE_MASKS = re.compile(r"__(?:shfl\w*|ballot|any|all|reduce\w*|syncwarp)(?:_sync)?$")
RULES = {
    "barrier": "a barrier, a fence or a wait is dropped",
    "border": "< for <=, == for !=, and back",
    "bound": "a condition, or a part of it, is always true or never",
    "operator": "an operator is exchanged",
    "operands": "the operands of -, / or % are exchanged",
    "term": "a term or a factor is dropped",
    "index": "an index, one more or one less",
    "stride": "a stride, one more",
    "constant": "a number is changed",
    "sign": "a sign or a ! is dropped",
    "assignment": "= for +=, -= for +=",
    "statement": "a statement is dropped",
    "extreme": "min for max",
    "function": "a function of one number is dropped",
    "initial": "0 for an infinity",
    "thread": "x for y, and one of threadIdx, blockIdx, blockDim, gridDim for another",
    "lanes": "a shuffle over half or double the distance; a mask without a lane",
}


@dataclass(frozen=True)
class Change:
    """`before`, the text of a node, reads `after`: None where the statement is dropped."""

    node: Node
    rule: str
    before: str
    after: str | None


def changes_of(text: str, body: Node) -> Iterator[Change]:
    """The changes of the statements below a node. text: the source, comments and literals as they
    are.
    """
    return _Changes(text).below(body, False)


class _Changes:
    def __init__(self, text: str):
        self.text = text

    def of(self, node: Node) -> str:
        return one_line(self.text[node.start : node.end])

    def below(self, node: Node, in_index: bool) -> Iterator[Change]:
        """in_index: whether a number that comes out here is an index, or a part of one."""
        makers = {
            "statement": self.statement,
            "condition": self.condition,
            "binary": self.binary,
            "assign": self.assignment,
            "unary": self.unary,
            "step": self.step,
            "literal": self.literal,
            "call": self.call,
            "member": self.member,
        }
        found = list(makers[node.kind](node)) if node.kind in makers else []
        if node.kind == "binary" and node.op == "*" and in_index:
            left, right = map(self.of, node.parts)
            found.append(("stride", f"{left} * ({right} + 1)"))
        if node.kind == "index":
            for part in node.parts[1:]:
                if part.kind != "literal":
                    subscript = self.of(part)
                    yield Change(part, "index", subscript, f"{subscript} + 1")
                    yield Change(part, "index", subscript, f"{subscript} - 1")
        before = self.of(node)
        for rule, after in found:
            yield Change(node, rule, before, after)
        for position, part in enumerate(node.parts):
            if node.kind == "index":
                inside = position > 0
            else:
                inside = node.kind in ("binary", "paren", "cast") and (in_index or self.is_place(node))
                inside &= node.op not in ("&&", "||", "<", ">", "==", "<=", ">=", "!=")
            if node.kind == "call" and position == 0 and part.kind == "name":
                continue
            yield from self.below(part, inside or (node.kind == "unary" and node.op == "*"))

    def is_place(self, node: Node) -> bool:
        """Whether a sum contains an index of a thread or a block: it is a place then."""
        return node.op == "+" and any(name in self.of(node) for name in ("threadIdx", "blockIdx"))

    # Each gives (rule, what comes in the place of the node).

    def statement(self, node: Node):
        if node.op in ("break", "continue") or (node.op == "return" and not node.parts):
            yield "statement", None
        if node.op != "expression":
            return
        inside = node.parts[0]
        called = inside.parts[0].op if inside.kind == "call" else ""
        if called in BARRIERS:
            yield "barrier", None
        elif inside.kind in ("call", "assign", "unary", "postfix"):
            yield "statement", None
        elif inside.kind == "binary" and inside.op == ",":
            yield "statement", None

    def condition(self, node: Node):
        inside = node.parts[0]
        if inside.kind == "literal":
            return
        if node.op not in ("for", "while"):
            yield "bound", "true"
        yield "bound", "false"

    def binary(self, node: Node):
        left, right = map(self.of, node.parts)
        op = node.op
        if op in BORDERS:
            yield "border", f"{left} {BORDERS[op]} {right}"
        elif op in ("&&", "||"):
            yield "bound", f"bool({left})"
            yield "bound", f"bool({right})"
            yield "operator", f"bool({left}) {'||' if op == '&&' else '&&'} bool({right})"
        elif op != ",":
            if op in OPPOSITE:
                yield "operator", f"{left} {OPPOSITE[op]} {self.bracketed(node.parts[1])}"
            if op in EXCHANGED:
                yield "operands", f"{self.bracketed(node.parts[1])} {op} {self.bracketed(node.parts[0])}"
            yield "term", left
            if op in ("+", "*", "|", "^", "&"):
                yield "term", right

    def bracketed(self, node: Node) -> str:
        text = self.of(node)
        return f"({text})" if node.kind in ("binary", "ternary", "assign") else text

    def assignment(self, node: Node):
        left, right = map(self.of, node.parts)
        if node.op != "=":
            yield "assignment", f"{left} = {right}"
        if node.op in OTHER_ASSIGNMENT:
            yield "assignment", f"{left} {OTHER_ASSIGNMENT[node.op]} {right}"

    def unary(self, node: Node):
        operand = node.parts[0]
        if node.op == "-" and operand.kind != "literal":
            yield "sign", self.of(operand)
            if re.search(r"inf|INF|FLT_MAX", self.of(operand)):
                yield "initial", "0"
        if node.op == "!":
            yield "sign", f"bool({self.of(operand)})"

    def step(self, node: Node):
        """What a loop adds; its operators are not exchanged, since most loops would never end."""
        inside = node.parts[0]
        if inside.kind in ("unary", "postfix") and inside.op in ("++", "--"):
            yield "stride", f"{self.of(inside.parts[0])} {inside.op[0]}= 2"
        if inside.kind == "assign" and inside.op in ("+=", "-="):
            left, right = map(self.of, inside.parts)
            yield "stride", f"{left} {inside.op} {right} + 1"

    def literal(self, node: Node):
        for after in other_numbers(node.op):
            yield "constant", after

    def call(self, node: Node):
        name, arguments = node.parts[0].op, node.parts[1:]
        texts = list(map(self.of, arguments))
        function = self.of(node.parts[0])
        if name in EXTREMES and len(texts) == 2:
            yield "extreme", f"{EXTREMES[name]}({', '.join(texts)})"
            if not name.startswith("atomic"):
                yield from (("term", text) for text in texts)
        if ONE_ARGUMENT.match(name) and len(texts) == 1:
            yield "function", texts[0]
        is_cooperative = node.parts[0].kind == "member"
        if SHUFFLES.match(name) and len(texts) >= 2 + (not is_cooperative):
            place = 1 if is_cooperative else 2
            for after in (f"({texts[place]}) / 2", f"({texts[place]}) * 2"):
                yield "lanes", f"{function}({', '.join([*texts[:place], after, *texts[place + 1 :]])})"
        if LANE_MASKS.match(name) and texts and not is_cooperative:
            yield "lanes", f"{function}({', '.join([f'({texts[0]}) >> 1', *texts[1:]])})"
        if name in ("infinity", "INFINITY"):
            yield "initial", "0"

    def member(self, node: Node):
        owner = node.parts[0].op
        if owner in BUILTINS:
            yield "thread", f"{owner}.{'y' if node.op == 'x' else 'x'}"
            yield "thread", f"{BUILTINS[owner]}.{node.op}"


def other_numbers(text: str) -> list[str]:
    """What comes in the place of a literal.

    >>> other_numbers("0"), other_numbers("1"), other_numbers("33"), other_numbers("32"), other_numbers("0.5f")
    (['1'], ['0', '2'], ['34', '32'], ['33', '16'], ['2 * 0.5f'])
    """
    if not text[:1].isdigit() and text[:1] != ".":
        return []
    number = re.fullmatch(r"(\d+)([uUlLzZ]*)", text)
    if number is None or (len(number[1]) > 1 and number[1][0] == "0"):
        if re.match(r"0[xXbB]", text):
            return [f"({text} >> 1)"]
        is_zero = not re.search(r"[1-9]", re.split(r"[eEfF]", text)[0])
        return ["1" + text[1:] if is_zero and text[0] == "0" else f"2 * {text}"]
    value, suffix = int(number[1]), number[2]
    if value < 2:
        others = [1] if value == 0 else [0, 2]
    else:
        others = [value + 1, value // 2 if value > 3 and value & (value - 1) == 0 else value - 1]
    return [f"{other}{suffix}" for other in others]


def one_line(text: str) -> str:
    """Code without its comments and line ends."""
    text = re.sub(r"//[^\n]*|/\*[\s\S]*?\*/", " ", text)
    text = re.sub(r"^[ \t]*#[^\n]*$", " ", text, flags=re.MULTILINE)
    return " ".join(text.split())

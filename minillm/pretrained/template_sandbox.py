"""jinja2's sandbox with limits: endless loops and texts larger than memory are stopped.

jinja2 limits only `range`. Here every pass of a loop and every call of a macro is a step, at most
MOST_STEPS, and no text or list may be longer than LONGEST; operations that would create a longer
one are refused before they run. Both limits are counts, so a template behaves in the same way on
all machines. This module needs jinja2, so it is imported where it is used.
"""

from __future__ import annotations

import re
from functools import wraps

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 500_000
LONGEST = 10_000_000  # characters of a text, members of a list
CHARACTERS_A_STEP, MEMBERS_A_STEP = 10_000, 100  # processed texts and lists count as steps by their length
MOST_MEMBERS = 1_000_000  # of a list that is rendered, including nested lists
MOST_BITS = 1 << 20  # of a whole number
WIDTHS = ("batch", "center", "indent", "round", "slice", "truncate", "wordwrap")  # filters with a width argument
WIDTHS += ("expandtabs", "generate_lorem_ipsum", "ljust", "rjust", "zfill")  # and functions
FORMATS = ("format", "format_map")
WRITTEN = (
    "escape",
    "e",
    "forceescape",
    "format",
    "join",
    "pprint",
    "string",
    "tojson",
)  # filters that render a list
WIDE = re.compile(r"%[-+ #.0-9]*(?:\d{7}|\*)|\{[^{}]*(?:\d{7}|\{)")  # a width of a million or more, or a computed one


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template, which may run many times; steps are counted for each run.

    filters: name -> function, beside those of jinja2. length: of the text so far, while a template
    runs; marks: pairs of positions in it that the template marked.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: dict, **settings):
        super().__init__(finalize=_written, **settings)
        self.steps, self.length, self._program = 0, 0, None
        self.marks: list[tuple[int, int]] = []
        self.filters = {name: self._sized(function, name) for name, function in {**self.filters, **filters}.items()}
        self.step = self.step  # one bound method, which `is` can compare

    def run(self, template: str, variables: dict) -> str:
        """The text that the template makes.

        Raises whatever the template, jinja2 or Python raises.
        """
        if self._program is None:
            tree = self.parse(template)
            _instrument(tree)
            self._program = self.from_string(tree)
        self.steps, self.length, self.marks = 0, 0, []
        parts = []
        for part in self._program.generate(variables):
            parts.append(part)
            self.length += len(part)
            _check_length(self.length)
        return "".join(parts)

    def step(self) -> None:
        """Called in every pass of a loop and every macro; `call` counts it."""

    def joined(self, *values) -> str:
        """The operator ~"""
        texts = [str(_written(value)) for value in values]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def short(self, value) -> None:
        """Count a new value by its length, and refuse one that is too long."""
        if isinstance(value, (str, list, tuple, range)):
            _check_length(len(value))
            self._count(len(value) // (CHARACTERS_A_STEP if isinstance(value, str) else MEMBERS_A_STEP))

    def call_binop(self, context, operator, left, right):
        if operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)
        elif operator == "%" and isinstance(left, str):
            _check_call("format", [left, right])
        result = super().call_binop(context, operator, left, right)
        self.short(result)
        return result

    def call(
        __self, __context, __obj, *args, **kwargs
    ):  # as jinja2 names them, so that a template's names do not clash
        __self._count(1)
        if __obj is __self.step:
            return None
        own = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        name = getattr(own, "__name__", "")
        if name == "join":
            args = list(map(_listed, args))
        _check_call(name, [getattr(own, "__self__", ""), *args, *kwargs.values()])
        result = super().call(__context, __obj, *args, **kwargs)
        __self.short(result)
        return result

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise SecurityError(f"it takes more than {MOST_STEPS:,} steps")

    def _sized(self, function, name):
        """Wrap a filter with a check of its arguments."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # jinja2's own argument comes before the value

        @wraps(function)
        def filter(*args, **kwargs):
            if name == "join":
                args = list(map(_listed, args))
            _check_call(name, [*args[first:], *kwargs.values()])
            for value in args[first : first + 1]:
                self.short(_written(value) if name in WRITTEN else value)
            result = function(*args, **kwargs)
            self.short(result)
            return result

        return filter


def _instrument(tree: nodes.Template) -> None:
    """Insert a step into the body of every loop and macro, and check the results of `~` and of
    `set` blocks.
    """
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        node.body.insert(0, nodes.ExprStmt(_call("step", []), lineno=node.lineno))
    for node in [tree, *tree.find_all(nodes.Node)]:
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, name, _joined(value))
            elif isinstance(value, list):
                value[:] = [new for each in value for new in _instrumented(each)]
    tree.set_environment(tree.environment)


def _instrumented(node) -> list:
    """The nodes that replace a member of a list of nodes."""
    if isinstance(node, nodes.Concat):
        return [_joined(node)]
    if isinstance(node, nodes.AssignBlock):
        return [node, nodes.ExprStmt(_call("short", [_loaded(node.target)]), lineno=node.lineno)]
    return [node]


def _joined(concat: nodes.Concat) -> nodes.Call:
    return _call("joined", concat.nodes, concat.lineno)  # the list itself: those in it may be replaced later


def _call(method: str, args: list, line: int = 1) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), args, [], None, None, lineno=line)


def _loaded(target):
    """A node that loads the target of a `set` block."""
    if isinstance(target, nodes.NSRef):
        return nodes.Getattr(nodes.Name(target.name, "load"), target.attr, "load")
    return nodes.Name(target.name, "load")


def _listed(value):
    """A generator as a list, which has a length."""
    return list(value) if hasattr(value, "__next__") else value


def _check_length(length: int) -> None:
    if length > LONGEST:
        raise SecurityError(f"it makes a text or a list of more than {LONGEST:,} characters or members")


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise SecurityError("it computes a whole number of hundreds of thousands of digits")


def _check_product(left, right) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for text, times in ((left, right), (right, left)):
        if isinstance(text, (str, list, tuple)) and isinstance(times, int):
            _check_length(len(text) * times)


def _check_call(name: str, values: list) -> None:
    """Check the arguments of a function whose result may be much larger; the first is the value it
    works on.
    """
    if name in WIDTHS:
        _check_length(max((abs(value) for value in values[1:] if isinstance(value, int)), default=0))
    elif name == "replace" and len(values) > 2:
        text, old, new = map(str, values[:3])
        _check_length(text.count(old) * len(new))
    elif name == "join":
        texts = [value for value in values if isinstance(value, str)]
        for members in values:
            if isinstance(members, (list, tuple)):
                total = sum(len(member) for member in members if isinstance(member, str))
                _check_length(total + len(members) * max(map(len, texts), default=0))
    elif name in FORMATS and isinstance(values[0], str):
        if WIDE.search(values[0]):
            raise SecurityError("it formats a text with a width of a million or more, or one that is computed")
        _written(values)


def _written(value):
    """Check a value that is rendered as text: nested lists may be short, and their text huge."""
    stack, members = [value], 0
    while stack:
        inner = stack.pop()
        if isinstance(inner, (dict, list, tuple)):
            members += len(inner)
            if members > MOST_MEMBERS:
                raise SecurityError(f"it writes out a list of more than {MOST_MEMBERS:,} members")
            stack.extend(inner.values() if isinstance(inner, dict) else inner)
    return value

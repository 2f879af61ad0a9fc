"""jinja2's sandbox, with an end: a template that loops for ever, or makes texts that no memory holds, is stopped.

jinja2 bounds `range` and nothing else. Here every pass of a loop and every call of a macro is a step, of which there are
MOST_STEPS, and no text or list is longer than LONGEST. What would make a longer one is refused before it is computed. Both are
counts, so that a template that works on one machine works on all. This module needs jinja2, so it is imported where it is used.
"""

from __future__ import annotations

import re
from functools import wraps

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 500_000
LONGEST = 10_000_000  # characters of a text, members of a list
CHARACTERS_A_STEP, MEMBERS_A_STEP = 10_000, 100  # texts and lists that are worked on count, too, by their length
MOST_MEMBERS = 1_000_000  # of a list that is written out, those of the lists in it included
MOST_BITS = 1 << 20  # of a whole number
WIDTHS = ("batch", "center", "indent", "round", "slice", "truncate", "wordwrap")  # filters that are given a number
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
)  # filters that write a list out
WIDE = re.compile(r"%[-+ #.0-9]*(?:\d{7}|\*)|\{[^{}]*(?:\d{7}|\{)")  # a width of a million, or one that is an argument


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template, which is run again and again; the steps are those of the run that goes on.

    filters: name -> function, beside those of jinja2.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: dict, **settings):
        super().__init__(finalize=_written, **settings)
        self.steps, self._program = 0, None
        self.filters = {name: self._sized(function, name) for name, function in {**self.filters, **filters}.items()}
        self.step = self.step  # one object, which can be told by `is`

    def run(self, template: str, variables: dict) -> str:
        """The text that the template makes. Raises whatever the template, jinja2 or Python raises."""
        if self._program is None:
            tree = self.parse(template)
            _watch(tree)
            self._program = self.from_string(tree)
        self.steps = 0
        parts, length = [], 0
        for part in self._program.generate(variables):
            parts.append(part)
            length += len(part)
            _check_length(length)
        return "".join(parts)

    def step(self) -> None:
        """What every pass of a loop and every macro calls; `call` counts it and needs no more."""

    def joined(self, *values) -> str:
        """The operator ~"""
        texts = [str(_written(value)) for value in values]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def short(self, value) -> None:
        """Count what was made by its length, and refuse what has grown too long."""
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
        """A filter that is asked for no more than there may be."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what jinja2 hands it stands before the value

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


def _watch(tree: nodes.Template) -> None:
    """Put a step into the body of every loop and macro, and look at what `~` and blocks of `set` make."""
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        node.body.insert(0, nodes.ExprStmt(_call("step", []), lineno=node.lineno))
    for node in [tree, *tree.find_all(nodes.Node)]:
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, name, _joined(value))
            elif isinstance(value, list):
                value[:] = [new for each in value for new in _watched(each)]
    tree.set_environment(tree.environment)


def _watched(node) -> list:
    """What stands in the place of a member of a list of nodes."""
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
    """The value of what a block of `set` has set."""
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
    """What is asked of a function whose result may be much larger than its arguments; the first is the value it works on."""
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
    """A value that is to be written out: lists in lists in lists may be short, and their text without an end."""
    stack, members = [value], 0
    while stack:
        inner = stack.pop()
        if isinstance(inner, (dict, list, tuple)):
            members += len(inner)
            if members > MOST_MEMBERS:
                raise SecurityError(f"it writes out a list of more than {MOST_MEMBERS:,} members")
            stack.extend(inner.values() if isinstance(inner, dict) else inner)
    return value

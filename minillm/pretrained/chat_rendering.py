"""Rendering a chat template as transformers does: the same language, helpers and names.

Source: transformers 5.24, `utils/chat_template_utils.py`. The template is a program in the language
of jinja2 by the model's author, and is not trusted. It runs in jinja2's sandbox
(template_sandbox.py), in which it can access the messages only.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from functools import lru_cache

from minillm.errors import MissingExtra, UserError

# What jinja2 and the Python code of a template can raise; `raise_exception` and the sandbox raise a
# TemplateError. SyntaxError is Python's: too many loops in each other, or a break outside of a
# loop.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
)
_LONGEST_REASON = 300  # characters of an error that are shown
_REASONING = ("reasoning_content", "thinking", "reasoning")  # one field under three names, the usual one first


def render(
    template: str, messages: list[dict], names: dict[str, str], add_generation_prompt: bool = True, more: Mapping = {}
) -> str:
    """The text of a conversation.

    messages: as {"role": "user", "content": "Hello"}; further fields and lists of parts reach the
    template as they are. names: special tokens, such as {"bos_token": "<s>"}. more: further
    variables of the template, tools among them. Raises UserError, in one line, for whatever goes
    wrong inside of the template, and MissingExtra without jinja2.
    """
    return render_marked(template, messages, names, add_generation_prompt, more)[0]


def render_marked(
    template: str, messages: list[dict], names: dict[str, str], add_generation_prompt: bool = True, more: Mapping = {}
) -> tuple[str, list[tuple[int, int]]]:
    """(text of a conversation, what lies between {% generation %} and {% endgeneration %} in it).

    The second are positions (first, behind the last) of characters: what a model is trained to
    write. Arguments and errors: as of `render`.
    """
    try:
        from jinja2 import TemplateError
    except ImportError:
        raise MissingExtra("a conversation", "the package jinja2", "gguf") from None
    messages = _prepared(messages)
    variables = {**names, "tools": None, "documents": None, **more, "add_generation_prompt": add_generation_prompt}
    environment = _environment(template)
    try:
        text = environment.run(template, {**variables, "messages": messages})
    except (TemplateError, *_FAILURES) as error:
        raise UserError(f"the model's chat template cannot be used: {_reason(error)}") from None
    return text, list(environment.marks)


def _prepared(messages) -> list[dict]:
    """Messages as in transformers: fields that are None are left out, and reasoning is set under
    all of its names.
    """
    if not isinstance(messages, (list, tuple)):
        raise UserError('a conversation is a list of messages, such as [{"role": "user", "content": "Hello"}]')
    prepared = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise UserError(f"message {number} of the conversation is a {type(message).__name__}, expected a dict")
        message = {name: value for name, value in message.items() if value is not None}
        reasoning = next((message[name] for name in _REASONING if name in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        prepared.append(message)
    return prepared


def _reason(error: BaseException) -> str:
    """The reason of an error in one line, with the template's line if it is known."""
    from jinja2 import TemplateError

    text = error.msg if isinstance(error, SyntaxError) else str(error)  # its line is that of jinja2's Python
    text = " ".join(text.split())[:_LONGEST_REASON]
    if not isinstance(error, TemplateError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        line = _line_in_template(error)
    else:
        line = getattr(error, "lineno", None) or _line_in_template(error)
    return f"{text or type(error).__name__} (line {line} of the template)" if line else text or type(error).__name__


def _line_in_template(error: BaseException) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":  # jinja2 puts its lines into the trace
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@lru_cache(maxsize=8)
def _environment(template: str):
    """The sandbox of a template, with everything that transformers adds to jinja2."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.utils import Namespace

    from minillm.pretrained.template_sandbox import Sandbox

    class Generation(Extension):
        """{% generation %} marks text that a model is trained to write."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller):
            text = caller()
            self.environment.marks.append((self.environment.length, self.environment.length + len(text)))
            return text

    class SafeNamespace(Namespace):
        """A namespace whose names do not begin with an underscore."""

        def __init__(*args, **fields):  # `self` may be one of the fields
            own, *given = args
            Namespace.__init__(own)
            for name, value in dict(*given, **fields).items():
                own[name] = value

        def __setitem__(self, name, value):
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace takes no name that begins with an underscore, as {name!r}")
            super().__setitem__(name, value)

    class Dict:
        """Python's `dict` as a function, without the attributes of the type."""

        def __call__(self, *args, **fields):
            return dict(*args, **fields)

        def fromkeys(self, *args):
            return dict.fromkeys(*args)

    def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    def strftime_now(form):
        return datetime.datetime.now().strftime(form)

    extensions = [Generation, loopcontrols]
    environment = Sandbox({"tojson": to_json}, trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=Dict(), namespace=SafeNamespace
    )
    return environment

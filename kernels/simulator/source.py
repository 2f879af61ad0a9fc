"""A .cu file as text: what its bytes say, where its functions begin and end, which of them are
kernels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from minillm.errors import UserError

DEVICE = re.compile(r"\b__(global|device)__\b")
SCOPE_WORDS = re.compile(r"\b(?:namespace|struct|class|union|enum)\b")
WAITS_FOR_GRID = re.compile(
    r"\bthis_grid\s*\(\s*\)\s*\.\s*sync\b|\b\w*grid\w*\s*\.\s*sync\s*\(|\bsync\s*\(\s*\w*grid|\bcudaLaunchCooperativeKernel\b"
)
COMMENT_OR_LITERAL = re.compile(
    r"(?P<comment>//(?:[^\n\\]|\\[\s\S])*|/\*[\s\S]*?(?:\*/|$))"
    r'|(?P<literal>R"(?P<tag>[^()\s\\]{0,16})\([\s\S]*?\)(?P=tag)"|"(?:[^"\\\n]|\\[\s\S])*"|(?<![0-9a-zA-Z_])\'(?:[^\'\\\n]|\\[\s\S])+\')'
)
NAME_OF_FUNCTION = re.compile(r"(~?\w+|operator\s*[^\s(]+)\s*$")


class KernelText(NamedTuple):
    """A kernel as its source has it.

    name: with its namespaces. template: its template parameters, None if it has none.
    """

    name: str
    template: str | None
    parameters: str
    extern_c: bool
    line: int

    def __str__(self) -> str:
        template = f"template <{self.template}> " if self.template is not None else ""
        return f"{template}{self.name}({self.parameters})"

    @property
    def example(self) -> str:
        """What --kernel and name_expressions take, with types or numbers put in for a template's
        parameters.
        """
        if self.template is None:
            return self.name
        values = []
        for parameter in filter(None, split_list(self.template)):
            if re.search(r"=[^=]", parameter):
                break
            kind = re.match(r"(typename|class|bool|int|unsigned|size_t|\w+)", parameter.strip())
            values.append({"typename": "float", "class": "float", "bool": "true"}.get(kind[1] if kind else "", "32"))
        return f"{self.name}<{', '.join(values)}>"


class Function(NamedTuple):
    """A function with a body: text[start:end], of which the part before `body` is its head."""

    name: str
    start: int
    body: int
    end: int
    scope: tuple[str, ...]  # namespaces and classes
    extern_c: bool
    head: str


def read_source(path: Path) -> str:
    """The text of a source file, with or without a byte order mark; bytes that are not UTF-8 are
    taken for Latin-1.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
        (b"", "utf-8"),
    ):
        if data.startswith(mark):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                text = data.decode("latin-1")
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise AssertionError("every file begins with nothing")


def masked(source: str) -> str:
    """The source, of the same length, with blanks for comments, literals and preprocessor lines;
    line ends stay.
    """

    text = without_literals(source)
    text = re.sub(
        r"^[ \t]*#[ \t]*if[ \t]+0\b[\s\S]*?^[ \t]*#[ \t]*(?:else|elif|endif)", _blank, text, flags=re.MULTILINE
    )
    return re.sub(r"^[ \t]*#(?:[^\n\\]|\\[\s\S])*", _blank, text, flags=re.MULTILINE)


def without_literals(source: str) -> str:
    """The source, of the same length, with blanks for comments and for what is between quotes;
    preprocessor lines stay.
    """
    return re.sub(COMMENT_OR_LITERAL, _blank, source)


def closing_bracket(plain: str, opening: int) -> int:
    """Behind the bracket that closes the one at `opening`; the end of the text if there is none."""
    depth = 0
    for i in range(opening, len(plain)):
        depth += (plain[i] in "([{") - (plain[i] in ")]}")
        if depth == 0:
            return i + 1
    return len(plain)


def functions(source: str) -> list[Function]:
    """All functions with a body outside of other functions, in order."""
    plain, original = masked(source), source
    found: list[Function] = []
    stack: list[tuple[str, bool]] = []  # the scopes that are open: their names, and whether they make names extern "C"
    start = position = 0
    for brace in re.finditer(r"[{};]", plain):
        i = brace.start()
        if i < position:
            continue
        letter = plain[i]
        if letter in ";}":
            if letter == "}" and stack:
                stack.pop()
            start = i + 1
            continue
        head = plain[start:i]
        linkage = re.search(r'extern\s*"C"', original[start:i]) is not None
        if _opens_scope(head):
            stack.append((_scope_name(head), linkage or any(c for _, c in stack)))
            start = i + 1
            continue
        end = _closing(plain, i)
        parenthesis = _parameter_list(head)
        if parenthesis is not None:
            name = NAME_OF_FUNCTION.search(head[:parenthesis])
            begin = start + len(head) - len(head.lstrip())
            if name:
                scope = tuple(each for each, _ in stack if each)
                extern_c = linkage or any(c for _, c in stack)
                found.append(Function(name[1], begin, i, end, scope, extern_c, head.strip()))
            start = end
        position = end  # an initialiser, an enumeration: its statement goes on behind it
    return found


def kernels(source: str) -> list[KernelText]:
    """The kernels that a source defines, in order."""
    plain, found = masked(source), []
    for function in functions(source):
        head = plain[function.start : function.body]
        if not re.search(r"\b__global__\b", head):
            continue
        template = re.search(r"\btemplate\s*<", head)
        inside = _bracketed(head, template.end() - 1) if template else None
        parameters = _bracketed(head, head.index("(", _parameter_list(head)))
        found.append(
            KernelText(
                "::".join([*function.scope, function.name]),
                None if inside is None else " ".join(inside.split()),
                " ".join(parameters.split()),
                function.extern_c,
                line_of(source, function.start),
            )
        )
    return found


def waits_for_grid(source: str) -> bool:
    """Whether a source seems to have barriers of the whole grid, or says so where it launches."""
    return bool(WAITS_FOR_GRID.search(masked(source)))


def split_list(text: str) -> list[str]:
    """The parts between the commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text + ","):
        depth += (letter in "(<[{") - (letter in ")>]}")
        if letter == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [part for part in parts if part]


def line_of(source: str, position: int) -> int:
    return source.count("\n", 0, position) + 1


def _blank(found) -> str:
    """Blanks for what a pattern has found, but for quotes and line ends."""
    text = found[0]
    if text[0] in "\"'R":
        return text[0] + re.sub(r"[^\n]", " ", text[1:-1]) + text[-1]
    return re.sub(r"[^\n]", " ", text)


def _opens_scope(head: str) -> bool:
    """Whether what comes before a brace is a namespace, a class, or extern "C"."""
    if re.search(r'\bextern\s*"[^"]*"\s*$', head):
        return True
    plain = re.sub(rf"\b(?:{'|'.join(ATTRIBUTES)})\s*\((?:[^()]|\([^()]*\))*\)", " ", _without_template(head))
    return bool(SCOPE_WORDS.search(plain)) and "(" not in plain


def _without_template(head: str) -> str:
    """The head without its `template <...>` lists."""
    while opening := re.search(r"\btemplate\s*<", head):
        depth, end = 1, opening.end()
        while depth and end < len(head):
            depth += (head[end] == "<") - (head[end] == ">")
            end += 1
        head = head[: opening.start()] + " " * (end - opening.start()) + head[end:]
    return head


def _scope_name(head: str) -> str:
    found = re.search(r"\b(?:namespace|struct|class|union)\s+(?:(?:alignas|__align__)\s*\([^)]*\)\s*)?([\w:]+)", head)
    return found[1] if found else ""


def _bracketed(text: str, opening: int) -> str:
    """The text between the bracket at `opening` and the one that closes it."""
    closes = {"(": ")", "<": ">"}[text[opening]]
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == text[opening]) - (text[i] == closes)
        if depth == 0:
            return text[opening + 1 : i]
    return text[opening + 1 :]


def _closing(plain: str, opening: int) -> int:
    """Behind the brace that closes the one at `opening`; the end of the text if there is none."""
    depth = 0
    for brace in re.finditer(r"[{}]", plain[opening:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return opening + brace.end()
    return len(plain)


def _parameter_list(head: str) -> int | None:
    """Where the parameters of a function's head begin, None if it is none."""
    if re.search(r"=\s*(?:\w+\s*)?$", head) or not head.strip():
        return None
    head = _without_template(head)
    annotated = DEVICE.search(head)
    depth, opening = 0, None
    for i, letter in enumerate(head):
        if annotated and i < annotated.end():
            continue  # a macro's call may come first
        if letter == "(":
            if depth == 0:
                before = NAME_OF_FUNCTION.search(head[:i])
                attribute = before and before[1] in ATTRIBUTES
                if opening is None and before and not attribute:
                    opening = i
            depth += 1
        elif letter == ")":
            depth -= 1
    return opening


ATTRIBUTES = {
    "__launch_bounds__",
    "__align__",
    "__attribute__",
    "alignas",
    "decltype",
    "noexcept",
    "__maxnreg__",
    "__declspec",
}
ATTRIBUTES |= {"__cluster_dims__", "__block_size__"}

"""A .cu file as text: what its bytes say, where its functions begin and end, and which of them are
the host's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from minillm.errors import UserError

DEVICE = re.compile(r"\b__(global|device)__\b")
# What only the host has: launches, the runtime's and the driver's functions, the libraries that are
# called from there.
HOST = re.compile(
    r"<<<|\b(cuda(?!_)[A-Z]\w*|cu(?:Init|Device|Ctx|Mem|Module|Launch|Stream|Event)[A-Z]\w*|cublas\w*|cusparse\w*|cufft\w*"
    r"|cusolver\w*|cudnn\w*|torch::|at::|c10::|py::|PYBIND11_MODULE|TORCH_\w+|AT_\w+|MPI_\w+|nccl[A-Z]\w*|curand(?:Generat|Create|Destroy|Set)\w*|nvtx\w*|checkCudaErrors|getLastCudaError"
    r"|thrust::|findCudaDevice|StopWatchInterface|sdk[A-Z]\w+|compareData\w*|checkCmdLineFlag|getCmdLineArgument\w+)\b"
)
SCOPE_WORDS = re.compile(r"\b(?:namespace|struct|class|union|enum)\b")
WAITS_FOR_GRID = re.compile(
    r"\bthis_grid\s*\(\s*\)\s*\.\s*sync\b|\b\w*grid\w*\s*\.\s*sync\s*\(|\bsync\s*\(\s*\w*grid|\bcudaLaunchCooperativeKernel\b"
)
EXTERN_SHARED = re.compile(
    r"\b(?:extern\s+__shared__|__shared__\s+extern)\s+(?:(?:__align__|alignas)\s*\([^;{}]*?\)\s*)?"
    r"(?P<type>[\w:<>,\s]+?)\s+(?:(?:__align__|alignas)\s*\([^;{}]*?\)\s*)?(?P<name>\w+)\s*\[\s*\]\s*;"
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


def without_host_code(source: str, elsewhere: set[str] = frozenset()) -> tuple[str, list[str]]:
    """The source with blanks in place of what only the host can compile, and the names of what was
    left out.

    Left out are `main`, host functions and declarations that launch kernels or call the CUDA
    runtime, and, in such a file, the host's other functions that no device code names. Nothing is
    if the file has no such part. Line numbers stay. elsewhere: the words of the files that belong
    to it, such as its headers.
    """
    plain, given = masked(source), functions(source)
    macros = _macros(source)
    host_macros = [name for name, text in macros.items() if HOST.search(text)]
    trigger = re.compile(rf"\b(?:{'|'.join(map(re.escape, host_macros))})\b") if host_macros else None
    device_macros = {name for name, text in macros.items() if DEVICE.search(text)}

    def is_host(text: str) -> bool:
        return bool(HOST.search(text) or (trigger and trigger.search(text)))

    def on_device(function: Function) -> bool:
        words = set(re.findall(r"\w+", function.head))
        return bool(DEVICE.search(function.head) or words & device_macros or "constexpr" in words)

    host = [f for f in given if not on_device(f)]
    if not any(f.name == "main" or is_host(plain[f.start : f.end]) for f in host):
        return source, []
    calls = _calls_outside(plain, host_macros, given)
    if calls:  # their text is the host's
        source = _blanked(source, calls)
        plain, given = masked(source), functions(source)
        host = [f for f in given if not on_device(f)]
    rest = _blanked(plain, [(f.start, f.end) for f in given])
    used = set(re.findall(r"\w+", rest + " ".join(plain[f.start : f.end] for f in given if on_device(f))))
    used |= {word for text in macros.values() for word in re.findall(r"\w+", text)} | elsewhere
    kept: set[Function] = set()
    candidates = [f for f in host if f.name != "main" and not is_host(plain[f.start : f.end])]
    unnamed = [f for f in candidates if f.scope or f.name.startswith("operator")]  # reached without their name
    while new := [f for f in candidates if f not in kept and (f.name in used or f in unnamed)]:
        kept.update(new)
        used |= {word for f in new for word in re.findall(r"\w+", plain[f.body : f.end])}
    leave_out = [f for f in host if f not in kept]
    spans = [(f.start, f.end) for f in leave_out]
    spans += _host_declarations(rest, is_host, {f.name for f in leave_out if "template" in f.head})
    return _blanked(source, spans), list(dict.fromkeys(f.name for f in leave_out))


def with_pointers_to_shared(source: str) -> str:
    """The source with a pointer in place of each `extern __shared__` array inside of a function
    whose name means arrays of different types, or of a template's type: g++ takes them for one
    array. Line numbers stay.
    """
    plain = masked(source)
    found = list(EXTERN_SHARED.finditer(plain))
    types: dict[str, set[str]] = {}
    for each in found:
        types.setdefault(each["name"], set()).add(" ".join(each["type"].split()))
    parameters = set(re.findall(r"\b(?:typename|class)\s+(\w+)", plain))
    inside = [(f.body, f.end) for f in functions(source)]
    for each in reversed(found):
        several = len(types[each["name"]]) > 1 or parameters & set(re.findall(r"\w+", each["type"]))
        if several and any(start < each.start() < end for start, end in inside):
            pointer = f"{each['type']}* {each['name']} = reinterpret_cast<{each['type']}*>(minillm_dynamic_shared);"
            lines = "\n" * each[0].count("\n")
            source = source[: each.start()] + " ".join(pointer.split()) + lines + source[each.end() :]
    return source


def with_alignment_first(source: str) -> str:
    """The source with `alignas(...) __shared__` in place of `__shared__ alignas(...)`: for g++ an
    alignment comes before the words that it belongs to.
    """
    plain = masked(source)
    for found in reversed(list(re.finditer(r"\b__shared__\s+(?=alignas\s*\()", plain))):
        end = closing_bracket(plain, plain.index("(", found.end()))
        source = source[: found.start()] + source[found.end() : end] + " " + found[0] + source[end:]
    return source


def line_of(source: str, position: int) -> int:
    return source.count("\n", 0, position) + 1


def _calls_outside(plain: str, macros: list[str], given: list[Function]) -> list[tuple[int, int]]:
    """Where macros are called outside of functions."""
    if not macros:
        return []
    found = []
    for call in re.finditer(rf"\b(?:{'|'.join(map(re.escape, macros))})\s*\(", plain):
        if not any(f.body < call.start() < f.end for f in given):
            end = closing_bracket(plain, call.end() - 1)
            if not plain[end:].lstrip().startswith("{"):  # else it is a function of the same name
                found.append((call.start(), end))
    return found


def _host_declarations(plain: str, is_host, gone: set[str]) -> list[tuple[int, int]]:
    """Objects and prototypes at namespace level whose types are the host's, and instances of the
    templates that are gone.
    """
    found, start = [], 0
    for end in re.finditer(r"[;{}]", plain):
        text = plain[start : end.start()]
        instance = re.match(r"\s*template\s+[^<;]*?(\w+)\s*[<(]", text)
        is_gone = is_host(text) or bool(instance and instance[1] in gone)
        if end[0] == ";" and is_gone and not DEVICE.search(text):
            found.append((start + len(text) - len(text.lstrip()), end.end()))
        start = end.end()
    return found


def _blank(found) -> str:
    """Blanks for what a pattern has found, but for quotes and line ends."""
    text = found[0]
    if text[0] in "\"'R":
        return text[0] + re.sub(r"[^\n]", " ", text[1:-1]) + text[-1]
    return re.sub(r"[^\n]", " ", text)


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in spans:
        text = text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
    return text


def _macros(source: str) -> dict[str, str]:
    found = re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)((?:[^\n\\]|\\[\s\S])*)", source, flags=re.MULTILINE)
    return dict(found)


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

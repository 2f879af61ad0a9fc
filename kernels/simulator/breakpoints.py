"""`minillm simulate --break`: the variables of a warp's threads before a line is executed.

The source is compiled with one more expression at that line, which passes each variable that may be
visible there to the runtime (locals.h). Which ones are, g++ knows: a name that it does not take is
left out, and the source is compiled again.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from dataclasses import dataclass, field
from pathlib import Path

from minillm.errors import UserError
from minillm.kernels.simulator.errors import CompileError
from minillm.kernels.simulator.host_code import without_host_code
from minillm.kernels.simulator.shown_locals import Values, lanes_of, read_values
from minillm.kernels.simulator.source import read_source, split_list
from minillm.kernels.simulator.statements import Statement, Text

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^">\n]+)"[^\n]*', re.MULTILINE)
NAMED = re.compile(r'#line 1 "([^"\n]*)"\n')
ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once\b", re.MULTILINE)
INSERTED = "<locals>"  # the file that g++ takes the inserted lines for
COMPLAINT = re.compile(rf"^{INSERTED}:(\d+):(?:\d+:)?\s+(?:error: (.*)|.*required from here)$", re.MULTILINE)
UNSET = "-ftrivial-auto-var-init=pattern"
MOST_FIELDS = 63
# What may be the name of a variable: it comes behind a type or a comma, and before what follows a
# declared name.
NAME = re.compile(r"(?<![\w.])(?<!->)(?<!::)([A-Za-z_]\w*)\s*(?=[=;,)\[\]{(:]|$)")
NO_VARIABLE = set(
    "return else goto case new delete throw typename using namespace operator if for while switch do sizeof alignof "
    "break continue default const constexpr static volatile unsigned signed int float double char short long bool void "
    "auto struct class union enum template true false nullptr this decltype static_cast reinterpret_cast const_cast "
    "threadIdx blockIdx blockDim gridDim warpSize NULL __restrict__ __shared__ extern".split()
)


@dataclass
class Breakpoint:
    """A line, and the thread whose warp is looked at when it comes there the `hit`-th time.

    file: its name or the end of its path; "" for the source of whatever kernel runs first. thread:
    in its block, as block: in the grid. After a run: `values`, `place` (file, number and text of
    the line, and of the statement that contains it), `missing` (names that g++ did not take, with
    its reason), `elsewhere` (a block and a thread that came to the line in its place).
    """

    line: int
    file: str = ""
    thread: tuple[int, int, int] = (0, 0, 0)
    block: tuple[int, int, int] = (0, 0, 0)
    hit: int = 1
    place: Place | None = None
    values: Values | None = None
    missing: dict[str, str] = field(default_factory=dict)
    elsewhere: tuple[int, ...] | None = None
    times: int = 0  # how often a lane came to the line in a launch in which none came often enough
    seen: list[str] = field(default_factory=list)  # the sources that were compiled
    libraries: set[Path] = field(default_factory=set)  # with the line in them

    def compiled(self, build, text: str, path: Path | None, folders: list[Path]) -> Path:
        """The library of a source, with the line's variables passed on if the line is in it.

        build: text, more options -> the library. folders: where its headers are.
        """
        sources = _Sources(text, path, folders)
        self.seen += [sources.main]
        file = sources.find(self.file)
        if file is None or (self.libraries and not self.file):
            return build(text, ())
        target = sources.texts[file]
        function, statement = self._statement(file, target)
        self.place = Place(file, self.line, target, statement)
        names = _names(target, function, statement)
        more = (UNSET,)
        while True:
            try:
                library = build(sources.with_call(file, statement, names), more)
            except CompileError as error:
                refused = [(int(line), text) for line, text in COMPLAINT.findall(error.log)]
                wrong = {names[line - 1]: text for line, text in refused if line <= len(names)}
                wrong |= {} if wrong else _named_in(error.log, names)
                if more and UNSET in error.log:
                    more = ()  # an older g++
                elif wrong:
                    self.missing |= {name: text for name, text in wrong.items() if "captur" in text}
                    names = [name for name in names if name not in wrong]
                else:
                    raise
            else:
                self.libraries.add(library)
                return library

    def _statement(self, file: str, text: Text) -> tuple[object, Statement]:
        """Raises UserError where there is nothing to stop before."""
        where, count = f"--break {self.line}", text.source.count("\n") + (not text.source.endswith("\n"))
        if not 1 <= self.line <= count:
            raise UserError(f"{where}: {file} has the lines 1 to {count}")
        function = text.function_at(self.line)
        if function is None:
            raise UserError(f"{where}: the line is in no function of {file}")
        if function.name in without_host_code(text.source)[1]:
            raise UserError(f"{where}: {function.name} belongs to the host: only device code is simulated")
        statement = text.statement_at(function, self.line)
        if statement is None:
            near = " and ".join(map(str, text.lines_near(function, self.line)))
            raise UserError(
                f"{where}: no statement begins on that line of {file}{f'; near it are {near}' if near else ''}"
            )
        return function, statement

    @contextlib.contextmanager
    def watching(self, library, launch, name: str):
        """Within, a launch of a library is looked at. Nothing is done once the line was reached."""
        if library.path not in self.libraries or self.values:
            yield
            return
        block, grid = tuple(launch.block), tuple(launch.grid)
        for what, given, sizes in (("--thread", self.thread, block), ("--block-index", self.block, grid)):
            if any(index >= size for index, size in zip(given, sizes)):
                of = "a block of {} threads" if what == "--thread" else "a grid of {} blocks"
                raise UserError(f"{what} {_short(given)}: {name} runs with {of.format(sizes)}, counted from 0")
        runtime = library.runtime
        number = _number(self.thread, block)
        runtime.minillm_sim_break_at((ctypes.c_uint * 3)(*self.block), number // 32, self.hit)
        try:
            yield
        finally:
            runtime.minillm_sim_break_off()
            self._collect(library, launch, name, number)

    def _collect(self, library, launch, name: str, number: int) -> None:
        lanes = lanes_of(library.runtime, tuple(launch.block), number // 32)
        if any(lane.text for lane in lanes):
            self.values = read_values(lanes, library, launch, name, number % 32)
            return
        other = library.runtime.minillm_sim_break_elsewhere
        other.restype = ctypes.POINTER(ctypes.c_uint)
        found = other()
        self.elsewhere = self.elsewhere or (tuple(found[:6]) if found else None)
        self.times = max(self.times, *(lane.times for lane in lanes))

    def report(self, width: int = 80) -> str:
        """What was seen; `values` is None if the line was not reached. width: columns.

        Raises UserError if no source that ran has the line.
        """
        if self.place is None:
            seen = ", ".join(dict.fromkeys(Path(each).name for each in self.seen)) or "none"
            raise UserError(f"--break {self.file}:{self.line}: no kernel that ran is in that file; there are {seen}")
        if self.values:
            return "\n".join([*self._heading(width), *self.values.rows(width)])
        return self._not_reached()

    def _heading(self, width: int) -> list[str]:
        place, v = self.place, self.values
        when = "the first time" if self.hit == 1 else f"time {self.hit}"
        rows = [f"{v.kernel}, block {self.block}, warp {v.warp}"]
        rows += [f"before {Path(place.file).name}:{place.begins} is executed {when}, lane by lane:"]
        rows += [f"  {number:>5}  {text}"[:width] for number, text in place.shown()]
        if place.begins != self.line:
            rows.append(f"  (line {self.line} goes on with the statement of line {place.begins})")
        rows += [f"  {name} is not shown: {text}"[:width] for name, text in self.missing.items()]
        return rows

    def _not_reached(self) -> str:
        line = f"{Path(self.place.file).name}:{self.line}"
        if self.times:
            times = "once" if self.times == 1 else f"{self.times} times"
            return f"{line}: the warp of thread {self.thread} comes there {times}, not {self.hit} times"
        if self.elsewhere is None:
            return f"{line}: no thread comes to this line"
        block, thread = self.elsewhere[:3], self.elsewhere[3:]
        given = f"--block-index {_short(block)} --thread {_short(thread)}"
        return f"{line}: no thread of that warp comes to this line; others do: {given}"


@dataclass(frozen=True)
class Place:
    """Where a thread stops: a line of a file, and the statement there."""

    file: str
    line: int
    text: Text
    statement: Statement

    @property
    def begins(self) -> int:
        return self.text.line(self.statement.start)

    def shown(self) -> list[tuple[int, str]]:
        """The lines from the statement's first to the one asked for."""
        rows = self.text.source.split("\n")
        return [(number, rows[number - 1].rstrip()) for number in range(self.begins, max(self.line, self.begins) + 1)]


class _Sources:
    """A source and its own headers. texts: file -> Text, the main one first."""

    def __init__(self, text: str, path: Path | None, folders: list[Path]):
        named = NAMED.match(text)
        self.main = named[1] if named else str(path) if path else "kernel.cu"
        self.folders = folders
        self.texts: dict[str, Text] = {}
        self._add(self.main, text[named.end() :] if named else text)

    def find(self, wanted: str) -> str | None:
        """The file of a name or of the end of a path; the main one for ""."""
        parts = Path(wanted).parts
        return next((file for file in self.texts if not wanted or Path(file).parts[-len(parts) :] == parts), None)

    def with_call(self, file: str, statement: Statement, names: list[str]) -> str:
        """All of it in one text, with the call before a statement of one of the files."""
        fields = "".join(map(_fields, _classes([text.plain for text in self.texts.values()])))
        changed = {name: text.source for name, text in self.texts.items()}
        changed[file] = _with_call(self.texts[file], file, statement, names)
        return f'#include "locals.h"\n{fields}#line 1 "{self.main}"\n{self._flat(self.main, changed, set())}'

    def _add(self, file: str, source: str) -> None:
        self.texts[file] = Text(source)
        for name in INCLUDE.findall(source):
            path = self._path(name)
            if path and str(path) not in self.texts:
                self._add(str(path), read_source(path))

    def _path(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def _flat(self, file: str, changed: dict[str, str], done: set[str]) -> str:
        """A file with its headers in the place of their #include lines."""
        text = changed[file]
        if ONCE.search(text):
            done.add(file)
            text = ONCE.sub("", text)

        def included(found) -> str:
            path = self._path(found[1])
            if path is None:
                return found[0]
            if str(path) in done:
                return ""
            line = self._line_behind(file, found[1])
            return f'#line 1 "{path}"\n{self._flat(str(path), changed, done)}\n#line {line} "{file}"'

        return INCLUDE.sub(included, text)

    def _line_behind(self, file: str, header: str) -> int:
        found = next(each for each in INCLUDE.finditer(self.texts[file].source) if each[1] == header)
        return self.texts[file].line(found.start()) + 1


def _with_call(text: Text, file: str, statement: Statement, names: list[str]) -> str:
    """The source of a file in which a statement's variables are passed on before it."""
    position = text.insertion(statement)
    before, after = {
        "listed": ("", ";"),
        "controlled": ("if (", ") {} else"),
        "condition": ("", ","),
    }[statement.way]
    calls = "\n".join(f'minillm_local("{name}", {name});' for name in names)
    inserted = (
        f'\n#line 0 "{INSERTED}"\n{before}({{ if (minillm_sim_stops()) {{\n{calls}\n}} false; }}){after}\n'
        f'#line {text.line(position)} "{file}"\n'
    )
    return text.source[:position] + inserted + text.source[position:]


def _named_in(log: str, names: list[str]) -> dict[str, str]:
    """Those of the names that the first error in g++'s log is about, wherever it puts it."""
    error = re.search(r" error: (.*)", log)
    quoted = re.findall(r"'(\w+)'", error[1]) if error else []
    return {name: error[1] for name in quoted if name in names}


def _names(text: Text, function, statement: Statement) -> list[str]:
    """What may be a variable's name at a statement, the innermost declaration last; g++ decides."""
    end = text.insertion(statement) if statement.way != "condition" else statement.start
    words = [found for found in NAME.finditer(text.plain, function.start, end)]
    found = dict.fromkeys(
        each[1] for each in words if each[1] not in NO_VARIABLE and _behind_a_type(text.plain, each, function.start)
    )
    found |= dict.fromkeys(_shared_outside(text))
    template = re.search(r"\btemplate\s*<", function.head)
    if template:
        found |= dict.fromkeys(re.findall(r"\b(?:int|unsigned|bool|size_t)\s+(\w+)", function.head[template.end() :]))
    macros = dict(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)([^\n]*)", text.source, flags=re.MULTILINE))
    return [name for name in found if not re.search(r"[(={]|\+\+|--", macros.get(name, ""))]


def _behind_a_type(plain: str, found, start: int) -> bool:
    """Whether what comes before a word may be a type, or the name before it in a list."""
    before = plain[start : found.start()].rstrip()
    if plain[found.end() : found.end() + 1] == "(" and not re.search(r"[\w>*&]$", before):
        return False
    word = re.search(r"(\w+)$", before)
    if word:
        return word[1] not in NO_VARIABLE or word[1] in TYPE_WORDS
    return before[-1:] in ("*", "&", ">", ",", "[", "(", ")")


TYPE_WORDS = set(
    "const constexpr unsigned signed int float double char short long bool auto volatile __restrict__".split()
)


def _shared_outside(text: Text) -> list[str]:
    """Arrays in shared memory that are declared outside of functions."""
    spans = [(f.start, f.end) for f in text.functions]
    found = re.finditer(r"\b__shared__\s+[^;(){}]*?(\w+)\s*\[", text.plain)
    return [each[1] for each in found if not any(start <= each.start() < end for start, end in spans)]


def _classes(texts: list[str]) -> list[list[str]]:
    """The fields of each class that the texts define, those with the most first."""
    found = set()
    for plain in texts:
        for each in re.finditer(r"\b(?:struct|class|union)\b[^;{}()=]*\{", plain):
            fields = _members(plain, each.end())
            if 0 < len(fields) <= MOST_FIELDS:
                found.add(tuple(fields))
    return sorted(found, key=lambda fields: (-len(fields), fields))


def _members(plain: str, start: int) -> list[str]:
    """The data members that are declared behind the brace of a class."""
    depth, end = 1, start
    while depth and end < len(plain):
        depth += (plain[end] == "{") - (plain[end] == "}")
        end += 1
    body = plain[start : end - 1]
    while (shorter := re.sub(r"\([^()]*\)\s*(?:const\s*)?(?::[^;{}]*)?\{[^{}]*\}", "();", body)) != body:
        body = shorter
    body = re.sub(r"\{[^{}]*\}", "", body)
    names = []
    for declaration in body.split(";"):
        declaration = re.sub(
            r"\b(?:public|private|protected)\s*:|\balignas\s*\([^)]*\)|__align__\s*\([^)]*\)", "", declaration
        )
        if "(" in declaration or re.search(r"\b(?:static|using|typedef|friend|template|operator|enum)\b", declaration):
            continue
        for part in split_list(declaration):
            name = re.search(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?:=.*|:\s*\w+\s*)?$", part, re.DOTALL)
            if name and not name[1].isdigit():
                names.append(name[1])
    return names


def _fields(fields: list[str]) -> str:
    """A function that shows any class with these fields."""
    needed = ", ".join(f"(void)value.{name}" for name in fields)
    shown = ", ".join(f"MINILLM_FIELD({name})" for name in fields)
    rank = f"minillm_sim::Rank<{len(fields)}>"
    return (
        f"template <class T> __device__ auto minillm_fields(const T& value, {rank}) -> decltype({needed}, void()) "
        f'{{ minillm_sim_put_text("{{"), {shown}, minillm_sim_put_text("}}"); }}\n'
    )


def _number(index: tuple[int, ...], sizes: tuple[int, ...]) -> int:
    return index[0] + sizes[0] * (index[1] + sizes[1] * index[2])


def _short(index: tuple[int, ...]) -> str:
    """Without the zeros at the end that may be left out.

    >>> _short((3, 0, 0)), _short((0, 2, 0))
    ('3', '0,2')
    """
    kept = index[: max(1, *(position + 1 for position, each in enumerate(index) if each))] if any(index) else index[:1]
    return ",".join(map(str, kept))


def compiled_at_breakpoint(build, text: str, path: Path | None, options, chosen: Breakpoint) -> Path:
    """`build(text, more options)`, with the breakpoint's line watched if it is in the source."""
    folders = [Path(path).resolve().parent] if path else []
    folders += [Path(option[2:]) for option in options if option.startswith("-I")]
    return chosen.compiled(build, text, path, folders)

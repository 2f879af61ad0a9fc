"""All mutants of a CUDA source in one program: a place that is changed asks, when it runs, which
mutant is chosen.

    a < b                  (minillm_is(7) ? (a <= b) : minillm_is(8) ? ... : (a < b))
    __syncthreads();       if (minillm_is(9)) ; else __syncthreads();

So a source is compiled once for all of its mutants. Without a chosen one it computes what the
source does, to the bit. Source: Untch, Offutt, Harrold, "Mutation analysis using mutant schemata"
(1993).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from minillm.checks.mutation.kernel_rules import Change, changes_of, one_line
from minillm.checks.mutation.kernel_syntax import Node, body_of
from minillm.kernels.simulator.source import functions, line_of, masked, read_source, without_host_code

# minillm_chosen[n]: 1 for the mutant that is chosen, and for all of them where it is noted which
# places run. Read by an instruction that check mode does not see as an access of the kernel's. What
# g++ says of variables without a value is not said: it would be about any of the mutants.
# The word asm is put together: the simulator reads what is in its brackets as PTX, with more
# headers.
PRELUDE = """\
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wdangling-pointer"
#define MINILLM_PASTED(a, b) a##b
extern "C" __attribute__((visibility("default"))) unsigned char minillm_chosen[{count}];
unsigned char minillm_chosen[{count}];
extern "C" __attribute__((visibility("default"))) unsigned char minillm_reached[{count} + 1];
unsigned char minillm_reached[{count} + 1];
__device__ __attribute__((noinline, no_sanitize("thread"))) static bool minillm_is_chosen(int number) {{
    minillm_reached[number] = 1;
    return !minillm_reached[{count}];
}}
__device__ __attribute__((always_inline)) static inline bool minillm_is(int number) {{
    unsigned chosen;
    MINILLM_PASTED(__as, m__)("{instruction}" : "=r"(chosen) : "m"(minillm_chosen[number]));
    return __builtin_expect(chosen != 0, 0) && minillm_is_chosen(number);
}}
"""
INSTRUCTIONS = {"x86_64": "movzbl %1, %0", "aarch64": "ldrb %w0, %1", "arm64": "ldrb %w0, %1"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"[^\n]*$', re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A change at one place of a source.

    number: in its schema. file: as messages name it. function, line: where it is. body: the number
    of the function. rule: a key of kernel_rules.RULES. before, after: the text, "" where a
    statement is dropped. source: the text of its line. place: tells it from all others, without
    numbers of lines.
    """

    number: int
    file: str
    function: str
    body: int
    line: int
    rule: str
    before: str
    after: str
    source: str
    place: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {shortened(self.before)} -> {shortened(self.after) or 'nothing'}"


@dataclass
class Schema:
    """code: the program. mutants: those in it. left_out: those that a compiler does not take, and
    statements that could not be read.
    """

    code: str
    mutants: list[Mutant]
    left_out: int
    spans: list[tuple[int, int, int]] = field(repr=False, default_factory=list)  # start, end in code; the mutant

    def at(self, line: int, column: int, name: str) -> set[int]:
        """The mutants of the place line:column of a file, as a compiler names it."""
        position = self._position(line, column, name)
        if position is None:
            return set()
        around = [each for each in self.spans if each[0] <= position < each[1]]
        shortest = min((end - start for start, end, _ in around), default=0)
        return {number for start, end, number in around if end - start == shortest}

    def _position(self, line: int, column: int, name: str) -> int | None:
        file, number, position = "", 0, 0
        for text in self.code.splitlines(keepends=True):
            marker = re.match(r'#line (\d+) "([^"]*)"', text)
            if marker:
                file, number = marker[2], int(marker[1]) - 1
            elif (file, number) == (name, line):
                return position + min(column - 1, len(text) - 1)
            position += len(text)
            number += 1
        return None


class _Text:
    """A text that is put together, and where the parts of mutants lie in it."""

    def __init__(self):
        self.parts: list[str] = []
        self.length = 0
        self.spans: list[tuple[int, int, int]] = []

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.length += len(text)


def schema_of(text: str, name: str, folders: Iterable[Path], machine: str, without: frozenset = frozenset()) -> Schema:
    """The schema of a source.

    name: what messages call it. folders: where its own headers ("...") are looked for; what they
    have is changed, too. without: places of mutants that are left out.
    """
    builder = _Builder(tuple(folders), without)
    builder.file(text, name)
    prelude = PRELUDE.format(count=max(1, len(builder.mutants)), instruction=INSTRUCTIONS.get(machine, ""))
    head = f'#line 1 "{name}"\n#line 1 "minillm_mutants.h"\n{prelude}'
    moved = [(start + len(head), end + len(head), number) for start, end, number in builder.out.spans]
    return Schema(head + "".join(builder.out.parts), builder.mutants, builder.left_out, moved)


def shortened(text: str, width: int = 60) -> str:
    """At most `width` letters of a text."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


class _Builder:
    def __init__(self, folders: tuple[Path, ...], without: frozenset):
        self.folders, self.without = folders, without
        self.mutants: list[Mutant] = []
        self.left_out = self.bodies = 0
        self.out = _Text()
        self.once: set[Path] = set()
        self.seen: dict[str, int] = {}

    def file(self, text: str, name: str) -> None:
        text = _plain_letters(text)
        self.out.add(f'#line 1 "{name}"\n')
        device_code = without_host_code(text)[0]
        plain = masked(text)
        bodies = [f for f in functions(text) if not device_code[f.body : f.end].isspace() and _can_change(f, plain)]
        position = 0
        for function in bodies:
            self.between(text, position, function.body, name)
            tree, unread = body_of(plain, function.body, function.end)
            self.left_out += unread
            self.function(text, name, function.name, tree)
            position = function.end
        self.between(text, position, len(text), name)
        self.out.add("\n")

    def between(self, text: str, start: int, end: int, name: str) -> None:
        """The text outside of functions, with the source's own headers in place of #include."""
        for found in INCLUDE.finditer(text, start, end):
            header = next((each / found[1] for each in self.folders if (each / found[1]).is_file()), None)
            if header is None:
                continue
            self.out.add(text[start : found.start()])
            start = found.end()
            content = read_source(header)
            if header in self.once:
                continue
            if re.search(r"^[ \t]*#[ \t]*pragma[ \t]+once", content, re.MULTILINE):
                self.once.add(header)
            self.file(re.sub(r"^[ \t]*#[ \t]*pragma[ \t]+once[^\n]*", "", content, flags=re.MULTILINE), found[1])
            self.out.add(f'#line {line_of(text, found.end())} "{name}"\n')
        self.out.add(text[start:end])

    def function(self, text: str, file: str, function: str, tree: Node) -> None:
        by_node: dict[int, list[tuple[Mutant, Change]]] = {}
        self.bodies += 1
        for change in changes_of(text, tree):
            line = line_of(text, change.node.start)
            source = one_line(text.splitlines()[line - 1])
            place = f"{file}: {function}: {source}: {change.before} -> {change.after or 'nothing'}"
            times = self.seen[place] = self.seen.get(place, 0) + 1
            place += f" ({times})" if times > 1 else ""
            if place in self.without:
                self.left_out += 1
                continue
            after = change.after or ""
            where = (file, function, self.bodies, line)
            mutant = Mutant(len(self.mutants), *where, change.rule, change.before, after, source, place)
            self.mutants.append(mutant)
            by_node.setdefault(id(change.node), []).append((mutant, change))
        self.render(text, tree, by_node)

    def render(self, text: str, node: Node, by_node) -> None:
        found, out = by_node.get(id(node), []), self.out
        start = out.length
        for mutant, change in found:
            begin = out.length
            if change.after is None:
                out.add(f"if (minillm_is({mutant.number})) ; else ")
            elif node.kind == "condition" or node.op in ("&&", "||", "!"):
                out.add(f"(minillm_is({mutant.number}) ? bool({change.after}) : bool(")
            else:
                out.add(f"(minillm_is({mutant.number}) ? ({change.after}) : (")
            out.spans.append((begin, out.length, mutant.number))
        position = node.start
        for part in sorted(node.parts, key=lambda each: each.start):
            out.add(text[position : part.start])
            self.render(text, part, by_node)
            position = part.end
        out.add(text[position : node.end])
        out.add("".join("))" for _, change in found if change.after is not None))
        out.spans += [(start, out.length, mutant.number) for mutant, _ in found]


def _plain_letters(text: str) -> str:
    """The text with one byte for each letter, so that a compiler's columns are its positions."""
    return re.sub(r"[^\x00-\x7f]", "?", text).replace("\t", " ")


def _can_change(function, plain: str) -> bool:
    head = plain[function.start : function.body]
    return bool(re.search(r"\b__(?:global|device)__\b", head)) and "constexpr" not in head

"""What g++ sees in a kernel without running it, and check mode cannot: a local variable that is
used without a value, a pointer to a variable whose scope has ended.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from minillm.kernels.simulator.source import functions, line_of, split_list

FLAGS = ("-Wuninitialized", "-Wmaybe-uninitialized", "-Wdangling-pointer")
LINE = re.compile(
    r"In function '(?P<function>[^\n]*)':"
    r"|^(?P<file>[^\n]*?):(?P<line>\d+):\d+: warning: (?P<text>[^\n]*) "
    r"\[-W(?:maybe-uninitialized|uninitialized|dangling-pointer)=?\]$",
    re.MULTILINE,
)


def keep(log: str, library: Path) -> None:
    """Put the warnings in g++'s log beside the library that it has compiled."""
    found, function = [], ""
    for each in LINE.finditer(log):
        if each["function"] is not None:
            function = each["function"]
        else:
            found.append([each["file"], int(each["line"]), each["text"], _arguments(function)])
    _beside(library).write_text(json.dumps(found), encoding="utf-8")


def warnings_of(library: Path, kernel: str, file: str, source: str) -> list[str]:
    """Those that are about a kernel: in its function, or in one that it calls by name."""
    path = _beside(library)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not known:
        return []
    every = functions(source)
    name, _, given = kernel.partition("<")
    own = [f for f in every if f.name == name.partition("(")[0].split("::")[-1]]
    called = {word for f in own for word in re.findall(r"\w+", source[f.body : f.end])}
    near = [(line_of(source, f.start), line_of(source, f.end), f in own) for f in every if f in own or f.name in called]
    given = split_list(given.rpartition(">")[0])
    found = []
    for place, number, text, arguments in known:
        inside = [is_own for start, end, is_own in near if start <= number <= end]
        of_another = inside and inside[0] and len(arguments) == len(given) and arguments != given
        if Path(place).name == Path(file).name and inside and not of_another:
            found.append(f"{place}:{number}: {kernel}: {text} (g++ sees it without running the kernel)")
    return list(dict.fromkeys(found))


def _arguments(function: str) -> list[str]:
    """The template arguments of a function as g++ names it: [with T = float; int N = 32]."""
    listed = re.search(r"\[with (.*)\]$", function)
    return [part.partition(" = ")[2] for part in listed[1].split("; ")] if listed else []


def _beside(library: Path) -> Path:
    return library.with_suffix(".warnings")

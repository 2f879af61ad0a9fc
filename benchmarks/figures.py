"""From result files to what a page shows: how figures are written, where they come from, and the marks in the pages.

A page names what a result file is to put there, in comments that a browser does not show:

    <!-- table: sampler -->               the lines up to the next `<!-- end -->`: a table, and below it its origin
    <!--=sampler.greedy-->0.02 ms<!--/--> a figure in a sentence

The part of a name before the first dot is that of the file: `sampler` is benchmarks/results/sampler.json. What a name
shows is a function in tables.py or sentences.py, which is given that file's contents and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minillm.errors import UserError

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TABLE = re.compile(r"^<!-- table: (?P<name>\S+) -->\n(?P<shown>.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"<!--=(?P<name>[\w.-]+)-->(?P<shown>[^<\n]*)<!--/-->")
BUSY = 0.1  # the share of the cores that other work has from which on an origin says so


@dataclass(frozen=True)
class Shown:
    """What a name shows. make: contents of each of the files -> lines of a table, or a figure as text.

    peers: packages whose versions the origin names. has_origin: whether the origin follows the table.
    """

    make: Callable
    files: tuple[str, ...]
    peers: tuple[str, ...] = ()
    has_origin: bool = True


TABLES: dict[str, Shown] = {}
FIGURES: dict[str, Shown] = {}


def table(name: str, files: tuple[str, ...] | None = None, peers: tuple[str, ...] = (), has_origin: bool = True):
    """Of the function that follows: it makes the lines of this table. files: by default the first part of the name."""

    def register(make):
        of_name = (name.partition(".")[0],)
        TABLES[name] = Shown(make, of_name if files is None else files, peers, has_origin)
        return make

    return register


def figure(name: str, make: Callable[[dict], str]) -> None:
    """A figure in a sentence, made of the contents of the file that its name begins with."""
    FIGURES[name] = Shown(make, (name.partition(".")[0],))


# ------------------------------------------------------------------------------------------------- what a page shows


def rendered(text: str, page: Path) -> str:
    """The page's text with all tables and figures as the result files have them."""
    text = TABLE.sub(lambda match: f"<!-- table: {match['name']} -->\n{_table(match['name'], page)}<!-- end -->", text)
    return FIGURE.sub(lambda match: f"<!--={match['name']}-->{_figure(match['name'], page)}<!--/-->", text)


def files_of(text: str) -> set[str]:
    """The names of the result files from which a page has figures."""
    names = [(TABLES, match["name"]) for match in TABLE.finditer(text)]
    names += [(FIGURES, match["name"]) for match in FIGURE.finditer(text)]
    return {file for known, name in names if name in known for file in known[name].files}


def _table(name: str, page: Path) -> str:
    shown = _known(TABLES, name, page)
    contents = [contents_of(file) for file in shown.files]
    lines = _made(shown, name, contents)
    if shown.has_origin:
        lines = [*lines, "", *(origin_of(file, found, shown.peers, page) for file, found in zip(shown.files, contents))]
    return "\n".join(lines) + "\n"


def _figure(name: str, page: Path) -> str:
    shown = _known(FIGURES, name, page)
    return _made(shown, name, [contents_of(file) for file in shown.files])


def _known(names: dict[str, Shown], name: str, page: Path) -> Shown:
    if name not in names:
        raise UserError(f"{page.name}: {name} is in neither benchmarks/tables.py nor benchmarks/sentences.py")
    return names[name]


def _made(shown: Shown, name: str, contents: list[dict]):
    try:
        return shown.make(*contents)
    except (KeyError, IndexError) as error:
        files = ", ".join(f"benchmarks/results/{file}.json" for file in shown.files)
        raise UserError(f"{name}: {files} has no {error}: measure anew, or mend what makes it") from error


def contents_of(file: str) -> dict:
    """The contents of a result file."""
    path = RESULTS / f"{file}.json"
    if not path.exists():
        raise UserError(f"there is no benchmarks/results/{file}.json: python -m benchmarks.all --only {file} makes it")
    return json.loads(path.read_text(encoding="utf-8"))


def origin_of(file: str, contents: dict, peers: tuple[str, ...], page: Path) -> str:
    """Machine, date and versions of a result file, and a link to it, in lines of a paragraph."""
    origin = contents["origin"]
    names = {"numpy": "NumPy", "torch": "PyTorch", "mpich": "MPICH"}
    versions = [f"{names.get(name, name)} {origin[name]}" for name in ("numpy", *peers) if name in origin]
    machine = f"{origin['cores']} cores of an {origin['processor']}"
    other = origin.get("other_work") or 0
    busy = [f"other work had {other:.0%} of the cores".replace("%", " %")] if other >= BUSY else []
    link = f"[numbers]({os.path.relpath(RESULTS / f'{file}.json', page.parent)})"
    text = f"{', '.join([origin['date'], machine, *versions, *busy])} ({link})"
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


# ----------------------------------------------------------------------------------------------- how figures are written


def number(value: float | None) -> str:
    """Three digits that count, two behind the point at most; empty for None, what was not measured.

    >>> number(0.4362), number(7.5), number(66.91), number(11964.5), number(None)
    ('0.44', '7.50', '66.9', '11,964', '')
    """
    if value is None:
        return ""
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """
    >>> percent(0.563)
    '56 %'
    """
    return f"{100 * share:.0f} %"


def rows(head: list[str], *cells: list[str]) -> list[str]:
    """The lines of a table in Markdown.

    >>> rows(["", "ms"], ["minillm", "1.00"])
    ['| | ms |', '|---|---|', '| minillm | 1.00 |']
    """
    lines = ["| " + " | ".join(row) + " |" for row in (head, *cells)]
    return [re.sub(r" {2,}", " ", line) for line in (lines[0], "|" + "---|" * len(head), *lines[1:])]

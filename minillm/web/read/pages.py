"""All pages of Read, as files in a folder.

Everything is made before anything is written, so that a fault in the sources leaves the old pages
as they are; and each file is there whole or not at all.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.web.read.front import front_page
from minillm.web.read.ladder import ladder_html
from minillm.web.read.operation import OPERATIONS, Operation
from minillm.web.read.render import Facts, page
from minillm.web.read.shapes import shape_problems
from minillm.web.read.symbols import symbols
from minillm.web.read.ties import problems, rows, ties
from minillm.web.read.values import observe

INDEX = "index.html"


def write_pages(folder: Path, name: str | None = None) -> Path:
    """Write all pages into a folder, which is made if it is missing -> the path of the page `name`, or of the index.

    Raises UserError for an unknown name, and for a fault in the sources, with its file and line: a
    backward statement without a forward line, or a shape comment that is not what was observed.
    """
    check_name(name)
    operations = list(OPERATIONS.values())
    check_sources(operations)
    files = {INDEX: front_page(operations)}
    for at, operation in enumerate(operations):
        files[f"{operation.name}.html"] = page(operation, facts(operation, *_neighbours(operations, at)))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_atomically(folder / file, text.encode("utf-8"))
    return folder / (f"{name}.html" if name else INDEX)


def check_name(name: str | None) -> None:
    """Raises UserError, with the names that there are, for one that is none of them."""
    if name is None or name in OPERATIONS:
        return
    near = difflib.get_close_matches(name, OPERATIONS, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f'no page is named "{name}"{meant}: use {", ".join(OPERATIONS)}')


def check_sources(operations: list[Operation]) -> None:
    """Raises UserError for the first fault, with the number of the others."""
    found = [problem for each in operations for problem in (*problems(each), *shape_problems(each))]
    found = list(dict.fromkeys(found))
    if found:
        others = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{others}")


def facts(operation: Operation, before: Operation | None = None, after: Operation | None = None) -> Facts:
    """All that a page shows of an operation. before, after: its neighbours in reading order."""
    return Facts(
        ties(operation),
        rows(operation),
        observe(operation),
        symbols(operation),
        ladder_html(operation),
        (before, after),
    )


def _neighbours(operations: list[Operation], at: int) -> tuple[Operation | None, Operation | None]:
    return operations[at - 1] if at else None, operations[at + 1] if at + 1 < len(operations) else None

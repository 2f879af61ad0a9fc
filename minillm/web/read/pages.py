"""All pages of Read, as files in a folder.

Everything is made before anything is written, so that a fault in the sources leaves the old pages
as they are; and each file is there whole or not at all.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.kernels.simulator.errors import CompilerMissing
from minillm.web.read.front import front_page
from minillm.web.read.ladder import ladder_html
from minillm.web.read.operation import OPERATIONS, Operation
from minillm.web.read.render import Facts, page
from minillm.web.read.rows import rows
from minillm.web.read.sampler_page import NAME as SAMPLER
from minillm.web.read.sampler_page import sampler_page
from minillm.web.read.shapes import shape_problems
from minillm.web.read.symbols import symbols
from minillm.web.read.ties import problems, ties
from minillm.web.read.values import observe

INDEX = "index.html"
NAMES = (*OPERATIONS, Path(SAMPLER).stem)


def write_pages(folder: Path, names: list[str] | None = None) -> None:
    """Write the front page and the pages of these names, or all pages, into a folder, which is made
    if it is missing.

    Raises UserError for a fault in their sources, with its file and line: a backward statement
    without a forward line, or a shape comment that is not what was observed; and for a folder that
    cannot be written to, before anything is made.
    """
    _check_folder(folder)
    operations = list(OPERATIONS.values())
    wanted = [each for each in operations if names is None or each.name in names]
    check_sources(wanted)
    files = {INDEX: front_page(operations)}
    for operation in wanted:
        at = operations.index(operation)
        files[f"{operation.name}.html"] = page(operation, facts(operation, *_neighbours(operations, at)))
    if names is None or Path(SAMPLER).stem in names:
        files[SAMPLER] = sampler_page(INDEX)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            write_atomically(folder / file, text.encode("utf-8"))
    except OSError as error:
        raise _unwritable(folder, error.strerror) from None


def page_path(folder: Path, name: str | None) -> Path:
    """Of the page with a name of NAMES, or of the front page.

    Raises UserError, with the names that there are, for a name that is none of them.
    """
    check_name(name)
    return folder / (f"{name}.html" if name else INDEX)


def check_name(name: str | None) -> None:
    """Raises UserError, with the names that there are, for one that is none of them."""
    if name is None or name in NAMES:
        return
    near = difflib.get_close_matches(name, NAMES, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f'no page is named "{name}"{meant}: use {", ".join(NAMES)}')


def check_sources(operations: list[Operation]) -> None:
    """Raises UserError for the first fault, with the number of the others."""
    found = [problem for each in operations for problem in problems(each) or _shape_problems(each)]
    found = list(dict.fromkeys(found))
    if found:
        others = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{others}")


def _check_folder(folder: Path) -> None:
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise _unwritable(folder, f"{nearest} is a file")
    if not os.access(nearest, os.W_OK):
        raise _unwritable(folder, f"no permission to write to {nearest}")


def _unwritable(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder}: the pages cannot be written there ({reason}): choose another folder with --out")


def _shape_problems(operation: Operation) -> list[str]:
    """Of the attention ladder, whose pass runs in the simulator, only where there is a compiler."""
    try:
        return shape_problems(operation)
    except CompilerMissing:
        return []


def facts(operation: Operation, before: Operation | None = None, after: Operation | None = None) -> Facts:
    """All that a page shows of an operation. before, after: its neighbours in reading order."""
    try:
        seen, no_numbers = observe(operation), ""
    except CompilerMissing as missing:  # the attention ladder runs in the simulator
        seen, no_numbers = [], str(missing)
    return Facts(
        ties(operation),
        rows(operation),
        seen,
        _spellings(operation),
        no_numbers,
        ladder_html(operation),
        (before, after),
    )


def _spellings(operation: Operation) -> dict[str, dict[str, str]]:
    """Column -> a spelling in it -> the symbol."""
    found: dict[str, dict[str, str]] = {"derivation": {}, "code": {}, "kernel": {}}
    for name, occurrences in symbols(operation).items():
        for occurrence in occurrences:
            column = occurrence.where if occurrence.where in found else "code"
            found[column][occurrence.spelling] = name
    return found


def _neighbours(operations: list[Operation], at: int) -> tuple[Operation | None, Operation | None]:
    return operations[at - 1] if at else None, operations[at + 1] if at + 1 < len(operations) else None

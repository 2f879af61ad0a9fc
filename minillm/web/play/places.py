"""Files that the page may name: those inside the folder of run folders, and no others."""

from __future__ import annotations

import os
import re
from pathlib import Path

from minillm.errors import UserError

NAME = re.compile(r"\w[\w.-]{0,79}", re.ASCII)  # of a new run


def inside(runs: Path, name: object) -> Path:
    """The path of a file or folder that the page named, relative to `runs`.

    Raises UserError for an absolute path, for one that leads out of `runs`, also by a link, and for
    `runs` itself. The path need not exist.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{name!r} is no name of a file or folder inside {runs}")
    if not is_inside(runs, name):
        raise UserError(f"{name} is not inside {runs}: the page names files in the folder of run folders only")
    return runs / name


def is_inside(runs: Path, name: str) -> bool:
    """Whether `inside` takes a name."""
    home, real = (Path(os.path.realpath(path)) for path in (runs, runs / name))
    is_plain = not Path(name).is_absolute() and ".." not in Path(name).parts
    return is_plain and real != home and real.is_relative_to(home)


def folders_with(runs: Path, file: str) -> list[str]:
    """The names of the run folders that have such a file, but for links that lead out of `runs`."""
    names = (path.parent.name for path in runs.glob(f"*/{file}"))
    return sorted(name for name in names if not name.startswith(".") and is_inside(runs, f"{name}/{file}"))


def new_name(name: object) -> str:
    """The name of a new run folder. Raises UserError for anything but a plain name."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a run: use up to 80 letters, digits, dots, dashes and underscores")
    return name

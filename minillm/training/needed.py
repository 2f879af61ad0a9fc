"""The inputs that a run needs later: the run must not overwrite any of them.

Folders are compared by their identity on the disk, so that links and other spellings are
recognised.
"""

from __future__ import annotations

import os
from pathlib import Path

from minillm.errors import UserError
from minillm.pretrained import model_chain
from minillm.training.settings import TrainingSettings


def check_not_needed(folder: Path, settings: TrainingSettings, inside_is_fine: bool = False) -> None:
    """Raises UserError if a run in `folder` would overwrite one of its inputs.

    These are the model that it continues from, the model of which that is an adapter, and the
    training texts. A folder inside such a model's folder is refused as well, unless inside_is_fine,
    for a name that the user did not choose.
    """
    for source in settings.files:
        path = Path(source)
        if path.is_file() and _contains(folder, path):
            raise UserError(f"{folder} holds {path}, which the run is to learn from: name another folder with --out")
    for path in model_chain(settings.init) if settings.init else ():
        what = "the model to continue from" if path == Path(settings.init) else f"the model that {settings.init} needs"
        if _contains(folder, path):
            is_it = "is" if _contains(path, folder) else f"holds {path},"
            raise UserError(f"{folder} {is_it} {what}, which would be lost: name another folder with --out")
        if path.is_dir() and not inside_is_fine and _contains(path, folder):
            raise UserError(f"{folder} is inside of {path}, {what}: name another folder with --out")


def _contains(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer`, or inside it at any depth. Neither has to exist."""
    inner = Path(os.path.abspath(inner))
    places = {inner.resolve(), *inner.resolve().parents, inner, *inner.parents}
    if outer.resolve() in places:
        return True
    return outer.exists() and any(place.exists() and os.path.samefile(outer, place) for place in places)

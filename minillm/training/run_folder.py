"""The folder of a new run: choosing, claiming and replacing it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from minillm.errors import UserError
from minillm.training.claim import Claim, FolderInUse
from minillm.training.metrics import METRICS_FILE


def next_free_folder(name: str, parent: str | Path = "runs") -> Path:
    """runs/NAME-1, or the first free number."""
    number = 1
    while (Path(parent) / f"{name}-{number}").exists():
        number += 1
    return Path(parent) / f"{name}-{number}"


@contextmanager
def claim_new_folder(folder: Path, numbered: bool) -> Iterator[tuple[Path, Path]]:
    """(the folder, its temporary name), claimed for this process for one new run.

    The process that holds `.NAME.partial` creates NAME. Old contents of it were left by a process
    that was killed. Raises FolderInUse.
    """
    names = (folder.with_name(f"{folder.name}-{number}") for number in count(1)) if numbered else [folder]
    for name in names:
        if numbered and name.exists():
            continue
        try:
            partial, claim = _claim_partial(name)
        except FolderInUse:
            if numbered:
                continue
            raise
        made = os.stat(partial)
        try:
            if not (numbered and name.exists()):  # created by another process between the two checks
                yield name, partial
                return
        finally:
            if partial.is_dir() and os.path.samestat(made, os.stat(partial)):  # not put in place, nor another process's
                shutil.rmtree(partial, ignore_errors=True)
            claim.release()


def _claim_partial(folder: Path) -> tuple[Path, Claim]:
    partial = folder.with_name(f".{folder.name}.partial")
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # which names the partial folder
            raise OSError(error.errno, error.strerror, str(folder)) from None
        try:
            return partial, Claim(partial, folder)
        except FileNotFoundError:  # its owner has just put it in place, or given it up
            continue


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises UserError for a folder that cannot hold a new run, FolderInUse while another process
    trains in it.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder: name another one with --out")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / METRICS_FILE).is_file():
        raise UserError(f"{folder} is not empty and holds no run: name another folder with --out")
    Claim(folder).release()  # raises FolderInUse while another process trains in it
    if not overwrite:
        raise UserError(
            f"{folder} already holds a run: continue it with --resume {folder}, replace it with --overwrite, "
            "or name another folder with --out"
        )


def put_in_place(partial: Path, folder: Path) -> None:
    """Rename a complete run to `folder`, replacing the run that is there."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    with Claim(folder):
        old = _old(folder)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)


def recover(folder: Path) -> None:
    """Restore a folder whose replacement by `put_in_place` was interrupted."""
    old = _old(folder)
    if old.is_dir() and not os.path.lexists(folder):
        with Claim(old, folder):
            os.replace(old, folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")

"""Texts by name, and texts from files."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minillm.data.special import END_OF_TEXT
from minillm.errors import UserError
from minillm.files.atomic import decode_text, write_atomically

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TIMEOUT_SECONDS = 30
TRAIN_FRACTION = 0.9  # of the characters of a text; the rest is to validate on


def load_text(sources: list[str]) -> str:
    """The text of a corpus by name ("python-docs", "shakespeare"), or of UTF-8 files joined in the
    order given.

    Raises UserError for a name that is neither, for a corpus beside other texts, and for a file
    that is missing, empty, unreadable or no valid UTF-8.
    """
    if len(sources) == 1 and sources[0] in CORPORA and not Path(sources[0]).is_file():
        return CORPORA[sources[0]]()
    named = [source for source in sources if source in CORPORA and not Path(source).is_file()]
    if named:
        raise UserError(
            f"{named[0]} is a corpus, which cannot be joined with other texts: name it alone, or files only"
        )
    return "".join(read_text_file(Path(source)) for source in sources)


def split_text(text: str, train_fraction: float = TRAIN_FRACTION) -> tuple[str, str]:
    """(training text, validation text): the first part and the rest.

    A token <|endoftext|> at the cut belongs to the rest.
    """
    cut = int(len(text) * train_fraction)
    for token in END_OF_TEXT:
        at = text.rfind(token, max(cut - len(token) + 1, 0), cut + len(token) - 1)
        cut = at if 0 <= at < cut else cut
    return text[:cut], text[cut:]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises UserError, naming the text file, for what the system says while it is read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is neither a file nor one of the corpora {', '.join(CORPORA)}") from None
    except OSError as error:
        if path.is_dir():  # Windows says "permission denied"
            raise UserError(f"{path} is a folder: name the text files in it, such as {path}/*.txt") from None
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def refuse_empty(path: Path, content) -> None:
    """content: what is in the text file, or how much. Raises UserError if that is nothing."""
    if not content:
        raise UserError(f"{path} is empty: there is nothing to learn from")


def read_text_file(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are, without a mark (BOM) at its start.

    Raises UserError naming the file, and the byte that is wrong.
    """
    with reading(path):
        data = path.read_bytes()
    text = decode_text(data, str(path))
    refuse_empty(path, text)
    return text


# ------------------------------------------------------------------------------------------------------------- corpora


def python_docs() -> str:
    """The language reference contained in every CPython: its topics, sorted by name."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def shakespeare() -> str:
    """Tiny shakespeare: downloaded once, checked, and kept in the user's cache folder."""
    path = cache_folder() / "tinyshakespeare.txt"
    if not path.is_file():
        data = _download(path)
        if hashlib.sha256(data).hexdigest() != SHAKESPEARE_SHA256:
            raise UserError(
                f"{SHAKESPEARE_URL} did not give the text that was expected (wrong SHA-256): nothing was kept; "
                f"put the right file at {path}, or use --data FILE"
            )
        _keep(path, data)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHAKESPEARE_SHA256:
        raise UserError(f"{path} is damaged (wrong SHA-256): delete it, and it will be downloaded again")
    return data.decode("utf-8")


CORPORA = {"python-docs": python_docs, "shakespeare": shakespeare}


def cache_folder() -> Path:
    """The user's cache folder for this program."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "minillm"


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): set XDG_CACHE_HOME, or use --data FILE"
        ) from None


def _download(path: Path) -> bytes:
    import http.client  # here, as texts are mostly read from files
    import urllib.request

    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=TIMEOUT_SECONDS) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(
            f"tiny shakespeare could not be downloaded ({reason}): with a network try again, or put the text at {path}, "
            "or use --data FILE; --data python-docs needs no network"
        ) from None

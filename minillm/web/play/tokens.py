"""The view Tokens: a text cut into tokens, and the merges that made them (tokenizers/trace.py)."""

from __future__ import annotations

from starlette.routing import Route

from minillm.errors import UserError
from minillm.tokenizers import Tokenizer, load_tokenizer
from minillm.tokenizers.start import can_encode
from minillm.tokenizers.trace import TracedPiece
from minillm.web.play.answers import answer
from minillm.web.play.arguments import choice, text
from minillm.web.play.places import folders_with
from minillm.web.play.studio import Studio, Worker

FILE = "tokenizer.json"  # by which a folder has a tokenizer
LONGEST = 200_000  # characters of a text
SAMPLE = (  # of all kinds of characters
    "Once upon a time, there was a tokenizer.\nIt's 2026: naïve 東京 👩\u200d👧  two spaces <|endoftext|>"
)
SHOWN = 2000  # tokens that are shown, with their merges
LONGEST_PIECE = 4000  # ids at the start of a piece whose merges are shown


def routes(studio: Studio) -> list[Route]:
    """POST /tokens/tokenizers, /tokens/cut"""
    worker = Worker("tokens")
    view = Tokens(studio)
    return [
        answer("/tokens/tokenizers", studio, view.tokenizers, worker),
        answer("/tokens/cut", studio, view.cut, worker),
    ]


class Tokens:
    """The studio's tokenizer, and those of the run folders as they are asked for."""

    def __init__(self, studio: Studio):
        self._studio = studio
        self._opened: dict[tuple[str, float], Tokenizer] = {}

    def tokenizers(self, studio: Studio, arguments: dict) -> dict:
        """The name of the model, whose own is called "", the run folders with a tokenizer, and a
        text to begin with, of which characters that the model's tokenizer does not have are left
        out.
        """
        known = {letter for letter in SAMPLE if can_encode(self._studio.tokenizer, letter)}
        sample = "".join(letter for letter in SAMPLE if letter in known)
        own = {"model": self._studio.name, "sample": sample}
        return {**own, "folders": self._folders(), "longest": LONGEST, "shown": SHOWN}

    def cut(self, studio: Studio, arguments: dict) -> dict:
        """A text as tokens.

        text; folder: of the tokenizer, "" for the model's; special: whether special tokens in the
        text are read as such.
        """
        sample = text(arguments, "text", LONGEST)
        folder = choice(arguments, "folder", ["", *self._folders()], "")
        allowed = "all" if arguments.get("special", True) else ()
        return cut_text(self._tokenizer(folder), sample, allowed)

    def _folders(self) -> list[str]:
        return folders_with(self._studio.runs, FILE)

    def _tokenizer(self, folder: str) -> Tokenizer:
        if not folder:
            return self._studio.tokenizer
        path = self._studio.runs / folder
        try:
            key = folder, (path / FILE).stat().st_mtime
        except OSError as error:
            raise UserError(f"the tokenizer of {folder} cannot be read: {error.strerror}") from None
        if key not in self._opened:
            self._opened = {key: load_tokenizer(path)}
        return self._opened[key]


def cut_text(tokenizer: Tokenizer, sample: str, allowed) -> dict:
    """All counts, and the first tokens with the pieces they are from.

    tokens: id -> its bytes, its text (None for bytes that are no characters), whether it is
    special. pieces: text, ids at the start, merges as [left, right, rank, id], ids at the end.
    """
    ids = tokenizer.encode(sample, allowed_special=allowed, disallowed_special=())
    pieces, shown = [], 0
    for piece in tokenizer.trace(sample, allowed):
        if shown >= SHOWN:
            break
        pieces.append(piece)
        shown += len(piece.ids)
    used = {index for piece in pieces for index in _ids_in(piece)}
    normalized = "".join(piece.text for piece in pieces if not piece.added)
    return {
        "kind": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
        "count": len(ids),
        "shown": shown,
        "characters": len(sample),
        "bytes": len(sample.encode("utf-8")),
        "tokens": {index: _token(tokenizer, index) for index in sorted(used)},
        "pieces": [_piece(piece) for piece in pieces],
        "normalized": normalized if shown == len(ids) and _is_changed(pieces, sample) else None,
        "scores": any(isinstance(merge.rank, float) for piece in pieces for merge in piece.merges),
    }


def _piece(piece: TracedPiece) -> dict:
    long = len(piece.start) > LONGEST_PIECE
    return {
        "text": piece.text,
        "start": [] if long else piece.start,
        "merges": [] if long else piece.merges,
        "ids": piece.ids[:SHOWN],
        "whole": piece.whole,
        "added": piece.added,
        "long": long,
    }


def _ids_in(piece: TracedPiece) -> set[int]:
    if len(piece.start) > LONGEST_PIECE:
        return set(piece.ids[:SHOWN])
    return {*piece.start, *piece.ids, *(merge.token for merge in piece.merges)}


def _token(tokenizer: Tokenizer, index: int) -> dict:
    data = tokenizer.token_bytes(index)
    try:
        shown = data.decode("utf-8")
    except UnicodeDecodeError:
        shown = None
    return {"bytes": data.hex(" "), "text": shown, "special": index in tokenizer.special_tokens.values()}


def _is_changed(pieces: list[TracedPiece], sample: str) -> bool:
    """Whether the text of the pieces and the added tokens is another one than was given."""
    at = 0
    for piece in pieces:
        if not sample.startswith(piece.text, at):
            if piece.added:  # put around the text
                continue
            return True
        at += len(piece.text)
    return at != len(sample)

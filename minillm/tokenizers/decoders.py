"""Decoders of tokenizer.json: the texts of tokens, put together to the text.

    Replace "▁" by " ", ByteFallback, Fuse, Strip one " " at the start:      ▁a|▁|<0xC3>|<0xA9>   ->   "a é"

Each step goes from a list of texts to a list of texts. `Decoder.bytes_of` says what they do to one
token of a stream, whose neighbours are not known yet.

>>> decoder = read_decoder({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}, "decoder")
>>> decoder.decode(["▁a", "▁b"])
'a b'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from minillm.errors import UserError
from minillm.tokenizers.byte_spelling import bytes_of
from minillm.tokenizers.components import (
    METASPACE_OPTIONS,
    OFFSETS_ONLY,
    REQUIRED,
    Kind,
    parts_of,
    read_component,
    read_pattern,
)
from minillm.tokenizers.patterns import matches

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Step(NamedTuple):
    """all: texts -> texts.

    one: a token's text, and whether it is the first -> its text, or bytes if it is bytes.

    fuses: all are one text afterwards. front: (character, count) that are taken away where the text
    begins.
    """

    all: Callable[[list[str]], list[str]]
    one: Callable[[str, bool], str | bytes]
    fuses: bool = False
    front: tuple[str, int] = ("", 0)


class Decoder:
    """Steps in order; without any, the tokens are joined by spaces."""

    def __init__(self, steps: list[Step] | None):
        self.steps = steps
        fused = [at for at, step in enumerate(steps or ()) if step.fuses]
        after = steps[fused[0] + 1 :] if fused else []
        # a stream is exact where all that follows the joining takes characters away at the front
        self.streams = all(step.fuses and step.all([""]) == [""] or step.front[1] for step in after)
        self._before = steps[: fused[0] + 1] if fused else steps
        self.front = [step.front for step in after if step.front[1]]

    def decode(self, tokens: list[str]) -> str:
        """The text of tokens."""
        if self.steps is None:
            return " ".join(tokens)
        for step in self.steps:
            tokens = step.all(tokens)
        return "".join(tokens)

    def bytes_of(self, token: str, first: bool) -> bytes:
        """What one token of a stream adds to its text; where the text begins, `front` is still to
        be taken away.
        """
        if self.steps is None:
            return (token if first else " " + token).encode("utf-8")
        for step in self._before:
            token = step.one(token, first)
            if isinstance(token, bytes):
                return token
        return token.encode("utf-8")


def read_decoder(data, where: str) -> Decoder:
    """Raises UserError for what is not known."""
    return Decoder(None if data is None else _read_steps(data, where))


def is_byte_level(data) -> bool:
    """Whether a decoder only puts bytes together again; none is taken for one, since nothing else
    could be meant.
    """
    if isinstance(data, dict) and data.get("type") == "Sequence" and isinstance(data.get("decoders"), list):
        return len(data["decoders"]) == 1 and is_byte_level(data["decoders"][0])
    return data is None or isinstance(data, dict) and data.get("type") == "ByteLevel"


def _read_steps(data, where: str) -> list[Step]:
    if isinstance(data, dict) and data.get("type") == "Sequence":
        return read_component(data, where, {"Sequence": Kind(_sequence, {"decoders": (list, REQUIRED)})})
    return [read_component(data, where, KINDS)]


def _sequence(where: str, decoders: list) -> list[Step]:
    return [step for steps in parts_of(decoders, where, _read_steps) for step in steps]


def _each(function: Callable[[str], str]) -> Step:
    return Step(lambda tokens: list(map(function, tokens)), lambda token, first: function(token))


def _replace(where: str, pattern: dict, content: str) -> Step:
    compiled = read_pattern(pattern, where)

    def replace(text: str) -> str:
        out, end = [], 0
        for start, stop in matches(compiled, text):
            out += [text[end:start], content]
            end = stop
        return "".join(out) + text[end:]

    if pattern.get("String"):
        return _each(lambda text: text.replace(pattern["String"], content))
    return _each(replace)


def _byte_fallback(where: str) -> Step:
    def join_bytes(tokens: list[str]) -> list[str]:
        texts, run = [], bytearray()
        for token in [*tokens, None]:
            match = token is not None and BYTE_TOKEN.fullmatch(token)
            if match:
                run.append(int(match[1], 16))
                continue
            if run:
                texts.append(text_of_bytes(bytes(run)))
                run.clear()
            if token is not None:
                texts.append(token)
        return texts

    def one(token: str, first: bool) -> str | bytes:
        match = BYTE_TOKEN.fullmatch(token)
        return bytes([int(match[1], 16)]) if match else token

    return Step(join_bytes, one)


def text_of_bytes(run: bytes) -> str:
    """The text of bytes, with U+FFFD for each that is part of no character.

    `tokenizers` gives up whole characters, too, where anything in a run of bytes is broken: a text
    that is cut off would lose its last ones.

    >>> text_of_bytes("é東".encode()[:-1])
    'é��'
    """
    return whole_characters(run, final=True)[0]


def whole_characters(data: bytes, final: bool) -> tuple[str, bytes]:
    """(the text of bytes, what is left at their end because it may become a character).

    Nothing is left where the bytes are final.
    """
    out = []
    while data:
        try:
            return "".join(out) + data.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            out.append(data[: error.start].decode("utf-8"))
            data = data[error.start :]
            if error.reason == "unexpected end of data" and not final:
                break
            out.append("\ufffd")
            data = data[1:]
    return "".join(out), data


def _fuse(where: str) -> Step:
    return Step(lambda tokens: ["".join(tokens)], lambda token, first: token, fuses=True)


def _strip(where: str, content: str, start: int, stop: int) -> Step:
    if len(content) != 1 or start < 0 or stop < 0:
        raise UserError(f"{where}: {content!r} is not one character, or is to be taken away {start} and {stop} times")

    def strip(text: str) -> str:
        first, last = 0, len(text)
        while first < min(start, len(text)) and text[first] == content:
            first += 1
        while len(text) - last < stop and last > first and text[last - 1] == content:
            last -= 1
        return text[first:last]

    return _each(strip)._replace(front=(content, 0 if stop else start))


def _metaspace(
    where: str,
    replacement: str,
    prepend_scheme: str,
    split: bool | None,
    add_prefix_space: bool | None,
    str_rep: str | None,
) -> Step:
    if prepend_scheme not in ("first", "always", "never") or add_prefix_space is False and prepend_scheme != "never":
        raise UserError(f"{where}: prepend_scheme {prepend_scheme!r} is not first, always or never, or is contradicted")
    space_in_front = "" if prepend_scheme != "never" else " "

    def one(token: str, first: bool) -> str:
        return token.replace(replacement, space_in_front if first else " ")

    return Step(lambda tokens: [one(token, not at) for at, token in enumerate(tokens)], one)


def _byte_level(where: str, **offsets: bool) -> Step:
    def join_bytes(tokens: list[str]) -> list[str]:
        return [b"".join(map(bytes_of, tokens)).decode("utf-8", "replace")]

    return Step(join_bytes, lambda token, first: bytes_of(token), fuses=True)


KINDS = {
    "ByteLevel": Kind(
        _byte_level, {"add_prefix_space": OFFSETS_ONLY, "trim_offsets": OFFSETS_ONLY, "use_regex": OFFSETS_ONLY}
    ),
    "Replace": Kind(_replace, {"pattern": (dict, REQUIRED), "content": (str, REQUIRED)}),
    "ByteFallback": Kind(_byte_fallback),
    "Fuse": Kind(_fuse),
    "Strip": Kind(_strip, {"content": (str, REQUIRED), "start": (int, REQUIRED), "stop": (int, REQUIRED)}),
    "Metaspace": Kind(_metaspace, METASPACE_OPTIONS),
}

"""Normalizers of tokenizer.json: what is done to a text before anything is looked for in it.

    Prepend "▁", Replace " " by "▁":     "a b"  ->  "▁a▁b"        (the first Llamas)
    NFC:                                 "e" and U+0301  ->  "é"  (Qwen)

A normalizer is a function (text, starts) -> (text, starts). `starts` says whether the text's first
character is at the beginning of the input, or was made from the one that does: the
pre-tokenizer Metaspace asks for it.

>>> normalize = read_normalizer({"type": "Prepend", "prepend": "▁"}, "normalizer")
>>> normalize("a b", True)
('▁a b', True)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import regex

from minillm.tokenizers.components import REQUIRED, Kind, parts_of, read_component, read_pattern
from minillm.tokenizers.patterns import matches

Normalizer = Callable[[str, bool], tuple[str, bool]]
LEADING_SPACE, TRAILING_SPACE = regex.compile(r"^\p{White_Space}+"), regex.compile(r"\p{White_Space}+$")


def read_normalizer(data, where: str) -> Normalizer | None:
    """The function that a normalizer describes; None for none. Raises UserError for what is not
    known.
    """
    if data is None:
        return None
    return read_component(data, where, KINDS)


def _sequence(where: str, normalizers: list) -> Normalizer:
    steps = parts_of(normalizers, where, lambda data, place: read_component(data, place, KINDS))

    def normalize(text, starts):
        for step in steps:
            text, starts = step(text, starts)
        return text, starts

    return normalize


def _prepend(where: str, prepend: str) -> Normalizer:
    return lambda text, starts: (prepend + text if text else text, starts)


def _replace(where: str, pattern: dict, content: str) -> Normalizer:
    compiled = read_pattern(pattern, where)

    def normalize(text, starts):
        out, end = [], 0
        for start, stop in matches(compiled, text):
            out += [text[end:start], content]
            if start == 0 < stop and not content:
                starts = False
            end = stop
        return "".join(out) + text[end:], starts

    return normalize


def _strip(where: str, strip_left: bool, strip_right: bool) -> Normalizer:
    def normalize(text, starts):
        if strip_right:
            text = TRAILING_SPACE.sub("", text)
        if strip_left and (match := LEADING_SPACE.match(text)):
            return text[match.end() :], False
        return text, starts

    return normalize


def _without_accents(where: str) -> Normalizer:
    def normalize(text, starts):
        kept = "".join(character for character in text if not unicodedata.category(character).startswith("M"))
        return kept, starts and kept[:1] == text[:1]

    return normalize


def _lower_case(where: str) -> Normalizer:
    # one character at a time: the end of a word, where Greek has another small sigma, is not looked
    # for
    return lambda text, starts: (text.lower() if text.isascii() else "".join(map(str.lower, text)), starts)


def _unicode_form(form: str) -> Kind:
    return Kind(lambda where: lambda text, starts: (unicodedata.normalize(form, text), starts))


KINDS = {
    "Sequence": Kind(_sequence, {"normalizers": (list, REQUIRED)}),
    "Prepend": Kind(_prepend, {"prepend": (str, REQUIRED)}),
    "Replace": Kind(_replace, {"pattern": (dict, REQUIRED), "content": (str, REQUIRED)}),
    "Strip": Kind(_strip, {"strip_left": (bool, REQUIRED), "strip_right": (bool, REQUIRED)}),
    "StripAccents": Kind(_without_accents),
    "Lowercase": Kind(_lower_case),
    **{form: _unicode_form(form) for form in ("NFC", "NFD", "NFKC", "NFKD")},
}

"""Pre-tokenizers of tokenizer.json: how a text is cut into the pieces that the model sees one by
one.

    Digits, one by one:                 "ab12"     ->  ab|1|2
    Split at " ", MergedWithNext:       "a b c"    ->  a| b| c
    Metaspace, prepend_scheme "first":  "a b"      ->  ▁a|▁b
    ByteLevel:                          " é b"     ->  ĠÃ©|Ġb      (GPT-2's pattern, then bytes spelled as characters)

A piece is (text, starts), `starts` as in normalizers.py. Every step cuts the pieces of the step
before.

>>> read_pre_tokenizer({"type": "Digits", "individual_digits": True}, "pre_tokenizer").pieces("ab12")
['ab', '1', '2']
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import regex

from minillm.errors import UserError
from minillm.tokenizers.byte_spelling import spell
from minillm.tokenizers.components import (
    METASPACE_OPTIONS,
    OFFSETS_ONLY,
    REQUIRED,
    Kind,
    parts_of,
    read_component,
    read_pattern,
)
from minillm.tokenizers.patterns import GPT2, compile_expression, matches

Piece = tuple[str, bool]
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
WORDS = regex.compile(rf"[{WORD}]+|[^{WORD}\p{{White_Space}}]+")
WHITE_SPACE, NUMERIC = regex.compile(r"\p{White_Space}"), regex.compile(r"\p{N}")


class Step(NamedTuple):
    """data: as it is in the file.

    cut: a piece -> pieces. spelled: whether bytes are spelled as characters afterwards.
    """

    data: dict
    cut: Callable[[str, bool], list[Piece]]
    spelled: bool = False


class PreTokenizer:
    """Steps in order, those of nested sequences one after the other."""

    def __init__(self, steps: list[Step]):
        self.steps = steps

    def pieces(self, text: str, starts: bool = True) -> list[str]:
        """The pieces of a text as the model sees them; none is empty."""
        found = [(text, starts)] if text else []
        for step in self.steps:
            found = [piece for each in found for piece in step.cut(*each) if piece[0]]
            if step.spelled:
                found = [(spell(piece.encode("utf-8")), starts) for piece, starts in found]
        return [piece for piece, _ in found]

    def without_spelling(self) -> PreTokenizer:
        """The same cuts, for a model of bytes: pieces stay text.

        The last step has to be the one that spells.
        """
        return PreTokenizer([*self.steps[:-1], self.steps[-1]._replace(spelled=False)])


def read_pre_tokenizer(data, where: str) -> PreTokenizer:
    """Raises UserError for what is not known."""
    return PreTokenizer([] if data is None else _read_steps(data, where))


def _read_steps(data, where: str) -> list[Step]:
    if isinstance(data, dict) and data.get("type") == "Sequence":
        return read_component(data, where, {"Sequence": Kind(_sequence, {"pretokenizers": (list, REQUIRED)})})
    made = read_component(data, where, KINDS)
    return [Step(data, made, spelled=data["type"] == "ByteLevel")]


def _sequence(where: str, pretokenizers: list) -> list[Step]:
    return [step for steps in parts_of(pretokenizers, where, _read_steps) for step in steps]


# ------------------------------------------------------------------------------------------------ cutting at matches


def cut_at(found: list[tuple[int, int]], text: str, starts: bool, behavior: str, invert: bool = False) -> list[Piece]:
    """Pieces of a text in which there are matches; `behavior` says where these go.

    invert: what is no match is the match.

    >>> [piece for piece, _ in cut_at([(1, 2), (3, 4)], "a b c", True, "MergedWithPrevious")]
    ['a ', 'b ', 'c']
    """
    spans, end = [], 0
    for start, stop in found:
        if start > end:
            spans.append((end, start, invert))
        spans.append((start, stop, not invert))
        end = stop
    if end < len(text):
        spans.append((end, len(text), invert))
    return [(text[a:b], starts and a == 0) for a, b in _arranged(spans, behavior)]


def _arranged(spans: list[tuple[int, int, bool]], behavior: str) -> list[tuple[int, int]]:
    if behavior == "Isolated":
        return [(start, stop) for start, stop, _ in spans]
    if behavior == "Removed":
        return [(start, stop) for start, stop, is_match in spans if not is_match]
    backwards = behavior == "MergedWithNext"
    result, before = [], None
    for start, stop, is_match in reversed(spans) if backwards else spans:
        joins = is_match == before if behavior == "Contiguous" else is_match and before is not True
        if joins and result:
            first, last = result[-1]
            result[-1] = (start, last) if backwards else (first, stop)
        else:
            result.append((start, stop))
        before = is_match
    return result[::-1] if backwards else result


def _at_pattern(compiled: regex.Pattern, behavior: str, invert: bool = False):
    return lambda text, starts: cut_at(matches(compiled, text), text, starts, behavior, invert)


def _at_characters(is_delimiter: Callable[[str], bool], behavior: str):
    def cut(text, starts):
        found = [(at, at + 1) for at, character in enumerate(text) if is_delimiter(character)]
        return cut_at(found, text, starts, behavior)

    return cut


def is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P") or character in "$+<=>^`|~"


# --------------------------------------------------------------------------------------------------------- the kinds


def _split(where: str, pattern: dict, behavior: str, invert: bool):
    compiled = read_pattern(pattern, where)
    _check_behavior(behavior, where)
    return _at_pattern(compiled, behavior, invert)


def _check_behavior(behavior: str, where: str) -> None:
    if behavior not in BEHAVIORS:
        raise UserError(f"{where}: the behavior {behavior!r} is not one of {', '.join(BEHAVIORS)}")


def _digits(where: str, individual_digits: bool):
    return _at_pattern(NUMERIC, "Isolated" if individual_digits else "Contiguous")


def _punctuation(where: str, behavior: str):
    _check_behavior(behavior, where)
    return _at_characters(is_punctuation, behavior)


def _bert(where: str):
    at_space, at_punctuation = _at_pattern(WHITE_SPACE, "Removed"), _at_characters(is_punctuation, "Isolated")
    return lambda text, starts: [piece for each in at_space(text, starts) for piece in at_punctuation(*each)]


def _at_delimiter(where: str, delimiter: str):
    return _at_characters(lambda character: character == delimiter, "Removed")


def _metaspace(
    where: str,
    replacement: str,
    prepend_scheme: str,
    split: bool | None,
    add_prefix_space: bool | None,
    str_rep: str | None,
):
    scheme = prepend_scheme
    if scheme not in ("first", "always", "never") or add_prefix_space is False and scheme != "never":
        raise UserError(
            f"{where}: prepend_scheme {scheme!r}, which is first, always or never, does not go with "
            f"add_prefix_space {add_prefix_space}"
        )
    if len(replacement) != 1:
        raise UserError(f"{where}: the replacement {replacement!r} is not one character")

    def cut(text, starts):
        text = text.replace(" ", replacement)
        if not text.startswith(replacement) and (scheme == "always" or scheme == "first" and starts):
            text = replacement + text
        if split is False:
            return [(text, starts)]
        found = [(at, at + 1) for at, character in enumerate(text) if character == replacement]
        return cut_at(found, text, starts, "MergedWithNext")

    return cut


def _byte_level(where: str, add_prefix_space: bool, trim_offsets: bool, use_regex: bool):
    compiled = compile_expression(GPT2)

    def cut(text, starts):
        if add_prefix_space and not text.startswith(" "):
            text = " " + text
        return cut_at(matches(compiled, text), text, starts, "Isolated") if use_regex else [(text, starts)]

    return cut


KINDS = {
    "ByteLevel": Kind(
        _byte_level,
        {"add_prefix_space": (bool, REQUIRED), "trim_offsets": OFFSETS_ONLY, "use_regex": (bool, True)},
    ),
    "Split": Kind(_split, {"pattern": (dict, REQUIRED), "behavior": (str, REQUIRED), "invert": (bool, REQUIRED)}),
    "Digits": Kind(_digits, {"individual_digits": (bool, REQUIRED)}),
    "Metaspace": Kind(_metaspace, METASPACE_OPTIONS),
    "Whitespace": Kind(lambda where: _at_pattern(WORDS, "Removed", invert=True)),
    "WhitespaceSplit": Kind(lambda where: _at_pattern(WHITE_SPACE, "Removed")),
    "Punctuation": Kind(_punctuation, {"behavior": (str, "Isolated")}),
    "BertPreTokenizer": Kind(_bert),
    "CharDelimiterSplit": Kind(_at_delimiter, {"delimiter": (str, REQUIRED)}),
}

"""Added tokens: texts that are looked for in a text before it is cut, and become one id each.

    "<|im_start|>user"   with <|im_start|>, id 7      ->   7 | "user"
    "a  <mask> b"        with <mask>, lstrip          ->   "a" | 7 | " b"

Where several could begin, the longest is taken. `special` says that a token controls the model, so
that text from outside may have to be kept from containing it; the others are ordinary vocabulary.
`lstrip` and `rstrip` take in the white space before and after, `single_word` asks for a border of a
word on both sides, and `normalized` looks for the token, normalised itself, in the normalised text.
Source: the library `tokenizers`, AddedVocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass

import regex

from minillm.errors import UserError
from minillm.tokenizers.components import REQUIRED, checked
from minillm.tokenizers.normalizers import Normalizer

WORD = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"
STARTS_WITH_WORD, ENDS_WITH_WORD = regex.compile(WORD), regex.compile(rf"(?r){WORD}")
SPACE_AT_START, SPACE_AT_END = regex.compile(r"\p{White_Space}*"), regex.compile(r"(?r)\p{White_Space}*")


@dataclass(frozen=True)
class AddedToken:
    """A token as tokenizer.json describes it."""

    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True

    def as_data(self) -> dict:
        return asdict(self)


def read_added_tokens(data, where: str) -> list[AddedToken]:
    """Raises UserError for an entry that is not right, or two of the same text or id."""
    tokens: list[AddedToken] = []
    flag = (bool, REQUIRED)
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), flag)
    options |= {"id": (int, REQUIRED), "content": (str, REQUIRED)}
    if not isinstance(data, list):
        raise UserError(f"{where} is {data!r:.60}, expected a list")
    for number, entry in enumerate(data, start=1):
        place = f"{where} {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{place} is {entry!r:.60}, expected an object")
        token = AddedToken(**checked(entry, place, options))
        if not token.content or token.id < 0:
            raise UserError(f"{place}: an added token has no content, or a negative id: {entry!r:.80}")
        tokens.append(token)
    for name in ("content", "id"):
        seen = [getattr(token, name) for token in tokens]
        if (
            twice := next((value for value in seen if seen.count(value) > 1), None)
            if len(set(seen)) < len(seen)
            else None
        ):
            raise UserError(f"{where}: two added tokens have the {name} {twice!r}")
    return tokens


class AddedTokens:
    """The added tokens of a tokenizer, and where they are in a text."""

    def __init__(self, tokens: Iterable[AddedToken] = (), normalizer: Normalizer | None = None):
        self.tokens = list(tokens)
        self.special = {token.content: token.id for token in self.tokens if token.special}
        self._normalizer = normalizer
        self._finders: dict[frozenset[str], tuple[_Finder | None, _Finder | None]] = {}
        self._special_text = _any_of(self.special)

    def first_special(self, text: str, besides: Collection[str]) -> re.Match | None:
        """Where the first special token is that is not one of `besides`."""
        looked_for = self._special_text if not besides else _any_of(self.special.keys() - besides)
        return looked_for.search(text) if looked_for else None

    def split(self, text: str, allowed: Iterable[str]) -> list[tuple[str | int, bool]]:
        """Ids of added tokens, and the texts between them, normalised; each with whether it starts
        the input.

        allowed: the special tokens that are looked for; the others are always.
        """
        raw, normalized = self._finders_for(frozenset(allowed))
        parts: list[tuple[str | int, bool]] = []
        for part, at in raw.split(text) if raw else [(text, 0)]:
            if isinstance(part, int) or not part:
                parts += [(part, at == 0)] if part != "" else []
                continue
            starts = at == 0
            if self._normalizer:
                part, starts = self._normalizer(part, starts)
            found = normalized.split(part) if normalized else [(part, 0)]
            parts += [(piece, starts and at == 0) for piece, at in found if piece != ""]
        return parts

    def _finders_for(self, allowed: frozenset[str]):
        if allowed not in self._finders:
            active = [token for token in self.tokens if not token.special or token.content in allowed]
            texts = {token.content: token for token in active if not token.normalized}
            normalized = {self.text_of(token): token for token in active if token.normalized}
            self._finders[allowed] = (_Finder(texts) if texts else None, _Finder(normalized) if normalized else None)
        return self._finders[allowed]

    def text_of(self, token: AddedToken) -> str:
        """The text that is looked for, and that the token is decoded to."""
        normalizes = token.normalized and self._normalizer is not None
        return self._normalizer(token.content, True)[0] if normalizes else token.content


class _Finder:
    """Finds tokens by their texts."""

    def __init__(self, tokens: dict[str, AddedToken]):
        self._tokens, self._pattern = tokens, _any_of(tokens)

    def split(self, text: str) -> list[tuple[str | int, int]]:
        """Ids and the texts between them, each with where it begins."""
        parts, end = [], 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token, (start, stop) = self._tokens[match[0]], match.span()
            if token.single_word and (ENDS_WITH_WORD.match(text, 0, start) or STARTS_WITH_WORD.match(text, stop)):
                continue
            if token.lstrip:
                start = max(SPACE_AT_END.match(text, 0, start).start(), end)
            if token.rstrip:
                stop = SPACE_AT_START.match(text, stop).end()
            if end < start:
                parts.append((text[end:start], end))
            parts.append((token.id, start))
            end = stop
        if end < len(text):
            parts.append((text[end:], end))
        return parts


def _any_of(texts: Iterable[str]) -> re.Pattern | None:
    """Matches any of these texts, the longest first."""
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

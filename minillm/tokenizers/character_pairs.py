"""Byte-pair encoding over characters, as the first Llamas have it: a character that is no token
becomes its bytes, or unknown.

    "▁aé"  ->  ▁ a <0xC3> <0xA9>  ->  ▁a <0xC3> <0xA9>      with the merge ▁ + a

Merges are listed, as in tokenizer.json: only a listed pair is joined, the first of the list first.
Or tokens have scores, as in SentencePiece's files, GGUF and llama2.c: two neighbours are joined if
together they are a token, the best score first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from minillm.errors import UserError
from minillm.tokenizers.merging import merge_in_order
from minillm.tokenizers.trace import TracedPiece, merged_piece

SPACE = "▁"
CACHED, LONGEST_CACHED = 1 << 16, 256  # pieces, and characters of one
WORDS = re.compile(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")
CROSSES_WORDS = re.compile(f"[^{SPACE}]{SPACE}")


class CharacterPairs:
    """ids: token -> id. merge_of: pair of ids -> (rank, id of both together), or None.

    made: the tokens that merging makes. unknown: the id for a character that has neither a token
    nor bytes, None to refuse it. fuse_unknown: whether neighbours of this kind become one id.
    ignore_merges: whether a piece that is a token stays whole.
    """

    def __init__(
        self,
        ids: dict[str, int],
        merge_of: Callable[[tuple[int, int]], tuple[float, int] | None],
        made: Iterable[str],
        unknown: int | None = None,
        fuse_unknown: bool = False,
        byte_fallback: bool = False,
        ignore_merges: bool = False,
    ):
        self.ids, self.merge_of, self.unknown, self.fuse_unknown = ids, merge_of, unknown, fuse_unknown
        self.ignore_merges = ignore_merges
        self.byte_ids = [ids.get(f"<0x{byte:02X}>", -1) for byte in range(256)] if byte_fallback else [-1] * 256
        # where no token reaches from one word into the next, each word can be merged by itself, and
        # remembered
        self._by_words = SPACE in ids and not ignore_merges and not any(map(CROSSES_WORDS.search, made))
        self._cache: dict[str, list[int]] = {}

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece. Raises UserError for a character that cannot be expressed."""
        if self.ignore_merges and piece in self.ids:
            return [self.ids[piece]]
        ids: list[int] = []
        for word in self._words(piece):
            ids += self._merged(word)
        return ids

    def trace(self, piece: str) -> Iterator[TracedPiece]:
        """What `encode` does with a piece, word by word."""
        if self.ignore_merges and piece in self.ids:
            yield TracedPiece(piece, [self.ids[piece]], [self.ids[piece]], whole=True)
            return
        for word in self._words(piece):
            yield merged_piece(word, self._characters(word), self.merge_of)

    def _words(self, piece: str) -> list[str]:
        return WORDS.findall(piece) if self._by_words else [piece]

    def _merged(self, text: str) -> list[int]:
        if text in self._cache:
            return self._cache[text]
        ids = merge_in_order(self._characters(text), self.merge_of)
        if len(text) <= LONGEST_CACHED:
            if len(self._cache) >= CACHED:
                self._cache.clear()
            self._cache[text] = ids
        return ids

    def _characters(self, text: str) -> list[int]:
        ids: list[int] = []
        unknowns = 0  # 1 while one waits: `tokenizers` puts it down before the next character that is a token
        for character in text:
            index = self.ids.get(character)
            if index is not None:
                ids += [self.unknown] * unknowns
                unknowns = 0
                ids.append(index)
                continue
            in_bytes = [self.byte_ids[byte] for byte in character.encode("utf-8")]
            if -1 not in in_bytes:
                ids += in_bytes
                continue
            if self.unknown is None:
                raise UserError(f"the vocabulary has no token for {character!r} (U+{ord(character):04X}) or its bytes")
            if not self.fuse_unknown:
                ids += [self.unknown] * unknowns
            unknowns = 1
        return ids + [self.unknown] * unknowns


def by_list(pairs: list[tuple[str, str]], ids: dict[str, int]):
    """merge_of for merges in the order of a list."""
    return {(ids[a], ids[b]): (rank, ids[a + b]) for rank, (a, b) in enumerate(pairs)}.get


def by_score(tokens: list[str], scores: list[float], mergeable: dict[str, int]):
    """merge_of for tokens with scores. mergeable: token -> id of those that are joined and made."""
    joined = set(mergeable.values())

    def merge_of(pair: tuple[int, int]) -> tuple[float, int] | None:
        left, right = pair
        index = mergeable.get(tokens[left] + tokens[right])
        if index is None or left not in joined or right not in joined:
            return None
        return -scores[index], index

    return merge_of


def every_merge(tokens: dict[str, int], scores: list[float]) -> list[list[str]]:
    """Every way to put a token together from two others, those with the best score first."""
    best_first = sorted(tokens.items(), key=lambda item: (-scores[item[1]], item[1]))
    return [
        [token[:cut], token[cut:]]
        for token, _ in best_first
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]

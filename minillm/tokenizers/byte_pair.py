"""Byte-level byte-pair encoding: the tokenizer of GPT-2, GPT-4 and Llama 3.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2; the merging is that of
Sennrich, Haddow, Birch (2016). A text is cut into pieces (patterns.py), a piece is UTF-8 bytes, and as long as two neighbours
are a pair that was learned, the pair that was learned first is merged, from left to right:

    " low" with the merges  l+o -> lo,  " "+lo -> " lo",  " lo"+w -> " low":     _ l o w     _ lo w     _lo w     _low

Every text can be encoded, because every byte is a token, and decode(encode(text)) == text.

>>> tokenizer = BytePairTokenizer.train("low lower lowest", vocab_size=260)
>>> tokenizer.tokens[256:]
[b'lo', b'low', b' low', b' lowe']
>>> tokenizer.encode("low lower")
[257, 259, 114]
>>> tokenizer.decode([257, 259, 114])
'low lower'
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

import regex

from minillm.errors import UserError
from minillm.tokenizers.byte_pair_batch import PairTable, merge_pieces
from minillm.tokenizers.byte_pair_training import count_pieces, learn_merges
from minillm.tokenizers.merging import merge_in_order
from minillm.tokenizers.patterns import PATTERNS, compile_pattern, pieces
from minillm.tokenizers.tokenizer import StreamingDecoder, Tokenizer

CACHED_PIECES = 1 << 18  # pieces whose ids are remembered, and as many stretches between spaces
FEW = 1000  # stretches: with fewer in the cache, those of a longer text are learned at once
TOKEN_BITS = 24
TOKEN_MASK, NO_MERGE = (1 << TOKEN_BITS) - 1, 1 << 60
SHORT = 64  # bytes up to which a piece is merged by looking at all pairs; beyond, by merging.py


class BytePairTokenizer(Tokenizer):
    """tokens: bytes of each id (a special token's are its text). merges: pairs of ids in the order of their rank, and what each
    becomes. pattern: a name of patterns.py or a regular expression. special_tokens: text -> id.

    whole_pieces: a piece that is a token as it is becomes that token, even if no merges lead to it (tiktoken, Llama 3).
    """

    def __init__(
        self,
        tokens: list[bytes],
        merges: Iterable[tuple[int, int, int]],
        pattern: str = "gpt2",
        special_tokens: dict[str, int] | None = None,
        whole_pieces: bool = False,
    ):
        self.tokens = list(tokens)
        self.vocab_size = len(self.tokens)
        self.merges = list(merges)
        self.special_tokens = dict(special_tokens or {})
        self.whole_pieces = whole_pieces
        special_ids = set(self.special_tokens.values())
        self._id_of = {token: index for index, token in enumerate(self.tokens) if index not in special_ids}
        # some vocabularies lack bytes that their text never had; -1 stands for these
        self._byte_ids = [self._id_of.get(bytes([value]), -1) for value in range(256)]
        # pair -> rank and token in one number, rank first: the smallest is the merge that was learned first
        ranked = reversed(list(enumerate(self.merges)))
        self._merge_of = {(a, b): rank << TOKEN_BITS | token for rank, (a, b, token) in ranked}
        self.pattern = pattern

    @property
    def eos_token(self) -> str | None:
        return "<|endoftext|>" if "<|endoftext|>" in self.special_tokens else None

    @cached_property
    def _pair_table(self) -> PairTable:
        return PairTable(self._merge_of, self._byte_ids, TOKEN_BITS)

    @property
    def pattern(self) -> str:
        """How text is cut: a name of patterns.py or a regular expression. Setting it rebuilds all that depends on it."""
        return self._pattern

    @pattern.setter
    def pattern(self, pattern: str) -> None:
        self._pattern = pattern
        self._compiled = compile_pattern(pattern)
        # a named pattern leaves nothing between its matches
        self._cut = self._compiled.findall if pattern in PATTERNS else partial(pieces, self._compiled)
        self._pieces = _Cache(self._encode_piece)
        # Named patterns never match across a space between two characters that are none: text is cut there first, by
        # str.split, and what comes after a space is remembered as a whole. It takes a third of the time of the pattern.
        self._stretches = _Cache(self._encode_stretch) if pattern in PATTERNS else None

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int = 1024,
        special_tokens: Collection[str] = (),
        pattern: str = "gpt2",
        progress: Callable[[int], None] | None = None,
    ) -> BytePairTokenizer:
        """Learn a vocabulary from a text, or from texts that come one by one and need not fit into memory together.

        vocab_size counts the 256 bytes and the special tokens, which get the last ids. There may be fewer tokens if the text
        has no more pairs. Raises UserError if vocab_size is too small.
        """
        smallest = check_vocabulary_size(vocab_size, special_tokens)
        counts = count_pieces([text] if isinstance(text, str) else text, pattern)
        learned = learn_merges(counts, vocab_size - smallest, progress)
        tokens = [bytes([value]) for value in range(256)]
        for a, b in learned:
            tokens.append(tokens[a] + tokens[b])
        merges = [(a, b, 256 + rank) for rank, (a, b) in enumerate(learned)]
        special = {token: len(tokens) + index for index, token in enumerate(special_tokens)}
        return cls(tokens + [token.encode("utf-8") for token in special_tokens], merges, pattern, special)

    # --------------------------------------------------------------------------------------------------- text to ids

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = (),
        disallowed_special: Collection[str] | str = "all",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The ids of a text.

        Special tokens in the text follow tiktoken's rules: those in allowed_special (or "all") become their ids; text that
        contains one of disallowed_special ("all": every other) is an error, because it may come from somebody who should
        not be able to write control tokens; with disallowed_special=() it is text like any other. Raises UserError.
        """
        if self.special_tokens:
            allowed = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
            self._refuse_special(text, allowed, disallowed_special)
            if allowed:
                return self._encode_with_special(text, allowed & set(self.special_tokens))
        return self._encode_ordinary(text)

    def _refuse_special(self, text, allowed, disallowed) -> None:
        disallowed = set(self.special_tokens) - allowed if disallowed == "all" else set(disallowed)
        for token in disallowed:
            if token in text:
                raise UserError(
                    f"the text contains the special token {token!r}, at {text.index(token)}: allow it with "
                    f"allowed_special={{{token!r}}}, or encode it as plain text with disallowed_special=()"
                )

    def _encode_with_special(self, text, allowed) -> list[int]:
        if not allowed:
            return self._encode_ordinary(text)
        longest_first = sorted(allowed, key=len, reverse=True)
        parts = regex.split(f"({'|'.join(map(regex.escape, longest_first))})", text)
        ids = self._encode_ordinary(parts[0])
        for special, ordinary in zip(parts[1::2], parts[2::2]):
            ids.append(self.special_tokens[special])
            ids += self._encode_ordinary(ordinary)
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            if self._stretches is None:
                return self._encode_pieces(text)
            stretches = text.split(" ")
            if len(self._stretches) < FEW and len(stretches) > FEW:
                distinct = set(stretches)
                if 2 * len(distinct) > len(stretches):  # nothing to remember
                    return self._encode_pieces(text)
                self._learn_stretches(distinct)
            found = [None]  # there is no space before the first
            found += map(self._stretches.__getitem__, islice(stretches, 1, None))
            alone = [index for index, ids in enumerate(found) if ids is None]
            return list(chain.from_iterable(self._with_spaces_joined(stretches, found, alone)))
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            at = text.index(error.object[error.start])
            raise UserError(f"the text has a lone surrogate, U+{code:04X}, at {at}: it is not Unicode text") from None

    def _with_spaces_joined(self, stretches, found, alone) -> Iterator[Iterable[int]]:
        """The ids of all stretches. Where white space meets the space between two, the pattern has to see them together."""
        done, count = 0, len(stretches)
        for index in alone:
            if index < done:
                continue
            start = index
            if start > done and _starts_with_space(stretches[start]):
                start -= 1
            end = index + 1
            while end < count and (_ends_in_space(stretches[end - 1]) or _starts_with_space(stretches[end])):
                end += 1
            yield from found[done:start]
            together = " ".join(stretches[start:end])
            yield self._encode_pieces(" " + together if start else together)
            done = end
        yield from found[done:]

    def _learn_stretches(self, stretches: set[str]) -> None:
        """Fill the empty cache with many at once: the pattern cuts one long text faster than many short ones."""
        regular = [each for each in stretches if not (_starts_with_space(each) or _ends_in_space(each))][:CACHED_PIECES]
        found = self._cut(" " + " ".join(regular))
        self._learn_pieces(found)
        ids, lookup, index = [], self._pieces.__getitem__, -1
        for piece in found:
            if piece[0] == " ":
                if index >= 0:
                    self._stretches[regular[index]] = tuple(ids)
                index += 1
                ids = []
            ids += lookup(piece)
        if regular:
            self._stretches[regular[-1]] = tuple(ids)

    def _encode_stretch(self, stretch: str) -> tuple[int, ...] | None:
        """What stands between two spaces, with the first of them; None if white space touches one of them."""
        if _starts_with_space(stretch) or _ends_in_space(stretch):
            return None
        return tuple(self._encode_pieces(" " + stretch))

    def _encode_pieces(self, text: str) -> list[int]:
        found = self._cut(text)
        if len(found) > FEW:
            self._learn_pieces(found)
        return list(chain.from_iterable(map(self._pieces.__getitem__, found)))

    def _learn_pieces(self, found: list[str]) -> None:
        """Fill the cache with those pieces that are new, if they are many, all at once."""
        new = set(found).difference(self._pieces)
        if len(new) < FEW or self.whole_pieces or -1 in self._byte_ids:
            return
        room = CACHED_PIECES - len(self._pieces)
        encoded = {piece: piece.encode("utf-8") for piece in islice(new, max(room, 0))}
        short = [piece for piece, data in encoded.items() if len(data) <= SHORT]
        merged = merge_pieces([encoded[piece] for piece in short], self._pair_table)
        self._pieces.update(zip(short, merged))

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        encoded = piece.encode("utf-8")
        if self.whole_pieces and encoded in self._id_of:
            return (self._id_of[encoded],)
        ids = list(map(self._byte_ids.__getitem__, encoded))
        if -1 in ids:
            raise UserError(
                f"the vocabulary has no token for the byte {encoded[ids.index(-1)]}, which is in {piece[:40]!r}"
            )
        return tuple(merge_in_order(ids, self._rank_and_token) if len(ids) > SHORT else self._merged(ids))

    def _merged(self, ids: list[int]) -> list[int]:
        """All merges of a short piece: the smallest rank among its pairs, again and again."""
        get = self._merge_of.get
        merges = [get(pair, NO_MERGE) for pair in zip(ids, ids[1:])]
        while merges and (best := min(merges)) != NO_MERGE:
            at, token = merges.index(best), best & TOKEN_MASK
            ids[at : at + 2] = (token,)
            del merges[at]
            if at:
                merges[at - 1] = get((ids[at - 1], token), NO_MERGE)
            if at < len(merges):
                merges[at] = get((token, ids[at + 1]), NO_MERGE)
        return ids

    def _rank_and_token(self, pair: tuple[int, int]) -> tuple[int, int] | None:
        merge = self._merge_of.get(pair)
        return None if merge is None else (merge >> TOKEN_BITS, merge & TOKEN_MASK)

    # --------------------------------------------------------------------------------------------------- ids to text

    def decode(self, ids, errors: str = "replace") -> str:
        """The text of ids. Bytes that are no UTF-8 become U+FFFD; with errors="strict" they raise UserError."""
        encoded = self.decode_bytes(ids)
        try:
            return encoded.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise UserError(f"the ids are no UTF-8 text: {error.reason} at byte {error.start}") from None

    def decode_bytes(self, ids) -> bytes:
        """The bytes of ids. Raises UserError for an id outside of the vocabulary."""
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise UserError(f"id {index} is outside the vocabulary of {self.vocab_size} tokens")
        return b"".join(map(self.tokens.__getitem__, ids))

    def stream(self) -> StreamingDecoder:
        return _StreamingBytes(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as Hugging Face's `tokenizers` and `transformers` read them."""
        from minillm.tokenizers.byte_pair_files import save_huggingface  # which imports this module

        save_huggingface(self, Path(folder))

    @classmethod
    def from_pretrained(cls, path: str | Path) -> BytePairTokenizer:
        """Open a folder or a file: tokenizer.json, vocab.json and merges.txt, encoder.json and vocab.bpe, *.tiktoken."""
        from minillm.tokenizers.byte_pair_files import load_byte_pair

        return load_byte_pair(Path(path))

    @classmethod
    def from_parts(
        cls, tokens: list[str], merges: list[str], pattern: str = "gpt2", special_tokens: dict[str, int] | None = None
    ) -> BytePairTokenizer:
        """From tokens and merges ("a b") in GPT-2's spelling of bytes, as vocab.json, merges.txt and GGUF files have them."""
        from minillm.tokenizers.byte_pair_files import from_spelled_parts

        return from_spelled_parts(tokens, merges, pattern, special_tokens or {})


def check_vocabulary_size(vocab_size: int, special_tokens: Collection[str]) -> int:
    """The size of a vocabulary without merges. Raises UserError if `vocab_size` is less."""
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise UserError(f"a vocabulary of {vocab_size} is too small: 256 bytes and special tokens make {smallest}")
    return smallest


def _starts_with_space(text: str) -> bool:
    return not text or text[0].isspace()


def _ends_in_space(text: str) -> bool:
    return not text or text[-1].isspace()


class _Cache(dict):
    """Remembers the results of a function, and forgets them all when there are too many."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def __missing__(self, key):
        if len(self) >= CACHED_PIECES:
            self.clear()
        self[key] = value = self._function(key)
        return value


class _StreamingBytes(StreamingDecoder):
    """A character whose bytes are spread over several tokens is returned with the last of them."""

    def __init__(self, tokenizer: BytePairTokenizer):
        super().__init__(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)

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
from minillm.tokenizers.byte_spelling import bytes_to_unicode, spell
from minillm.tokenizers.merging import merge_in_order
from minillm.tokenizers.patterns import PATTERNS, compile_expression, pieces
from minillm.tokenizers.pipeline import PipelineTokenizer, Surroundings, special_tokens_of
from minillm.tokenizers.pre_tokenizers import PreTokenizer
from minillm.tokenizers.tokenizer import StreamingDecoder

END_OF_TEXT = "<|endoftext|>"
CACHED_PIECES = 1 << 18  # pieces whose ids are remembered, and as many stretches between spaces
FEW = 1000  # stretches: with fewer in the cache, those of a longer text are learned at once
TOKEN_BITS = 24
TOKEN_MASK, NO_MERGE = (1 << TOKEN_BITS) - 1, 1 << 60
SHORT = 64  # bytes up to which a piece is merged by looking at all pairs; beyond, by merging.py


class BytePairTokenizer(PipelineTokenizer):
    """tokens: bytes of each id (a special token's are its text, an unused id has none). merges: pairs of
    ids in the order of their rank, and what each becomes. pattern: a name of patterns.py or a regular
    expression; None for a tokenizer whose file cuts by several steps. special_tokens: text -> id.

    ignore_merges: a piece that is a token as it is becomes that token, even if no merges lead to it (tiktoken, Llama 3).
    """

    def __init__(
        self,
        tokens: list[bytes],
        merges: Iterable[tuple[int, int, int]],
        pattern: str = "gpt2",
        special_tokens: dict[str, int] | None = None,
        ignore_merges: bool = False,
    ):
        added = special_tokens_of(special_tokens or {})
        special_ids = set(added.special.values())
        ids = {token: index for index, token in enumerate(tokens) if index not in special_ids}
        ends = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT} if END_OF_TEXT in added.special else {}
        self._set_up(tokens, merges, ids, ignore_merges, Surroundings(added, config=ends))
        self.pattern = pattern

    @classmethod
    def from_pipeline(
        cls,
        tokens: list[bytes],
        merges: Iterable[tuple[int, int, int]],
        ids: dict[bytes, int],
        cut: str | PreTokenizer,
        ignore_merges: bool,
        surroundings: Surroundings,
    ) -> BytePairTokenizer:
        """From what tokenizer.json says. ids: of the tokens that the model itself makes. cut: a pattern, or steps."""
        tokenizer = cls.__new__(cls)
        tokenizer._set_up(tokens, merges, ids, ignore_merges, surroundings)
        if isinstance(cut, str):
            tokenizer._cut_with(cut)
        else:
            tokenizer._pattern = None
            tokenizer._cut_by(cut.pieces, named=False)
        return tokenizer

    def _set_up(self, tokens, merges, ids, ignore_merges, surroundings) -> None:
        self.tokens = list(tokens)
        self.vocab_size = len(self.tokens)
        self.merges = list(merges)
        self.ignore_merges = ignore_merges
        self._id_of = ids
        # some vocabularies lack bytes that their text never had; -1 stands for these
        self._byte_ids = [ids.get(bytes([value]), -1) for value in range(256)]
        # pair -> rank and token in one number, rank first: the smallest is merged first
        self._merge_of = {(a, b): rank << TOKEN_BITS | token for rank, (a, b, token) in enumerate(self.merges)}
        self._surround(surroundings)

    @cached_property
    def _pair_table(self) -> PairTable:
        return PairTable(self._merge_of, self._byte_ids, TOKEN_BITS)

    @property
    def pattern(self) -> str | None:
        """How text is cut: a name of patterns.py or a regular expression. Setting it rebuilds all that depends on it."""
        return self._pattern

    @pattern.setter
    def pattern(self, pattern: str) -> None:
        self._cut_with(pattern)
        if self._parts.contents is not None:
            from minillm.tokenizers.byte_pair_files import pre_tokenizer_of  # which imports this module

            changed = self._parts.contents | {"pre_tokenizer": pre_tokenizer_of(pattern)}
            self._parts = self._parts._replace(contents=changed)

    def _cut_with(self, pattern: str) -> None:
        compiled = compile_expression(pattern)
        self._pattern = pattern
        # a named pattern leaves nothing between its matches
        named = pattern in PATTERNS
        self._cut_by((lambda text, starts=True: compiled.findall(text)) if named else partial(_pieces, compiled), named)

    def _cut_by(self, cut: Callable[[str, bool], list[str]], named: bool) -> None:
        self._cut = cut
        self._pieces = _Cache(self._encode_piece)
        # Named patterns never match across a space between two characters that are none: text is cut there first, by
        # str.split, and what comes after a space is remembered as a whole. It takes a third of the time of the pattern.
        self._stretches = _Cache(self._encode_stretch) if named else None

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
        special_tokens = list(special_tokens)
        counts = count_pieces([text] if isinstance(text, str) else text, pattern)
        learned = learn_merges(counts, vocab_size - smallest, progress)
        tokens = [bytes([value]) for value in range(256)]
        for a, b in learned:
            tokens.append(tokens[a] + tokens[b])
        merges = [(a, b, 256 + rank) for rank, (a, b) in enumerate(learned)]
        special = {token: len(tokens) + index for index, token in enumerate(special_tokens)}
        spelled = {spell(token) for token in tokens} & set(special_tokens)
        if spelled:
            raise UserError(
                f"the special token {min(spelled)!r} is a token that was learned from the text: name it otherwise"
            )
        return cls(tokens + [token.encode("utf-8") for token in special_tokens], merges, pattern, special)

    # --------------------------------------------------------------------------------------------------- text to ids

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = (),
        disallowed_special: Collection[str] | str = "all",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The ids of a text: see Tokenizer.encode."""
        return self._encode(text, allowed_special, disallowed_special, add_special_tokens)

    def _encode_ordinary(self, text: str, starts: bool = True) -> list[int]:
        try:
            if self._stretches is None:
                return self._encode_pieces(text, starts)
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

    def _encode_pieces(self, text: str, starts: bool = True) -> list[int]:
        found = self._cut(text, starts)
        if len(found) > FEW:
            self._learn_pieces(found)
        return list(chain.from_iterable(map(self._pieces.__getitem__, found)))

    def _learn_pieces(self, found: list[str]) -> None:
        """Fill the cache with those pieces that are new, if they are many, all at once."""
        new = set(found).difference(self._pieces)
        if len(new) < FEW or self.ignore_merges or -1 in self._byte_ids:
            return
        room = CACHED_PIECES - len(self._pieces)
        encoded = {piece: piece.encode("utf-8") for piece in islice(new, max(room, 0))}
        short = [piece for piece, data in encoded.items() if len(data) <= SHORT]
        merged = merge_pieces([encoded[piece] for piece in short], self._pair_table)
        self._pieces.update(zip(short, merged))

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        encoded = piece.encode("utf-8")
        if self.ignore_merges and encoded in self._id_of:
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

    def _made_contents(self) -> dict:
        from minillm.tokenizers.byte_pair_files import huggingface_contents  # which imports this module

        return huggingface_contents(self)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> BytePairTokenizer:
        """Open a folder or a file: tokenizer.json, vocab.json and merges.txt, encoder.json and vocab.bpe, *.tiktoken."""
        from minillm.tokenizers.byte_pair_files import load_byte_pair

        return load_byte_pair(Path(path))

    @classmethod
    def from_parts(
        cls, tokens: list[str], merges: list[str], pattern: str = "gpt2", special_tokens: dict[str, int] | None = None
    ) -> BytePairTokenizer:
        """From tokens and merges ("a b") in GPT-2's spelling of bytes, as vocab.json and merges.txt have them."""
        from minillm.tokenizers.byte_pair_files import from_spelled_parts

        return from_spelled_parts(tokens, merges, pattern, special_tokens or {})


def check_vocabulary_size(vocab_size: int, special_tokens: Collection[str]) -> int:
    """The size of a vocabulary without merges.

    Raises UserError if `vocab_size` is less, or for special tokens that are empty, named twice or a byte's.
    """
    for token in special_tokens:
        if not token or list(special_tokens).count(token) > 1:
            raise UserError(f"the special token {token!r} is {'named twice' if token else 'empty'}: leave it out")
        if len(token) == 1 and token in bytes_to_unicode():
            raise UserError(f"the special token {token!r} is the token of a byte: name it otherwise, as <|endoftext|>")
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise UserError(f"a vocabulary of {vocab_size} is too small: 256 bytes and special tokens make {smallest}")
    return smallest


def _pieces(compiled: regex.Pattern, text: str, starts: bool = True) -> list[str]:
    return pieces(compiled, text)


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

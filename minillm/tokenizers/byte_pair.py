"""Byte-level byte-pair encoding: the tokenizer of GPT-2, GPT-4 and Llama 3.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2;
the merging is that of Sennrich, Haddow, Birch (2016). A pattern cuts a text into pre-tokens
(patterns.py). A pre-token is a word of UTF-8 bytes, each of which is a token. As long as two
neighbours are a pair that was learned, they become one token: the pair that was learned first, and
the leftmost of several. One word, step by step:

>>> learned = {(b"l", b"o"): (0, b"lo"), (b"lo", b"w"): (1, b"low"), (b" ", b"low"): (2, b" low")}  # pair -> rank, token
>>> for word in merge_steps([b" ", b"l", b"o", b"w", b"e", b"r"], learned):
...     print(word)
[b' ', b'l', b'o', b'w', b'e', b'r']
[b' ', b'lo', b'w', b'e', b'r']
[b' ', b'low', b'e', b'r']
[b' low', b'e', b'r']

The same with a vocabulary learned from a text (byte_pair_training.py), in which tokens have ids:

>>> tokenizer = BytePairTokenizer.train("low lower lowest", vocab_size=260)
>>> tokenizer.tokens[256:]
[b'lo', b'low', b' low', b' lowe']
>>> tokenizer.encode("low lower")
[257, 259, 114]
>>> tokenizer.decode([257, 259, 114])
'low lower'

Every text can be encoded, because every byte is a token, and decode(encode(text)) == text.
`encode_plainly` is the algorithm; `encode` gives the same ids faster, by way of piece_cache.py for
short texts and array_encoding.py for long ones.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path

import regex

from minillm.errors import UserError
from minillm.tokenizers.array_encoding import by_kinds, by_pieces
from minillm.tokenizers.array_training import MANY_BYTES, learn_merges_of_table
from minillm.tokenizers.byte_pair_files import huggingface_contents, pre_tokenizer_of
from minillm.tokenizers.byte_pair_training import learn_merges
from minillm.tokenizers.byte_spelling import bytes_to_unicode, spell
from minillm.tokenizers.opening import open_tokenizer
from minillm.tokenizers.patterns import PATTERNS, compile_expression, compile_pattern, pieces
from minillm.tokenizers.piece_cache import PieceCache, ids_of_bytes
from minillm.tokenizers.pipeline import PipelineTokenizer
from minillm.tokenizers.pre_tokenizers import PreTokenizer
from minillm.tokenizers.surroundings import Surroundings, special_tokens_of
from minillm.tokenizers.tokenizer import END_OF_TEXT, StreamingDecoder
from minillm.tokenizers.trace import TracedPiece, merged_piece
from minillm.tokenizers.word_counts import WordTable, count_in_parts


def merge_steps(word: list, merge_of: dict) -> Iterator[list]:
    """The word, and the word after each merge; the last one has no pair left that was learned.

    word: tokens, as ids or bytes. merge_of: pair of tokens -> (rank, token of both together).
    """
    yield word
    while found := [(merge_of[pair][0], at) for at, pair in enumerate(zip(word, word[1:])) if pair in merge_of]:
        _, at = min(found)
        _, token = merge_of[word[at], word[at + 1]]
        word = [*word[:at], token, *word[at + 2 :]]
        yield word


class BytePairTokenizer(PipelineTokenizer, kind="byte-level"):
    """tokens: bytes of each id (a special token's are its text, an unused id has none). merges:
    pairs of ids in the order of their rank, and what each becomes. pattern: a name of patterns.py
    or a regular expression; None for a tokenizer whose file cuts by several steps. special_tokens:
    text -> id.

    ignore_merges: a pre-token that is a token becomes that token, even if no merges lead to it
    (tiktoken, Llama 3).
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
        """From what tokenizer.json says.

        ids: of the tokens that the model itself makes. cut: a pattern, or steps.
        """
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
        # some vocabularies lack bytes that their text never had; -1 means these
        self._byte_ids = [ids.get(bytes([value]), -1) for value in range(256)]
        self._surround(surroundings)

    @property
    def pattern(self) -> str | None:
        """How text is cut: a name of patterns.py or a regular expression. Setting it rebuilds all
        that depends on it."""
        return self._pattern

    @pattern.setter
    def pattern(self, pattern: str) -> None:
        self._cut_with(pattern)
        if self._parts.contents is not None:
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
        whole = self._id_of if self.ignore_merges else None
        as_gpt2 = named and self._pattern == "gpt2"
        cut_long = (lambda text, _: by_kinds(text)) if as_gpt2 else (lambda *text: by_pieces(cut(*text)))
        self._cache = PieceCache(cut, named, self.merges, self._byte_ids, whole, cut_long)

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int = 1024,
        special_tokens: Collection[str] = (),
        pattern: str = "gpt2",
        progress: Callable[[int], None] | None = None,
    ) -> BytePairTokenizer:
        """Learn a vocabulary from a text, or from texts that come one by one and need not fit into
        memory together.

        vocab_size counts the 256 bytes and the special tokens, which get the last ids. There may be
        fewer tokens if the text has no more pairs. Raises UserError if vocab_size is too small.
        """
        check_vocabulary_size(vocab_size, special_tokens)
        compile_pattern(pattern)
        counts = count_in_parts([text] if isinstance(text, str) else text, pattern)
        return cls.train_on_counts(counts, vocab_size, special_tokens, pattern, progress)

    @classmethod
    def train_on_counts(
        cls,
        counts: WordTable,
        vocab_size: int,
        special_tokens: Collection[str] = (),
        pattern: str = "gpt2",
        progress: Callable[[int], None] | None = None,
    ) -> BytePairTokenizer:
        """Learn a vocabulary from the pieces of a text, cut by the pattern: see `train`."""
        special_tokens = list(special_tokens)
        merges = vocab_size - check_vocabulary_size(vocab_size, special_tokens)
        if len(counts.data) < MANY_BYTES:
            learned = learn_merges(counts.as_dict(), merges, progress)
        else:
            learned = learn_merges_of_table(counts, merges, progress)
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
            return self._cache.encode(text, starts)
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            at = text.index(error.object[error.start])
            raise UserError(f"the text has a lone surrogate, U+{code:04X}, at {at}: it is not Unicode text") from None

    def cut(self, text: str) -> list[str]:
        """The pre-tokens of a text, between which nothing is merged."""
        return self._cut(text, True)

    def encode_plainly(self, text: str) -> list[int]:
        """The ids of a text without special tokens, by the algorithm as it is defined: pre-token by
        pre-token."""
        return [index for pretoken in self._cut(text, True) for index in self._encode_pretoken(pretoken)]

    def _encode_pretoken(self, pretoken: str) -> list[int]:
        data = pretoken.encode("utf-8")
        if self.ignore_merges and data in self._id_of:
            return [self._id_of[data]]
        return self.merged(data)

    def merged(self, data: bytes) -> list[int]:
        """The ids that the merges make of the bytes of a pre-token."""
        *_, word = merge_steps(ids_of_bytes(data, self._byte_ids, data.decode("utf-8", "replace")), self._merge_of)
        return word

    def _trace_ordinary(self, text: str, starts: bool) -> Iterator[TracedPiece]:
        for pretoken in self._cut(text, starts):
            data = pretoken.encode("utf-8")
            if self.ignore_merges and data in self._id_of:
                index = self._id_of[data]
                yield TracedPiece(pretoken, [index], [index], whole=True)
            else:
                yield merged_piece(pretoken, ids_of_bytes(data, self._byte_ids, pretoken), self._merge_of.get)

    def token_bytes(self, index: int) -> bytes:
        """The bytes of an id: see Tokenizer.token_bytes."""
        return self.tokens[index]

    @cached_property
    def _merge_of(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {(a, b): (rank, token) for rank, (a, b, token) in enumerate(self.merges)}

    # --------------------------------------------------------------------------------------------------- ids to text

    def decode(self, ids, errors: str = "replace") -> str:
        """The text of ids.

        Bytes that are no UTF-8 become U+FFFD; with errors="strict" they raise UserError.
        """
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
        return huggingface_contents(self)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> BytePairTokenizer:
        """Open a folder or a file: tokenizer.json, vocab.json and merges.txt, encoder.json and
        vocab.bpe, *.tiktoken."""
        tokenizer = open_tokenizer(Path(path))
        if not isinstance(tokenizer, BytePairTokenizer):
            raise UserError(f"{path} is no byte-level tokenizer: minillm.tokenizers.load_tokenizer opens it")
        return tokenizer


def check_vocabulary_size(vocab_size: int, special_tokens: Collection[str]) -> int:
    """The size of a vocabulary without merges.

    Raises UserError if `vocab_size` is less, or for special tokens that are empty, named twice or a
    byte's.
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


class _StreamingBytes(StreamingDecoder):
    """A character whose bytes are spread over several tokens is returned with the last of them."""

    def __init__(self, tokenizer: BytePairTokenizer):
        super().__init__(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)

"""The tokenizer of the first Llamas: characters, and what was merged from them.

Source: Kudo, Richardson, "SentencePiece" (2018), its BPE model with byte fallback, as llama2.c,
GGUF, tokenizer.model and tokenizer.json carry it. A space is "▁" inside, and one is put before the
text where the file says so; a character that is no token becomes the tokens of its UTF-8 bytes,
"<0x00>" to "<0xFF>"; a text begins with the token BOS:

    "Once"  ->  BOS | '▁' 'O' 'n' 'c' 'e'  ->  '▁O' 'n' ...  ->  '▁Once'

The merging is in character_pairs.py. Every tokenizer.json of the kind BPE that is not byte-level is
read as this class.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from minillm.errors import UserError
from minillm.tokenizers.added_tokens import AddedToken, AddedTokens
from minillm.tokenizers.character_pairs import SPACE, CharacterPairs, by_score, every_merge
from minillm.tokenizers.decoders import BYTE_TOKEN, Decoder, read_decoder, whole_characters
from minillm.tokenizers.normalizers import read_normalizer
from minillm.tokenizers.opening import open_tokenizer
from minillm.tokenizers.pipeline import PipelineTokenizer
from minillm.tokenizers.post_processors import Around, template_of
from minillm.tokenizers.pre_tokenizers import PreTokenizer, read_pre_tokenizer
from minillm.tokenizers.surroundings import Surroundings
from minillm.tokenizers.tokenizer import StreamingDecoder
from minillm.tokenizers.trace import TracedPiece

LONGEST_TOKEN = 1 << 16  # bytes
BEFORE_THE_TEXT = {"type": "Prepend", "prepend": SPACE}
SPACES_SHOWN = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
SPACES_BACK = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
WITHOUT_FIRST = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


class ScoreTokenizer(PipelineTokenizer, kind="character-level"):
    """tokens: the text of each id, with plain spaces; scores: of each id; bos, eos: ids, None if
    there is none. unknown: the id of a character that has neither a token nor bytes. prefix_space:
    whether a space is put before a text. unused: ids that no text has.
    """

    unused: frozenset[int] = frozenset()

    def __init__(
        self,
        tokens: list[str],
        scores: list[float],
        bos: int = 1,
        eos: int = 2,
        unknown: int = 0,
        prefix_space: bool = True,
    ):
        size = len(tokens)
        if len(scores) != size or not all(0 <= i < size for i in (bos, eos, unknown)):
            raise UserError(f"a vocabulary of {size} tokens needs as many scores, and BOS, EOS and unknown among them")
        spelled = [token.replace(" ", SPACE) for token in tokens]
        control = {index: AddedToken(index, tokens[index]) for index in sorted({unknown, bos, eos})}
        self._from_scores(spelled, scores, list(control.values()), bos, eos, unknown, prefix_space, Around((bos,)))

    @classmethod
    def from_scores(
        cls,
        tokens: list[str],
        scores: list[float],
        added: list[AddedToken],
        bos: int | None,
        eos: int | None,
        unknown: int | None,
        prefix_space: bool,
        around: Around,
        config: dict | None = None,
        unused: set[int] = frozenset(),
    ) -> ScoreTokenizer:
        """From a vocabulary with scores in which "▁" means the space.

        added: all tokens that are looked for in a text. unused: ids that no text has.
        """
        tokenizer = cls.__new__(cls)
        tokenizer._from_scores(tokens, scores, added, bos, eos, unknown, prefix_space, around, config, unused)
        return tokenizer

    def _from_scores(
        self, spelled, scores, added, bos, eos, unknown, prefix_space, around, config=None, unused=frozenset()
    ) -> None:
        self.scores, self.unused = list(scores), frozenset(unused)
        control = {token.id for token in added} | {i for i in (bos, eos, unknown) if i is not None} | unused
        ids = {token: index for index, token in reversed(list(enumerate(spelled))) if index not in control}
        self._mergeable = {token: index for token, index in ids.items() if not BYTE_TOKEN.fullmatch(token)}
        model = CharacterPairs(ids, by_score(spelled, scores, self._mergeable), self._mergeable, unknown, True, True)
        steps = ([BEFORE_THE_TEXT] if prefix_space else []) + [SPACES_SHOWN]
        self._normalizer_data = {"type": "Sequence", "normalizers": steps}
        back = [SPACES_BACK, {"type": "ByteFallback"}, {"type": "Fuse"}] + ([WITHOUT_FIRST] if prefix_space else [])
        self._decoder_data = {"type": "Sequence", "decoders": back}
        ends = {"bos_token": bos, "eos_token": eos, "unk_token": unknown}
        names = {name: spelled[index].replace(SPACE, " ") for name, index in ends.items() if index is not None}
        normalizer = read_normalizer(self._normalizer_data, "normalizer")
        parts = Surroundings(AddedTokens(added, normalizer), normalizer, around, config=names | (config or {}))
        decoder = read_decoder(self._decoder_data, "decoder")
        self._set_up(spelled, model, read_pre_tokenizer(None, ""), decoder, parts, bos, eos, unknown)
        self.prefix_space = prefix_space

    @classmethod
    def from_pipeline(
        cls,
        tokens: list[str],
        model: CharacterPairs,
        pre_tokenizer: PreTokenizer,
        decoder: Decoder,
        surroundings: Surroundings,
        scores: list[float],
    ) -> ScoreTokenizer:
        """From what tokenizer.json says; ids without a token have an empty one."""
        tokenizer = cls.__new__(cls)
        ids = {token: index for index, token in reversed(list(enumerate(tokens)))}
        ids |= {token.content: token.id for token in surroundings.added.tokens}
        bos, eos = _ends(ids, surroundings)
        tokenizer._set_up(tokens, model, pre_tokenizer, decoder, surroundings, bos, eos, model.unknown)
        tokenizer.scores = scores
        tokenizer.prefix_space = any(character == " " for character, _ in decoder.front)
        return tokenizer

    def _set_up(self, spelled, model, pre_tokenizer, decoder, surroundings, bos, eos, unknown) -> None:
        self._spelled, self._model, self._pre_tokenizer, self._decoder = spelled, model, pre_tokenizer, decoder
        self._surround(surroundings)
        self._content = {token.id: surroundings.added.text_of(token) for token in self.added_tokens}
        as_it_is = {token.id: token.content for token in self.added_tokens if not token.normalized}
        shown = (as_it_is.get(i) or self._content.get(i, token).replace(SPACE, " ") for i, token in enumerate(spelled))
        self.tokens = list(shown)
        self.vocab_size = len(spelled)
        self.bos, self.eos, self.unknown = bos, eos, unknown
        self._silent = {bos, eos, *surroundings.around.before, *surroundings.around.after}

    # --------------------------------------------------------------------------------------------------- text to ids

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = "all",
        disallowed_special: Collection[str] | str = "all",
        add_special_tokens: bool = True,
        with_bos: bool = True,
    ) -> list[int]:
        """The ids of a text: see Tokenizer.encode. with_bos=False is add_special_tokens=False.

        Here control tokens in the text are read by default, as in `tokenizers`: SentencePiece has
        no other way to write a conversation. allowed_special=() refuses them, and with
        disallowed_special=() as well they are text like any other.
        """
        return self._encode(text, allowed_special, disallowed_special, add_special_tokens and with_bos)

    def _encode_ordinary(self, text: str, starts: bool) -> list[int]:
        ids: list[int] = []
        for piece in self._pre_tokenizer.pieces(text, starts):
            ids += self._model.encode(piece)
        return ids

    def _trace_ordinary(self, text: str, starts: bool) -> Iterator[TracedPiece]:
        for piece in self._pre_tokenizer.pieces(text, starts):
            yield from self._model.trace(piece)

    def token_bytes(self, index: int) -> bytes:
        """The bytes of an id: see Tokenizer.token_bytes."""
        return self.bytes_of(index) or self.tokens[index].encode("utf-8")

    # --------------------------------------------------------------------------------------------------- ids to text

    def decode(self, ids, errors: str = "replace") -> str:
        """The text of ids. BOS and EOS have none, and the space that was put before the text is
        taken away again.

        Bytes that are no UTF-8 become U+FFFD; with errors="strict" they raise UserError.
        """
        ids = [int(index) for index in ids]
        if errors == "strict":
            data = b"".join(map(self.bytes_of, ids))
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"the ids are no UTF-8 text: {error.reason} at byte {error.start}") from None
        return self._decoder.decode([text for index in ids if (text := self._text(index))])

    def _text(self, index: int) -> str:
        """The spelling of an id, "" for BOS and EOS.

        Raises UserError for an id outside of the vocabulary.
        """
        if not 0 <= index < self.vocab_size:
            raise UserError(f"id {index} is outside the vocabulary of {self.vocab_size} tokens")
        return "" if index in self._silent else self._content.get(index, self._spelled[index])

    def bytes_of(self, index: int, first: bool = False) -> bytes:
        """The bytes of an id, `first` in a text or not.

        Raises UserError for an id outside of the vocabulary.
        """
        text = self._text(index)
        return self._decoder.bytes_of(text, first) if text else b""

    def is_silent(self, index: int) -> bool:
        """Whether an id has no text, as BOS and EOS."""
        return not self._text(index)

    def piece(self, index: int) -> str:
        return self.bytes_of(index).decode("utf-8", "replace")  # with the space that `decode` takes from a first word

    def stream(self) -> StreamingDecoder:
        return _Stream(self, self._decoder) if self._decoder.streams else _Whole(self)

    # -------------------------------------------------------------------------------------------------------- files

    @classmethod
    def from_llama2c(cls, path: str | Path, vocab_size: int) -> ScoreTokenizer:
        """Open llama2.c's tokenizer.bin: int32 longest token, then for each token float32 score,
        int32 length, bytes.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): a llama2.c model needs its tokenizer beside it"
            ) from None
        tokens, scores, at = [], [], 4
        for index in range(vocab_size):
            if at + 8 > len(data):
                raise UserError(f"{path} ends after {index} of {vocab_size} tokens")
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            if not 0 <= length <= min(LONGEST_TOKEN, len(data) - at) or score != score:
                raise UserError(
                    f"{path}: token {index} should have {length} bytes and the score {score}: the file is damaged"
                )
            tokens.append(data[at : at + length].decode("utf-8", "replace"))
            scores.append(score)
            at += length
        return cls(tokens, scores)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ScoreTokenizer:
        """Open a folder or a file of this kind: tokenizer.json, tokenizer.model. Raises
        UserError.
        """
        tokenizer = open_tokenizer(Path(folder))
        if not isinstance(tokenizer, cls):
            raise UserError(f"{folder} is not a tokenizer of characters: minillm.tokenizers.load_tokenizer opens it")
        return tokenizer

    def _made_contents(self) -> dict:
        """A tokenizer.json, with every merge in the order of the scores."""
        contents = {token.id: token.content for token in self.added_tokens}
        vocabulary = {contents.get(index, token): index for index, token in enumerate(self._spelled)}
        sides = [[(self.tokens[index], index) for index in side] for side in self._parts.around]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [token.as_data() for token in sorted(self.added_tokens, key=lambda token: token.id)],
            "normalizer": self._normalizer_data,
            "pre_tokenizer": None,
            "post_processor": template_of(*sides),
            "decoder": self._decoder_data,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None if self.unknown is None else self.tokens[self.unknown],
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": vocabulary,
                "merges": every_merge(self._mergeable, self.scores),
            },
        }


def _ends(ids: dict[str, int], surroundings: Surroundings) -> tuple[int | None, int | None]:
    """The ids of BOS and EOS: of the tokens that the configuration names, else those around a text,
    else <s> and </s>.
    """
    config, special, found = surroundings.config or {}, surroundings.added.special, []
    for name, usual, side in zip(("bos", "eos"), ("<s>", "</s>"), surroundings.around):
        token = config.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text in ids:
            found.append(ids[text])
        else:
            found.append(side[0] if len(side) == 1 else special.get(usual))
    return found[0], found[1]


class _Stream(StreamingDecoder):
    """A character whose bytes are spread over several tokens is returned with the last of them."""

    def __init__(self, tokenizer: ScoreTokenizer, decoder: Decoder):
        super().__init__(tokenizer)
        self._front = [
            list(front) for front in decoder.front
        ]  # (character, how many of it are taken away at the start)
        self._first, self._waiting = True, b""

    def push(self, token: int) -> str:
        data, self._first = (
            self._tokenizer.bytes_of(token, self._first),
            self._first and self._tokenizer.is_silent(token),
        )
        text, self._waiting = whole_characters(self._waiting + data, final=False)
        return self._without_front(text)

    def _without_front(self, text: str) -> str:
        for front in self._front:
            while front[1] and text:
                if text[0] != front[0]:
                    front[1] = 0
                    break
                text, front[1] = text[1:], front[1] - 1
        return text

    def finish(self) -> str:
        text, self._waiting = whole_characters(self._waiting, final=True)
        return self._without_front(text)


class _Whole(StreamingDecoder):
    """For decoders that need the whole text: it is returned at the end."""

    def __init__(self, tokenizer: ScoreTokenizer):
        super().__init__(tokenizer)
        self._ids: list[int] = []

    def push(self, token: int) -> str:
        self._tokenizer.bytes_of(token)  # refuses an id outside of the vocabulary
        self._ids.append(token)
        return ""

    def finish(self) -> str:
        return self._tokenizer.decode(self._ids)

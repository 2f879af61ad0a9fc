"""The tokenizer of the first Llamas: of neighbours whose joined text is a token, those with the best score are merged first.

Source: Kudo, Richardson, "SentencePiece" (2018), its BPE model with byte fallback, as llama2.c and GGUF files carry it. Tokens
are characters and what was merged from them; a character that is no token becomes the tokens of its UTF-8 bytes, "<0x00>" to
"<0xFF>". A space is put before the text, and every text begins with the token BOS:

    "Once"  ->  BOS | ' ' 'O' 'n' 'c' 'e'  ->  ' O' 'n' ...  ->  ' Once'

"▁" stands for the space in files of Hugging Face and in GGUF.
"""

from __future__ import annotations

import codecs
import json
import re
import struct
from pathlib import Path

from minillm.errors import UserError
from minillm.files import read_json, write_atomically
from minillm.tokenizers.merging import merge_in_order
from minillm.tokenizers.tokenizer import CONFIG_FILE, TOKENIZER_FILE, StreamingDecoder, Tokenizer

SPACE = "▁"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
LONGEST_TOKEN = 1 << 16  # bytes


class ScoreTokenizer(Tokenizer):
    """tokens: the text of each id, with plain spaces; scores: of each id; bos, eos: ids. unknown: the id of a byte that has no
    token. prefix_space: whether a space is put before the text."""

    def __init__(
        self,
        tokens: list[str],
        scores: list[float],
        bos: int = 1,
        eos: int = 2,
        unknown: int = 0,
        prefix_space: bool = True,
    ):
        self.tokens, self.scores = list(tokens), list(scores)
        self.vocab_size = len(self.tokens)
        if len(self.scores) != self.vocab_size or not all(0 <= i < self.vocab_size for i in (bos, eos, unknown)):
            raise UserError(
                f"a vocabulary of {self.vocab_size} tokens needs as many scores, and BOS, EOS and unknown among them"
            )
        self.bos, self.eos, self.unknown, self.prefix_space = bos, eos, unknown, prefix_space
        self._byte_of = {}
        for index, token in enumerate(self.tokens):
            if match := BYTE_TOKEN.fullmatch(token):
                self._byte_of[index] = int(match[1], 16)
        control = {bos, eos, unknown, *self._byte_of}
        self._ids = {token: index for index, token in reversed(list(enumerate(self.tokens))) if index not in control}
        self._byte_ids = {byte: index for index, byte in self._byte_of.items()}

    @property
    def special_tokens(self) -> dict[str, int]:
        return {self.tokens[index]: index for index in (self.unknown, self.bos, self.eos)}

    @property
    def bos_token(self) -> str:
        return self.tokens[self.bos]

    @property
    def eos_token(self) -> str:
        return self.tokens[self.eos]

    def encode(
        self, text: str, allowed_special=(), disallowed_special="all", add_special_tokens: bool = True
    ) -> list[int]:
        """The ids of a text, BOS first."""
        ids = [self.bos] if add_special_tokens else []
        special = self.special_tokens if allowed_special == "all" else dict.fromkeys(allowed_special)
        parts = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
        for part in filter(None, parts):
            if part in special:
                ids.append(self.special_tokens[part])
            else:
                part = (" " if self.prefix_space else "") + part
                ids += merge_in_order(self._characters(part), self._merge)
        return ids

    def _characters(self, text: str) -> list[int]:
        ids = []
        for position, character in enumerate(text):
            if character in self._ids:
                ids.append(self._ids[character])
                continue
            try:
                encoded = character.encode("utf-8")
            except UnicodeEncodeError:
                code = ord(character)
                raise UserError(
                    f"the text has a lone surrogate, U+{code:04X}, at {position}: it is not Unicode text"
                ) from None
            ids += [self._byte_ids.get(byte, self.unknown) for byte in encoded]
        return ids

    def _merge(self, pair: tuple[int, int]) -> tuple[float, int] | None:
        """(rank, token) of a pair, the best score first; None if together they are no token."""
        left, right = pair
        token = self._ids.get(self.tokens[left] + self.tokens[right])
        if token is None or left in self._byte_of or right in self._byte_of:
            return None
        return -self.scores[token], token

    def decode(self, ids, errors: str = "replace") -> str:
        """The text of ids. BOS and EOS have none, and the space that was put before the text is taken away again."""
        decoder = self.stream()
        decoder.errors(errors)
        try:
            return "".join(decoder.push(int(index)) for index in ids) + decoder.finish()
        except UnicodeDecodeError as error:
            raise UserError(f"the ids are no UTF-8 text: {error.reason} at byte {error.start}") from None

    def bytes_of(self, index: int) -> bytes:
        """The bytes of an id. Raises UserError for an id outside of the vocabulary."""
        if not 0 <= index < self.vocab_size:
            raise UserError(f"id {index} is outside the vocabulary of {self.vocab_size} tokens")
        if index in self._byte_of:
            return bytes([self._byte_of[index]])
        return b"" if index in (self.bos, self.eos) else self.tokens[index].encode("utf-8")

    def piece(self, index: int) -> str:
        return self.bytes_of(index).decode(
            "utf-8", "replace"
        )  # with the space that `decode` takes from a text's first word

    def stream(self) -> StreamingDecoder:
        return _Stream(self)

    # -------------------------------------------------------------------------------------------------------- files

    @classmethod
    def from_llama2c(cls, path: str | Path, vocab_size: int) -> ScoreTokenizer:
        """Open llama2.c's tokenizer.bin: int32 longest token, then for each token float32 score, int32 length, bytes."""
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

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json, as Hugging Face's tokenizers read a Llama's."""
        special = [{"id": i, "content": self.tokens[i]} for i in sorted({self.unknown, self.bos, self.eos})]
        common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        replace = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
        prepend = [{"type": "Prepend", "prepend": SPACE}] if self.prefix_space else []
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if self.prefix_space else []
        back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        bos = self.tokens[self.bos]
        sequence = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        contents = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{**token, **common} for token in special],
            "normalizer": {"type": "Sequence", "normalizers": prepend + replace},
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": sequence,
                "pair": sequence + [{"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {bos: {"id": bos, "ids": [self.bos], "tokens": [bos]}},
            },
            "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": self.tokens[self.unknown],
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": {token.replace(" ", SPACE): index for index, token in enumerate(self.tokens)},
                "merges": self._merges(),
            },
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": self.tokens[self.eos],
            "clean_up_tokenization_spaces": False,
        }
        for name, value in ((TOKENIZER_FILE, contents), (CONFIG_FILE, config)):
            text = json.dumps(value, indent=1, ensure_ascii=False)
            write_atomically(Path(folder) / name, text.encode("utf-8"))

    def _merges(self) -> list[list[str]]:
        """Every way to put a token together from two others, those with the best score first."""
        best_first = sorted(self._ids.items(), key=lambda item: (-self.scores[item[1]], item[1]))
        return [
            [token[:cut].replace(" ", SPACE), token[cut:].replace(" ", SPACE)]
            for token, _ in best_first
            for cut in range(1, len(token))
            if token[:cut] in self._ids and token[cut:] in self._ids
        ]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ScoreTokenizer:
        """Open a tokenizer.json with byte fallback: the order of its merges stands for the scores. Raises UserError."""
        path = Path(folder) / TOKENIZER_FILE
        contents = read_json(path)
        model, vocabulary = contents["model"], contents["model"].get("vocab")
        if not isinstance(vocabulary, dict) or not all(type(index) is int for index in vocabulary.values()):
            raise UserError(f"{path}: vocab has to be an object of whole numbers")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise UserError(f"{path}: the ids of the vocabulary are not 0 to {len(vocabulary) - 1}, each once")
        tokens = [token.replace(SPACE, " ") for token in sorted(vocabulary, key=vocabulary.get)]
        merges = model.get("merges")
        if not isinstance(merges, list):
            raise UserError(f"{path}: merges has to be a list")
        scores = [-1e9] * len(tokens)
        for rank, merge in reversed(list(enumerate(merges))):
            joined = "".join(merge.split(" ", 1) if isinstance(merge, str) else map(str, merge))
            if joined not in vocabulary:
                raise UserError(f"{path}: merge {rank} makes {joined!r}, which is not in the vocabulary")
            scores[vocabulary[joined]] = -float(rank)
        normalizer = json.dumps(contents.get("normalizer"))
        config_path = path.with_name(CONFIG_FILE)
        config = read_json(config_path) if config_path.is_file() else {}
        special = {name: _content(config.get(f"{name}_token")) for name in ("bos", "eos")}
        ids = {name: vocabulary.get(text, default) for (name, text), default in zip(special.items(), (1, 2))}
        unknown = vocabulary.get(model.get("unk_token"), 0)
        return cls(tokens, scores, ids["bos"], ids["eos"], unknown, prefix_space='"Prepend"' in normalizer)


def _content(token) -> str | None:
    """The text of a special token in tokenizer_config.json, which is a string or an object."""
    return token.get("content") if isinstance(token, dict) else token


class _Stream(StreamingDecoder):
    """A character whose bytes are spread over several tokens is returned with the last of them."""

    def __init__(self, tokenizer: ScoreTokenizer):
        super().__init__(tokenizer)
        self._first = tokenizer.prefix_space
        self.errors("replace")

    def errors(self, errors: str) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, token: int) -> str:
        data = self._tokenizer.bytes_of(token)
        if self._first and data:
            data, self._first = data.removeprefix(b" "), False
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)

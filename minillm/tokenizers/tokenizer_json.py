"""tokenizer.json, the file of the library `tokenizers`: a pipeline, every part of which is used or
refused by its name.

    added_tokens -> normalizer -> pre_tokenizer -> model -> post_processor       decoder the other way

A model of the type BPE whose pre-tokenizer ends by spelling bytes is a BytePairTokenizer, any other
one a ScoreTokenizer; a WordLevel model of single characters is a CharacterTokenizer. Ids and texts
are those of `tokenizers` for the same file, with these differences: a byte or character that cannot
be expressed is an error in place of nothing; special tokens in a text are treated as
Tokenizer.encode says; added tokens whose ids `tokenizers` would not take from the file are refused,
as are truncation and padding, which would change texts unasked; bytes that are no character hide no
character beside them.
"""

from __future__ import annotations

import json
from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.tokenizers.added_tokens import AddedToken, AddedTokens, read_added_tokens
from minillm.tokenizers.byte_spelling import bytes_to_unicode, unspell
from minillm.tokenizers.character_pairs import CharacterPairs, by_list
from minillm.tokenizers.components import REQUIRED, checked
from minillm.tokenizers.decoders import is_byte_level, read_decoder
from minillm.tokenizers.merging import read_merges
from minillm.tokenizers.normalizers import read_normalizer
from minillm.tokenizers.patterns import pattern_name
from minillm.tokenizers.post_processors import read_post_processor
from minillm.tokenizers.pre_tokenizers import PreTokenizer, read_pre_tokenizer
from minillm.tokenizers.surroundings import Surroundings
from minillm.tokenizers.tokenizer import CONFIG_FILE, KINDS, Tokenizer
from minillm.tokenizers.tokenizer_config import added_later, read_config

COMPONENTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
PARTS = ("version", "truncation", "padding", "added_tokens", *COMPONENTS)
MODELS = ("WordLevel", "BPE")
LARGEST_ID = 1 << 24
_MAYBE_TEXT, _MAYBE_FLAG = (str, type(None)), (bool, type(None))
BPE_OPTIONS = {
    "type": (str, "BPE"),
    "vocab": (dict, REQUIRED),
    "merges": (list, REQUIRED),
    "dropout": ((int, float, type(None)), None),
    "unk_token": (_MAYBE_TEXT, None),
    "continuing_subword_prefix": (_MAYBE_TEXT, None),
    "end_of_word_suffix": (_MAYBE_TEXT, None),
    "fuse_unk": (_MAYBE_FLAG, False),
    "byte_fallback": (_MAYBE_FLAG, False),
    "ignore_merges": (_MAYBE_FLAG, False),
}


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file, with the names of special tokens, and tokens added later, of
    tokenizer_config.json beside it.

    Whether BOS and EOS are put around a text is said by tokenizer.json alone, as in `transformers`.
    Raises UserError.
    """
    return tokenizer_of_contents(read_json(path), read_config(path.parent), str(path))


def tokenizer_of_contents(contents: dict, config: dict, where: str) -> Tokenizer:
    """The tokenizer that tokenizer.json and tokenizer_config.json describe. `where` names the file.
    Raises UserError.
    """
    _check_top(contents, where)
    model = contents.get("model")
    kind = model.get("type", "BPE" if "merges" in model else None) if isinstance(model, dict) else None
    if kind not in MODELS:
        raise UserError(f"{where}: model type {kind!r} is not one of {', '.join(MODELS)}")
    if kind == "WordLevel":
        return KINDS["characters"].from_contents(contents, where)
    options = _checked_model(model, where)
    _check_texts(contents, where)
    contents = _with_later_tokens(contents, config, options["vocab"], where)
    added = read_added_tokens(contents.get("added_tokens") or [], f"{where}: added_tokens")
    _check_added_ids(added, options["vocab"], where)
    normalizer = read_normalizer(contents.get("normalizer"), f"{where}: normalizer")
    around = read_post_processor(contents.get("post_processor"), f"{where}: post_processor")
    ids = options["vocab"] | {token.content: token.id for token in added}
    size = max(ids.values(), default=-1) + 1
    for index in (*around.before, *around.after):
        if index >= size:
            raise UserError(f"{where}: post_processor adds id {index}, outside of the vocabulary of {size} ids")
    pre_tokenizer = read_pre_tokenizer(contents.get("pre_tokenizer"), f"{where}: pre_tokenizer")
    parts = Surroundings(AddedTokens(added, normalizer), normalizer, around, contents, config)
    decoder = read_decoder(contents.get("decoder"), f"{where}: decoder")
    if _is_byte_level(pre_tokenizer, contents.get("decoder"), options):
        return _byte_level(options, pre_tokenizer, parts, size, where)
    return _character_level(options, pre_tokenizer, decoder, parts, size, where)


def check_opens(tokenizer: Tokenizer, contents: dict, config: dict) -> None:
    """Raises UserError unless these files, which are about to be written, make the same
    tokenizer.
    """
    try:
        opened = tokenizer_of_contents(contents, config, "tokenizer.json")
    except UserError as error:
        raise UserError(
            f"this tokenizer cannot be written as a tokenizer.json that can be opened again: {error}"
        ) from None
    sample = " ".join(token for token in map(tokenizer.piece, range(min(tokenizer.vocab_size, 1000))))
    same = (
        type(opened) is type(tokenizer)
        and opened.tokens == tokenizer.tokens
        and opened.special_tokens == tokenizer.special_tokens
        and opened.encode(sample, "all") == tokenizer.encode(sample, "all")
    )
    if not same:
        raise UserError("this tokenizer cannot be written as a tokenizer.json: opened again, it would be another one")


# ------------------------------------------------------------------------------------------------- the parts of a file


def _check_top(contents: dict, where: str) -> None:
    if unknown := [name for name in contents if name not in PARTS]:
        raise UserError(f"{where}: the part {unknown[0]!r} is not known here")
    if contents.get("version", "1.0") != "1.0":
        raise UserError(f"{where}: the version {contents['version']!r} is not known here, only 1.0")
    if contents.get("truncation") is not None:
        raise UserError(
            f"{where}: its truncation ({contents['truncation']!r:.80}) would cut texts off: set it to null in the file"
        )
    padding = contents.get("padding")
    if padding is not None and not (isinstance(padding, dict) and padding.get("strategy") == "BatchLongest"):
        raise UserError(f"{where}: its padding ({padding!r:.80}) would lengthen texts: set it to null in the file")


def _checked_model(model: dict, where: str) -> dict:
    """The options of a BPE model. Raises UserError for what is not known, or not right."""
    options = checked(model, f"{where}: model (BPE)", BPE_OPTIONS)
    if options["dropout"]:
        raise UserError(
            f"{where}: the model's dropout {options['dropout']} would merge at random: set it to null in the file"
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if options[name]:
            raise UserError(f"{where}: the model's {name} {options[name]!r} is not known here")
    vocabulary = options["vocab"]
    if not all(type(index) is int for index in vocabulary.values()):
        raise UserError(f"{where}: an id of the vocabulary is no whole number")
    if vocabulary and not 0 <= min(vocabulary.values()) <= max(vocabulary.values()) < LARGEST_ID:
        raise UserError(f"{where}: the ids of the vocabulary are not 0 to {LARGEST_ID - 1} at most")
    if len(set(vocabulary.values())) < len(vocabulary):
        seen: dict[int, str] = {}
        first, second = next((seen[i], token) for token, i in vocabulary.items() if seen.setdefault(i, token) != token)
        raise UserError(f"{where}: the tokens {first!r} and {second!r} have the same id, {vocabulary[second]}")
    if options["unk_token"] is not None and options["unk_token"] not in vocabulary:
        raise UserError(f"{where}: the model's unk_token {options['unk_token']!r} is not in its vocabulary")
    return options


def _check_texts(contents: dict, where: str) -> None:
    """Raises UserError for a text that is not Unicode."""
    rest = {name: value for name, value in contents.items() if name != "model"}
    try:
        "".join(contents["model"]["vocab"]).encode("utf-8")
        json.dumps(rest, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: it has a lone surrogate, U+{ord(error.object[error.start]):04X}") from None


def _with_later_tokens(contents: dict, config: dict, vocabulary: dict[str, int], where: str) -> dict:
    """With the tokens of tokenizer_config.json's added_tokens_decoder that the file itself does not
    have.
    """
    present = contents.get("added_tokens") or []
    if not isinstance(present, list):
        raise UserError(f"{where}: added_tokens is {present!r:.60}, expected a list")
    texts = [token.get("content") for token in present if isinstance(token, dict)]
    later = added_later(config, None, str(Path(where).with_name(CONFIG_FILE)))
    missing = [token.as_data() for token in later if token.content not in texts]
    return contents | {"added_tokens": present + missing} if missing else contents


def _check_added_ids(added: list[AddedToken], vocabulary: dict[str, int], where: str) -> None:
    """Raises UserError for an id that `tokenizers` would not take from the file: it numbers from
    the vocabulary's end on.
    """
    following = len(vocabulary)
    for token in added:
        expected = vocabulary.get(token.content, following)
        if expected == following and token.content not in vocabulary:
            following += 1
        if token.id != expected:
            raise UserError(
                f"{where}: the added token {token.content!r} has the id {token.id}, and the library `tokenizers` would give it "
                f"{expected}: ids of added tokens follow those of the vocabulary, or are those that it has in there"
            )
    taken = {index: text for text, index in vocabulary.items()}
    for token in added:
        if taken.get(token.id, token.content) != token.content:
            raise UserError(
                f"{where}: the tokens {taken[token.id]!r} and {token.content!r} have the same id, {token.id}"
            )


# ------------------------------------------------------------------------------------------------------- the classes


def _is_byte_level(pre_tokenizer: PreTokenizer, decoder, options: dict) -> bool:
    """Whether the model sees spelled bytes, so that its tokens can be bytes."""
    spelled = [step.spelled for step in pre_tokenizer.steps]
    if not spelled or spelled != [False] * (len(spelled) - 1) + [True] or not is_byte_level(decoder):
        return False
    whole = all(character in options["vocab"] for character in bytes_to_unicode())
    return whole or not options["unk_token"] and not options["byte_fallback"]


def _byte_level(options, pre_tokenizer, parts, size, where) -> Tokenizer:
    vocabulary = options["vocab"]
    tokens = [b""] * size
    ids = {}
    for token, index in vocabulary.items():
        try:
            tokens[index] = unspell(token)
            ids[tokens[index]] = index
        except KeyError:  # no text has it: it is there to be an added token, or for nothing
            tokens[index] = token.encode("utf-8")
    for token in parts.added.tokens:
        tokens[token.id] = parts.added.text_of(token).encode("utf-8")
    merges = [
        (vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in read_merges(options["merges"], vocabulary, where)
    ]
    cut = _known_pattern(pre_tokenizer) or pre_tokenizer.without_spelling()
    return KINDS["byte-level"].from_pipeline(tokens, merges, ids, cut, bool(options["ignore_merges"]), parts)


def _known_pattern(pre_tokenizer: PreTokenizer) -> str | None:
    """The one pattern that cuts as the steps do: by its name, or as it is in the file. None if
    there is none.
    """
    steps = [step.data for step in pre_tokenizer.steps]
    kinds, last = [step["type"] for step in steps], steps[-1]
    by_gpt2 = last.get("use_regex", True)
    if last["add_prefix_space"]:
        return None
    if kinds == ["ByteLevel"] and by_gpt2:
        return "gpt2"
    if kinds == ["Digits", "ByteLevel"] and by_gpt2 and steps[0]["individual_digits"]:
        return "smollm"
    if kinds != ["Split", "ByteLevel"] or by_gpt2 or "Regex" not in steps[0]["pattern"]:
        return None
    expression, behavior = steps[0]["pattern"]["Regex"], steps[0]["behavior"]
    name = pattern_name(expression)
    if behavior == "Isolated":
        return name or expression
    # these patterns leave nothing between their matches
    return name if behavior == "Removed" and steps[0]["invert"] else None


def _character_level(options, pre_tokenizer, decoder, parts, size, where) -> Tokenizer:
    vocabulary = options["vocab"]
    pairs = read_merges(options["merges"], vocabulary, where)
    made = [a + b for a, b in pairs]
    unknown = None if options["unk_token"] is None else vocabulary[options["unk_token"]]
    flags = [bool(options[name]) for name in ("fuse_unk", "byte_fallback", "ignore_merges")]
    model = CharacterPairs(vocabulary, by_list(pairs, vocabulary), made, unknown, *flags)
    tokens, scores = [""] * size, [-1e9] * size
    for token, index in vocabulary.items():
        tokens[index] = token
    for token in parts.added.tokens:
        tokens[token.id] = token.content
    for rank, token in reversed(list(enumerate(made))):
        scores[vocabulary[token]] = -float(rank)
    return KINDS["character-level"].from_pipeline(tokens, model, pre_tokenizer, decoder, parts, scores)

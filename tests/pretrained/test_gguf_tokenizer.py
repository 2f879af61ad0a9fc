"""The keys tokenizer.ggml.* of a GGUF file, against tokenizer.json files that mean the same."""

import json

import pytest
from model_files import LLAMA, write_gguf
from tokenizer_files import BYTE_LEVEL, added, byte_level, llama, sequence, split, template, texts

import minillm
from minillm.errors import UserError
from minillm.pretrained import tokenizer_of
from minillm.tokenizers.character_pairs import every_merge
from minillm.tokenizers.patterns import PATTERNS
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents

pytest.importorskip("gguf")


def write(folder, tokens, types, scores=None, merges=None, **keys):
    """A GGUF file with a tokenizer. keys: of tokenizer.ggml., bool, int or str."""

    def add(writer):
        writer.add_tokenizer_model("llama" if scores else "gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if scores:
            writer.add_token_scores(scores)
        else:
            writer.add_token_merges(merges)
        for name, value in keys.items():
            method = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
            method(f"tokenizer.ggml.{name}", value)

    return tokenizer_of(write_gguf(folder / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add))


def theirs_of(contents):
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    return tokenizers.Tokenizer.from_str(json.dumps(contents))


NAMES = [("<|begin|>", True), ("<|end|>", True), ("<think>", False)]


def byte_level_file(folder, pre, **keys):
    """(tokenizer of a file, contents of its tokenizer.json without post-processor)."""
    cut = {"gpt-2": BYTE_LEVEL, "llama-bpe": "cl100k", "qwen2": "qwen2", "tekken": "tekken"}[pre]
    if isinstance(cut, str):
        cut = sequence(split(PATTERNS[cut]), BYTE_LEVEL | {"use_regex": False})
    contents = byte_level(cut, NAMES)
    model = contents["model"]
    tokens = [*model["vocab"], *(name for name, _ in NAMES)]
    types = [1] * len(model["vocab"]) + [3, 3, 4]
    ids = {"bos_token_id": len(tokens) - 3, "eos_token_id": len(tokens) - 2}
    merges = [" ".join(merge) for merge in model["merges"]]
    return write(folder, tokens, types, merges=merges, pre=pre, **ids, **keys), contents


# pre, keys of the file -> whether BOS and EOS are added, and pieces that are tokens stay whole
BYTE_LEVEL_FILES = {
    "gpt-2": ("gpt-2", {}, (False, False, False)),
    "gpt-2 with both": ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, (True, True, False)),
    "llama 3": ("llama-bpe", {}, (True, False, True)),
    "llama 3 without": ("llama-bpe", {"add_bos_token": False}, (False, False, True)),
    "qwen2": ("qwen2", {"add_bos_token": False, "padding_token_id": 7}, (False, False, False)),
    "tekken": ("tekken", {}, (True, False, True)),
}


@pytest.mark.parametrize("pre, keys, adds", BYTE_LEVEL_FILES.values(), ids=BYTE_LEVEL_FILES)
def test_byte_level(pre, keys, adds, tmp_path):
    ours, contents = byte_level_file(tmp_path, pre, **keys)
    bos, eos, whole = adds
    start = len(contents["model"]["vocab"])
    contents["model"]["ignore_merges"] = whole
    contents["normalizer"] = {"type": "NFC"} if pre == "qwen2" else None
    contents["post_processor"] = template([("<|begin|>", start)] * bos, [("<|end|>", start + 1)] * eos)
    theirs = theirs_of(contents)
    assert (ours.bos_token, ours.eos_token) == ("<|begin|>", "<|end|>")
    assert ours.special_tokens == {"<|begin|>": start, "<|end|>": start + 1}
    for text in texts(contents, 150):
        assert ours.encode(text, "all") == theirs.encode(text).ids, repr(text)
    ours.save_pretrained(tmp_path / "saved")
    assert minillm.tokenizers.load_tokenizer(tmp_path / "saved").encode("a<think>") == ours.encode("a<think>")


def character_level_file(folder, tokens=(), **keys):
    """(tokenizer of a file, contents of a tokenizer.json that means the same); tokens: (text, type) more."""
    contents = llama("normalizer" if keys.get("add_space_prefix", True) else "never")
    vocabulary = contents["model"]["vocab"]
    texts_, types = list(vocabulary), [2, 3, 3] + [6] * 256 + [1] * (len(vocabulary) - 259)
    rank = {a + b: n for n, (a, b) in reversed(list(enumerate(contents["model"]["merges"])))}
    scores = [-float(rank.get(token, 9999)) for token in texts_] + [-1000.0] * len(tokens)
    mergeable = dict(list(vocabulary.items())[259:])
    contents["model"]["merges"] = every_merge(mergeable, scores)
    texts_ += [text for text, _ in tokens]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    ours = write(folder, texts_, types + [kind for _, kind in tokens], scores, **ids, **keys)
    contents["added_tokens"] += [added(len(vocabulary) + n, text, kind == 3) for n, (text, kind) in enumerate(tokens)]
    if not keys.get("add_space_prefix", True):
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        contents |= {"normalizer": replace, "pre_tokenizer": None}
    before = [("<s>", 1)] * keys.get("add_bos_token", True)
    return ours, contents | {"post_processor": template(before, [("</s>", 2)] * keys.get("add_eos_token", False))}


CHARACTER_LEVEL_FILES = {
    "plain": ((), {}),
    "no BOS": ((), {"add_bos_token": False, "add_eos_token": True}),
    "no space in front": ((), {"add_space_prefix": False}),
    "more tokens": ((("<|im_start|>", 3), ("<think>", 4), ("<extra>", 4)), {"eot_token_id": 2}),
}


@pytest.mark.parametrize("tokens, keys", CHARACTER_LEVEL_FILES.values(), ids=CHARACTER_LEVEL_FILES)
def test_character_level(tokens, keys, tmp_path):
    ours, contents = character_level_file(tmp_path, tokens, **keys)
    theirs = theirs_of(contents)
    assert (ours.bos, ours.eos, ours.bos_token) == (1, 2, "<s>")
    for text in texts(contents, 150):
        assert ours.encode(text) == theirs.encode(text).ids, repr(text)
    ours.save_pretrained(tmp_path / "saved")
    saved = minillm.tokenizers.load_tokenizer(tmp_path / "saved")
    for text in texts(contents, 30, seed=3):
        assert saved.encode(text) == ours.encode(text) and saved.decode(ours.encode(text)) == ours.decode(
            ours.encode(text)
        )


@pytest.mark.parametrize("space", "▁ ")
def test_runs_of_spaces_are_never_taken_apart(space, tmp_path):
    ours, contents = character_level_file(tmp_path, ((space * 3, 4), (space * 6, 4)))
    start = len(contents["model"]["vocab"])
    plain, single = ours.encode("a b")[1:2], contents["model"]["vocab"]["b"]
    assert ours.encode("a   b") == [1, *plain, start, single]
    assert ours.encode("a      b") == [1, *plain, start + 1, single]


def test_unused_tokens_are_never_made(tmp_path):
    used = write(tmp_path, ["<unk>", "<s>", "</s>", "▁", "a", "▁a"], [2, 3, 3, 1, 1, 1], [0.0] * 6)
    unused = write(tmp_path, ["<unk>", "<s>", "</s>", "▁", "a", "▁a"], [2, 3, 3, 1, 1, 5], [0.0] * 6)
    assert used.encode("a") == [1, 5] and unused.encode("a") == [1, 3, 4]


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            {"remove_extra_whitespaces": True},
            "tokenizer.ggml.remove_extra_whitespaces .True., which minillm does not know",
        ),
        ({"lower_case": True}, "tokenizer.ggml.lower_case"),
        ({"bos_token_id": 999}, "bos_token_id is 999, and there are 6 tokens"),
        ({"add_bos_token": 1}, "add_bos_token is 1, expected bool"),
    ],
)
def test_a_key_that_is_not_known_is_named(keys, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write(tmp_path, ["<unk>", "<s>", "</s>", "▁", "a", "▁a"], [2, 3, 3, 1, 1, 1], [0.0] * 6, **keys)


def test_a_key_that_changes_nothing(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a"]
    opened = write(tmp_path, tokens, [2, 3, 3, 1, 1, 1], [0.0] * 6, remove_extra_whitespaces=False, eot_token_id=2)
    assert opened.encode("a") == [1, 5]


def test_contents_are_opened_like_a_file():
    assert tokenizer_of_contents(llama("first"), {}, "here").encode("the")[0] == 1

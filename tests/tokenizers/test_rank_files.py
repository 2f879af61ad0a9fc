"""tiktoken's rank files: patterns by name, special tokens that fill gaps, and tiktoken's own merging."""

import base64
import random

import pytest
from tokenizer_files import texts

from minillm.errors import UserError
from minillm.tokenizers import BytePairTokenizer, load_tokenizer
from minillm.tokenizers.patterns import PATTERNS
from minillm.tokenizers.rank_files import ENCODINGS, load_tiktoken

BYTES = [bytes([value]) for value in range(256)]


def write(path, tokens):
    """tokens: rank -> bytes, or a list."""
    ranked = tokens.items() if isinstance(tokens, dict) else enumerate(tokens)
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in ranked))
    return path


def grown(count, seed):
    """Tokens of "a" and "b", each put together from two that were there: many have several ways to be made."""
    rng, tokens = random.Random(seed), [b"a", b"b"]
    while len(tokens) < count:
        new = rng.choice(tokens) + rng.choice(tokens)
        if new not in tokens and len(new) < 9:
            tokens.append(new)
    return [*BYTES, *tokens[2:]]


@pytest.mark.parametrize("name", ["gpt2", "cl100k", "qwen2", "o200k"])
def test_ids_are_those_of_tiktoken(name, tmp_path):
    tiktoken = pytest.importorskip("tiktoken", reason="comparison with the package tiktoken")
    trained = BytePairTokenizer.train("the quick brown fox Don't 1234 日本 " * 5, 300, pattern=name)
    path = write(tmp_path / "x.tiktoken", trained.tokens)
    ours = load_tiktoken(path, name, {"<|a|>": 300, "<|b|>": 305})
    ranks = {token: rank for rank, token in enumerate(trained.tokens)}
    theirs = tiktoken.Encoding("x", pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens=ours.special_tokens)
    assert ours.vocab_size == 306
    for text in texts({"added_tokens": [{"content": "<|a|>"}]}, 300):
        ids = ours.encode(text, "all")
        assert ids == theirs.encode(text, allowed_special="all"), repr(text)
        assert ours.decode(ids) == text


@pytest.mark.parametrize("seed", range(5))
def test_a_token_that_can_be_made_in_several_ways(seed, tmp_path):
    """Of pairs that become the same token the leftmost is merged, however the token can be parted."""
    tiktoken = pytest.importorskip("tiktoken", reason="comparison with the package tiktoken")
    tokens, rng = grown(40, seed), random.Random(seed)
    ours = load_tiktoken(write(tmp_path / "x.tiktoken", tokens), r"\S+|\s+")
    ranks = {token: rank for rank, token in enumerate(tokens)}
    theirs = tiktoken.Encoding("x", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    for length in range(1, 100):
        text = "".join(rng.choice("aab") for _ in range(length))
        assert ours.encode(text) == theirs.encode(text), text


def test_the_pattern_and_the_special_tokens_by_the_name(tmp_path, monkeypatch):
    tokens = [*BYTES, b"ab"]
    assert load_tokenizer(write(tmp_path / "o200k_base.tiktoken", tokens)).pattern == "o200k"
    assert load_tokenizer(write(tmp_path / "qwen.tiktoken", tokens)).pattern == "qwen2"
    assert load_tokenizer(write(tmp_path / "tokenizer.model", tokens)).pattern == "cl100k"
    small = ENCODINGS["p50k_base"]._replace(tokens=257, special={"<|endoftext|>": 256})
    monkeypatch.setitem(ENCODINGS, "p50k_base", small)
    ours = load_tokenizer(write(tmp_path / "p50k_base.tiktoken", dict(enumerate(BYTES)) | {257: b"ab"}))
    assert ours.encode("ab<|endoftext|>", "all") == [257, 256] and ours.eos_token == "<|endoftext|>"
    assert len(ENCODINGS["tokenizer.model"].special) == 256
    assert ENCODINGS["tokenizer.model"].special["<|eot_id|>"] == 128009


def test_a_gap_that_no_special_token_fills(tmp_path):
    path = write(tmp_path / "x.tiktoken", dict(enumerate(BYTES)) | {258: b"ab"})
    with pytest.raises(UserError, match="there is no token 256; if it is a special token"):
        load_tiktoken(path)
    with pytest.raises(UserError, match="there is no token 257"):
        load_tiktoken(path, "gpt2", {"<|x|>": 256})
    assert load_tiktoken(path, "gpt2", {"<|x|>": 256, "<|y|>": 257}).encode("<|y|>ab", "all") == [257, 258]
    with pytest.raises(UserError, match="id 97 of the special token '<.x.>' is taken by b'a'"):
        load_tiktoken(path, "gpt2", {"<|x|>": 97, "<|y|>": 257})
    write(path, [*BYTES, b"a"])
    with pytest.raises(UserError, match="line 257: the token b'a' is there twice"):
        load_tiktoken(path)

"""Byte-pair vocabularies in other people's files: there and back, and what is said of files that are not right."""

import base64
import json

import pytest

from minillm import BytePairTokenizer
from minillm.errors import UserError
from minillm.tokenizers import load_tokenizer
from minillm.tokenizers.byte_pair_files import (
    PAIRS_OF_FILES,
    save_pair_of_files,
)
from minillm.tokenizers.byte_spelling import spell, unspell
from minillm.tokenizers.rank_files import load_tiktoken, save_tiktoken

TEXT = "The quick brown fox jumps over the lazy dog; the dogs don't care. Grüße, 東京! \n\t 12 345\n" * 5
SPECIAL = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(TEXT, 400, special_tokens=[SPECIAL])


def same(a, b):
    assert b.tokens == a.tokens and b.special_tokens == a.special_tokens
    for text in (TEXT, TEXT.upper(), "", "  x\n"):
        assert a.encode(text) == b.encode(text)
    assert b.encode(f"a{SPECIAL}b", allowed_special="all") == a.encode(f"a{SPECIAL}b", allowed_special="all")


def test_bytes_are_spelled_as_gpt2_does():
    assert spell(b" a\n\xe9\x00") == "ĠaĊéĀ"
    assert unspell(spell(bytes(range(256)))) == bytes(range(256))


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "smollm", r"\S+|\s+"])
def test_tokenizer_json(pattern, tmp_path):
    tokenizer = BytePairTokenizer.train(TEXT, 400, special_tokens=[SPECIAL], pattern=pattern)
    tokenizer.save_pretrained(tmp_path)
    opened = load_tokenizer(tmp_path)
    assert opened.pattern == pattern and opened.merges == tokenizer.merges
    same(tokenizer, opened)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == SPECIAL


def test_merges_as_lists_of_two(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    contents["model"]["merges"] = [merge.split(" ") for merge in contents["model"]["merges"]]
    path.write_text(json.dumps(contents))
    same(tokenizer, BytePairTokenizer.from_pretrained(path))


@pytest.mark.parametrize("names", PAIRS_OF_FILES)
def test_pairs_of_files(names, tokenizer, tmp_path):
    save_pair_of_files(tokenizer, tmp_path, names)
    same(tokenizer, BytePairTokenizer.from_pretrained(tmp_path))
    same(tokenizer, BytePairTokenizer.from_pretrained(tmp_path / names[1]))


def test_transformers_opens_the_pair_of_files(tokenizer, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    save_pair_of_files(tokenizer, tmp_path)
    theirs = tokenizers.ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert theirs.encode(TEXT).ids == tokenizer.encode(TEXT)


def test_rank_files(tokenizer, tmp_path):
    save_tiktoken(tokenizer, tmp_path / "ours.tiktoken")
    special = {SPECIAL: tokenizer.special_tokens[SPECIAL]}
    same(tokenizer, load_tiktoken(tmp_path / "ours.tiktoken", "gpt2", special))
    assert BytePairTokenizer.from_pretrained(tmp_path).pattern == "cl100k"  # the file does not say


def test_rank_files_merge_by_the_rank_of_the_result(tmp_path):
    """ "abc" was learned from ab + c; a + bc becomes abc as well."""
    tokens = [bytes([value]) for value in range(256)] + [b"bc", b"ab", b"abc"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "x.tiktoken").write_text("\n".join(lines))
    assert load_tiktoken(tmp_path / "x.tiktoken").encode("abc") == [258]


def test_a_rank_file_has_no_room_for_a_special_token_among_the_others(tmp_path):
    tokens = [b"<|x|>", *(bytes([value]) for value in range(256))]
    with pytest.raises(UserError, match="no room for a special token"):
        save_tiktoken(BytePairTokenizer(tokens, [], special_tokens={"<|x|>": 0}), tmp_path / "x.tiktoken")


def test_a_pattern_that_the_pair_of_files_cannot_say(tmp_path):
    with pytest.raises(UserError, match="use tokenizer.json"):
        save_pair_of_files(BytePairTokenizer.train(TEXT, 300, pattern="cl100k"), tmp_path)


def test_gpt2s_own_files(real_data, tmp_path):
    tokenizer = load_tokenizer(real_data / "gpt2")
    assert tokenizer.vocab_size == 50257 and tokenizer.special_tokens == {SPECIAL: 50256}
    assert tokenizer.encode("Hello world") == [15496, 995]
    save_pair_of_files(tokenizer, tmp_path, PAIRS_OF_FILES[1])
    given = json.loads((real_data / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8")) == given
    merges = (real_data / "gpt2" / "vocab.bpe").read_text(encoding="utf-8")
    assert (tmp_path / "vocab.bpe").read_text(encoding="utf-8") == merges


BROKEN = [
    (lambda c: c["model"].update(type="Unigram"), "Unigram"),
    (lambda c: c["model"].pop("merges"), "the option 'merges' is missing"),
    (lambda c: c["model"].update(unk_token="?!"), r"unk_token '\?!' is not in its vocabulary"),
    (lambda c: c["model"].update(dropout=0.1), "dropout 0.1"),
    (lambda c: c["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix '</w>' is not known"),
    (lambda c: c["model"].update(fuse_everything=True), r"model \(BPE\): the option 'fuse_everything' \(True\)"),
    (lambda c: c.update(normalizer={"type": "Nmt"}), "normalizer: the type 'Nmt' is not known"),
    (lambda c: c["model"]["vocab"].update(x=3), "have the same id, 3"),
    (lambda c: c["model"]["vocab"].update(x="3"), "no whole number"),
    (lambda c: c["model"]["merges"].append("nowhere atall"), "not in the vocabulary"),
    (lambda c: c["model"]["merges"].append("three of them"), "not two tokens"),
    (lambda c: c["model"]["merges"].append(7), "not two tokens"),
    (lambda c: c.update(pre_tokenizer={"type": "UnicodeScripts"}), "pre_tokenizer: the type 'UnicodeScripts' is not"),
    (lambda c: c.update(pre_tokenizer=["ByteLevel"]), "pre_tokenizer is .'ByteLevel'., expected an object"),
    (lambda c: c.update(added_tokens=[{"id": 1}]), "the option 'content' is missing|is missing"),
    (lambda c: c["model"].update(vocab=[]), r"vocab is \[\], which it cannot be"),
    (lambda c: c["model"]["vocab"].update({"\u4e2d": 399, SPECIAL: 400}), "has the id 316, .* would give it 400"),
    (lambda c: c["model"]["vocab"].update({"\u4e2d": -1}), "the ids of the vocabulary"),
    (lambda c: c["model"]["vocab"].update({"\ud800": 399}), r"lone surrogate, U\+D800"),
    (lambda c: c.update(truncation={"max_length": 5}), "its truncation .* would cut texts off"),
    (lambda c: c.update(padding={"strategy": {"Fixed": 9}}), "its padding .* would lengthen texts"),
    (lambda c: c.update(version="2.0"), "version '2.0'"),
    (lambda c: c.update(prefix=1), "the part 'prefix' is not known"),
    (lambda c: c["added_tokens"][0].update(colour="red"), "added_tokens 1: the option 'colour'"),
    (lambda c: c["added_tokens"][0].update(content=["x"]), "content is .'x'., which it cannot be"),
    (lambda c: c["added_tokens"][0].pop("lstrip"), "added_tokens 1: the option 'lstrip' is missing"),
    (lambda c: c["added_tokens"].append(c["added_tokens"][0]), "two added tokens have the content"),
    (lambda c: c["added_tokens"][0].update(id=405), "has the id 405, and the library `tokenizers` would give it 316"),
    (lambda c: c["pre_tokenizer"].update(use_regx=False), r"pre_tokenizer \(ByteLevel\): the option 'use_regx'"),
]


@pytest.mark.parametrize("change, message", BROKEN)
def test_a_tokenizer_json_that_is_not_right(change, message, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    change(contents)
    path.write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["!!! 0", "YQ== x", "YQ==", "YQ== 0\nYg== 2"])
def test_a_rank_file_that_is_not_right(text, tmp_path):
    (tmp_path / "x.tiktoken").write_text(text)
    with pytest.raises(UserError, match="x.tiktoken"):
        BytePairTokenizer.from_pretrained(tmp_path / "x.tiktoken")


def test_a_vocabulary_without_all_bytes():
    tokenizer = BytePairTokenizer([b"a"], [])
    assert tokenizer.encode("aa") == [0, 0]
    with pytest.raises(UserError, match="no token for the byte 98, which is in 'ab'"):
        tokenizer.encode("ab")


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="tokenizer.json is missing, and the folder has no vocab.json and merges.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        BytePairTokenizer.from_pretrained(tmp_path / "nothing.json")


def test_what_could_not_be_opened_again_is_not_written(tmp_path):
    tokens = [bytes([value]) for value in range(256)] + [b"ab", b"ab"]
    with pytest.raises(UserError, match="cannot be written as a tokenizer.json"):
        BytePairTokenizer(tokens, [], special_tokens={"ab": 257}).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_special_token_among_the_others(tmp_path):
    tokens = [b"<|x|>", *(bytes([value]) for value in range(256))]
    tokenizer = BytePairTokenizer(tokens, [], special_tokens={"<|x|>": 0})
    tokenizer.save_pretrained(tmp_path)
    same(tokenizer, load_tokenizer(tmp_path))
    assert load_tokenizer(tmp_path).encode("a<|x|>", "all") == [98, 0]


def test_another_pattern_is_written(tmp_path):
    BytePairTokenizer.train(TEXT, 300).save_pretrained(tmp_path)
    opened = load_tokenizer(tmp_path)
    opened.pattern = "cl100k"
    opened.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pattern == "cl100k"

"""A trace of a text: its ids are those of encode, its merges those of the algorithm as it is defined."""

import random

import pytest
from tokenizer_files import KINDS, texts

from minillm.errors import UserError
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, ScoreTokenizer, load_tokenizer
from minillm.tokenizers.byte_pair import merge_steps
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents
from minillm.tokenizers.trace import after_merges

NASTY = (
    "", " ", "a", "\r\n\r\n", "a\r\nb", "👩‍👩‍👧 😀🏽", "e\u0301\u0301 ﬁ", "नमस्ते", "\x00\x85\u3000",
    "<|endoftext|>a<|endoftext|><|endof", "low lower lowest " * 30, "x" * 500, "\U0010ffff\ufeff", " don't  \n we're",
)  # fmt: skip


def same_ids(tokenizer, text, allowed="all"):
    pieces = list(tokenizer.trace(text, allowed))
    assert [index for piece in pieces for index in piece.ids] == tokenizer.encode(text, allowed, ()), repr(text)
    for piece in pieces:
        assert after_merges(piece, len(piece.merges)) == piece.ids
    return pieces


@pytest.fixture(scope="module")
def learned():
    return BytePairTokenizer.train("low lower lowest don't we're été\n" * 3, 320, ["<|endoftext|>"])


@pytest.mark.parametrize("allowed", ["all", ()])
def test_ids_of_nasty_texts(learned, allowed):
    for text in NASTY:
        pieces = same_ids(learned, text, allowed)
        assert "".join(piece.text for piece in pieces) == text


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_every_kind_of_file(kind):
    pytest.importorskip("tokenizers", reason="the files are learned by the package tokenizers")
    contents = KINDS[kind]()
    tokenizer = tokenizer_of_contents(contents, {}, kind)
    for text in texts(contents, 60):
        same_ids(tokenizer, text)


def test_ids_of_gpt2(real_data):
    tokenizer = load_tokenizer(real_data / "gpt2")
    for text in (*NASTY, (real_data / "the-verdict.txt").read_text(encoding="utf-8")[:3000]):
        same_ids(tokenizer, text)


def test_ids_of_scores(real_data):
    tokenizer = ScoreTokenizer.from_llama2c(real_data / "stories260K" / "tok512.bin", 512)
    for text in NASTY:
        pieces = same_ids(tokenizer, text)
        assert pieces[0].added and pieces[0].ids == [tokenizer.bos]
    *_, piece = tokenizer.trace("once")
    assert [-merge.rank for merge in piece.merges] == [tokenizer.scores[merge.token] for merge in piece.merges]


def test_the_merges_are_those_of_the_definition(learned):
    """The order, the places and the results, in random words with many equal pairs."""
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice("lowert s") for _ in range(rng.randrange(1, 40)))
        for piece in learned.trace(text):
            words = list(merge_steps(piece.start, learned._merge_of))
            assert [after_merges(piece, count) for count in range(len(piece.merges) + 1)] == words
            ranks = [
                learned._merge_of[_pair(words[count], merge, piece, count)] for count, merge in enumerate(piece.merges)
            ]
            assert ranks == [(merge.rank, merge.token) for merge in piece.merges]


def _pair(word, merge, piece, count):
    """The two tokens that a merge joins."""
    at = sum(position < merge.left for position in _alive(piece, count))
    return tuple(word[at : at + 2])


def _alive(piece, count):
    gone = {merge.right for merge in piece.merges[:count]}
    return [position for position in range(len(piece.start)) if position not in gone]


def test_a_token_that_needs_no_merges_stays_whole():
    tokens = [bytes([value]) for value in range(256)] + [b"ab", b"abc"]
    tokenizer = BytePairTokenizer(tokens, [(97, 98, 256)], ignore_merges=True)
    whole, merged = tokenizer.trace("abc abc")
    assert whole.whole and whole.ids == [257] and whole.merges == []
    assert not merged.whole and merged.ids == [32, 256, 99]


def test_special_tokens_are_marked(learned):
    found, text = learned.trace("<|endoftext|>low")
    assert found.added and found.ids == [learned.special_tokens["<|endoftext|>"]] and not text.added
    assert learned.token_bytes(found.ids[0]) == b"<|endoftext|>"


def test_characters_by_themselves():
    tokenizer = CharacterTokenizer.train("hello 😀")
    assert [(piece.text, piece.ids, piece.merges) for piece in tokenizer.trace("o😀")] == [
        ("o", tokenizer.encode("o"), []),
        ("😀", tokenizer.encode("😀"), []),
    ]
    assert tokenizer.token_bytes(tokenizer.encode("😀")[0]) == "😀".encode()
    with pytest.raises(UserError, match="never seen the character 'x'"):
        list(tokenizer.trace("x"))


def test_what_encode_refuses_is_refused(learned):
    with pytest.raises(UserError, match="lone surrogate"):
        list(learned.trace("a\ud800"))

"""Long texts by NumPy: cut as the regular expression cuts, and the ids of the plain algorithm."""

import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm import BytePairTokenizer
from minillm.tokenizers import array_cuts, array_encoding, byte_pair_batch, piece_cache
from minillm.tokenizers.array_cuts import EXPRESSIONS, OTHER, code_points, kinds_of
from minillm.tokenizers.array_encoding import by_kinds, by_pieces, distinct_words
from minillm.tokenizers.byte_pair_batch import NONE, PairTable
from minillm.tokenizers.patterns import PATTERNS, compile_pattern

NASTY = st.text(st.sampled_from("sdmtlvrexAé東1٣ \n\t\r\u00a0\u2028\x1c'’.-\U0001f600\u0301ſ"), max_size=40)
SAMPLE = (
    "It's we'll they've I'd I'm can't you're 'tis ''s 's' the dogs'  x\n\n\t y 1,000 Grüße 東京 \r\n don'tell'll've"
)
COMPILED = compile_pattern("gpt2")


def cut_by_kinds(text, cuts=array_cuts):
    begins = cuts.gpt2_begins(code_points(text)).tolist()
    return [text[start:end] for start, end in zip(begins, [*begins[1:], len(text)])]


@given(st.one_of(NASTY, st.text(max_size=40)).filter(bool))
@settings(max_examples=500, deadline=None)
def test_kinds_cut_as_the_regular_expression(text):
    assert cut_by_kinds(text) == COMPILED.findall(text)


def test_kinds_cut_every_short_text_as_the_regular_expression():
    """All texts of four characters of each kind that the pattern tells apart."""
    alphabet = "a1. \n'slre"
    for first in alphabet:
        for second in alphabet:
            for third in alphabet:
                for fourth in alphabet:
                    text = first + second + third + fourth
                    assert cut_by_kinds(text) == COMPILED.findall(text), repr(text)


def test_the_kind_of_every_character_is_that_of_the_package_regex():
    every = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) != "Cs")
    kinds = kinds_of(code_points(every))
    expected = np.full(len(every), OTHER)
    for kind, expression in EXPRESSIONS.items():
        for match in array_cuts.regex.finditer(f"{expression}+", every):
            expected[match.start() : match.end()] = kind
    assert (kinds == expected).all()


@given(st.lists(st.text(st.sampled_from("ab\0é東"), min_size=1, max_size=20), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_distinct_words(words):
    pretokens = by_pieces(words)
    firsts, number = distinct_words(pretokens)
    assert [words[first] for first in firsts[number]] == words
    assert len(firsts) == len(set(words))


def test_a_pair_is_found_among_others_of_its_slot():
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 5000, (4000, 2)), axis=0)
    table = PairTable({tuple(pair): i << 24 | 5000 + i for i, pair in enumerate(pairs.tolist())}, list(range(256)), 24)
    assert table.find(*pairs.T).tolist() == list(range(len(pairs)))
    assert (table.find(pairs[:, 0], pairs[:, 1] + 5000) == NONE).all()


def texts():
    rng = np.random.default_rng(3)
    yield SAMPLE * 3
    yield "".join(rng.choice(list("etaoin shrdlu'é\n"), 600))
    yield "a" * 700 + " b"
    yield "".join(chr(code) for code in rng.integers(0x20, 0xD7FF, 500))


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\p{L}+"])
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_long_text_has_the_ids_of_the_plain_algorithm(pattern, ignore_merges, monkeypatch):
    monkeypatch.setattr(piece_cache, "LONG", 1)
    monkeypatch.setattr(byte_pair_batch, "FEW", 2)
    made = BytePairTokenizer.train(SAMPLE, 330, pattern=pattern)
    tokens = [*made.tokens, "Grüße".encode()]
    tokenizer = BytePairTokenizer(tokens, made.merges, pattern, ignore_merges=ignore_merges)
    for text in texts():
        assert tokenizer.encode(text) == tokenizer.encode_plainly(text)


CUT_FAULTS = {
    "a space joins nothing": ('codes[:-1] != ord(" ")', "True"),
    "white space keeps its last character": ("begins[:-1] |= is_space[:-1] & ~is_space[1:]", "pass"),
    "contractions after a space": ('(codes[:-1] == ord("\'")) & begins[:-1] &', '(codes[:-1] == ord("\'")) &'),
    "the letters after a contraction stay": ("begins[ends[ends < len(codes)]] = True", "pass"),
}


@pytest.mark.parametrize("right, wrong", CUT_FAULTS.values(), ids=CUT_FAULTS.keys())
def test_faults_of_the_cuts_are_caught(right, wrong):
    assert cut_by_kinds(SAMPLE) == COMPILED.findall(SAMPLE)
    assert cut_by_kinds(SAMPLE, planted(array_cuts, right, wrong)) != COMPILED.findall(SAMPLE)


def test_by_kinds_and_by_pieces_are_the_same_pretokens():
    for text in texts():
        one, other = by_kinds(text), by_pieces(COMPILED.findall(text))
        assert all((a == b).all() for a, b in zip(one, other))


def test_equal_hashes_do_not_join_words(monkeypatch):
    """All words in one slot: one word leaves in each round."""
    monkeypatch.setattr(array_encoding, "_MIX", np.zeros(3, np.uint64))
    words = ["a", "b", "a", "abcdefghi", "abcdefghj", "b"]
    firsts, number = distinct_words(by_pieces(words))
    assert [words[first] for first in firsts[number]] == words and len(firsts) == 4

"""Learning from a large text: the pieces and the merges are those of the plain algorithm."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planting import planted

from minillm import BytePairTokenizer
from minillm.errors import UserError
from minillm.tokenizers import array_training, byte_pair, word_counts
from minillm.tokenizers.array_training import learn_merges_of_table
from minillm.tokenizers.byte_pair_training import count_pieces, learn_merges
from minillm.tokenizers.patterns import PATTERNS
from minillm.tokenizers.word_counts import NO_WORDS, WordCounter, count_in_parts, count_words, join_tables

SAMPLE = "It's the cat, the hat and the 東京 Grüße, aaaaaaa aaaa abababab\n\n the the then bananas 1000 \r\n" * 3
TEXTS = st.lists(st.sampled_from(["aab", "abab", "aaaa", "b", "ba", "cc", "é東"]), max_size=40).map(" ".join)


def merges_of(text, count=100, learn=learn_merges_of_table):
    return learn(count_words([text], "gpt2"), count)


@given(TEXTS)
@example("aaa aaaa aaaaa aaaaaaa")
@example("abab ababab")
@settings(max_examples=300, deadline=None)
def test_merges_are_those_of_the_plain_algorithm(text):
    assert merges_of(text) == learn_merges(count_pieces([text], "gpt2"), 100)


@pytest.mark.parametrize("lower, chunk", [(2, 7), (8, 1 << 22), (1000, 100)])
def test_whichever_pairs_are_followed(lower, chunk, monkeypatch):
    """Counted anew again and again, in chunks of a few places, or never."""
    monkeypatch.setattr(array_training, "LOWER", lower)
    monkeypatch.setattr(array_training, "CHUNK", chunk)
    text = SAMPLE * 40 + " ".join(str(number * number) for number in range(500))
    counts = count_pieces([text], "gpt2")
    for merges in (0, 5, 700):
        assert merges_of(text, merges) == learn_merges(counts, merges)
    assert len(merges_of(text, 5000)) < 5000, "nothing is left to merge"


NOT_TWICE = "            if other != token:\n                self._add(other"
ENDED = "if not self.heap:\n                if self.least <= 1:"
FAULTS = {
    "both of an overlap": ("return at[(number - first) % 2 == 0]", "return at"),
    "pairs that are gone": ("at = at[self.symbols[at + length_a] == b]", "pass"),
    "no end of a token": ("symbols[middle + (length_b - 1)] = symbols[at] = token", "symbols[at] = token"),
    "two merged in a row": ("b << 24 | a if other == token else other << 24 | a", "other << 24 | a"),
    "counted twice": (NOT_TWICE, NOT_TWICE.replace("other != token", "True")),
    "neighbours stay": ("self._subtract(b << 24 | other, count)", "pass"),
    "too few are followed": (ENDED, ENDED.replace("self.least <= 1", "True")),
    "another order of equals": ("self.tokens[pair >> 24], self.tokens[pair & RIGHT], pair)", "b'', b'', pair)"),
}


@pytest.mark.parametrize("right, wrong", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_caught(right, wrong):
    text = SAMPLE * 40 + " ".join(str(number * number) for number in range(500)) + " aaa aaaa aaaaa ababab"
    expected = learn_merges(count_pieces([text], "gpt2"), 700)
    assert merges_of(text, 700) == expected
    try:
        assert merges_of(text, 700, planted(array_training, right, wrong).learn_merges_of_table) != expected
    except (KeyError, IndexError):
        pass  # noticed as well


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\S+|\s+"])
@pytest.mark.parametrize("part", [40, 1 << 20])
def test_pieces_counted_in_parts_are_those_of_the_whole(pattern, part, monkeypatch):
    monkeypatch.setattr(word_counts, "PART", part)
    monkeypatch.setattr(word_counts, "FEWEST", 10)
    texts = [SAMPLE, "", "x" * 200, SAMPLE * 2]
    assert count_in_parts(texts, pattern).as_dict() == count_pieces(texts, pattern)


def test_tables_are_joined():
    texts = [SAMPLE[start : start + 50] for start in range(0, len(SAMPLE), 50)]
    counter = WordCounter()
    for text in texts:
        counter.add(count_words([text], "gpt2"))
    assert counter.table().as_dict() == count_pieces(texts, "gpt2")
    assert WordCounter().table().as_dict() == NO_WORDS.as_dict() == {} and not len(join_tables([NO_WORDS]).counts)


def test_the_rarest_are_dropped_where_that_is_asked_for():
    table = count_words(["a a a a b b b c c d"], r"\w")
    assert join_tables([table], keep=5).as_dict() == {b"a": 4, b" ": 9, b"b": 3, b"c": 2, b"d": 1}
    assert join_tables([table], keep=3).as_dict() == {b"a": 4, b" ": 9, b"b": 3}
    assert join_tables([count_words(["a b c c"], r"\w")], keep=3).as_dict() == {b"c": 2, b" ": 3}, "of equals, none"
    counter = WordCounter(keep=100)
    for number in range(50):
        counter.add(count_words([" ".join(f"{number * 50 + more} the" for more in range(50))], "gpt2"))
    found = counter.table().as_dict()
    assert len(found) <= 100 and found[b" the"] == 50 * 50


def test_a_tokenizer_learns_alike_by_both_ways(monkeypatch):
    plain = BytePairTokenizer.train(SAMPLE * 20, 330, ["<|end|>"])
    monkeypatch.setattr(byte_pair, "MANY_BYTES", 0)
    done = []
    arrays = BytePairTokenizer.train(SAMPLE * 20, 330, ["<|end|>"], progress=done.append)
    assert arrays.tokens == plain.tokens and arrays.merges == plain.merges
    assert done[-1] == len(plain.merges)
    with pytest.raises(UserError, match=r"lone surrogate, U\+D800"):
        BytePairTokenizer.train("a\ud800" * 20, 300)


def test_counts_above_four_billion():
    table = count_words(["ab abc ab"], "gpt2")
    large = table._replace(counts=table.counts * (1 << 40))
    assert learn_merges_of_table(large, 9) == learn_merges(large.as_dict(), 9) == merges_of("ab abc ab", 9)
    assert large.counts.dtype == np.int64

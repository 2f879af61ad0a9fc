"""A word of thousands of bytes is merged in windows: the ids are those of the heap."""

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from planting import planted

from minillm import BytePairTokenizer
from minillm.tokenizers import long_words, piece_cache
from minillm.tokenizers.byte_pair_batch import PairTable
from minillm.tokenizers.long_words import LONG_WORD
from minillm.tokenizers.merging import merge_in_order

TOKEN_BITS = 10
BYTE_IDS = list(range(256))
FAULTS = {
    "a beginning is enough": ("end_of[window & 1, begins] = ends", "end_of[window & 1, begins] = begins"),
    "any two are put together": ("apart = seams < 0", "apart = seams < -1"),
    "the common token twice": ("edges[window] < begins", "edges[window] <= begins"),
}


class Vocabulary:
    """Merges of byte ids, in the order of their ranks."""

    def __init__(self, merges: list[tuple[int, int, int]]):
        self.merge_of = {(a, b): (rank, token) for rank, (a, b, token) in enumerate(merges)}
        packed = {pair: rank << TOKEN_BITS | token for pair, (rank, token) in self.merge_of.items()}
        self.table = PairTable(packed, BYTE_IDS, TOKEN_BITS)
        self.alone = []  # lengths of what was not merged in windows

    def with_heap(self, data: bytes) -> list[int]:
        self.alone.append(len(data))
        return merge_in_order(list(data), self.merge_of.get)

    def in_windows(self, data: bytes, step: int, module=long_words) -> list[int]:
        self.alone.clear()
        return module.merge_long_word(data, self.table, self.with_heap, step).tolist()


@st.composite
def merges(draw) -> list[tuple[int, int, int]]:
    """Up to 40 merges of two or three letters, in the order in which they were learned or in another."""
    spelled = {97 + letter: chr(97 + letter) for letter in range(draw(st.integers(2, 3)))}
    id_of = {text: token for token, text in spelled.items()}
    found, pairs = [], set()
    for _ in range(draw(st.integers(0, 40))):
        a, b = (draw(st.sampled_from(sorted(spelled))) for _ in "ab")
        text = spelled[a] + spelled[b]
        if len(text) > 12 or (a, b) in pairs:
            continue
        token = id_of.setdefault(text, 256 + len(id_of))
        spelled[token] = text
        pairs.add((a, b))
        found.append((a, b, token))
    return draw(st.permutations(found)) if draw(st.booleans()) else found


@settings(deadline=None, max_examples=300)
@given(merges=merges(), text=st.text("abc", min_size=1, max_size=150), step=st.integers(1, 12))
def test_the_ids_are_those_of_the_heap(merges, text, step):
    vocabulary = Vocabulary(merges)
    data = text.encode()
    expected = vocabulary.with_heap(data)
    assert vocabulary.in_windows(data, step) == expected
    event("all of it alone" if len(data) in vocabulary.alone else "parts alone" if vocabulary.alone else "windows")


@settings(deadline=None, max_examples=100)
@given(merges=merges(), unit=st.text("abc", min_size=1, max_size=7), count=st.integers(1, 60), step=st.integers(1, 12))
def test_the_ids_of_what_repeats_are_those_of_the_heap(merges, unit, count, step):
    vocabulary = Vocabulary(merges)
    data = unit.encode() * count
    expected = vocabulary.with_heap(data)
    assert vocabulary.in_windows(data, step) == expected


def test_what_has_no_token_in_common_is_merged_with_the_heap():
    doubling = [(97, 97, 256), (256, 256, 257), (257, 257, 258), (258, 258, 259)]
    runs = Vocabulary(doubling)  # tokens of 16 letters in windows of 8
    data = b"bc" * 40 + b"a" * 48 + b"cb" * 40
    assert runs.in_windows(data, 8) == runs.with_heap(data)
    assert runs.in_windows(data, 8).count(259) == 3
    assert 0 < max(runs.alone) < len(data), "only the run is merged alone"
    assert runs.in_windows(b"a" * 200, 8) == runs.with_heap(b"a" * 200)


@pytest.mark.parametrize("right, wrong", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_caught(right, wrong):
    faulty = planted(long_words, right, wrong)
    letters = np.random.default_rng(0)
    vocabulary = Vocabulary([(97, 98, 256), (98, 97, 257), (256, 97, 258), (258, 257, 259), (97, 97, 260)])
    words = [bytes(letters.choice([97, 98, 99], 150, p=[0.45, 0.45, 0.1]).astype(np.uint8)) for _ in range(20)]
    assert all(vocabulary.in_windows(word, 8) == vocabulary.with_heap(word) for word in words)
    assert any(vocabulary.in_windows(word, 8, faulty) != vocabulary.with_heap(word) for word in words)


def test_a_tokenizer_merges_a_long_word_in_windows(monkeypatch):
    tokenizer = BytePairTokenizer.train("the cat sat on the mat and the hat " * 20, 290)
    letters = np.random.default_rng(1)
    word = "".join(letters.choice(list("thecasonm"), 3 * LONG_WORD))
    calls = []
    plain = piece_cache.merge_long_word
    monkeypatch.setattr(piece_cache, "merge_long_word", lambda *given: calls.append(len(given[0])) or plain(*given))
    for text in (word, f"the {word} sat " * 4):
        assert tokenizer.encode(text) == tokenizer.encode_plainly(text)
    assert len(calls) == 1 + 1 and min(calls) >= 3 * LONG_WORD, "each distinct word once"

"""Penalties against scalar code written from each definition."""

import numpy as np
import pytest
import scalar_sampler as scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm.backend.random_streams import stream
from minillm.sampler import History, Sampler, penalties
from minillm.sampler.penalties import breaker_tokens
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, ScoreTokenizer

BREAKERS = (0, 3)


def dry(module, logits, seen, multiplier, breakers=(), base=1.75, allowed=2):
    return module.dry_penalty(logits, seen, multiplier, base, allowed, breakers)


PENALTIES = {  # name: (penalty, the slow one, settings)
    "repetition": (lambda m, *a: m.repetition_penalty(*a), scalar.repetition_penalty, (1.0, 1.3, 0.5, 1e-30, 1e30)),
    "presence": (lambda m, *a: m.presence_penalty(*a), scalar.presence_penalty, (0.0, 0.7, -1.5)),
    "frequency": (lambda m, *a: m.frequency_penalty(*a), scalar.frequency_penalty, (0.0, 0.7, -1.5)),
    "n-gram": (lambda m, *a: m.no_repeat_ngram(*a), scalar.no_repeat_ngram, (1, 2, 3, 5)),
    "DRY": (dry, scalar.dry_penalty, (0.8, 2.0)),
    "DRY, breakers": (
        lambda m, *a: dry(m, *a, breakers=BREAKERS),
        lambda *a: scalar.dry_penalty(*a, breakers=BREAKERS),
        (0.8,),
    ),
    "DRY, long": (
        lambda m, *a: dry(m, *a, base=3.0, allowed=3),
        lambda *a: scalar.dry_penalty(*a, base=3.0, allowed=3),
        (0.8, 1e-3),
    ),
    "DRY, flat": (
        lambda m, *a: dry(m, *a, base=1.0, allowed=1),
        lambda *a: scalar.dry_penalty(*a, base=1.0, allowed=1),
        (0.8,),
    ),
}
TEXTS = {
    "random": stream("penalties", "random").integers(7, 40).tolist(),
    "two tokens": stream("penalties", "two").integers(2, 30).tolist(),
    "all equal": [2] * 25,
    "alternating": [1, 2] * 12,
    "phrases": [1, 2, 3, 4, 5, 1, 2, 3, 4, 6, 0, 1, 2, 3, 4, 5, 5, 3, 1, 2, 3, 4],
    "a breaker next": [1, 2, 0, 4, 1, 2],
    "a breaker last": [1, 2, 4, 1, 2, 0],
    "a breaker inside": [4, 1, 0, 2, 5, 4, 1, 0, 2],
    "one": [3],
    "none": [],
}


def logits_of(kind, vocabulary=7, rows=10):
    x = stream("penalties", kind, vocabulary).normal((rows, vocabulary)).astype(np.float32)
    if kind == "masked":
        x[:, ::3] = -np.inf
    if kind == "zeros":
        x = np.round(x)
    if kind == "large":
        x *= np.float32(1e6)
    return x


def compare(name, logits, texts, module=penalties):
    penalty, slow, defaults = PENALTIES[name]
    before = logits.copy()
    for setting in defaults:
        result = penalty(module, logits, texts, setting)
        for row, text, found in zip(logits.tolist(), texts, result.tolist()):
            assert found == slow(row, text, setting), f"{name} {setting} after {text}"
        assert result.dtype == np.float32
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("kind", ["plain", "masked", "zeros", "large"])
def test_penalties_are_those_of_the_definition(name, kind):
    compare(name, logits_of(kind), list(TEXTS.values()))


@pytest.mark.parametrize("name", PENALTIES)
def test_a_large_vocabulary(name):
    text = stream("penalties", "large").integers(50257, 60)
    text[40:] = text[10:30]
    compare(name, logits_of("plain", 50257, 1), [text.tolist()])
    compare(name, logits_of("plain", 50257, 1), [text])  # an array will do


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(text=st.lists(st.integers(0, 3), max_size=24), breakers=st.sets(st.integers(0, 3), max_size=2))
def test_dry_against_every_length_and_place(text, breakers):
    row = [0.5, -1.0, 2.0, 0.0]
    found = penalties.dry_penalty(np.array([row], np.float32), [text], 0.8, 1.75, 1, breakers)
    assert found[0].tolist() == scalar.dry_penalty(row, text, 0.8, allowed=1, breakers=breakers)


def test_dry_stays_finite():
    found = penalties.dry_penalty(np.zeros((1, 3), np.float32), [[1] * 2000], 0.8, base=2.0)
    assert found[0, 1] == np.float32(-1e30) and not found[0, [0, 2]].any()


@pytest.mark.parametrize(
    "apply, off",
    [
        (penalties.repetition_penalty, 1),
        (penalties.presence_penalty, 0),
        (penalties.frequency_penalty, 0),
        (penalties.no_repeat_ngram, 0),
        (penalties.dry_penalty, 0),
    ],
)
def test_a_penalty_that_is_off_changes_nothing(apply, off):
    logits = logits_of("plain")
    assert apply(logits, list(TEXTS.values()), off) is logits


def test_a_row_that_would_lose_every_token_keeps_them():
    logits = np.zeros((2, 2), np.float32)
    found = penalties.no_repeat_ngram(logits, [[0, 1], [0, 0]], 1)
    assert found.tolist() == [[0, 0], [-np.inf, 0]]


@pytest.mark.parametrize("name", [name for name in PENALTIES if name != "DRY, breakers"])
def test_permuting_the_vocabulary_permutes_the_result(name):
    penalty, _, settings = PENALTIES[name]
    logits, order = logits_of("plain"), np.random.default_rng(0).permutation(7)
    renamed = [[int(np.flatnonzero(order == token)[0]) for token in text] for text in TEXTS.values()]
    for setting in settings:
        expected = penalty(penalties, logits, list(TEXTS.values()), setting)[:, order]
        np.testing.assert_array_equal(penalty(penalties, logits[:, order], renamed, setting), expected)


def test_what_each_of_them_looks_at():
    """Repetition, n-grams and DRY at the prompt too, presence and frequency at the text; a window at the last tokens."""
    logits = np.zeros((1, 6), np.float32)
    history = History([[1, 2, 1, 2, 3, 3, 4]], [4])  # 3, 3, 4 were written

    def changed(**settings):
        p = Sampler(**settings).probabilities(logits + 1, history)[0]
        return np.flatnonzero(p < p.max() * 0.999).tolist()

    assert changed(repetition_penalty=2.0) == [1, 2, 3, 4]
    assert changed(presence_penalty=1.0) == changed(frequency_penalty=1.0) == [3, 4]
    assert changed(repetition_penalty=2.0, penalty_window=2) == [3, 4]
    assert changed(presence_penalty=1.0, penalty_window=1) == [4]
    assert changed(no_repeat_ngram=1) == [1, 2, 3, 4]
    assert changed(no_repeat_ngram=1, penalty_window=3) == [3, 4]
    assert changed(presence_penalty=1.0, penalty_window=0) == [3, 4]  # 0 is off
    again = History([[1, 2, 5, 1, 2]], [5])
    p = Sampler(dry_multiplier=1.0).probabilities(logits, again)[0]
    assert np.flatnonzero(p < p.max() * 0.999).tolist() == [5]
    with pytest.raises(ValueError, match="presence_penalty needs the tokens so far"):
        Sampler(presence_penalty=1.0).sample(logits)
    with pytest.raises(ValueError, match="the history has 2 rows, the logits have 1"):
        Sampler(presence_penalty=1.0).sample(logits, History([[], []], [0, 0]))


FAULTS = [
    ("values > 0, values / penalty, values * penalty", "values > 0, values / penalty, values / penalty", "repetition"),
    ("values > 0, values / penalty, values * penalty", "values < 0, values / penalty, values * penalty", "repetition"),
    ("penalty * np.ones_like(counts)", "penalty * counts", "presence"),
    ("lambda counts: penalty * counts)", "lambda counts: penalty * np.ones_like(counts))", "frequency"),
    ("_followers(np.asarray(ids, np.int64), size - 1)", "_followers(np.asarray(ids, np.int64), size)", "n-gram"),
    ("windows[:, :length] == ids[len(ids) - length :]", "windows[:, :length] == ids[:length]", "n-gram"),
    ("            row[:] = before", "            pass", "n-gram"),
    ("if length >= allowed_length:", "if length > allowed_length:", "DRY"),
    ("_power(multiplier, base, length - allowed_length)", "_power(multiplier, base, length)", "DRY"),
    ("_power(multiplier, base, length - allowed_length)", "_power(multiplier, base, allowed_length - length)", "DRY"),
    ("max(longest.get(follower, 0), int(lengths[end]))", "int(lengths[end])", "DRY, long"),
    ("ends >= length - 1]", "ends >= length]", "DRY"),
    ("range(1, limit + 1)", "range(1, limit)", "DRY, breakers"),
    ("range(1, limit + 1)", "range(1, last + 1)", "DRY, breakers"),
    ("(lengths > 0) & ~is_breaker[1:]", "lengths > 0", "DRY, breakers"),
    ("ids[end + 1]", "ids[end]", "DRY"),
]


@pytest.mark.parametrize("right, wrong, name", FAULTS)
def test_faults_are_noticed(right, wrong, name):
    module = planted(penalties, right, wrong)
    with pytest.raises((AssertionError, ValueError)):
        for kind in ("plain", "masked", "zeros"):
            compare(name, logits_of(kind), list(TEXTS.values()), module)


def test_breakers_are_the_tokens_whose_text_has_one():
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", " ", "a", " a", "b:", ":"]
    scored = ScoreTokenizer(tokens, [0.0] * len(tokens))
    assert breaker_tokens(scored, ["\n", ":"]) == (3, 7, 8)
    assert breaker_tokens(scored, [" "]) == (4, 6)  # the spaces of words in the middle of a text
    assert breaker_tokens(CharacterTokenizer("ab\n"), ["\n"]) == (CharacterTokenizer("ab\n").encode("\n")[0],)
    byte_pairs = BytePairTokenizer.train("::" * 9, vocab_size=257)
    assert all(":" in byte_pairs.decode([token]) for token in breaker_tokens(byte_pairs, [":"]))
    assert len(breaker_tokens(byte_pairs, [":"])) == 2 and breaker_tokens(byte_pairs, []) == ()

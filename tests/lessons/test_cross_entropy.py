import math

import numpy as np
import pytest

from minillm.lessons import cross_entropy
from minillm.lessons.grammar import Grammar


def test_what_the_lesson_claims():
    measured = cross_entropy.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["definition error"] < 1e-12
    assert figures["choices error"] < 1e-12
    assert figures["floor"] == pytest.approx(1.29459, abs=1e-5)
    assert figures["written"] == pytest.approx(figures["floor"], abs=4 * figures["standard error"])
    assert figures["standard error"] < 0.002
    assert figures["first divergence"] > 1.5
    assert 0 < figures["last divergence"] < 0.01
    assert figures["last loss"] == pytest.approx(figures["last source loss"], abs=0.01)
    assert figures["last loss"] < figures["one word"] - 0.1


def test_the_engines_loss_is_entropy_plus_distance():
    p = np.array([5, 2, 1]) / 8
    for q in (p, np.array([0.2, 0.3, 0.5])):
        entropy, divergence, loss = cross_entropy.believe(p, q)
        assert loss == pytest.approx(-(p * np.log(q)).sum(), abs=1e-12)
        assert entropy + divergence == pytest.approx(loss, abs=1e-12)
    assert divergence > 0.1


def test_the_entropy_of_a_grammar_that_can_be_computed_by_hand():
    """An a, then so many b until it is over: p, (1 - p) p, ... have the entropy h(p) / p and take 1 / p words."""
    grammar = Grammar(1, {"SENTENCE": "a REST", "REST": ". | b REST"})
    p = grammar.probabilities[1, grammar.words.index(".")]
    h = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert grammar.mean_length() == pytest.approx(1 + 1 / p)
    assert grammar.entropy_rate() == pytest.approx(h / p / (1 + 1 / p))


def test_what_a_grammar_writes_follows_its_rules_and_its_probabilities():
    grammar = Grammar(0, {"SENTENCE": "a TWICE END | b END", "TWICE": "c D | d", "D": "d", "END": ". | !"})
    text = grammar.write(30_000, seed=5)
    written = "".join(grammar.words[word] for word in text.words)
    sentences = written.replace("!", ".").split(".")[:-1]
    assert set(sentences) == {"acd", "ad", "b"}
    for symbol, p in enumerate(grammar.probabilities):
        counts = np.bincount(text.words[text.symbols == symbol], minlength=len(p))
        assert counts / counts.sum() == pytest.approx(p, abs=4 * math.sqrt(0.25 / counts.sum()))


def test_a_grammar_whose_sentences_do_not_end_is_refused():
    with pytest.raises(ValueError, match="do not end"):
        Grammar(0, {"SENTENCE": "a SENTENCE SENTENCE"})


class Knowing:
    """A model that has the grammar's own probabilities."""

    def __init__(self, grammar, text):
        places = cross_entropy.windows_of(grammar, text)[::10, None] + np.arange(cross_entropy.CONTEXT)
        self.p, self.ids = grammar.probabilities[text.symbols[places]], text.words[places - 1]

    def forward(self, ids):
        assert np.array_equal(ids, self.ids)
        return np.log(np.maximum(self.p, 1e-300))


def test_a_model_that_knows_the_grammar_is_at_the_floor():
    grammar = Grammar(cross_entropy.GRAMMAR_SEED)
    text = grammar.write(20_000, seed=9)
    at = cross_entropy.distances(Knowing(grammar, text), grammar, text, step=0)
    assert at.divergence == pytest.approx(0, abs=1e-12)
    assert at.loss == pytest.approx(at.source_loss, abs=1e-12)
    assert at.entropy == pytest.approx(grammar.entropy_rate(), abs=0.02)


def test_entropies_from_counts():
    words = np.array([0, 1, 0, 2] * 500)
    assert cross_entropy.unigram_entropy(words) == pytest.approx(1.5 * math.log(2))
    # after 1 and 2 comes 0, after 0 either of two: half of the time a bit is missing
    assert cross_entropy.bigram_entropy(words) == pytest.approx(0.5 * math.log(2), abs=1e-3)

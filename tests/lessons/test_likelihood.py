from ast import literal_eval

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.lessons import likelihood


def test_what_the_lesson_claims():
    measured = likelihood.LESSON.measure(likelihood.LESSON.sentence)
    assert measured.holds, measured.findings
    figures = measured.figures
    assert gained(measured) > 20  # nats, over a sentence of about 10 tokens
    assert figures["risen"] > 0.85
    assert figures["mean before"] == pytest.approx(1 / 512, rel=0.1)
    assert figures["mean after"] > 0.03
    assert figures["changed"] == pytest.approx(figures["predicted"], rel=0.01)
    (table,) = measured.tables
    assert "".join(literal_eval(row[0]) for row in table.rows) == likelihood.LESSON.sentence


def test_a_shuffled_sentence_gains_less():
    in_order = likelihood.LESSON.measure("The function returns a list of strings.")
    shuffled = likelihood.LESSON.measure("a string lists function the of returns.")
    assert gained(shuffled) < gained(in_order) - 10


def gained(measured):
    return measured.figures["log-likelihood after"] - measured.figures["log-likelihood before"]


class Fixed:
    """A model that always has the same logits."""

    def forward(self, ids):
        return np.log(np.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]])) + 7.0


def test_belief_is_the_softmax_at_the_target_and_its_place():
    belief = likelihood.believe(Fixed(), None, np.array([[1, 2]]))
    assert belief.probabilities == pytest.approx([0.3, 0.8])
    assert belief.ranks.tolist() == [2, 1]


def test_a_sentence_that_is_too_long_is_named():
    with pytest.raises(UserError, match="has 65 tokens.* reads 64 at once: shorten --text"):
        likelihood.check_length(np.zeros(66, int), 64)
    likelihood.check_length(np.zeros(65, int), 64)

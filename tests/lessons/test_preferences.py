import numpy as np
import pytest

from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.lessons import counting, preferences
from minillm.lessons.small_model import small_model


def test_what_the_lesson_claims():
    measured = preferences.LESSON.measure()
    assert measured.holds, measured.findings
    assert measured.figures["first loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_pairs_have_the_same_question_and_number():
    questions, tokenizer = counting.questions()[1][:3], small_model().tokenizer
    pairs = preferences.pairs_of(small_model().model, questions, counting.POLITE)
    for question, ids, targets in zip(questions, pairs.ids, pairs.targets):
        chosen, rejected = (tokenizer.decode(row[row != IGNORE_INDEX].tolist()).strip() for row in targets)
        assert chosen == question.answer(counting.POLITE) and rejected == question.answer(counting.PLAIN)
        first = [int(np.argmax(row != IGNORE_INDEX)) for row in targets]
        assert first[0] == first[1] and np.array_equal(ids[0, : first[0] + 1], ids[1, : first[0] + 1])
    assert pairs.reference.shape == (3, 2) and (pairs.reference < 0).all()


def test_a_model_does_not_diverge_from_itself():
    model, questions = small_model().model, counting.questions()[1][:2]
    pairs = preferences.pairs_of(model, questions, counting.PLAIN)
    assert preferences.divergence(model, model, pairs) == pytest.approx(0, abs=1e-12)
    assert preferences.divergence(model, small_model().untrained, pairs) > 0.1

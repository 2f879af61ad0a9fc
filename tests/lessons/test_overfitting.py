import math

import pytest

from minillm.lessons import overfitting
from minillm.lessons.letters import ALPHABET, reference_letters
from minillm.lessons.overfitting import Evaluated


@pytest.mark.slow
def test_what_the_lesson_claims():
    measured = overfitting.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    assert 20 <= figures["none: best step"] <= 240
    assert figures["none: last"] > 1.25 * figures["none: best"]
    assert figures["none: training"] < 3.5
    assert figures["none: gap"] > 1.5
    assert figures["early stopping: best"] < 0.85 * figures["none: last"]
    assert figures["stopped at"] < overfitting.STEPS
    assert figures["dropout: last"] < 0.85 * figures["none: last"]
    assert figures["dropout: gap"] < figures["none: gap"] - 0.5
    assert figures["weight decay: last"] < 0.8 * figures["none: last"]
    assert figures["weight decay: best"] < figures["none: best"]
    assert figures["more text: best"] < 0.75 * figures["none: best"]
    assert figures["more text: gap"] < 0.5


def test_a_small_text_is_overfitted_and_early_stopping_helps():
    """The first two claims: one training in place of four."""
    learned, validated = reference_letters()
    history = overfitting.learn(learned[: overfitting.LETTERS], validated)
    lowest, last = overfitting.best(history), history[-1]
    stopped, stopped_at = overfitting.stop_early(history)
    assert 20 <= lowest.step <= 240
    assert math.exp(last.validation) > 1.25 * math.exp(lowest.validation)
    assert math.exp(last.training) < 3.5 and last.validation - last.training > 1.5
    assert math.exp(stopped.validation) < 0.85 * math.exp(last.validation) and stopped_at < overfitting.STEPS


def test_early_stopping_keeps_the_best_of_those_it_saw():
    history = [Evaluated(step, 0.0, loss) for step, loss in enumerate([3.0, 2.0, 2.1, 2.2, 2.3, 1.0])]
    assert overfitting.stop_early(history, patience=3) == (history[1], 4)
    assert overfitting.stop_early(history, patience=4) == (history[5], 5)  # it waits long enough for the last one


def test_the_text_is_letters_alone_and_the_short_one_has_almost_all():
    learned, validated = reference_letters()
    assert len(learned) > overfitting.MORE
    assert len(validated) > overfitting.EVALUATED * overfitting.CONTEXT
    for text in (learned, validated):
        assert text.min() == 0 and text.max() < len(ALPHABET)
        assert not ((text[1:] == 0) & (text[:-1] == 0)).any()  # no two spaces
    assert len(set(learned[: overfitting.LETTERS].tolist())) >= 25


def test_a_run_is_the_same_each_time(monkeypatch):
    monkeypatch.setattr(overfitting, "STEPS", 40)
    learned, validated = reference_letters()
    first = overfitting.learn(learned[:3000], validated, dropout=0.3)
    assert overfitting.learn(learned[:3000], validated, dropout=0.3) == first
    assert overfitting.learn(learned[:3000], validated)[1].training != pytest.approx(first[1].training, rel=1e-6)

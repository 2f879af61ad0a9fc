import numpy as np
import pytest

from minillm.lessons import adam
from minillm.optim import Adam, AdamW


@pytest.mark.slow
def test_what_the_lesson_claims():
    measured = adam.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["AdamW: smallest gradients"] == pytest.approx(2.0, rel=0.001)
    assert figures["AdamW: largest gradients"] == pytest.approx(2.0, rel=0.001)
    assert figures["Adam: smallest gradients"] > 15 * figures["Adam: largest gradients"]
    assert figures["Adam: theory missed by"] < 0.05
    assert figures["Adam: norm"] == pytest.approx(figures["AdamW: norm"], rel=0.2)  # what is compared is comparable
    assert figures["Adam: first tensor"] < 0.15 < 0.2 < figures["AdamW: first tensor"]
    assert figures["Adam: last tensor"] > 0.65 > figures["AdamW: last tensor"]
    assert figures["AdamW: best"] < figures["Adam: best"] - 0.01  # nats
    assert figures["Adam: best"] < figures["without decay"] - 0.02


@pytest.mark.parametrize("kind, expected", [(AdamW, [0.2, 0.2]), (Adam, [0.2 / 0.5, 0.2 / 50])])
def test_a_replay_of_gradients_without_a_mean(kind, expected):
    """Gradients of +s and -s in turn: m is 0 over two steps, v is s^2."""
    sizes, start = np.array([0.5, 50.0]), np.array([0.01, -0.02])
    gradients = [sizes * (-1) ** step for step in range(200)]
    with_decay, v = adam.replay(kind, 0.2, start, gradients)
    without, _ = adam.replay(kind, 0.0, start, gradients)
    assert (without - with_decay) / (adam.REPLAY_LR * start) == pytest.approx(expected, rel=0.02)
    assert v == pytest.approx(sizes**2, rel=0.02)

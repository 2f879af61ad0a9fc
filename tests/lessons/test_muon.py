import numpy as np
import pytest

from minillm.lessons import muon


def test_what_the_lesson_claims():
    measured = muon.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["Muon"] < 2.0 < figures["AdamW"] < 2.3
    assert figures["steps to AdamW's loss"] <= 225


def test_singular_values_by_hand():
    """n = diag(3, 4), its norm 5: shares 0.8 and 0.6, in the directions of the axes."""
    before, after, cosine = muon.spectrum(np.diag([3.0, 4.0]))
    assert before == pytest.approx([0.8, 0.6])
    expected = []
    for s in before:
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        expected.append(s)
    assert after == pytest.approx(expected)
    assert cosine == pytest.approx(sum(expected) / np.sqrt(2) / np.linalg.norm(expected))

import numpy as np
import pytest

from minillm.lessons import temperature


def test_what_the_lesson_claims():
    measured = temperature.LESSON.measure(temperature.LESSON.sentence)
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["entropy at 0.1"] < 2 < figures["entropy at 1"] < figures["entropy at 10"] < np.log(512)
    assert figures["chi-squared"] < figures["bound"]


def test_chi_squared_notices_draws_from_another_distribution():
    p = np.full(8, 1 / 8)
    statistic, bound = temperature.chi_squared(np.array([150, 100, 125, 125, 125, 125, 125, 125]), p)
    assert statistic == pytest.approx((25**2 + 25**2) / 125)
    assert bound == pytest.approx(24.32, rel=0.01)  # the tables have 24.32 for 7 degrees of freedom
    statistic, bound = temperature.chi_squared(np.array([300, 100, 100, 100, 100, 100, 100, 100]), p)
    assert statistic > bound

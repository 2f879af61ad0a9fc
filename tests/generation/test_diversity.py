import numpy as np
import pytest

from minillm.generation.diversity import distinct, repetition_rate


def test_a_loop_and_a_text_without_repetition():
    loop, new = [1, 2, 3] * 20, list(range(60))
    assert [distinct(new, n) for n in (1, 2, 3, 4)] == [1, 1, 1, 1] and repetition_rate(new) == 0
    assert distinct(loop, 1) == 3 / 60 and distinct(loop, 2) == 3 / 59 and distinct(loop, 3) == 3 / 58
    assert repetition_rate(loop) == (57 - 3) / 57


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_against_counting_every_pair(n):
    """An n-gram is a repetition if an equal one starts before it; what is no repetition is distinct."""
    ids = np.random.default_rng(n).integers(0, 3, 50)
    starts = range(len(ids) - n + 1)
    repeated = sum(any((ids[i : i + n] == ids[j : j + n]).all() for j in range(i)) for i in starts)
    assert 0 < repeated < len(starts)
    assert repetition_rate(ids, n) == repeated / len(starts)
    assert distinct(ids, n) == pytest.approx(1 - repeated / len(starts))


def test_order_matters_and_names_do_not():
    assert distinct([1, 2, 2, 1], 2) == 1  # 12 22 21
    assert distinct([5, 9, 9, 5, 5, 9], 2) == distinct([1, 0, 0, 1, 1, 0], 2) == 4 / 5


def test_texts_too_short():
    assert distinct([], 1) == 1 and distinct([1, 2], 3) == 1 and repetition_rate([1, 2, 3]) == 0
    for measure in (distinct, repetition_rate):
        with pytest.raises(ValueError, match="n is 0: an n-gram has at least 1 token"):
            measure([1, 2], 0)

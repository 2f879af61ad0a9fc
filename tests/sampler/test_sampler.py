import math
import tracemalloc

import numpy as np
import pytest

from minillm.backend import stream
from minillm.errors import UserError
from minillm.sampler import InvalidLogits, Sampler
from minillm.sampler.choice import multinomial
from minillm.sampler.cuts import top_k_cut


def slow_probabilities(row, temperature, k):
    """Straight from the definitions, for one row."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    kept = order if not k else order[:k]
    weights = {i: math.exp((row[i] - row[order[0]]) / temperature) for i in kept}
    return [weights.get(i, 0.0) / sum(weights.values()) for i in range(len(row))]


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 10.0])
@pytest.mark.parametrize("k", [None, 0, 1, 3, 7, 8, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_probabilities_are_those_of_the_definition(temperature, k, ties):
    logits = stream("sampler", 1).normal((5, 8))
    logits = np.round(logits) if ties else logits
    logits = logits.astype(np.float32)
    before = logits.copy()
    expected = [slow_probabilities([float(v) for v in row], temperature, k) for row in logits]
    assert np.allclose(Sampler(temperature, k).probabilities(logits), expected, atol=1e-6)
    assert (logits == before).all()


@pytest.mark.parametrize("k", [1, 2, 5, 50])
def test_exactly_k_are_kept(k):
    logits = np.round(stream("sampler", 2).normal((20, 50))).astype(np.float32)  # full of ties
    for row in top_k_cut(logits, k):
        kept = np.flatnonzero(row > -np.inf)
        assert len(kept) == k
    equal = top_k_cut(np.zeros((1, 6), np.float32), 2)
    assert np.flatnonzero(equal[0] == 0).tolist() == [0, 1]  # ties to the lowest id


def test_k_of_one_and_temperature_zero_are_greedy():
    logits = np.round(stream("sampler", 3).normal((50, 30)) * 2)
    expected = logits.argmax(axis=-1)
    assert (Sampler(temperature=0).sample(logits) == expected).all()
    assert (Sampler(temperature=1, top_k=1).sample(logits) == expected).all()
    assert (Sampler(temperature=0).probabilities(logits).argmax(axis=-1) == expected).all()


def test_greedy_probabilities_of_a_large_vocabulary_take_no_square_of_memory():
    tracemalloc.start()
    p = Sampler(temperature=0).probabilities(np.arange(50257.0)[None])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert p[0, -1] == p.sum() == 1 and peak < 5e6


def test_tiny_temperatures_do_not_overflow():
    p = Sampler(temperature=1e-30).probabilities(np.array([[1e4, -1e4, 9.999e3]]))
    assert p.tolist() == [[1, 0, 0]]


def test_frequencies_are_the_probabilities():
    """Chi-squared with 3 degrees of freedom: above 16.27 in one of 1,000 cases; the seed is fixed."""
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1]])).repeat(1000, axis=0)
    sampler = Sampler(seed=1)
    counts = np.bincount(np.concatenate([sampler.sample(logits) for _ in range(10)]), minlength=4)
    expected = 10_000 * np.array([0.5, 0.2, 0.2, 0.1])
    assert ((counts - expected) ** 2 / expected).sum() < 16.27


def test_the_seed_and_the_step_decide():
    logits = np.zeros((3, 1000))
    first, second = Sampler(seed=5), Sampler(seed=5)
    draws = [first.sample(logits).tolist() for _ in range(4)]
    assert draws == [second.sample(logits).tolist() for _ in range(4)]
    assert len({tuple(draw) for draw in draws}) == 4 and len(set(draws[0])) == 3
    assert Sampler(seed=6).sample(logits).tolist() != draws[0]


def test_a_large_vocabulary_sums_to_one():
    """In float32 this cumulative sum ends beyond 1; in float64, scaled, the last token has its share and no more."""
    p = np.full((1, 50257), 1 / 50257, np.float32)
    assert abs(float(np.cumsum(p)[-1]) - 1) > 1e-7
    assert multinomial(p, np.array([1 - 2.0**-53])) == [50256]
    assert multinomial(p, np.array([0.0])) == [0]


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    p = np.array([[0, 0.25, 0, 0.5, 0.25, 0]])
    assert p[0, multinomial(p, np.array([uniform]))[0]] > 0


@pytest.mark.parametrize(
    "row, message",
    [
        ([0, np.nan], r"logits\[1, 1\] is nan"),
        ([np.inf, 0], r"logits\[1, 0\] is inf"),
        ([-np.inf, -np.inf], "row 1 of the logits is -inf everywhere"),
    ],
)
def test_invalid_logits(row, message):
    for sampler in (Sampler(), Sampler(temperature=0)):
        with pytest.raises(InvalidLogits, match=message):
            sampler.sample(np.array([[0.0, 1.0], row]))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(temperature=-0.1), "temperature is -0.1"),
        (dict(temperature=math.nan), "temperature is nan"),
        (dict(temperature=math.inf), "temperature is inf"),
        (dict(top_k=-1), "top_k is -1"),
        (dict(top_k=2.5), "top_k is 2.5"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Sampler(**settings)

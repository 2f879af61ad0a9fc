"""Bias, bans, forced tokens and least lengths against scalar code written from each definition."""

import numpy as np
import pytest
import scalar_sampler as scalar
from planting import planted

from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.sampler import History, InvalidLogits, Sampler, constraints


def logits_of(vocabulary, rows=3):
    return stream("constraints", vocabulary).normal((rows, vocabulary)).astype(np.float32)


def compare(module=constraints, vocabulary=7):
    logits = logits_of(vocabulary)
    before, rows = logits.copy(), logits.tolist()
    for bias in ({}, {0: 1.5}, {1: -2, 6: 0.25, 3: -np.inf}, {2: 1e30}):
        assert module.logit_bias(logits, bias).tolist() == [scalar.logit_bias(row, bias) for row in rows]
    for tokens in ((), (0,), (1, 5, 1), range(6)):
        assert module.ban(logits, tokens).tolist() == [scalar.ban(row, tokens) for row in rows]
    for tokens in ([None] * 3, [0, None, 6], [2, 2, 2]):
        assert module.force(logits, tokens).tolist() == [scalar.force(*pair) for pair in zip(rows, tokens)]
    for short in ([False] * 3, [True, False, True], [True] * 3):
        found = module.forbid_end(logits, (1, 4), short).tolist()
        assert found == [scalar.ban(row, (1, 4)) if few else row for row, few in zip(rows, short)]
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("vocabulary", [7, 65, 50257])
def test_constraints_are_those_of_the_definition(vocabulary):
    compare(vocabulary=vocabulary)


FAULTS = [
    ("biased[:, list(bias)] +=", "biased[:, list(bias)] -="),
    ("banned[:, list(tokens)] = -np.inf", "banned[:, list(tokens)] = -1e10"),
    ("row[token] = 0", "row[token - 1] = 0"),
    ("np.flatnonzero(too_short)", "np.arange(len(logits))"),
    ("biased = logits.copy()", "biased = logits"),
    ("if token is not None:", "if token:"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(fault):
    module = planted(constraints, *fault)
    with pytest.raises(AssertionError):
        compare(module)


def test_forced_tokens_are_counted_from_the_first_one_written():
    sampler = Sampler(forced_tokens={0: 3, 2: 1}, banned_tokens=(3,), top_k=2)
    logits = np.zeros((2, 5))
    assert sampler.sample(logits, History([[1, 1], [1]], [2, 1])).tolist() == [3, 3]  # whatever was banned before
    p = sampler.probabilities(logits, History([[1, 1, 3], [1, 3, 0]], [2, 1]))
    assert p.tolist() == [[0.5, 0.5, 0, 0, 0], [0, 1, 0, 0, 0]]


def test_no_end_before_the_least_length():
    sampler = Sampler(temperature=0, min_tokens=2, end_tokens=(0, 4))
    logits = np.array([[9.0, 1.0, 2.0, 0.0, 8.0]])
    for written, expected in ((0, 2), (1, 2), (2, 0), (3, 0)):
        assert sampler.sample(logits, History([[1] * (3 + written)], [3])) == [expected]


def test_a_bias_multiplies_the_odds():
    plain, biased = (
        Sampler(**settings).probabilities(logits_of(7)) for settings in ({}, {"logit_bias": {2: np.log(3)}})
    )
    odds = biased[:, 2] / biased[:, 5] / (plain[:, 2] / plain[:, 5])
    np.testing.assert_allclose(odds, 3, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(banned_tokens=range(3)), "row 0 of the logits is -inf everywhere after banned_tokens"),
        (
            dict(logit_bias={0: -np.inf, 1: -np.inf, 2: -np.inf}),
            "row 0 of the logits is -inf everywhere after logit_bias",
        ),
        (dict(logit_bias={1: 1e300}), r"logits\[0, 1\] is inf after logit_bias"),
        (dict(min_tokens=2, end_tokens=(0, 1, 2)), "row 0 of the logits is -inf everywhere after min_tokens"),
        (dict(presence_penalty=-1e300), r"logits\[0, 2\] is inf after presence_penalty"),
        (dict(repetition_penalty=1e-300), r"logits\[0, 2\] is inf after repetition_penalty"),
    ],
)
def test_a_stage_that_leaves_nothing_is_named(settings, message):
    for temperature in (0, 1.0):
        with pytest.raises(InvalidLogits, match=message):
            Sampler(temperature, **settings).sample(np.ones((1, 3)), History([[2]], [0]))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(banned_tokens=(5,)), "banned_tokens names token 5, but the vocabulary has only 3 tokens"),
        (dict(logit_bias={3: 1.0}), "logit_bias names token 3"),
        (dict(forced_tokens={0: 7}), "forced_tokens names token 7"),
        (dict(end_tokens=(9,)), "end_tokens names token 9"),
    ],
)
def test_ids_outside_the_vocabulary(settings, message):
    with pytest.raises(UserError, match=message):
        Sampler(**settings).sample(np.zeros((1, 3)), History([[]], [0]))

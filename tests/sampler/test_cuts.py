"""The cuts against scalar code written from each definition."""

import math

import numpy as np
import pytest

from minillm.backend import stream
from minillm.errors import UserError
from minillm.sampler import Sampler
from minillm.sampler.cuts import (
    epsilon_cut,
    eta_cut,
    min_p_cut,
    top_n_sigma_cut,
    top_p_cut,
    typical_cut,
)


def probabilities(row):
    largest = max(row)
    weights = [math.exp(x - largest) for x in row]
    total = math.fsum(weights)
    return [w / total for w in weights]


def entropy(p):
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def up_to(p, order, mass):
    kept, total = set(), 0.0
    for i in order:
        kept.add(i)
        total += p[i]
        if total >= mass * (1 - 1e-7):
            break
    return kept


def slow_top_p(row, p):
    q = probabilities(row)
    return up_to(q, sorted(range(len(q)), key=lambda i: (-q[i], i)), p)


def slow_min_p(row, p):
    q = probabilities(row)
    least = p * max(q) * (1 - 1e-7)
    return {i for i in range(len(q)) if q[i] >= least}


def slow_typical(row, p):
    q = probabilities(row)
    h = entropy(q)
    distance = [abs(-math.log(x) - h) if x > 0 else math.inf for x in q]
    return up_to(q, sorted(range(len(q)), key=lambda i: (distance[i], i)), p)


def slow_epsilon(row, e):
    q = probabilities(row)
    return {i for i in range(len(q)) if q[i] >= e * (1 - 1e-7)} | {row.index(max(row))}


def slow_eta(row, e):
    return slow_epsilon(row, min(e, math.sqrt(e) * math.exp(-entropy(probabilities(row)))))


def slow_top_n_sigma(row, n):
    finite = [x for x in row if x > -math.inf]
    mean = math.fsum(finite) / len(finite)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in finite) / len(finite))
    least = max(row) - n * deviation
    return {i for i, x in enumerate(row) if x >= least}


CUTS = [
    (top_p_cut, slow_top_p, (0.05, 0.5, 0.9, 0.999)),
    (min_p_cut, slow_min_p, (0.02, 0.3, 1.0)),
    (typical_cut, slow_typical, (0.05, 0.5, 0.95)),
    (epsilon_cut, slow_epsilon, (1e-4, 0.01, 0.9)),
    (eta_cut, slow_eta, (1e-4, 0.01, 0.9)),
    (top_n_sigma_cut, slow_top_n_sigma, (0.5, 1.0, 3.0)),
]


def logits_of(kind, vocabulary):
    x = stream("cuts", kind, vocabulary).normal((4, vocabulary)) * (8 if kind == "steep" else 2)
    if kind == "masked" and vocabulary > 2:
        x[:, ::3] = -np.inf
    return x.astype(np.float32)


@pytest.mark.parametrize("cut, slow, settings", CUTS, ids=[cut.__name__ for cut, _, _ in CUTS])
@pytest.mark.parametrize("vocabulary", [1, 2, 7, 65, 700, 5003])
@pytest.mark.parametrize("kind", ["plain", "steep", "masked"])
def test_what_is_kept_is_what_the_definition_says(cut, slow, settings, vocabulary, kind):
    logits = logits_of(kind, vocabulary)
    before = logits.copy()
    for setting in settings:
        for row, result in zip(logits, cut(logits, setting)):
            kept = set(np.flatnonzero(result > -np.inf).tolist())
            assert kept == {i for i in slow([float(x) for x in row], setting) if row[i] > -np.inf}
            assert kept and all(result[i] == row[i] for i in kept)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    "cut, off", [(c, o) for c, _, _ in CUTS for o in ((None, 1.0) if c in (top_p_cut, typical_cut) else (None, 0))]
)
def test_a_cut_that_is_off_changes_nothing(cut, off):
    logits = logits_of("plain", 50)
    assert cut(logits, off) is logits


def test_ties_go_to_the_lowest_id():
    equal = np.zeros((1, 300), np.float32)
    for cut in (top_p_cut, typical_cut):
        assert np.flatnonzero(cut(equal, 0.5)[0] == 0).tolist() == list(range(150))


@pytest.mark.parametrize("cut, _, settings", CUTS, ids=[cut.__name__ for cut, _, _ in CUTS])
def test_permuting_the_vocabulary_permutes_the_result(cut, _, settings):
    logits = logits_of("plain", 300)  # no ties
    order = np.random.default_rng(0).permutation(300)
    for setting in settings:
        np.testing.assert_array_equal(cut(logits[:, order], setting), cut(logits, setting)[:, order])


def test_cuts_follow_each_other_renormalised():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    p = Sampler(top_k=2, top_p=0.5).probabilities(logits)  # of the two left, the first has 4/7
    np.testing.assert_allclose(p, [[1, 0, 0, 0]])
    p = Sampler(top_p=0.8, min_p=0.5).probabilities(logits)
    np.testing.assert_allclose(p, [[4 / 9, 3 / 9, 2 / 9, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(top_p=0), "top_p is 0: it must be a number above 0"),
        (dict(top_p=1.1), "top_p is 1.1"),
        (dict(typical_p=-1), "typical_p is -1"),
        (dict(min_p=float("nan")), "min_p is nan: it must be a number from 0"),
        (dict(epsilon_cutoff=2), "epsilon_cutoff is 2"),
        (dict(eta_cutoff="x"), "eta_cutoff is x"),
        (dict(top_n_sigma=-1), "top_n_sigma is -1"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        Sampler(**settings)


@pytest.mark.peers
@pytest.mark.parametrize(
    "name, setting, cut, value",
    [
        ("TopPLogitsWarper", "top_p", top_p_cut, 0.8),
        ("MinPLogitsWarper", "min_p", min_p_cut, 0.1),
        ("TypicalLogitsWarper", "mass", typical_cut, 0.7),
        ("EpsilonLogitsWarper", "epsilon", epsilon_cut, 0.01),
        ("EtaLogitsWarper", "epsilon", eta_cut, 0.01),
    ],
)
def test_transformers_keeps_the_same(name, setting, cut, value):
    torch = pytest.importorskip("torch", reason="comparison with torch (extra test-peers)")
    processors = pytest.importorskip("transformers.generation.logits_process", reason="extra test-peers")
    logits = logits_of("plain", 500)
    theirs = getattr(processors, name)(**{setting: value})(None, torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(cut(logits, value), theirs)

"""Mirostat: its cut and its state, step by step, against scalar code."""

import math

import numpy as np
import pytest
import scalar_sampler as scalar
from planting import planted

from minillm.backend.random_streams import stream
from minillm.sampler import Sampler, mirostat

TAU, ETA, STEPS = 3.0, 0.4, 12


def logits_of(step, rows=3, vocabulary=65):
    return (2 * stream("mirostat", step).normal((rows, vocabulary))).astype(np.float32)


def follow(module=mirostat):
    """mu and what is kept after each step, from the module's own two functions and from the twin's."""
    mu, slow_mu = np.full(3, 2 * TAU), [2 * TAU] * 3
    for step in range(STEPS):
        logits = logits_of(step)
        rows = [scalar.mirostat(row, bits) for row, bits in zip(logits.tolist(), slow_mu)]
        assert module.mirostat_cut(logits, mu).tolist() == rows
        drawn = []
        for row in range(3):
            p = scalar.softmax(rows[row])
            token = sorted(scalar.kept(rows[row]))[(5 * step + row) % len(scalar.kept(rows[row]))]
            drawn.append(p[token])
            slow_mu[row] -= ETA * (-math.log2(p[token]) - TAU)
        mu = module.mirostat_update(mu, np.array(drawn), TAU, ETA)
        assert mu.tolist() == pytest.approx(slow_mu, rel=1e-12)


def test_several_steps():
    follow()


FAULTS = [
    ("np.exp2(-np.float64(max(bits, 0)))", "np.exp(-np.float64(max(bits, 0)))"),
    ("np.greater_equal(w, w.sum()", "np.less_equal(w, w.sum()"),
    ("keep[row.argmax()] = True", "pass"),
    ("mu - eta * (-np.log2(p) - tau)", "mu + eta * (-np.log2(p) - tau)"),
    ("mu - eta * (-np.log2(p) - tau)", "mu - eta * (-np.log(p) - tau)"),
    ("mu - eta * (-np.log2(p) - tau)", "mu - (-np.log2(p) - tau)"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(fault):
    with pytest.raises(AssertionError):
        follow(planted(mirostat, *fault))
        keep_the_likeliest(planted(mirostat, *fault))


def keep_the_likeliest(module=mirostat):
    assert np.isfinite(module.mirostat_cut(logits_of(0), np.full(3, -7.0))).sum(axis=1).tolist() == [1, 1, 1]


def test_the_likeliest_stays_whatever_mu():
    keep_the_likeliest()


def test_the_sampler_keeps_the_state():
    """The same ids as a twin that draws from the twin's cut with the sampler's own numbers."""
    sampler = Sampler(temperature=0.7, mirostat_tau=TAU, mirostat_eta=ETA, seed=5)
    mu = [2 * TAU] * 3
    for step in range(STEPS):
        tokens = sampler.sample(logits_of(step))
        for row, values in enumerate(logits_of(step).tolist()):
            p = scalar.softmax(scalar.mirostat(scalar.temperature(values, 0.7), mu[row]))
            number = stream(5, "sample", step, row).uniform()
            token = next(i for i in range(len(p)) if math.fsum(p[: i + 1]) > number)
            assert tokens[row] == token
            mu[row] -= ETA * (-math.log2(p[token]) - TAU)


def test_reset_and_another_batch_begin_anew():
    sampler = Sampler(mirostat_tau=TAU, seed=1)
    first = [sampler.sample(logits_of(step)).tolist() for step in range(5)]
    sampler.reset()
    assert [sampler.sample(logits_of(step)).tolist() for step in range(5)] == first
    fewer, other = logits_of(0, rows=2), Sampler(mirostat_tau=TAU, seed=1)
    other.step = sampler.step
    for _ in range(3):
        assert sampler.sample(fewer).tolist() == other.sample(fewer).tolist()


def test_a_text_goes_on_from_its_length_and_mu():
    """A new sampler for each token, as a page has it that keeps no sampler."""
    settings = dict(mirostat_tau=TAU, xtc_probability=0.5, seed=1)
    whole, mu = Sampler(**settings), None
    assert whole.mu is None
    for step in range(5):
        part = Sampler(**settings)
        part.reset(step, mu)
        logits = logits_of(step, rows=1)
        assert part.sample(logits).tolist() == whole.sample(logits).tolist()
        assert part.mu.tolist() == whole.mu.tolist()
        mu = float(part.mu[0])


def test_looking_does_not_change_the_state():
    sampler, other = (Sampler(mirostat_tau=TAU, seed=1) for _ in range(2))
    for step in range(4):
        for _ in range(3):
            sampler.probabilities(logits_of(step))
        assert sampler.sample(logits_of(step)).tolist() == other.sample(logits_of(step)).tolist()


def test_the_surprise_comes_to_tau():
    """Over many steps the mean surprise of what is drawn is tau, where the logits allow that much."""
    for spread in (0.5, 1.0):
        sampler, surprises = Sampler(mirostat_tau=TAU, seed=2), []
        for step in range(600):
            logits = spread * logits_of(step, rows=1)
            p = sampler.probabilities(logits)[0]
            surprises.append(-math.log2(p[sampler.sample(logits)[0]]))
        assert np.mean(surprises[100:]) == pytest.approx(TAU, abs=0.1)


@pytest.mark.parametrize("settings", [dict(mirostat_eta=1.7e308), dict(mirostat_tau=1.7e308)], ids=str)
def test_settings_as_large_as_floats_are_leave_mu_a_number(settings):
    sampler, logits = Sampler(**{"mirostat_tau": 3.0, **settings}), np.arange(20.0)[None]
    for _ in range(6):
        p = sampler.probabilities(logits)
        assert np.isfinite(p).all() and p.sum() == pytest.approx(1)
        sampler.sample(logits)
    assert np.isfinite(sampler.mu).all()

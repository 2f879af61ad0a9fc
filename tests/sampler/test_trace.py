"""What a trace tells, against what is computed here stage by stage for one row."""

import math

import numpy as np
import pytest
import scalar_sampler as scalar
from planting import planted

from minillm.backend.random_streams import stream
from minillm.sampler import History, Sampler, trace
from minillm.sampler import sampler as sampler_module

ROWS, VOCABULARY = 3, 120
TEXTS = [stream("trace", row).integers(VOCABULARY, 20).tolist() for row in range(ROWS)]
TEXTS = [text + text[3:7] for text in TEXTS]
CASES = {
    "nothing": dict(),
    "greedy": dict(temperature=0),
    "greedy after penalties": dict(temperature=0, repetition_penalty=1.5, banned_tokens=(5,), top_k=3),
    "temperature": dict(temperature=0.6),
    "few": dict(temperature=0.8, top_k=10, top_p=0.8),
    "many": dict(temperature=0.8, top_k=60, top_p=0.8),
    "top_p": dict(top_p=0.7, min_p=0.02),
    "typical": dict(typical_p=0.7),
    "epsilon and eta": dict(epsilon_cutoff=0.01, eta_cutoff=0.05),
    "sigma": dict(top_n_sigma=1.5),
    "XTC": dict(xtc_probability=0.5, xtc_threshold=0.05),
    "mirostat": dict(mirostat_tau=2.5, mirostat_eta=0.3),
    "penalties": dict(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.3, dry_multiplier=0.8),
    "constraints": dict(logit_bias={2: 3.0}, banned_tokens=(1, 7), min_tokens=40, end_tokens=(0,), no_repeat_ngram=2),
    "forced": dict(forced_tokens={14: 9}),
    "hf": dict(order="hf", temperature=0.7, top_k=10, top_p=0.9),
    "vllm": dict(order="vllm", temperature=0.7, top_k=10, top_p=0.9, min_p=0.01),
    "llama.cpp": dict(order="llama.cpp", temperature=0.7, top_k=10, top_p=0.9, min_p=0.01),
}
PROMPT = 10


def logits_of(step):
    return (2.5 * stream("trace", step).normal((ROWS, VOCABULARY))).astype(np.float32)


def slow_stage(s, name, row, text, coin, mu):
    """One stage by its name."""
    written, ties = text[PROMPT:], "all" if s.order in ("hf", "vllm") else "lowest"
    return {
        "logit_bias": lambda: scalar.logit_bias(row, s.logit_bias),
        "banned_tokens": lambda: scalar.ban(row, s.banned_tokens),
        "min_tokens": lambda: scalar.ban(row, s.end_tokens if len(written) < s.min_tokens else ()),
        "forced_tokens": lambda: scalar.force(row, s.forced_tokens.get(len(written))),
        "repetition_penalty": lambda: scalar.repetition_penalty(row, text, s.repetition_penalty),
        "presence_penalty": lambda: scalar.presence_penalty(row, written, s.presence_penalty),
        "frequency_penalty": lambda: scalar.frequency_penalty(row, written, s.frequency_penalty),
        "no_repeat_ngram": lambda: scalar.no_repeat_ngram(row, text, s.no_repeat_ngram),
        "dry_multiplier": lambda: scalar.dry_penalty(row, text, s.dry_multiplier),
        "temperature": lambda: scalar.temperature(row, s.temperature),
        "top_k": lambda: scalar.top_k(row, s.top_k, ties),
        "top_p": lambda: scalar.top_p(row, s.top_p),
        "min_p": lambda: scalar.min_p(row, s.min_p),
        "typical_p": lambda: scalar.typical(row, s.typical_p),
        "epsilon_cutoff": lambda: scalar.epsilon(row, s.epsilon_cutoff),
        "eta_cutoff": lambda: scalar.eta(row, s.eta_cutoff),
        "top_n_sigma": lambda: scalar.top_n_sigma(row, s.top_n_sigma),
        "xtc_probability": lambda: scalar.xtc(row, s.xtc_threshold, coin < s.xtc_probability),
        "mirostat_tau": lambda: scalar.mirostat(row, mu),
    }[name]()


def check(settings, module=sampler_module, steps=3):
    sampler, other = module.Sampler(**settings, seed=4), Sampler(**settings, seed=4)
    history, mu = History(TEXTS, [PROMPT] * ROWS), [2.0 * (sampler.settings.mirostat_tau or 0)] * ROWS
    for step in range(steps):
        traces = sampler.trace(logits_of(step), history)
        assert [told.token for told in traces] == other.sample(logits_of(step), history).tolist()
        for place, (row, told) in enumerate(zip(logits_of(step).tolist(), traces)):
            before = scalar.softmax(row)
            names = [stage.name for stage in told.stages]
            assert names[0] == "model"
            assert set(names[1:]) <= set(settings) and len(names) == len(set(names))
            for stage in told.stages:
                if stage.name != "model":
                    coin = stream(4, "xtc", step, place).uniform()
                    row = slow_stage(sampler.settings, stage.name, row, TEXTS[place], coin, mu[place])
                p, left = scalar.softmax(row), scalar.kept(row)
                assert stage.kept == len(left)
                assert stage.removed == pytest.approx(1 - math.fsum(before[i] for i in left), abs=1e-6)
                assert stage.entropy == pytest.approx(scalar.entropy(p), rel=1e-5, abs=1e-6)
                assert stage.choices == pytest.approx(math.exp(scalar.entropy(p)), rel=1e-5)
                before = p
            if settings.get("temperature") == 0:
                assert told.drawn is None and (told.probability, told.first, told.past) == (1, 0, 1)
                assert row[told.token] == max(row)
                continue
            assert told.drawn == stream(4, "sample", step, place).uniform()
            assert told.first <= told.drawn < told.past
            assert told.first == pytest.approx(math.fsum(p[: told.token]), abs=1e-6)
            assert told.past == pytest.approx(math.fsum(p[: told.token + 1]), abs=1e-6)
            assert told.probability == pytest.approx(p[told.token], rel=1e-4)
            if mu[place]:
                mu[place] -= sampler.settings.mirostat_eta * (-math.log2(p[told.token]) - sampler.settings.mirostat_tau)


@pytest.mark.parametrize("name", CASES)
def test_the_trace_tells_what_happens(name):
    check(CASES[name])


def test_a_large_vocabulary_tells_the_same_ids():
    logits = (4 * stream("trace", "large").normal((2, 50257))).astype(np.float32)
    for settings in (dict(), dict(top_k=50, top_p=0.9), dict(top_p=0.9), dict(min_p=0.05)):
        told = Sampler(**settings, seed=1).trace(logits)
        assert [row.token for row in told] == Sampler(**settings, seed=1).sample(logits).tolist()
        assert all(row.first <= row.drawn < row.past for row in told)


def test_the_stages_can_be_watched():
    """The logits after each stage: their entropy is that of the trace."""
    logits, seen = (4 * stream("trace", "large").normal((1, 999))).astype(np.float32), []
    settings = dict(temperature=0.7, top_k=50, top_p=0.9, seed=1)
    (told,) = Sampler(**settings).trace(logits, watch=lambda *stage: seen.append(stage))
    assert [told] == Sampler(**settings).trace(logits)
    assert [name for name, _, _ in seen] == [stage.name for stage in told.stages]
    for (_, left, ids), stage in zip(seen, told.stages):
        assert (left > -np.inf).sum() == stage.kept
        assert ids is None or (np.take_along_axis(logits, ids, axis=1) <= logits.max()).all()
        assert scalar.entropy(scalar.softmax(left[0].tolist())) == pytest.approx(stage.entropy, rel=1e-5)


def test_the_lines():
    lines = Sampler(temperature=0.5, top_k=2).trace(np.log([[0.1, 0.4, 0.3, 0.2]]))[0].lines(lambda token: f"<{token}>")
    assert [line.split()[0] for line in lines] == ["model", "temperature", "top_k", "drawn"]
    assert "2 tokens kept" in lines[2] and "36.00" not in lines[2] and "16.67 % of the mass removed" in lines[2]
    [*_, last] = Sampler(temperature=0).trace(np.array([[0.0, 1.0]]))[0].lines(lambda token: f"<{token}>")
    assert last == "the largest logit: '<1>' (1), probability 1.0000"


FAULTS = [
    (trace, "removed = 1 - np.sum(before, axis=1, where=left)", "removed = 1 - np.sum(p, axis=1, where=left)"),
    (trace, "int(left[row].sum())", "int((p[row] >= 0).sum())"),
    (trace, "float(np.exp(unsure[row]))", "float(2 ** unsure[row])"),
    (trace, "        self._before = p", "        self._before = p if self._before is None else self._before"),
    (
        sampler_module,
        "cdf_interval(row, index) for row, index in zip(p, drawn)",
        "cdf_interval(row, index) for row, index in zip(p, tokens)",
    ),
    (sampler_module, "record(stage.name, logits, ids)\n", "record(stage.name, logits, None)\n"),
    (sampler_module, 'tracer.record("model", logits, None)', "tracer.record('model', logits * 2, None)"),
]


@pytest.mark.parametrize("where, right, wrong", FAULTS)
def test_faults_are_noticed(where, right, wrong, monkeypatch):
    module = planted(where, right, wrong)
    if where is trace:
        monkeypatch.setattr(sampler_module, "Tracer", module.Tracer)
        module = sampler_module
    with pytest.raises((AssertionError, AttributeError, IndexError)):
        for settings in CASES.values():
            check(settings, module)

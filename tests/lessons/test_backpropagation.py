import numpy as np
import pytest
from planting import planted

import minillm
from minillm.backend.threads import blas_threads
from minillm.lessons import backpropagation, gradient_path
from minillm.lessons.backpropagation import errors_of_differences, shared_weights, weights_of
from minillm.lessons.gradient_path import FAULTS, follow, keep

V, T, C, HEADS = 19, 5, 16, 2
NAME = "transformer.h.1.mlp.c_fc.weight"


def model_and_text(bias=True, seed=0):
    """A small GPT-2 in float64 with weights that are nowhere 0 or 1, after a backward pass."""
    config = minillm.GPT2Config(vocab_size=V, context_length=8, n_layer=2, n_head=HEADS, d_model=C, bias=bias)
    model = minillm.GPT2(config, dtype="float64")
    rng = np.random.default_rng(seed)
    for parameter in model.parameters().values():
        parameter.value = parameter.value + rng.normal(0, 0.3, parameter.value.shape)
    ids = rng.integers(0, V, (1, T + 1))
    model.loss(ids[:, :-1], ids[:, 1:])
    model.backward()
    return model, ids[:, :-1], ids[:, 1:]


def by_hand(module, model, inputs, targets, i, j):
    kept = module.keep(weights_of(model), inputs, targets, HEADS, i, j)
    return float(module.follow(kept)["weight"])


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_followed_by_hand_is_the_engines_gradient(bias):
    model, inputs, targets = model_and_text(bias)
    gradient = model.parameters()[NAME].grad
    for i, j in [(0, 0), (3, 17), (C - 1, 4 * C - 1), (7, 40)]:
        assert by_hand(gradient_path, model, inputs, targets, i, j) == pytest.approx(gradient[i, j], rel=1e-11)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dloss * (kept.p - onehot) / len(kept.targets)", "dloss * (kept.p - onehot)"),
        (
            "dn = dy * g\n    return r * (dn - dn.mean(axis=1, keepdims=True) - n",
            "dn = dy\n    return r * (dn - dn.mean(axis=1, keepdims=True) - n",
        ),
        ("return da * gelu_slope(kept)  # (T,)", "return da * kept.gate"),
        ("return kept.m @ du", "return kept.m.mean() * du.sum()"),
    ],
)
def test_the_comparison_notices(right, wrong):
    model, inputs, targets = model_and_text()
    faulty = planted(gradient_path, right, wrong)
    expected = model.parameters()[NAME].grad[3, 17]
    assert by_hand(faulty, model, inputs, targets, 3, 17) != pytest.approx(expected, rel=1e-4)


def test_each_mistake_changes_its_gradient_and_no_earlier_one():
    model, inputs, targets = model_and_text()
    kept = keep(weights_of(model), inputs, targets, HEADS, 3, 17)
    right = follow(kept)
    for rules in FAULTS.values():
        wrong = follow(kept, rules)
        assert list(wrong) == list(right)
        same = [bool(np.all(wrong[name] == right[name])) for name in right]
        assert same == sorted(same, reverse=True) and same[0] and not same[-1]


def test_two_tokens_have_a_say_in_the_weights_that_are_chosen():
    model, inputs, targets = model_and_text()
    expected = model.parameters()[NAME].grad.copy()
    chosen = shared_weights(model, NAME, inputs, targets)
    assert len(set(chosen)) == backpropagation.WEIGHTS
    seconds = []
    for i, j in np.ndindex(*expected.shape):
        kept = keep(weights_of(model), inputs, targets, HEADS, i, j)
        seconds.append((sorted(np.abs(kept.m * follow(kept)["u"]))[-2], (i, j)))
    assert max(seconds)[1] == chosen[0]


def test_differences_leave_the_weight_as_it_was_and_their_error_is_that_of_the_gradient_given():
    model, inputs, targets = model_and_text()
    value, gradient = model.parameters()[NAME].value, model.parameters()[NAME].grad.copy()
    before = value.copy()
    errors, third = errors_of_differences(model, NAME, [(3, 17)], gradient, inputs, targets)
    assert np.array_equal(value, before)
    assert errors["five-point"].shape == (1, len(backpropagation.STEPS)) and third.shape == (1,)
    at = int(np.argmin(np.abs(np.log(backpropagation.STEPS / 1e-3))))
    assert abs(errors["five-point"][0, at]) < 1e-9 * np.abs(gradient).max()
    wrong, _ = errors_of_differences(model, NAME, [(3, 17)], gradient + 0.25, inputs, targets)
    assert wrong["five-point"][0, at] == pytest.approx(-0.25, abs=1e-8)


@pytest.fixture(scope="module")
def measured():
    with blas_threads(1):
        return backpropagation.LESSON.measure()


def test_what_the_lesson_claims(measured):
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["by hand"] == pytest.approx(figures["by engine"], rel=1e-12)
    assert figures["by hand"] == pytest.approx(figures["by differences"], rel=1e-7)
    for kind, power in {"one-sided": 1, "central": 2, "five-point": 4}.items():
        assert figures[f"right slope, {kind}"] == pytest.approx(power, rel=0.1)
        assert figures[f"left slope, {kind}"] == pytest.approx(-1, abs=0.15)
    assert 0.2 < figures["best step"] / figures["predicted step"] < 5
    assert 1e-6 < figures["best step"] < 1e-3
    best = {kind: figures[f"best {kind}"] for kind in ("five-point", "central", "one-sided")}
    assert best["five-point"] < 1e-11 and best["central"] < 1e-9 and best["one-sided"] < 1e-7
    assert 5 * best["five-point"] < best["central"] and 50 * best["central"] < best["one-sided"]
    assert figures["best float32"] > 1e-6
    assert min(figures[f"fault, {fault}"] for fault in FAULTS) > 1000 * figures["best central"]


def test_the_lesson_notices_a_wrong_rule(monkeypatch):
    monkeypatch.setitem(gradient_path.RULES, "x", gradient_path.to_x_without_last_term)
    monkeypatch.setattr(backpropagation, "STEPS", np.geomspace(1, 1e-12, 25))
    monkeypatch.setattr(backpropagation, "WEIGHTS", 3)
    with blas_threads(1):
        found = backpropagation.LESSON.measure().findings
    assert not found[0].holds


def test_the_picture_has_the_path_and_the_curves(measured):
    from matplotlib.figure import Figure

    figure = Figure()
    measured.draw(figure)
    graph, curves = figure.axes
    texts = [text.get_text() for text in graph.texts]
    assert f"weight\n{measured.figures['by hand']:+.4f}" in texts and "loss\n+1.0000" in texts
    assert len(curves.lines) == 4 + len(FAULTS) + 1

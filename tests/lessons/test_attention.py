import math

import numpy as np
import pytest
from planting import planted

import minillm.layers.attention as engine
from minillm import GPT2, GPT2Config
from minillm.errors import UserError
from minillm.lessons import attention as lesson


@pytest.fixture(scope="module")
def measured():
    return lesson.LESSON.measure(lesson.LESSON.sentence)


@pytest.fixture
def model():
    config = GPT2Config(vocab_size=11, context_length=8, n_layer=2, n_head=2, d_model=8)
    model = GPT2(config, seed=1, dtype="float64").train()
    for parameter in model.parameters().values():
        parameter.value *= 5  # so that heads look somewhere
    return model


IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def test_what_the_lesson_claims(measured):
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["ahead"] == 0
    assert max(figures["row error"], figures["sum of ds"], figures["engine"]) < 1e-12
    assert figures["finite differences"] < 1e-7
    for head in range(4):
        assert figures[f"distance, layer 0, head {head}"] < 12 < figures[f"distance, layer 1, head {head}"]
        for layer in (0, 1):
            assert figures[f"agreement, layer {layer}, head {head}"] > 0.7
            assert sum(figures[f"to {name}, layer {layer}, head {head}"] for name in "qkv") == pytest.approx(1)
    assert max(figures[f"nearness, layer 0, head {head}"] for head in range(4)) > 2


def test_the_picture_shows_two_heads(measured, draw):
    figure = draw(measured)
    assert f'"{lesson.LESSON.sentence}"' in figure.get_suptitle()
    maps = [np.ma.filled(axes.images[0].get_array(), np.nan) for axes in figure.axes if axes.images]
    assert len(maps) == 6 and len(figure.axes) == 12  # each with its colour bar
    assert all(np.isnan(values[~np.tri(len(values), dtype=bool)]).all() for values in maps)
    for looks, sent_back, wanted in (maps[:3], maps[3:]):
        np.testing.assert_allclose(np.nansum(looks, axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(np.nansum(wanted, axis=1), 0, atol=1e-12)
        sizes = np.tril(sent_back / looks)  # P_ij |dy_i| / P_ij: the same for all j
        np.testing.assert_allclose(sizes, np.tri(len(sizes)) * sizes[:, :1], rtol=1e-9)
        assert np.ptp(sizes[:, 0]) > 0.1 * sizes[:, 0].max()  # and not the same for all i


@pytest.mark.parametrize(
    "right, wrong, finding",
    [
        ("    ds -= row_dot(dy, y)\n", "", 3),
        ("    ds *= scale\n", "", 3),
        ("    s += mask\n", "", 3),
    ],
)
def test_a_fault_of_the_engine_is_noticed(monkeypatch, right, wrong, finding):
    faulty = planted(engine, right, wrong)
    for name in ("attention_forward", "attention_backward"):
        monkeypatch.setattr(engine, name, getattr(faulty, name))
    findings = lesson.LESSON.measure(lesson.LESSON.sentence).findings
    assert not findings[finding].holds, findings


def test_the_findings_can_fail(measured):
    config = GPT2Config(vocab_size=11, n_layer=2, n_head=4, d_model=128)
    swapped = {}  # the layers change places; heads look ahead; gradients go elsewhere
    for name, value in measured.figures.items():
        other = name.replace("layer 0", "x").replace("layer 1", "layer 0").replace("x", "layer 1")
        swapped[other] = -value if name.startswith("agreement") else value
    swapped |= {"ahead": 0.1, "sum of ds": 0.1}
    assert not any(finding.holds for finding in lesson._findings(swapped, config, 0))


def test_heads_of_a_pass_by_hand(model):
    """The first layer's attention from its own weights, one token and head at a time."""
    layers = lesson.look(model, IDS[:, :-1], IDS[:, 1:])
    body, block = model.transformer, model.transformer.h[0]
    a = block.ln_1.forward(body.wte.weight.value[IDS[:, :-1]] + body.wpe.weight.value[: IDS.shape[1] - 1])[0]
    qkv = a @ block.attn.c_attn.weight.value + block.attn.c_attn.bias.value
    for head in (0, 1):
        q, k = (qkv[:, start + 4 * head : start + 4 * head + 4] for start in (0, 8))
        for i in range(len(q)):
            weights = [math.exp(q[i] @ k[j] / 2) for j in range(i + 1)]
            expected = np.array(weights) / sum(weights)
            np.testing.assert_allclose(layers[0].p[0, head, i, : i + 1], expected, rtol=1e-10)
    assert all(heads.disagreement < 1e-12 for heads in layers)
    assert all(parameter.grad is None for parameter in model.parameters().values())


def test_scores_that_do_not_change_leave_the_loss(model):
    loss = float(model.loss(IDS[:, :-1], IDS[:, 1:]))
    pair = tuple(np.array([n]) for n in (0, 1, 5, 2))
    for layer in (0, 1):
        same = lesson.loss_with_other_scores(model, IDS[:, :-1], IDS[:, 1:], layer, pair, np.zeros(1))
        assert same == pytest.approx(loss, rel=1e-14)
        other = lesson.loss_with_other_scores(model, IDS[:, :-1], IDS[:, 1:], layer, pair, np.ones(1))
        assert abs(other - loss) > 1e-6


def test_habits_of_heads_that_are_known():
    """One head looks at the token before, one nearly in equal shares; each token gets as much gradient as attention."""
    time, rng = 6, np.random.default_rng(0)
    before = np.eye(time, k=-1) + 1e-9 * np.tri(time)
    before[0, 0] = 1
    shares = np.tri(time) * rng.uniform(0.999, 1.001, (time, time))
    p = np.array([[before, shares / shares.sum(axis=-1, keepdims=True)]])
    dv = np.zeros((1, 2, time, 3))
    dv[..., 1] = p.sum(axis=2)
    heads = lesson.Heads(p, dv, p, 3 * dv, 4 * dv, dv, 0.0)
    first, second = lesson.habits(heads, 0), lesson.habits(heads, 1)
    assert first["itself"] == pytest.approx(1 / 6) and first["before"] == pytest.approx(1)
    assert first["distance"] == pytest.approx(5 / 6)
    assert first["nearness"] == pytest.approx(5 / sum(1 / n for n in range(2, 7)))
    assert second["nearness"] == pytest.approx(1, abs=1e-3)
    assert second["distance"] == pytest.approx(np.mean(np.arange(6) / 2), abs=1e-2)
    for habits in (first, second):
        assert habits["agreement"] == pytest.approx(1)
        assert [habits[f"to {name}"] for name in "qkv"] == pytest.approx([3 / 8, 4 / 8, 1 / 8])


def test_a_sentence_that_is_too_short():
    with pytest.raises(UserError, match='" the" is too short'):
        lesson.LESSON.measure(" the")

"""Muon against a transcription of its source, against PyTorch's, and what it is for: all directions get the same step."""

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.backend.arrays import to_device, to_host
from minillm.errors import UserError
from minillm.layers.layer import Parameter
from minillm.layers.linear import Linear
from minillm.optim import AdamW, Muon, muon
from minillm.training.data_parallel import DataParallel

SHAPES = [(4, 4), (3, 8), (8, 3), (16, 64), (96, 32), (1, 7)]


def transcription(w, gradients, outputs_first, lr=0.02, momentum=0.95, decay=0.1):
    """The steps of Muon in float64, from the text of its source (and torch.optim.Muon's words): w (outputs, inputs)."""
    w = w if outputs_first else w.T
    m = np.zeros_like(w)
    for g in gradients:
        g = g if outputs_first else g.T
        m = m + (g - m) * (1 - momentum)
        update = g + (m - g) * momentum
        x = update if w.shape[0] <= w.shape[1] else update.T
        x = x / max(np.linalg.norm(x), 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        update = x if w.shape[0] <= w.shape[1] else x.T
        w = w * (1 - lr * decay) - lr * max(1, w.shape[0] / w.shape[1]) ** 0.5 * update
    return w if outputs_first else w.T


def train(shape, outputs_first=True, seed=0, steps=3, kind=Muon, device="cpu", dtype=np.float64, scale=1.0, lr=0.02):
    """A matrix before and after some steps, and the gradients of the steps."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=shape)
    gradients = [rng.normal(size=shape) for _ in range(steps)]
    parameter = Parameter(to_device(before.astype(dtype), device), outputs_axis=0 if outputs_first else 1)
    optimizer = kind({"w": parameter}, lr=lr)
    for gradient in gradients:
        parameter.grad = to_device((gradient / scale).astype(dtype), device)
        optimizer.step(scale)
    return before, gradients, to_host(parameter.value)


@pytest.mark.parametrize("outputs_first", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_transcription(shape, outputs_first):
    for seed in range(50):
        before, gradients, after = train(shape, outputs_first, seed)
        assert np.abs(after - transcription(before, gradients, outputs_first)).max() < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_the_quick_form_is_the_formula(shape):
    rng = np.random.default_rng(1)
    w, g, m = rng.normal(size=(3, *shape))
    settings = dict(lr=0.02, momentum=0.95, decay=0.1, outputs_axis=1)
    expected = muon.muon_formula(w, g, m, **settings)
    muon.muon_update(w, g, m, **settings)
    assert np.abs(w - expected[0]).max() < 1e-11 and np.abs(m - expected[1]).max() < 1e-15


def test_the_quick_form_in_float32():
    """A long matrix of which one direction is a thousand times another: the squares lie near float32's rounding."""
    n = np.random.default_rng(0).normal(size=(64, 256)) * np.logspace(0, -3, 64)[:, None]
    exact = muon.orthogonalised_formula(n)
    assert np.abs(muon.orthogonalised(n.astype(np.float32)) - exact).max() < 2e-3


def test_the_gradient_is_scaled():
    assert np.allclose(train((5, 3), scale=0.25)[2], train((5, 3))[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_on_a_device_it_is_the_same(shape):
    assert np.allclose(train(shape, device="cudasim", dtype=np.float32)[2], train(shape)[2], rtol=0, atol=1e-5)


@pytest.mark.peers
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_pytorch_within_its_bfloat16(shape):
    """PyTorch orthogonalises in bfloat16: 8 bits, five times over. A step is at most lr in any direction."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra test-peers")
    before, gradients, after = train(shape)
    weight = torch.nn.Parameter(torch.tensor(before))
    theirs = torch.optim.Muon([weight], lr=0.02)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        theirs.step()
    moved = np.linalg.norm(after - before)
    assert np.linalg.norm(after - weight.detach().numpy()) < 0.03 * moved


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (32, 128)])
def test_all_directions_get_nearly_the_same_step(shape):
    n = np.random.default_rng(0).normal(size=shape) @ np.diag(np.logspace(0, -1.5, shape[1]))
    before, after = np.linalg.svd(n, compute_uv=False), np.linalg.svd(muon.orthogonalised(n), compute_uv=False)
    assert before.max() / before.min() > 5
    assert 0.65 < after.min() and after.max() < 1.2


def test_no_gradient_is_no_step_but_decay():
    parameter = Parameter(np.ones((2, 3)), outputs_axis=0)
    optimizer = Muon({"w": parameter}, lr=0.1, weight_decay=0.5)
    parameter.grad = np.zeros((2, 3))
    optimizer.step()
    assert parameter.value == pytest.approx(0.95)


SCALE = "w.shape[outputs_axis] / w.shape[1 - outputs_axis]"

FORMULA_FAULTS = {
    "no momentum": ("    m *= momentum\n", "    m *= 0\n"),
    "momentum as a sum": ("    m += g\n", "    m += g / (1 - momentum)\n"),
    "no Nesterov": ("    n = momentum * m\n    n += g\n", "    n = 1 * m\n"),
    "inputs for outputs": (SCALE, "w.shape[1 - outputs_axis] / w.shape[outputs_axis]"),
    "no scale": (f"math.sqrt(max(1, {SCALE}))", "1.0"),
    "no root": (f"math.sqrt(max(1, {SCALE}))", f"max(1, {SCALE})"),
    "four steps": (
        "for _ in range(STEPS):\n            x = matmul(_f",
        "for _ in range(4):\n            x = matmul(_f",
    ),
    "four steps of a long matrix": ("range(STEPS - 1)", "range(STEPS - 2)"),
    "a Gram matrix multiplied from one side": ("matmul(matmul(p, gram), p)", "matmul(p, gram)"),
    "a product of the last two steps": ("product = matmul(p, product)", "product = p"),
    "no identity": ("    p.ravel()[:: len(p) + 1] += a", "    p.ravel()[:: len(p) + 1] += 0 * a"),
    "not transposed back": ("return orthogonalised(n.T).T", "return orthogonalised(n.T).reshape(n.shape)"),
    "a coefficient": ("-4.7750", "-4.7570"),
    "no norm": ("return n / xp.maximum(xp.sqrt((n * n).sum()), SMALLEST_NORM)", "return n / 10"),
    "no decay": ("    w *= 1 - lr * decay\n", ""),
    "decay of the new weight": ("    w *= 1 - lr * decay\n    w -= step", "    w -= step\n    w *= 1 - lr * decay"),
    "uphill": ("w -= step", "w += step"),
}


@pytest.mark.parametrize("right, wrong", FORMULA_FAULTS.values(), ids=FORMULA_FAULTS.keys())
def test_faults_are_caught(right, wrong):
    kind = planted(muon, right, wrong).Muon
    worst = 0.0
    for shape in SHAPES[:3]:
        before, gradients, after = train(shape, kind=kind)
        worst = max(worst, np.abs(after - transcription(before, gradients, True)).max())
    assert worst > 1e-6


# ------------------------------------------------------------------------------------------ which parameter gets what


def gpt2(**settings):
    config = minillm.GPT2Config(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=8, **settings)
    return minillm.GPT2(config, seed=0, dtype="float64")


@pytest.mark.parametrize("tie", [True, False])
def test_matrices_are_those_of_linear_layers_without_the_head(tie):
    optimizer = Muon(gpt2(tie_embeddings=tie).parameters())
    ends = {name.split(".", 1)[1] for name in optimizer.matrices}
    assert ends == {f"h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    others = optimizer.parameters.keys() - optimizer.matrices.keys()
    assert optimizer.state["momentum"].keys() == optimizer.matrices.keys()
    assert optimizer.state["first_moment"].keys() == optimizer.state["second_moment"].keys() == others


def test_the_others_take_the_steps_of_adamw():
    ids = np.random.default_rng(0).integers(0, 11, (2, 8))
    model, twin = gpt2(), gpt2()
    ours = Muon(model.parameters(), lr=0.02, adamw_lr=0.003, betas=(0.9, 0.99), weight_decay=0.1)
    theirs = AdamW(twin.parameters(), lr=0.003, betas=(0.9, 0.99), weight_decay=0.1)
    for each in (model, twin):
        each.loss(ids, ids)
        each.backward()
    ours.step()
    theirs.step()
    for name, parameter in twin.parameters().items():
        same = np.array_equal(model.parameters()[name].value, parameter.value)
        assert same == (name not in ours.matrices), name


def test_a_schedule_scales_both_learning_rates():
    parameters = {"w": Parameter(np.ones((2, 2)), outputs_axis=0), "b": Parameter(np.ones(2))}
    optimizer = Muon(parameters, lr=0.02, adamw_lr=0.01, weight_decay=0.0)
    optimizer.lr = 0.002
    for parameter in parameters.values():
        parameter.grad = np.ones_like(parameter.value)
    optimizer.step()
    assert parameters["b"].value == pytest.approx(1 - 0.001)


def test_orientation_is_known():
    assert Linear(np.ones((2, 3))).weight.outputs_axis == 1
    assert Linear(np.ones((2, 3)), transposed=True).weight.outputs_axis == 0
    assert Parameter(np.ones((2, 3))).outputs_axis is None


def test_the_number_of_cores_changes_no_bit():
    ids = np.random.default_rng(0).integers(0, 11, (4, 8))
    results = []
    for workers in (1, 3):
        model = gpt2()
        optimizer = Muon(model.parameters())
        with DataParallel(model, workers) as parallel:
            optimizer.share = parallel.share
            model.loss(ids, ids)
            model.backward()
            optimizer.step()
        results.append({name: parameter.value for name, parameter in model.parameters().items()})
    for name, value in results[0].items():
        assert np.array_equal(results[1][name], value), name


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"adamw_lr": -1.0}, "adamw_lr is -1.0"),
        ({"lr": -1.0}, "learning rate is -1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Muon({"w": Parameter(np.ones((2, 2)), outputs_axis=0)}, **settings)


def test_no_matrix_is_refused():
    with pytest.raises(UserError, match="use AdamW"):
        Muon({"b": Parameter(np.ones(2))})

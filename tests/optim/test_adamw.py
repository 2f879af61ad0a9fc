"""AdamW and Adam: against their papers, one number at a time, against two steps worked out by hand, and the kernel.

The faults that these tests notice: FORMULA_FAULTS and KERNEL_FAULTS.
"""

import importlib
import inspect
import math

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_float32,
    on_device,
)
from planting import assert_close, planted

from minillm.backend.arrays import to_host
from minillm.backend.precision import bfloat16
from minillm.checks.cases import ADAMW, array, at
from minillm.errors import UserError
from minillm.kernels import global_norm
from minillm.layers.layer import Parameter
from minillm.optim import Adam, AdamW, adamw
from minillm.optim.adamw import adamw_formula, adamw_update

SETTINGS = dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)

FORMULA_FAULTS = {
    "first moment not corrected": ("change *= lr / (1 - b1**t)", "change *= lr"),
    "second moment not corrected": ("change *= 1 / math.sqrt(1 - b2**t)", "pass"),
    "the decay is not multiplied by the learning rate": ("w *= 1 - lr * decay", "w *= 1 - decay"),
    "no eps": ("change += eps", "pass"),
    "b1 in place of b2": ("v *= b2", "v *= b1"),
    "b2 in place of b1": ("m *= b1", "m *= b2"),
    "the gradient is not scaled": ("xp.multiply(gradient, gradient_scale, out=g)", "g[...] = gradient"),
}  # fmt: skip

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "second moment not corrected": ("v / correction2", "v", "numbers"),
    "the decay of Adam is decoupled": ("(decoupled ? 0 : decay * w)", "0", "numbers"),
    "pieces overlap": ("start + PIECE < size ? start + PIECE : size", "size", "check"),
}


def adamw_by_the_paper(theta, gradients, lr, betas, eps, weight_decay):
    """Loshchilov, Hutter (2019), algorithm 2 with alpha = 1 and eta_t = lr, for one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        theta = theta - lr * (m_hat / (math.sqrt(v_hat) + eps) + weight_decay * theta)
    return theta


def adam_by_the_paper(theta, gradients, lr, betas, eps, weight_decay):
    """Kingma, Ba (2015), algorithm 1, of the loss plus weight_decay / 2 theta^2, for one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        g = g + weight_decay * theta
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        theta = theta - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return theta


def train(optimizer_class, shapes, gradients, scale=1.0, **settings):
    """Parameters after a step for each set of gradients."""
    parameters = {name: Parameter(array(name, *shape)) for name, shape in shapes.items()}
    optimizer = optimizer_class(parameters, **{**SETTINGS, **settings})
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.add_grad(step[name].copy())
        optimizer.step(scale)
        optimizer.zero_grad()
    return {name: parameter.value for name, parameter in parameters.items()}


PAPERS = [(AdamW, adamw_by_the_paper), (Adam, adam_by_the_paper)]
SHAPES = {"matrix": (3, 4), "norm": (5,), "cube": (2, 2, 2)}


@pytest.mark.parametrize("optimizer_class, paper", PAPERS)
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("block", [1, 5, 1 << 15])
def test_equals_the_paper(monkeypatch, optimizer_class, paper, scale, block):
    monkeypatch.setattr(adamw, "BLOCK", block)
    gradients = [{name: array(f"{name} {t}", *shape) for name, shape in SHAPES.items()} for t in range(20)]
    values = train(optimizer_class, SHAPES, gradients, scale)
    for name, shape in SHAPES.items():
        decay = SETTINGS["weight_decay"] if len(shape) >= 2 else 0.0  # norms and biases are not decayed
        for index in np.ndindex(*shape):
            history = [scale * step[name][index] for step in gradients]
            expected = paper(array(name, *shape)[index], history, 0.1, (0.9, 0.99), 1e-8, decay)
            assert values[name][index] == pytest.approx(expected, rel=1e-12)


def two_steps(optimizer_class):
    """w = 1, gradients 2 and -1, lr 0.1, betas 0.9 and 0.99, eps 0, weight decay 0.5."""
    parameter = Parameter(np.ones((1, 1)))
    optimizer = optimizer_class({"w": parameter}, lr=0.1, betas=(0.9, 0.99), eps=1e-300, weight_decay=0.5)
    for gradient in (2.0, -1.0):
        parameter.grad = np.full((1, 1), gradient)
        optimizer.step()
        yield parameter.value.item()


def test_adamw_by_hand():
    # step 1: m = 0.2, m^ = 2; v = 0.04, v^ = 4; m^ / sqrt(v^) = 1; w = 1 - 0.1 (1 + 0.5 * 1) = 0.85
    # step 2: m = 0.18 - 0.1 = 0.08, m^ = 0.08 / 0.19 = 0.4210526316; v = 0.0396 + 0.01 = 0.0496,
    #         v^ = 0.0496 / 0.0199 = 2.4924623116, root 1.5787534043; quotient 0.2666994287
    #         w = 0.85 - 0.1 (0.2666994287 + 0.425) = 0.7808300571
    assert list(two_steps(AdamW)) == pytest.approx([0.85, 0.7808300571], abs=1e-9)


def test_adam_by_hand():
    # step 1: g = 2 + 0.5 = 2.5; m^ / sqrt(v^) = 1; w = 1 - 0.1 = 0.9
    # step 2: g = -1 + 0.45 = -0.55; m = 0.9 * 0.25 - 0.055 = 0.17, m^ = 0.17 / 0.19 = 0.8947368421
    #         v = 0.99 * 0.0625 + 0.01 * 0.3025 = 0.0649, v^ = 0.0649 / 0.0199 = 3.2613065327, root 1.8059087829
    #         quotient 0.4954496338; w = 0.9 - 0.0495449634 = 0.8504550366
    assert list(two_steps(Adam)) == pytest.approx([0.9, 0.8504550366], abs=1e-9)


@pytest.mark.parametrize("block", [1, 5, 1 << 15])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_update_in_blocks_is_the_formula(monkeypatch, block, decay):
    monkeypatch.setattr(adamw, "BLOCK", block)
    values, gradients, m, v = ([array(f"{name} {i}", 3, 2 + i) for i in range(2)] for name in ("w", "g", "m", "v"))
    v = [x * x for x in v]
    expected = [adamw_formula(*arrays, 0.1, (0.9, 0.99), 1e-8, decay, 7) for arrays in zip(values, gradients, m, v)]
    adamw_update(values, gradients, m, v, 0.1, (0.9, 0.99), 1e-8, [decay, decay], 7)
    for found, wanted in zip(zip(values, m, v), expected):
        for one, other in zip(found, wanted):
            assert_close(one, other)


def test_it_has_the_arguments_of_its_kernel():
    kernel = importlib.import_module("minillm.kernels.adamw").adamw_update
    assert inspect.signature(adamw_update) == inspect.signature(kernel)


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_faults_are_noticed_by_the_formula(fault):
    gradients = [{name: array(f"{name} {t}", *shape) for name, shape in SHAPES.items()} for t in range(3)]
    values = train(AdamW, SHAPES, gradients, 0.5, eps=0.1)
    faulty = train(planted(adamw, *FORMULA_FAULTS[fault]).AdamW, SHAPES, gradients, 0.5, eps=0.1)
    assert any(np.abs(values[name] - faulty[name]).max() > 1e-6 for name in SHAPES)


def test_without_decay_adam_and_adamw_are_the_same():
    gradients = [{"w": array(f"w {t}", 3, 4)} for t in range(5)]
    results = [train(cls, {"w": (3, 4)}, gradients, weight_decay=0.0)["w"] for cls in (Adam, AdamW)]
    assert_close(*results)


def test_a_parameter_without_gradient_is_named_and_nothing_changes():
    parameters = {"a": Parameter(array("a", 2, 2)), "b": Parameter(array("b", 2))}
    optimizer = AdamW(parameters)
    parameters["a"].grad = array("g", 2, 2)
    with pytest.raises(RuntimeError, match="no gradient for b: call backward"):
        optimizer.step()
    assert (parameters["a"].value == array("a", 2, 2)).all() and optimizer.step_count == 0


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=-1), "learning rate is -1"),
        (dict(lr=math.nan), "learning rate is nan"),
        (dict(betas=(1.0, 0.9)), "beta1 is 1.0"),
        (dict(betas=(0.9, -0.1)), "beta2 is -0.1"),
        (dict(eps=0), "eps is 0"),
        (dict(weight_decay=-0.1), "weight decay is -0.1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        AdamW({}, **settings)


# ---------------------------------------------------------------------------------------------------- the kernel


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(ADAMW)


@pytest.mark.parametrize("problem", ADAMW.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(ADAMW, problem, device)


@pytest.mark.parametrize("problem", ADAMW.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(ADAMW, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(ADAMW, KERNEL_FAULTS[fault], monkeypatch)


def test_a_step_on_the_device_needs_no_host_scale(device):
    op, a = on_device(ADAMW, at((3, 4), (5,)), device)
    norm = global_norm.global_norm(a.gradients)
    before = [to_host(value).copy() for value in a.values]
    settings = dict(lr=0.1, betas=(0.0, 0.0), eps=1.0, weight_decays=[0.0, 0.0], step=1)
    op.adamw_update(a.values, a.gradients, a.first, a.second, **settings, gradient_scale=1 / norm)
    for value, old, gradient in zip(a.values, before, a.gradients):
        g = to_host(gradient).astype(np.float64) / float(norm)
        np.testing.assert_allclose(to_host(value), old - 0.1 * g / (np.abs(g) + 1), rtol=1e-5, atol=1e-6)


COPY_FAULTS = {
    "no copy is written": ("if (copy) copy[i] = w;", "", "numbers"),
    "the copy is of the old weight": (
        "        value[i] = w;\n        if (copy) copy[i] = w;",
        "        if (copy) copy[i] = value[i];\n        value[i] = w;",
        "numbers",
    ),
    "copies are dealt to the wrong tensors": (
        "copies[piece.tensor] : nullptr", "copies[copied - 1 - piece.tensor] : nullptr", "numbers"),
    "no copy where the scale is not finite": ("copy && i < piece.end", "false && i < piece.end", "numbers"),
}  # fmt: skip


def copies_after_a_step(op, a, scale):
    """Of the first and the third of three tensors of the same size, the copies that a step writes; and whether they are
    the weights, rounded, and all else is as without copies."""
    copies = [value.astype(bfloat16()) * 0 if index != 1 else None for index, value in enumerate(a.values)]
    settings = dict(lr=0.1, betas=(0.9, 0.9), eps=1.0, weight_decays=[0.1, 0.2, 0.3], step=1, gradient_scale=scale)
    plain = [[each.copy() for each in arrays] for arrays in (a.values, a.gradients, a.first, a.second)]
    op.adamw_update(a.values, a.gradients, a.first, a.second, **settings, copies=copies)
    op.adamw_update(*plain, **settings)
    same = all(
        (to_host(one) == to_host(other)).all()
        for ours, others in zip((a.values, a.first, a.second), (plain[0], *plain[2:]))
        for one, other in zip(ours, others)
    )
    rounded = [to_host(value).astype(bfloat16()) for value in a.values]
    return same and all((to_host(copies[index]) == rounded[index]).all() for index in (0, 2))


@pytest.mark.parametrize("scale", [1.0, np.nan])
def test_copies_are_the_new_weights_rounded(scale, device):
    op, a = on_device(ADAMW, at((70, 70), (70, 70), (70, 70)), device)
    assert copies_after_a_step(op, a, scale)


@pytest.mark.parametrize("fault", COPY_FAULTS)
def test_faults_in_the_copies_are_noticed(fault, monkeypatch, simulator):
    op, a = on_device(ADAMW, at((70, 70), (70, 70), (70, 70)), "cudasim")
    before, after, _ = COPY_FAULTS[fault]
    assert before in op.CUDA.text
    monkeypatch.setattr(op, "CUDA", op.CUDA.with_text(op.CUDA.text.replace(before, after)))
    assert not all(copies_after_a_step(op, a, scale) for scale in (1.0, np.nan))


def test_numpy_writes_copies_too():
    values, gradients, m, v = ([array(f"{name} {i}", 3, 2) for i in range(2)] for name in ("w", "g", "m", "v"))
    copies = [np.zeros((3, 2), bfloat16()), None]
    adamw_update(values, gradients, m, [x * x for x in v], 0.1, (0.9, 0.9), 1.0, [0, 0], 1, copies=copies)
    assert (copies[0] == values[0].astype(bfloat16())).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, device):
    op, a = on_device(ADAMW, at((3, 4), (5000,)), device)
    a.gradients[1][4321] = bad
    norm, scale = global_norm.clipped_norm(a.gradients, 1.0)
    assert not np.isfinite(float(norm)) and np.isnan(float(scale))
    before = [to_host(x).copy() for x in (*a.values, *a.first, *a.second)]
    settings = dict(lr=0.1, betas=(0.9, 0.9), eps=1.0, weight_decays=[0.1, 0.1], step=1, gradient_scale=scale)
    op.adamw_update(a.values, a.gradients, a.first, a.second, **settings)
    for after, old in zip((*a.values, *a.first, *a.second), before):
        np.testing.assert_array_equal(to_host(after), old)

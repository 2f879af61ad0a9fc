"""A fused block: its gradients, the numbers of the block that is not fused, when a block is fused, and planted faults."""

import functools
from contextlib import contextmanager

import numpy as np
import pytest
from planting import assert_gradcheck_catches, assert_gradients, planted

import minillm
from minillm.backend.arrays import to_device, to_host
from minillm.backend.hooks import add_hook
from minillm.checks.cases import FUSED_BLOCK, randomised
from minillm.inspection.recording import record
from minillm.kernels import use_kernels
from minillm.layers import fused_block
from minillm.layers.mlp import MLP
from minillm.models import gpt2
from minillm.models.fine_tuning import LoRA, add_lora

FAULTS = {
    "no direct path past the MLP": (
        "norm_of_sum_backward(norm_2, dy, _branch",
        "norm_of_sum_backward(norm_2, 0 * dy, _branch",
    ),
    "no direct path past attention": ("dropouts[0]), ds)", "dropouts[0]))"),
    "the bias of the MLP gets no gradient": ("_add_grad(bias_m, dbias_m)", "bias_m and _add_grad(bias_m, 0 * dbias_m)"),
    "the mask of the branch is forgotten": ("dy = dropout.backward(dy)", "dropout.backward(dy)"),
}
# Of forward: consistent with their own gradients, and another function than the block's.
FORWARD_FAULTS = {
    "a bias is added by its layer, too": (
        "*arguments, with_bias=drops)\n    if",
        "*arguments, with_bias=True)\n    if",
    ),
    "a bias is added again after values were dropped": ("None if drops else getattr(", "getattr("),
    "values of the branch are not dropped": ("y = dropout.forward(y, rng_key)\n    return", "pass\n    return"),
}


@pytest.mark.parametrize("problem", FUSED_BLOCK.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(FUSED_BLOCK, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(FUSED_BLOCK, *FAULTS[fault])


def differs_from_the_block(module, problem):
    """Whether forward of a copy of the module gives other numbers than the block's own."""
    a = FUSED_BLOCK.make(problem)
    block = FUSED_BLOCK.layer(module, a).block.train()
    y, _ = module.fused_block_forward(block.parts(), a.x, a.rng_key)
    return np.abs(y - block.forward(a.x, a.rng_key)).max() > 1e-12


@pytest.mark.parametrize("problem", FUSED_BLOCK.gradcheck, ids=str)
def test_forward_is_that_of_the_block(problem):
    assert not differs_from_the_block(fused_block, problem)


@pytest.mark.parametrize("fault", FORWARD_FAULTS)
def test_faults_of_forward_are_noticed(fault):
    faulty = planted(fused_block, *FORWARD_FAULTS[fault])
    assert any(differs_from_the_block(faulty, problem) for problem in FUSED_BLOCK.gradcheck)


# ------------------------------------------------------------------------------------------------------ whole models

SHAPE = dict(vocab_size=11, context_length=6, n_layer=2, n_head=2, d_model=64)
MODELS = {
    "GPT-2": lambda: minillm.GPT2(minillm.GPT2Config(**SHAPE), seed=1),
    "GPT-2, no biases": lambda: minillm.GPT2(minillm.GPT2Config(**SHAPE, bias=False), seed=1),
    "GPT-2, dropout": lambda: minillm.GPT2(minillm.GPT2Config(**SHAPE, dropout=0.2), seed=1),
    "Llama": lambda: minillm.Llama(minillm.LlamaConfig(**SHAPE), seed=1),
    "Llama, biases": lambda: minillm.Llama(minillm.LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True), seed=1),
}
IDS = np.random.default_rng(0).integers(11, size=(2, 7))
STARTS = np.int32([[0, 0, 2, 2, 2, 2], [0, 1, 1, 1, 4, 4]])


def a_step(model, steps=1, **settings):
    """Loss, gradients by name, and the kernels that ran."""
    kernels = []

    @contextmanager
    def hook(kind, name, arrays):
        kernels.append(name.partition("<")[0])
        yield

    ids = to_device(IDS, model.device)
    with add_hook(hook):
        for _ in range(steps):
            loss = model.loss(ids[:, :-1], ids[:, 1:], rng_key=(0, 1), **settings)
            model.backward()
    return float(loss), {name: to_host(p.grad) for name, p in model.parameters().items() if p.grad is not None}, kernels


def assert_same_gradients(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        error = np.linalg.norm(found[name].astype(float) - expected[name])
        assert error <= tolerance * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize("starts", [None, STARTS], ids=["", "packed"])
@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_of_the_block_that_is_not_fused(name, starts, simulator):
    given = {} if starts is None else {"starts": to_device(starts, "cudasim")}
    make = lambda: randomised(MODELS[name](), 0.2).to("cudasim")  # noqa: E731
    loss, gradients, kernels = a_step(make(), **given)
    try:
        use_kernels(residual_bias=False)
        expected_loss, expected, plain_kernels = a_step(make(), **given)
    finally:
        use_kernels(True)
    operation = "residual_rms_norm" if "Llama" in name else "residual_layer_norm"
    assert [kernels.count(f"{each}_forward") for each in (operation, "residual_bias")] == [2, 2]
    assert not any(kernel.startswith("residual") for kernel in plain_kernels)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same_gradients(gradients, expected, 1e-5)


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_recomputed_blocks_have_the_same_bits(name, simulator):
    model = MODELS[name]().to("cudasim")
    _, kept, _ = a_step(model)
    model.zero_grad()
    model.body.recompute = True
    _, again, kernels = a_step(model)
    assert kernels.count("residual_bias_forward") == 4
    assert all((kept[parameter] == again[parameter]).all() for parameter in kept)


def test_gradients_of_two_parts_add_up(simulator):
    once, twice = (a_step(MODELS["GPT-2"]().to("cudasim"), steps)[1] for steps in (1, 2))
    assert_same_gradients(twice, {name: 2 * grad for name, grad in once.items()}, 1e-6)


def test_nothing_is_kept_for_backward_in_evaluation_mode(simulator):
    model = MODELS["GPT-2"]().to("cudasim").eval()
    assert np.isfinite(float(model.loss(to_device(IDS[:, :-1], "cudasim"), to_device(IDS[:, 1:], "cudasim"))))
    assert all(layer._saved is None for _, layer in model.layers())


# ----------------------------------------------------------------------------------------------- when a block is fused


def fused_blocks(model):
    """How many of the model's two blocks run as one; the model computes what it does on the CPU."""
    loss, gradients, kernels = a_step(model)
    expected_loss, expected, _ = a_step(model.to("cpu"))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_same_gradients(gradients, expected, 1e-4)
    assert kernels.count("residual_bias_backward") == 0  # there is none: bias_backward does it
    return kernels.count("residual_bias_forward")


def with_lora(model):
    add_lora(model.to("cpu"), LoRA(2))
    model.to("cudasim")


class Doubled(MLP):
    """A subclass whose forward takes all arguments: what it does to the bias only it knows."""

    def forward(self, *arguments, **settings):
        return 2 * super().forward(*arguments, **settings)

    def backward(self, dy):
        return super().backward(2 * dy)


def wrapped(layer, name):
    original = getattr(layer, name)
    setattr(layer, name, functools.wraps(original)(lambda *arguments, **settings: original(*arguments, **settings)))


def spread(parameter):
    parameter.value = parameter.value.repeat(2)[::2]


def exchanged_class_method(monkeypatch):
    original = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, *arguments, **settings: original(self, *arguments, **settings))


CHANGES = {
    "as it is": (lambda block: None, 2),
    "LoRA": (lambda block: None, 2),
    "a class of one's own": (lambda block: setattr(block.mlp, "__class__", Doubled), 1),
    "a hook on the second norm": (lambda block: wrapped(block.ln_2, "forward"), 1),
    "a hook on the backward of attention": (lambda block: wrapped(block.attn, "backward"), 1),
    "a hook on a projection": (lambda block: wrapped(block.mlp.c_proj, "forward"), 1),
    "a bias that is not contiguous": (lambda block: spread(block.mlp.c_proj.bias), 2),
    "a hook on dropout": (lambda block: wrapped(block.attn_resid_dropout, "forward"), 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_block_is_not_fused(change, simulator):
    model = randomised(MODELS["GPT-2"](), 0.2).to("cudasim")
    if change == "LoRA":
        with_lora(model)
    change, count = CHANGES[change]
    change(model.transformer.h[0])
    assert fused_blocks(model) == count


def test_an_exchanged_method_of_a_class_is_called(simulator, monkeypatch):
    model = MODELS["GPT-2"]().to("cudasim")
    exchanged_class_method(monkeypatch)
    assert fused_blocks(model) == 0


def test_an_exchanged_residual_sum_is_computed(simulator, monkeypatch):
    original = gpt2.residual_forward

    def forward(x, branch):
        return original(x, 2 * branch)

    def backward(dy, saved):
        return dy, 2 * dy

    monkeypatch.setattr(gpt2, "residual_forward", forward)
    monkeypatch.setattr(gpt2, "residual_backward", backward)
    assert fused_blocks(MODELS["GPT-2"]().to("cudasim")) == 0


def test_a_model_on_the_cpu_is_not_fused():
    assert a_step(MODELS["GPT-2"]())[2].count("residual_bias_forward") == 0


def test_inspection_sees_each_layer(simulator):
    """A row for what each layer computes, as on the CPU."""
    names = []
    for device in ("cpu", "cudasim"):
        model = MODELS["GPT-2"]().to(device)
        names.append([tensor.name for tensor in record(model, IDS[:1, :-1], IDS[:1, 1:]).tensors])
    assert "h.1.ln_2" in names[0] and names[0] == names[1]

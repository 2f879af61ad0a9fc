"""A model that learns from pairs: gradients, faults, the same as PyTorch, changed models, parts of a batch, devices."""

import math
from functools import partial

import changed_models
import numpy as np
import pytest
from planting import assert_close, assert_gradients, planted

import minillm
from minillm.backend.arrays import to_host
from minillm.backend.async_read import no_waits
from minillm.checks.cases import MODELS, PREFERENCE, array, randomised
from minillm.errors import UserError
from minillm.layers.dpo import dpo_backward, dpo_forward
from minillm.models import preference
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.models.preference import PreferenceModel, read_figures

BETA = 0.3

FAULTS = {
    "the gradients of a pair swapped": ("stack([dchosen, drejected]", "stack([drejected, dchosen]"),
    "the policy's own log-probabilities as reference": (
        "reference[:, CHOSEN], reference[:, REJECTED]", "logp[:, CHOSEN], logp[:, REJECTED]"),
    "pairs that are not side by side": ("dlogp.reshape(-1)", "dlogp.T.reshape(-1)"),
}  # fmt: skip


def pairs(count=3, time=6, vocabulary=11):
    """ids, targets (count, 2, time) and reference (count, 2); prompts of two tokens, answers of several lengths."""
    rng = np.random.default_rng(5)
    ids, targets = rng.integers(vocabulary, size=(2, count, 2, time))
    targets[..., :2] = -100
    for pair in range(count):
        targets[pair, pair % 2, time - 1 - pair % 3 :] = -100
    return ids, targets, rng.normal(size=(count, 2)) - 9


def gpt2(dtype="float64", **shape):
    shape = dict(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=32) | shape
    return randomised(minillm.GPT2(minillm.GPT2Config(**shape), dtype=dtype), 0.2)


def gradients(model):
    return {name: np.array(to_host(p.grad)) for name, p in model.parameters().items() if p.grad is not None}


@pytest.mark.parametrize("problem", PREFERENCE.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(PREFERENCE, problem)


def assert_slope(model, given, step=1e-5):
    """The gradient of all parameters together, along one random direction, is that of central differences."""
    model.train().loss(*given)
    model.backward()
    parameters = model.parameters()
    directions = {name: array(name, *parameter.value.shape) for name, parameter in parameters.items()}
    slope = sum((gradient * directions[name]).sum() for name, gradient in gradients(model).items())
    losses = []
    for sign in (1, -1):
        before = {name: parameter.value.copy() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.value += sign * step * directions[name]
        losses.append(float(model.loss(*given)))
        for name, parameter in parameters.items():
            parameter.value[...] = before[name]
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_slope(PreferenceModel(gpt2(), BETA), pairs())
    with pytest.raises(AssertionError):
        assert_slope(planted(preference, *FAULTS[fault]).PreferenceModel(gpt2(), BETA), pairs())


def in_float64(theirs):
    """A model of transformers in float64, with RMS norms that do not compute in float32 in between."""
    import torch

    def norm(module, x):
        return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)

    for module in theirs.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(norm, module)
    return theirs.double().eval()


@pytest.mark.peers
@pytest.mark.parametrize("case", MODELS, ids=str)
def test_pytorch_computes_the_same(tmp_path, case):
    """Loss, rewards and every gradient of the model as transformers has it, with the formula written in PyTorch."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    case.layer(case.module, case.make(case.gradcheck[0])).save_pretrained(tmp_path)
    model = PreferenceModel(minillm.from_pretrained(tmp_path, "float64"), BETA, label_smoothing=0.1).train()
    theirs = in_float64(transformers.AutoModelForCausalLM.from_pretrained(tmp_path))
    ids, targets, reference = pairs(vocabulary=5)

    labels = torch.tensor(targets).flatten(0, 1)
    scores = theirs(torch.tensor(ids).flatten(0, 1)).logits.log_softmax(-1)
    of_targets = scores.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rewards = BETA * (torch.where(labels == -100, 0, of_targets).sum(-1).reshape(-1, 2) - torch.tensor(reference))
    margins = rewards[:, 0] - rewards[:, 1]
    log_sigmoid = torch.nn.functional.logsigmoid
    expected = -(0.9 * log_sigmoid(margins) + 0.1 * log_sigmoid(-margins)).mean()
    expected.backward()

    loss = model.loss(ids, targets, reference)
    model.backward()
    figures = read_figures(model.figures, len(ids))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    assert figures.chosen_reward == pytest.approx(rewards[:, 0].mean().item(), rel=1e-6)
    assert figures.rejected_reward == pytest.approx(rewards[:, 1].mean().item(), rel=1e-6)
    assert figures.margin == pytest.approx(margins.mean().item(), rel=1e-6)
    assert figures.accuracy == pytest.approx((margins > 0).double().mean().item())
    found, wanted = gradients(model), dict(theirs.named_parameters())
    for name, gradient in found.items():
        assert_close(gradient, wanted[name].grad.numpy(), 1e-6)


def test_without_labels_smoothed_in_evaluation():
    """A loss to compare is that of the pairs as they are."""
    given, model = pairs(), gpt2()
    assert PreferenceModel(model, BETA, 0.2).eval().loss(*given) == PreferenceModel(model, BETA).eval().loss(*given)
    assert PreferenceModel(model, BETA, 0.2).train().loss(*given) != PreferenceModel(model, BETA).loss(*given)


def test_a_model_that_is_its_own_reference_pays_log_2():
    ids, targets, _ = pairs()
    model = PreferenceModel(gpt2(), BETA)
    reference = model.eval().forward(ids, targets)
    assert float(model.loss(ids, targets, reference)) == pytest.approx(math.log(2), rel=1e-15)
    assert read_figures(model.figures, 3)[:4] == (0.5, 0, 0, 0)
    assert read_figures(model.figures, 3)[4:] == pytest.approx(reference.mean(axis=0))


def test_parts_of_a_batch_add_up():
    """As data parallelism cuts it: loss, figures and gradients are sums over the parts."""
    given, whole, parts = pairs(), PreferenceModel(gpt2(), BETA), PreferenceModel(gpt2(), BETA)
    loss = whole.loss(*given)
    whole.backward()
    losses, figures = 0, 0
    for rows in (slice(0, 1), slice(1, 3)):
        losses = losses + parts.loss(*(each[rows] for each in given), count=3)
        figures = figures + parts.figures
        parts.backward()
    assert_close(losses, loss)
    assert_close(figures, whole.figures)
    for name, gradient in gradients(parts).items():
        assert_close(gradient, gradients(whole)[name])


def test_a_replica_shares_the_weights():
    model = PreferenceModel(gpt2(), BETA, 0.1)
    copy = model.replica()
    assert (copy.beta, copy.label_smoothing) == (BETA, 0.1)
    for name, parameter in copy.parameters().items():
        assert parameter is not model.parameters()[name] and parameter.value is model.parameters()[name].value


@pytest.mark.parametrize("make", ["overridden_forward", "added_layer", "exchanged_method", "own_head"])
def test_changed_models_learn_from_what_they_compute(make):
    """log_probabilities are those of forward's logits, and gradients those of the changed model."""
    model = getattr(changed_models, make)()
    ids, targets, reference = pairs(vocabulary=changed_models.VOCABULARY)
    rows = ids.reshape(6, 6), targets.reshape(6, 6)
    logits = model.eval().forward(rows[0])
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [
        sum(logp[b, t, target] for t, target in enumerate(row) if target != -100) for b, row in enumerate(rows[1])
    ]
    assert_close(model.log_probabilities(*rows)[0], np.array(expected))
    assert_slope(PreferenceModel(model, BETA), (ids, targets, reference))


def test_a_head_with_a_bias():
    model = gpt2(d_model=4)
    model.lm_head = minillm.Linear(model.lm_head.weight, np.linspace(-1, 1, 11), transposed=True)
    assert_slope(PreferenceModel(model, BETA), pairs())


def test_lora_changes_only_its_matrices():
    model = gpt2()
    add_lora(model, LoRA(2), seed=0)
    preference = PreferenceModel(model, BETA)
    preference.loss(*pairs())
    preference.backward()
    assert set(gradients(model)) == set(model.trainable_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_device(dtype, simulator):
    """Kernels in the simulator give what NumPy gives in float64, and the host waits for no number."""
    given = pairs(count=2)
    exact = PreferenceModel(gpt2(n_head=1), BETA)
    expected = exact.loss(*given)
    exact.backward()
    model = PreferenceModel(gpt2(dtype, n_head=1).to("cudasim"), BETA)
    with no_waits():
        loss = model.loss(*given)
        model.backward()
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    assert float(loss) == pytest.approx(float(expected), rel=tolerance)
    for name, gradient in gradients(exact.model).items():
        assert_close(gradients(model.model)[name], gradient, 10 * tolerance)


def test_dropout_needs_the_key_of_the_step_and_draws_from_it():
    ids, targets, reference = pairs()
    model = PreferenceModel(gpt2(dropout=0.3), BETA)
    losses = [float(model.loss(ids, targets, reference, rng_key=(0, step))) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    with pytest.raises(ValueError, match="key"):
        model.loss(ids, targets, reference)


def test_backward_follows_a_loss():
    model = PreferenceModel(gpt2(), BETA)
    with pytest.raises(RuntimeError, match="backward has nothing to work from"):
        model.backward()


@pytest.mark.parametrize("cut", [lambda ids: ids[0], lambda ids: ids[:, :1], lambda ids: ids[..., :3]])
def test_other_shapes_are_refused(cut):
    ids, targets, reference = pairs()
    with pytest.raises(UserError, match="of shape"):
        PreferenceModel(gpt2(), BETA).loss(cut(ids), targets, reference)


def test_the_gradient_is_that_of_the_loss_through_the_log_probabilities():
    """The two halves by themselves: what dpo.py gives is handed to the model, chosen and rejected in turn."""
    ids, targets, reference = pairs()
    whole, model = PreferenceModel(gpt2(), BETA), gpt2()
    whole.loss(ids, targets, reference)
    whole.backward()
    logp, scored = model.log_probabilities(ids.reshape(6, 6), targets.reshape(6, 6))
    _, saved = dpo_forward(logp[::2], logp[1::2], reference[:, 0], reference[:, 1], BETA)
    model.backward_log_probabilities(np.ravel(np.stack(dpo_backward(1.0, saved), axis=1)), scored)
    for name, gradient in gradients(model).items():
        assert_close(gradient, gradients(whole)[name])

"""A packed row is its conversations, each run alone: losses, gradients, and nothing across a border."""

import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.arrays import to_host
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.kernels.simulator import compiler_available
from minillm.layers import attention, documents
from minillm.layers.documents import packed_starts
from minillm.models import gpt2
from minillm.models.fine_tuning import LoRA, add_lora

SHAPE = dict(vocab_size=11, context_length=12, n_layer=2, n_head=4, d_model=16)
LLAMA = SHAPE | dict(n_kv_head=2, head_dim=4, rope_theta=50.0)
KINDS = {
    "gpt2": (minillm.GPT2, minillm.GPT2Config(**SHAPE)),
    "llama": (minillm.Llama, minillm.LlamaConfig(**LLAMA)),
    "interleaved": (minillm.Llama, minillm.LlamaConfig(**LLAMA, rope_interleaved=True)),
    "qwen2": (minillm.Qwen2, minillm.Qwen2Config(**LLAMA)),
    "qwen3": (minillm.Qwen3, minillm.Qwen3Config(**LLAMA)),
    "mistral": (minillm.Mistral, minillm.MistralConfig(**LLAMA, sliding_window=3)),
}
LENGTHS = [[4, 2, 5], [12], [1, 7, 3]]  # of conversations in three rows of 12 tokens; the rest is padding
IDS, TARGETS = (stream("packed rows", name).integers(11, (3, 12)) for name in ("ids", "targets"))
STARTS = np.stack([packed_starts(lengths, 12) for lengths in LENGTHS])
for _row, _lengths in enumerate(LENGTHS):
    TARGETS[_row, sum(_lengths) :] = -100
TARGETS[0, 1] = TARGETS[2, 4] = -100  # a question, say


def model_of(name):
    kind, config = KINDS[name]
    return randomised(kind(config, seed=0, dtype="float64"), 0.3).train()


def gradients(model):
    found = {name: parameter.grad for name, parameter in model.parameters().items()}
    model.zero_grad()
    return {name: grad.copy() for name, grad in found.items()}


def packed(model, starts=STARTS):
    loss = model.loss(IDS, TARGETS, starts=starts)
    model.backward()
    return float(loss), gradients(model)


def alone(model):
    """Each conversation in a batch of its own: the sums of losses and gradients, by the count of all."""
    loss, total, count = 0.0, {}, int((TARGETS != -100).sum())
    for row, first, last in conversations():
        part = slice(row, row + 1), slice(first, last)
        loss += float(model.loss(IDS[part], TARGETS[part], count=count))
        model.backward()
        for name, grad in gradients(model).items():
            total[name] = total.get(name, 0) + grad
    return loss, total


def conversations():
    for row, lengths in enumerate(LENGTHS):
        for length, last in zip(lengths, np.cumsum(lengths)):
            yield row, last - length, last


@pytest.fixture(params=[2, 128])
def block(request, monkeypatch):
    """Queries whose scores exist at a time: several blocks, and one."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", request.param)


def agree(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    for name, grad in expected[1].items():
        assert_close(found[1][name], grad)


@pytest.mark.parametrize("name", KINDS)
def test_a_packed_row_is_its_conversations(name, block):
    agree(packed(model_of(name)), alone(model_of(name)))


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_a_packed_row_is_its_conversations_recomputed(name):
    model = model_of(name)
    model.body.recompute = True
    agree(packed(model), alone(model_of(name)))


def test_a_packed_row_is_its_conversations_with_lora():
    model = model_of("llama")
    add_lora(model, LoRA(rank=2))
    for parameter in model.trainable_parameters().values():
        parameter.value[...] = stream("lora", *parameter.value.shape).normal(parameter.value.shape)
    loss = model.loss(IDS, TARGETS, starts=STARTS)
    model.backward()
    found = {name: parameter.grad.copy() for name, parameter in model.trainable_parameters().items()}
    model.zero_grad()
    total, count = 0.0, int((TARGETS != -100).sum())
    for row, first, last in conversations():
        total += float(model.loss(IDS[row : row + 1, first:last], TARGETS[row : row + 1, first:last], count=count))
        model.backward()
    assert float(loss) == pytest.approx(total, rel=1e-12)
    for name, parameter in model.trainable_parameters().items():
        assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_replica_takes_starts(name):
    model = model_of(name)
    agree(packed(model.replica().train()), packed(model))


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_the_conversations(name):
    model = model_of(name).eval()
    logits = model.forward(IDS, starts=STARTS)
    for row, first, last in conversations():
        assert_close(logits[row : row + 1, first:last], model.forward(IDS[row : row + 1, first:last]))


@pytest.mark.parametrize("name", ["llama", "interleaved", "qwen3", "mistral"])
def test_rotated_positions_need_not_begin_at_0(name):
    """Scores depend on differences of positions: a row moved to the right, behind another document, has the same logits."""
    model, ids = model_of(name).eval(), IDS[:1, :5]
    for before in (1, 3, 7):
        row = np.concatenate([IDS[1:2, :before], ids], axis=1)
        logits = model.forward(row, starts=packed_starts([before, 5], before + 5)[None])
        assert_close(logits[:, before:], model.forward(ids))


@pytest.mark.parametrize("name", KINDS)
def test_nothing_comes_across_a_border(name, block):
    """The embedding gradient of a conversation from the loss of another one is exactly 0, and so is what a change does."""
    model = model_of(name)
    body = model.body
    embedding = body.wte if name == "gpt2" else body.embed_tokens
    seen = []
    embedding.backward = seen.append
    for row, first, last in conversations():
        targets = np.full_like(TARGETS, -100)
        targets[row, first:last] = TARGETS[row, first:last]
        loss = model.loss(IDS, targets, starts=STARTS)
        model.backward()
        model.zero_grad()
        dx = seen.pop().copy()
        assert dx[row, first:last].any()
        dx[row, first:last] = 0
        assert not dx.any()
        others = (IDS + 1) % 11
        others[row, first:last] = IDS[row, first:last]
        assert model.loss(others, targets, starts=STARTS) == loss


def test_finite_differences_across_a_border_are_0():
    """Of the loss of the second conversation, by every number of the embeddings of ids that only the first one has."""
    model = model_of("gpt2")
    ids, targets = np.array([[7, 8, 9, 1, 2, 3]]), np.array([[-100, -100, -100, 2, 3, 4]])
    starts = packed_starts([3, 3], 6)[None]
    weight = model.transformer.wte.weight.value
    model.lm_head.weight = type(model.lm_head.weight)(weight.copy())  # untied: the head has numbers of its own
    loss = model.loss(ids, targets, starts=starts)
    for token in (7, 8, 9):
        for channel in range(weight.shape[1]):
            before = weight[token, channel]
            for step in (1e-3, -1e-3):
                weight[token, channel] = before + step
                assert model.loss(ids, targets, starts=starts) == loss
                assert model.loss(ids, targets) != loss  # without starts it does matter
            weight[token, channel] = before


# -------------------------------------------------------------------------------------------------------------- faults


def differs(model, expected):
    with np.errstate(invalid="ignore"):
        loss, found = packed(model)
    same = loss == pytest.approx(expected[0], rel=1e-9)
    return not same or any(np.abs(found[name] - grad).max() > 1e-9 for name, grad in expected[1].items())


ALONE = "the conversations run alone"
FAULTS = {
    "positions do not begin anew": ("device_of(ids)) - starts", "device_of(ids)) - 0 * starts", ALONE),
    "positions count from 1": (
        "device_of(ids)) - starts",
        "device_of(ids)) - starts + (starts > 0)",
        ALONE,
    ),
    "blocks get no starts": ("self.training, starts, self.sections)", "self.training, None, self.sections)", ALONE),
    "attention gets no starts": (
        "(self.attn, n, rng_key, starts)\n        forget_output(",
        "(self.attn, n, rng_key, None)\n        forget_output(",
        ALONE,
    ),
    "gradients of positions summed as if they were equal": ("dx if is_packed else dx.sum(", "dx.sum(", ALONE),
}


@pytest.mark.parametrize("right, wrong, by", FAULTS.values(), ids=FAULTS)
def test_faults_are_noticed(right, wrong, by):
    faulty = planted(gpt2, right, wrong)
    kind, config = faulty.GPT2, faulty.GPT2Config(**SHAPE)
    model = randomised(kind(config, seed=0, dtype="float64"), 0.3).train()
    expected = alone(model_of("gpt2"))
    try:
        assert differs(model, expected)
    except IndexError:  # of arrays that do not fit
        assert "dx" in right


def test_a_recomputed_block_without_starts_is_noticed(monkeypatch):
    model = model_of("gpt2")
    model.body.recompute = True
    assert not differs(model, alone(model_of("gpt2")))
    original, calls = documents.forward_with, []

    def forgetting(layer, x, rng_key, starts):
        calls.append(1)
        return original(layer, x, rng_key, starts if len(calls) <= 2 else None)  # the second forward of a block

    monkeypatch.setattr("minillm.layers.recompute.forward_with", forgetting)
    assert differs(model, alone(model_of("gpt2")))


@pytest.mark.skipif(not compiler_available(), reason="the simulator needs a C++ compiler (apt install g++)")
@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_kernels_have_packed_rows(name):
    """Loss and gradients on the simulator's arrays are those of NumPy."""
    results = []
    for device in ("cpu", "cudasim"):
        kind, config = KINDS[name]
        model = randomised(kind(config, seed=0, dtype="float32"), 0.3).to(device).train()
        loss = model.loss(IDS, TARGETS, starts=STARTS)
        model.backward()
        results.append((float(loss), {key: to_host(parameter.grad) for key, parameter in model.parameters().items()}))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    for key, gradient in results[0][1].items():
        assert_close(results[1][1][key], gradient, 1e-4)

import math

import numpy as np
import pytest
from planting import assert_close

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.models.presets import PRESETS

SMALL = dict(vocab_size=11, context_length=8, n_layer=2, n_head=2, d_model=8)
IDS, TARGETS = (stream("test", name).integers(11, (3, 8)) for name in ("ids", "targets"))


def count(preset, vocab_size):
    """The number of parameters, by arithmetic: token and position table, 12 C^2 + 13 C a block, the last norm."""
    c, layers, context = (PRESETS[preset].model[name] for name in ("d_model", "n_layer", "context_length"))
    return (vocab_size + context) * c + layers * (12 * c * c + 13 * c) + 2 * c


def test_124_million_parameters():
    config = minillm.GPT2Config(**PRESETS["gpt2"].model)
    model = minillm.GPT2(config, seed=None)
    total = sum(parameter.value.size for parameter in model.parameters().values())
    assert total == count("gpt2", 50257) == 124_439_808


@pytest.mark.parametrize(
    "preset, total", [("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)]
)
def test_siblings(preset, total):
    assert count(preset, 50257) == total


def test_names_are_hugging_faces():
    names = list(minillm.GPT2(minillm.GPT2Config(**SMALL)).parameters())
    block = [
        "ln_1.weight",
        "ln_1.bias",
        "attn.c_attn.weight",
        "attn.c_attn.bias",
        "attn.c_proj.weight",
        "attn.c_proj.bias",
    ]
    block += ["ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"]
    expected = [
        "wte.weight",
        "wpe.weight",
        *(f"h.{i}.{name}" for i in range(2) for name in block),
        "ln_f.weight",
        "ln_f.bias",
    ]
    assert names == [f"transformer.{name}" for name in expected]
    untied = minillm.GPT2(minillm.GPT2Config(**SMALL, tie_embeddings=False, bias=False)).parameters()
    assert list(untied)[-1] == "lm_head.weight" and not any(name.endswith("bias") for name in untied)


def test_initial_weights():
    model = minillm.GPT2(
        minillm.GPT2Config(vocab_size=500, context_length=100, n_layer=8, n_head=2, d_model=128), seed=3
    )
    for name, parameter in model.parameters().items():
        value = parameter.value
        assert value.dtype == np.float32
        if name.endswith("bias"):
            assert (value == 0).all()
        elif value.ndim == 1:
            assert (value == 1).all()
        else:
            std = 0.02 / 4 if "c_proj" in name else 0.02  # sqrt(2 * 8 layers) = 4
            assert abs(value.std() / std - 1) < 5 / math.sqrt(2 * value.size)
            assert abs(value.mean()) < 5 * std / math.sqrt(value.size)


def test_the_seed_decides():
    def weights(seed):
        return minillm.GPT2(minillm.GPT2Config(**SMALL), seed=seed).parameters()["transformer.wte.weight"].value

    assert (weights(1) == weights(1)).all() and (weights(1) != weights(2)).all()


def test_loss_before_training_is_that_of_a_uniform_prediction():
    model = minillm.GPT2(minillm.GPT2Config(**{**SMALL, "vocab_size": 65}), seed=0)
    assert float(model.loss(IDS, TARGETS)) == pytest.approx(math.log(65), rel=0.01)


def test_loss_is_that_of_the_logits():
    model = randomised(minillm.GPT2(minillm.GPT2Config(**SMALL), seed=0, dtype="float64")).eval()
    logits = model.forward(IDS)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -np.take_along_axis(log_p, TARGETS[..., None], axis=-1).mean()
    assert float(model.loss(IDS, TARGETS)) == pytest.approx(expected, rel=1e-12)
    assert_close(model.next_token_logits(IDS), logits[:, -1])


def test_backward_from_logits_equals_backward_from_the_loss():
    model = randomised(minillm.GPT2(minillm.GPT2Config(**SMALL), seed=0, dtype="float64"))
    model.loss(IDS, TARGETS)
    model.backward()
    expected = {name: parameter.grad.copy() for name, parameter in model.parameters().items()}
    model.zero_grad()
    logits = model.forward(IDS)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    model.backward((p - np.eye(11)[TARGETS]) / TARGETS.size)
    for name, parameter in model.parameters().items():
        assert_close(parameter.grad, expected[name])


def test_later_tokens_do_not_change_earlier_logits():
    model = randomised(minillm.GPT2(minillm.GPT2Config(**SMALL), seed=0)).eval()
    changed = IDS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    assert (model.forward(changed)[:, :5] == model.forward(IDS)[:, :5]).all()
    assert (model.forward(changed)[:, 5:] != model.forward(IDS)[:, 5:]).any()


def test_overfits_one_batch():
    model = minillm.GPT2(minillm.GPT2Config(**{**SMALL, "d_model": 32}), seed=0)
    optimizer = minillm.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        loss = model.loss(IDS, TARGETS)
        model.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.01


def test_accumulated_gradients_are_those_of_the_large_batch():
    model = randomised(minillm.GPT2(minillm.GPT2Config(**SMALL), seed=0, dtype="float64"))
    model.loss(IDS, TARGETS)
    model.backward()
    expected = {name: parameter.grad.copy() for name, parameter in model.parameters().items()}
    model.zero_grad()
    for row in range(3):
        model.loss(IDS[row : row + 1], TARGETS[row : row + 1], count=TARGETS.size)
        model.backward()
    for name, parameter in model.parameters().items():
        assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize(
    "ids, message",
    [
        (np.array([[0, 11]]), r"ids\[0, 1\] is 11, outside the vocabulary of 11 tokens"),
        (np.array([[0, -1]]), r"ids\[0, 1\] is -1"),
        (np.zeros((1, 9), int), "9 tokens are more than the model's context_length of 8"),
        (np.zeros((1, 2)), "must be whole numbers"),
        (np.zeros(2, int), r"of shape \(B, T\)"),
    ],
)
def test_wrong_ids(ids, message):
    with pytest.raises(UserError, match=message):
        minillm.GPT2(minillm.GPT2Config(**SMALL)).forward(ids)


@pytest.mark.parametrize(
    "targets", [np.zeros((2, 3), int), np.zeros((1, 4), int), np.zeros((4, 2), int), np.zeros(8, int)]
)
def test_ids_and_targets_of_different_shapes(targets):
    with pytest.raises(
        UserError, match="ids have shape (2, 4), targets ".replace("(", r"\(").replace(")", r"\)")
    ) as caught:
        minillm.GPT2(minillm.GPT2Config(**SMALL)).loss(np.zeros((2, 4), int), targets)
    assert str(targets.shape) in str(caught.value)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(d_model=10, n_head=3), r"d_model \(10\) is not divisible by n_head \(3\).*use d_model 9 or 12"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(dropout=-0.1), "dropout is -0.1"),
        (dict(n_layer=0), "n_layer is 0"),
        (dict(activation="relu"), 'activation is "relu"'),
    ],
)
def test_impossible_shapes(fields, message):
    with pytest.raises(UserError, match=message):
        minillm.GPT2Config(**{**SMALL, **fields})


@pytest.mark.peers
@pytest.mark.parametrize(
    "tied, bias, activation", [(True, True, "gelu_new"), (False, True, "gelu"), (True, False, "gelu_new")]
)
def test_transformers_computes_the_same(tmp_path, tied, bias, activation):
    """Logits, loss and every gradient of the model that `transformers` opens from what we saved."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = minillm.GPT2Config(**SMALL, bias=bias, tie_embeddings=tied, activation=activation)
    model = randomised(minillm.GPT2(config, seed=0), 0.2)
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert_close(model.forward(IDS), theirs(torch.tensor(IDS)).logits.detach().numpy(), 1e-6)
    logits = theirs(torch.tensor(IDS)).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGETS).flatten()).backward()
    model.loss(IDS, TARGETS)
    model.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.parameters().items():
        assert_close(parameter.grad, gradients[name].numpy(), 1e-5)


def test_a_model_is_made_from_its_configuration():
    with pytest.raises(UserError, match="GPT2 takes a GPT2Config, not 65"):
        minillm.GPT2(65)
    with pytest.raises(UserError, match="the model is a str: give one that minillm.from_pretrained opened"):
        list(minillm.generate("runs/default-1", [[1]], 3))

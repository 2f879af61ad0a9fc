import json

import numpy as np
import pytest
from planting import assert_close
from safetensors.numpy import load_file, save_file

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import KEY, array, randomised
from minillm.checks.gradcheck import gradcheck
from minillm.errors import UserError
from minillm.generation.decoder import Decoder
from minillm.models.fine_tuning import EXTENSIONS, LoRA, add_lora, freeze, merged, with_settings
from minillm.pretrained.adapter import save_adapter
from minillm.training.data_parallel import DataParallel

IDS, TARGETS = (stream("test", name).integers(7, (2, 5)) for name in ("ids", "targets"))
KINDS = {"gpt2": (minillm.GPT2, minillm.GPT2Config), "llama": (minillm.Llama, minillm.LlamaConfig)}


def make(kind, dtype="float64", **fields):
    model_class, config_class = KINDS[kind]
    fields = dict(vocab_size=7, context_length=6, n_layer=2, n_head=2, d_model=8, tie_embeddings=True) | fields
    return randomised(model_class(config_class(**fields), seed=0, dtype=dtype))


def adapted(kind, rank=2, **fields):
    """A model with a LoRA whose B is no longer zero."""
    model = make(kind, **fields)
    add_lora(model, LoRA(rank))
    for name, parameter in model.trainable_parameters().items():
        parameter.value[...] = 0.3 * array(name, *parameter.value.shape)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    report = gradcheck(adapted(kind, dropout=0.2), IDS, TARGETS, rng_key=KEY)
    names = {row.tensor for row in report.rows}
    layers = {"gpt2": 4, "llama": 7}[kind]
    assert len(names) == 2 * 2 * layers and all("lora_" in name for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_lora_starts_as_the_model_was_and_merges_as_it_became(kind):
    model = make(kind).eval()
    expected = model.forward(IDS)
    add_lora(model, LoRA(2))
    assert (model.forward(IDS) == expected).all()
    model = adapted(kind).eval()
    changed = model.forward(IDS)
    assert np.abs(changed - expected).max() > 0.1
    plain = merged(model)
    assert plain.lora is None and not any("lora" in name for name in plain.parameters())
    assert_close(plain.forward(IDS), changed)
    assert_close(Decoder(model).read(IDS), changed[:, -1])
    assert_close(model.replica().forward(IDS), changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_says_what_it_is(kind):
    """Its configuration, how many numbers it has, how many of them are trained, and where they are kept."""
    model = make(kind)
    shapes = {name: parameter.value.shape for name, parameter in model.parameters().items()}
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    name = type(model).__name__
    assert repr(model) == f"{name}({model.config!r}, {count:,} parameters, float64 on cpu)"
    add_lora(model, LoRA(rank=2))
    more = sum(parameter.value.size for parameter in model.trainable_parameters().values())
    assert f", {count + more:,} parameters, of which {more:,} are trained, float64 on cpu)" in repr(model)


@pytest.mark.parametrize("kind", KINDS)
def test_only_lora_learns(kind):
    model = adapted(kind, dtype="float32").train()
    before = {name: parameter.value.copy() for name, parameter in model.parameters().items()}
    optimizer = minillm.AdamW(model.trainable_parameters(), lr=0.05, weight_decay=0.0)
    losses = []
    with DataParallel(model, 2) as parallel:
        for _ in range(60):
            losses.append(parallel.loss_and_gradients(IDS, TARGETS))
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in model.parameters().items():
        assert (parameter.value == before[name]).all() == ("lora_" not in name), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_in_its_folder(tmp_path, kind):
    base = make(kind, dtype="float32").eval()
    base.save_pretrained(tmp_path / "base")
    model = adapted(kind, dtype="float32").eval()
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    opened = minillm.from_pretrained(tmp_path / "adapter")
    assert_close(opened.forward(IDS), model.forward(IDS), 1e-6)
    assert_close(minillm.from_pretrained(tmp_path / "base").forward(IDS), base.forward(IDS), 1e-7)
    model.save_pretrained(tmp_path / "whole")
    assert_close(minillm.from_pretrained(tmp_path / "whole").forward(IDS), model.forward(IDS), 1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(r=10**9), "not a LoRA"),
        (dict(peft_type="IA3"), "not a LoRA"),
        (dict(lora_alpha="2"), "lora_alpha is '2'"),
        (dict(use_dora=True), "does not compute use_dora"),
        (dict(r=3), "has shape"),
        (dict(base_model_name_or_path=3), "does not name a model"),
        (dict(base_model_name_or_path="/nowhere/at/all"), "is not a folder"),
    ],
)
def test_adapters_that_cannot_be_opened(tmp_path, change, message):
    make("llama", dtype="float32").save_pretrained(tmp_path / "base")
    save_adapter(adapted("llama", dtype="float32"), tmp_path, str(tmp_path / "base"))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(tmp_path)


def test_an_adapter_of_another_model(tmp_path):
    make("llama", dtype="float32").save_pretrained(tmp_path / "base")
    save_adapter(adapted("llama", dtype="float32"), tmp_path, str(tmp_path / "base"))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(tensors | {"strange": np.zeros(3, np.float32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="tensor strange does not belong to a LoRA of this model"):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters_get_no_gradient_and_the_others_theirs(kind):
    model = make(kind, bias=True) if kind == "gpt2" else make(kind, attention_bias=True)
    model.loss(IDS, TARGETS)
    model.backward()
    expected = {name: parameter.grad for name, parameter in model.parameters().items()}
    for pattern in ("*.0.*", "*weight", "*wte*" if kind == "gpt2" else "*embed*", "*bias"):
        model.zero_grad()
        for parameter in model.parameters().values():
            parameter.frozen = False
        freeze(model, [pattern])
        model.loss(IDS, TARGETS)
        model.backward()
        frozen = 0
        for name, parameter in model.parameters().items():
            frozen += parameter.frozen
            if parameter.frozen:
                assert parameter.grad is None, name
            else:
                assert_close(parameter.grad, expected[name])
        assert 0 < frozen < len(expected)


def test_patterns_that_cannot_be_meant():
    with pytest.raises(
        UserError, match='"wte" matches no parameter of the model; they are named transformer.wte.weight'
    ):
        freeze(make("gpt2"), ["wte"])
    with pytest.raises(UserError, match="every parameter is frozen"):
        freeze(make("gpt2"), ["*"])
    with pytest.raises(UserError, match="rank of LoRA is 0"):
        LoRA(0)


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_a_longer_context_by_rotary_scaling(kind, tmp_path):
    model = make("llama").eval()
    longer = with_settings(model, kind, context_length=12)
    scaling = longer.config.rope_scaling
    assert (scaling.rope_type, scaling.factor, longer.config.context_length) == (kind, 2.0, 12)
    assert getattr(scaling, "original_max_position_embeddings", 6) == 6
    assert longer.forward(np.tile(IDS, 2)).shape[1] == 2 * IDS.shape[1]
    assert (np.abs(longer.forward(IDS) - model.forward(IDS)).max() < 1e-12) == (kind == "dynamic")
    longer.save_pretrained(tmp_path)
    assert minillm.from_pretrained(tmp_path).config == longer.config


@pytest.mark.parametrize(
    "kind, extend_with, fields, message",
    [
        (
            "llama",
            "",
            dict(context_length=12),
            "made for 6 tokens; --extend-with yarn gives it a rotary scaling for more",
        ),
        ("llama", "longrope", dict(context_length=12), '"longrope": use one of linear, dynamic, yarn, llama3'),
        ("llama", "yarn", {}, "say the longer context by --context-length; the model was made for 6 tokens"),
        ("llama", "yarn", dict(context_length=6), "say the longer context by --context-length"),
        ("gpt2", "yarn", dict(context_length=12), "has a table of positions, and no rotary embedding to scale"),
    ],
)
def test_a_longer_context_that_cannot_be(kind, extend_with, fields, message):
    with pytest.raises(UserError, match=message):
        with_settings(make(kind), extend_with, **fields)


def test_a_model_is_extended_once():
    longer = with_settings(make("llama"), "yarn", context_length=12)
    with pytest.raises(UserError, match="has a rotary scaling already, yarn"):
        with_settings(longer, "linear", context_length=24)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_context(kind):
    model = make(kind).eval()
    shorter = with_settings(model, context_length=4, dropout=None)
    assert shorter.config.context_length == 4 and not shorter.training
    assert_close(shorter.forward(IDS[:, :4]), model.forward(IDS[:, :4]))
    with pytest.raises(UserError, match="--context-length 7: the model was made for 6 tokens"):
        with_settings(model, context_length=7)

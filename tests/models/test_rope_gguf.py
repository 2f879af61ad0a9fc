"""Rotary scaling in GGUF files: keys and tables as llama.cpp reads and writes them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from model_files import LLAMA, write_gguf

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.layers.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    TableScaling,
    YarnScaling,
    yarn_amplitude,
)
from minillm.models.architectures import ARCHITECTURES, make_model
from minillm.models.rope_gguf import rope_to_gguf, scaling_of_table

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
D = LLAMA.head_dim
PAIRS, P = D // 2, 16
THETA = 10000.0 ** (-2 * np.arange(PAIRS) / D)
SHORT, LONG = tuple(np.linspace(1, 2, PAIRS).tolist()), tuple(np.linspace(1, 9, PAIRS).tolist())
IDS = stream("test", "ids").integers(300, (2, 30))


def model_of(scaling, context=64):
    return randomised(minillm.Llama(replace(LLAMA, rope_scaling=scaling, context_length=context), seed=1), 0.3).eval()


def opened(tmp_path, keys, tensors=None, context=64, arch="llama", scaling=None):
    """A file with these keys beside those of the model, and its configuration."""

    def change(writer):
        for name, value in keys.items():
            add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool}
            add[type(value)](f"{arch}.{name}", value)
        for name, value in (tensors or {}).items():
            writer.add_tensor(name, np.asarray(value, np.float32))

    return minillm.from_pretrained(write_gguf(tmp_path / "m.gguf", model_of(scaling, context), change=change))


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": P}
TABLES = {"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG}

# keys and tensors of a file -> the scaling
READ = {
    "yarn": (YARN, {}, YarnScaling(4.0, P)),
    "yarn of an older file": ({"rope.scaling.type": "yarn", "rope.scale_linear": 4.0}, {}, YarnScaling(4.0, 64)),
    "yarn with fields": (
        YARN | {f"rope.scaling.yarn_{name}": value for name, value in (
            ("attn_factor", 1.5), ("beta_fast", 8.0), ("beta_slow", 2.0), ("ext_factor", 1.0))}, {},
        YarnScaling(4.0, P, 1.5, 8.0, 2.0)),
    "yarn times an amplitude": (
        YARN | {"rope.scaling.attn_factor": 1.5}, {}, YarnScaling(4.0, P, 1.5 * yarn_amplitude(4.0))),
    "yarn on a table": (YARN, {"rope_freqs.weight": np.full(PAIRS, 2.0)}, TableScaling(
        tuple((THETA / YarnScaling(4.0, P).stretched(THETA / 2, 10000.0, 64)).tolist()), yarn_amplitude(4.0))),
    "linear times an amplitude": (
        {"rope.scaling.factor": 2.0, "rope.scaling.attn_factor": 1.5}, {}, TableScaling((2.0,) * PAIRS, 1.5)),
    "longrope": ({"rope.scaling.type": "longrope", "rope.scaling.attn_factor": 1.25,
                  "rope.scaling.original_context_length": P}, TABLES, LongRopeScaling(SHORT, LONG, P, attention_factor=1.25)),
    "longrope without a type, as Phi-3": (
        {"rope.scaling.original_context_length": P, "rope.scaling.attn_factor": 1.25}, TABLES,
        LongRopeScaling(SHORT, LONG, P, attention_factor=1.25)),
    "longrope of one list": ({"rope.scaling.type": "longrope"}, {name: LONG for name in TABLES}, TableScaling(LONG)),
    "proportional": ({}, {"rope_freqs.weight": [1.0] * 2 + [1e30] * (PAIRS - 2)}, ProportionalScaling(2 / PAIRS)),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_keys_and_tables(tmp_path, name):
    keys, tensors, scaling = READ[name]
    model = opened(tmp_path, keys, tensors)
    found = model.config.rope_scaling
    for field in ("factors", "short_factor", "long_factor"):  # float32 in the file
        if hasattr(scaling, field):
            np.testing.assert_allclose(getattr(found, field), getattr(scaling, field), rtol=1e-6)
            found, scaling = (replace(each, **{field: (1.0,) * PAIRS}) for each in (found, scaling))
    assert type(found) is type(scaling) and found.amplitude == pytest.approx(scaling.amplitude, rel=1e-6)
    assert replace(found, **amplitude_of(scaling)) == scaling
    expected = model_of(READ[name][2])
    np.testing.assert_allclose(model.forward(IDS), expected.forward(IDS), atol=1e-5)
    assert np.abs(model.forward(IDS) - model_of(None).forward(IDS)).max() > 1e-3


def amplitude_of(scaling):
    return {"attention_factor": scaling.attention_factor} if hasattr(scaling, "attention_factor") else {}


def test_yarn_on_a_model_that_kept_its_context(tmp_path):
    """As Qwen 2.5's: the context is then the factor times the original one."""
    assert opened(tmp_path, YARN, context=P).config.context_length == 4 * P
    assert opened(tmp_path, YARN, context=3 * P).config.context_length == 3 * P


@pytest.mark.parametrize(
    "keys, tensors, message",
    [
        ({"rope.scaling.type": "su"}, {}, "scaling of the type 'su'"),
        ({"rope.scaling.type": "longrope"}, {}, "rope_factors_short.weight is missing"),
        ({}, {"rope_factors_short.weight": SHORT}, "rope_factors_long.weight is missing"),
        ({}, {**TABLES, "rope_factors_long.weight": LONG[1:]}, f"rope_factors_long.weight should hold {PAIRS} factors"),
        (YARN | {"rope.scaling.factor": 0.5}, {}, "factor is 0.5, expected a finite number of at least 1"),
        (YARN | {"rope.scaling.factor": math.nan}, {}, "factor is nan"),
        (YARN | {"rope.scaling.original_context_length": 0}, {}, "is 0, expected the number of tokens"),
        (YARN | {"rope.scaling.original_context_length": "16"}, {}, "is '16', expected int"),
        (YARN | {"rope.scaling.yarn_beta_slow": 64.0}, {}, "beta_fast .32.0. must be above beta_slow .64.0."),
        (YARN | {"rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor is 0.5, which is not computed here"),
        (YARN | {"rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier"),
        ({"rope.scaling.alpha": 1000.0}, {}, "rope.scaling.alpha"),
    ],
)
def test_what_is_refused_names_the_file(tmp_path, keys, tensors, message):
    with pytest.raises(UserError, match=f"m.gguf.*{message}"):
        opened(tmp_path, keys, tensors)


# ------------------------------------------------------------------------------------------------ written

ALL = [
    LinearScaling(4.0),
    YarnScaling(4.0, P),
    YarnScaling(4.0, P, 1.5),
    YarnScaling(4.0, P, 1.0, 8.0, 2.0),
    YarnScaling(4.0, P, truncate=False),
    Llama3Scaling(4.0, 1.0, 4.0, 64),
    LongRopeScaling(SHORT, LONG, P, 4.0),
    ProportionalScaling(0.5, 2.0),
    TableScaling(LONG, 1.25),
]


@pytest.mark.parametrize("scaling", ALL, ids=lambda scaling: scaling.rope_type)
def test_what_is_written_computes_the_same(tmp_path, scaling):
    keys, tensors = rope_to_gguf(scaling, "llama", D, 10000.0)
    model = opened(tmp_path, keys, tensors, scaling=scaling)
    np.testing.assert_allclose(model.forward(IDS), model_of(scaling).forward(IDS), atol=2e-5)
    if isinstance(scaling, (LinearScaling, Llama3Scaling, ProportionalScaling)):
        assert model.config.rope_scaling == scaling


def test_nothing_is_written_without_a_scaling():
    assert rope_to_gguf(None, "qwen2", D, 10000.0) == ({}, {})


def ggml(keys, tensors, T):
    """cos and sin of every position, as ggml's rope makes them of what was written."""
    kind, s = keys.get("rope.scaling.type", "linear"), keys.get("rope.scaling.factor", 1.0)
    original = keys.get("rope.scaling.original_context_length", 64)
    lists = [f"rope_factors_{'long' if T > original else 'short'}.weight", "rope_freqs.weight"]
    factors = next((tensors[name] for name in lists if name in tensors), np.ones(PAIRS))
    attention = keys.get("rope.scaling.attn_factor", 1.0)
    angle = np.arange(T)[:, None] * (THETA / factors)
    if kind == "yarn":  # with an ext_factor of 1, beta_fast 32 and beta_slow 1, whatever the keys say
        low, high = (D * math.log(original / (n * 2 * math.pi)) / (2 * math.log(10000.0)) for n in (32, 1))
        low, high = max(0, math.floor(low)), min(D - 1, math.ceil(high))
        mix = 1 - np.clip((np.arange(PAIRS) - low) / max(0.001, high - low), 0, 1)
        angle, attention = angle / s * (1 - mix) + angle * mix, attention * (1 + 0.1 * math.log(s))
    else:
        angle = angle / s
    return attention * np.cos(angle), attention * np.sin(angle)


@pytest.mark.parametrize("scaling", ALL, ids=lambda scaling: scaling.rope_type)
@pytest.mark.parametrize("T", [P, 3 * P])
def test_llama_cpp_makes_the_same_angles_of_it(scaling, T):
    expected = minillm.layers.rotary.rotary_tables(T, D, 10000.0, "float64", scaling)
    np.testing.assert_allclose(ggml(*rope_to_gguf(scaling, "llama", D, 10000.0), T), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("scaling", ALL, ids=lambda scaling: scaling.rope_type)
def test_what_an_architecture_has_no_place_for_is_refused(architecture, scaling):
    if isinstance(scaling, LinearScaling) or scaling in ALL[1:3]:
        assert rope_to_gguf(scaling, architecture, D, 10000.0) == rope_to_gguf(scaling, "llama", D, 10000.0)
        return
    with pytest.raises(UserError, match=f"kind {scaling.rope_type} cannot be written .* architecture {architecture}"):
        rope_to_gguf(scaling, architecture, D, 10000.0)


def test_dynamic_cannot_be_written():
    with pytest.raises(UserError, match="kind dynamic cannot be written for llama.cpp"):
        rope_to_gguf(DynamicScaling(2.0, P), "llama", D, 10000.0)


def test_what_a_table_is():
    def of(factors):
        return scaling_of_table(factors, THETA, 10000.0)

    assert of(np.ones(PAIRS)) is None
    assert of(np.full(PAIRS, 2.5)) == LinearScaling(2.5)
    assert of(np.full(PAIRS, 0.5)) == TableScaling((0.5,) * PAIRS)
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 100)
    assert of((THETA / scaling.stretched(THETA, 10000.0, 1)).astype(np.float32)) == scaling
    other = Llama3Scaling(8.0, 1.0, 3.0, 100)  # bands that are not the usual ones
    found = of(THETA / other.stretched(THETA, 10000.0, 1))
    assert isinstance(found, TableScaling)
    np.testing.assert_allclose(found.stretched(THETA, 1, 1), other.stretched(THETA, 1, 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral"])
def test_other_families(tmp_path, name):
    kind = ARCHITECTURES[name]
    shape = dict(vocab_size=300, context_length=64, n_layer=1, n_head=4, n_kv_head=2, d_model=64, d_ff=32, head_dim=D)
    model = randomised(make_model(kind.config_class(**shape, rope_scaling=YarnScaling(4.0, P))), 0.3).eval()

    def change(writer):
        for key, value in rope_to_gguf(model.config.rope_scaling, kind.gguf_name, D, 10000.0)[0].items():
            add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
            add[type(value)](f"{kind.gguf_name}.{key}", value)

    found = minillm.from_pretrained(write_gguf(tmp_path / "m.gguf", model, change=change))
    assert found.config.rope_scaling == model.config.rope_scaling
    assert (found.forward(IDS) == model.forward(IDS)).all()

"""Rotary scaling in config.json: the fields of published models, every spelling, what is written, what is refused."""

import json
import math

import numpy as np
import pytest

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
from minillm.models.rope_names import rope_from_hugging_face, rope_to_hugging_face

SHORT, LONG = [1.0, 1.2, 1.5, 2.0], [1.0, 2.0, 4.5, 9.0]
ORIGINAL = "original_max_position_embeddings"
LLAMA3 = dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192)

# The fields of published models: name -> (of config.json, scaling, rope_theta where it is in the object, context)
PUBLISHED = {
    "Llama 3.1": (dict(max_position_embeddings=131072, rope_scaling=dict(rope_type="llama3", **LLAMA3)),
                  Llama3Scaling(8.0, 1.0, 4.0, 8192), None, 131072),
    "Llama 3.1 as transformers 5 saves it": (
        dict(max_position_embeddings=131072, rope_parameters=dict(rope_theta=5e5, rope_type="llama3", **LLAMA3)),
        Llama3Scaling(8.0, 1.0, 4.0, 8192), 5e5, 131072),
    "Code Llama": (dict(max_position_embeddings=16384, rope_scaling=None, rope_theta=1e6), None, None, 16384),
    "LongChat": (dict(max_position_embeddings=16384, rope_scaling=dict(factor=8.0, type="linear")),
                 LinearScaling(8.0), None, 16384),
    "Vicuna 16k": (dict(max_position_embeddings=4096, max_sequence_length=16384, rope_scaling=dict(factor=4.0, type="linear")),
                   LinearScaling(4.0), None, 16384),
    "a Llama 2 with NTK": (dict(max_position_embeddings=4096, rope_scaling=dict(type="dynamic", factor=2.0)),
                           DynamicScaling(2.0, 4096), None, 8192),
    "Yarn Mistral": (dict(max_position_embeddings=32768, rope_scaling={
        "factor": 16.0, "finetuned": True, ORIGINAL: 8192, "type": "yarn"}), YarnScaling(16.0, 8192), None, 131072),
    "Qwen 2.5 with yarn": (dict(max_position_embeddings=32768, rope_scaling={
        "factor": 4.0, ORIGINAL: 32768, "type": "yarn"}), YarnScaling(4.0, 32768), None, 131072),
    "Qwen 3 with yarn": (dict(max_position_embeddings=40960, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768}), YarnScaling(4.0, 32768), None, 131072),
    "SmolLM3": (dict(max_position_embeddings=65536, rope_scaling=None, rope_theta=5e6), None, None, 65536),
    "DeepSeek's yarn": (dict(max_position_embeddings=163840, rope_scaling=dict(
        beta_fast=32, beta_slow=1, factor=40, mscale=0.707, mscale_all_dim=1.0, type="yarn", **{ORIGINAL: 4096})),
        YarnScaling(40, 4096, yarn_amplitude(40, 0.707) / yarn_amplitude(40), 32, 1), None, 163840),
    "gpt-oss's yarn": (dict(max_position_embeddings=131072, rope_scaling=dict(
        beta_fast=32.0, beta_slow=1.0, factor=32.0, rope_type="yarn", truncate=False, **{ORIGINAL: 4096})),
        YarnScaling(32.0, 4096, truncate=False), None, 131072),
    "Phi-3's first form": ({"max_position_embeddings": 131072, ORIGINAL: 4096, "rope_scaling": dict(
        long_factor=LONG, short_factor=SHORT, type="su")}, LongRopeScaling(SHORT, LONG, 4096, 32.0), None, 131072),
    "Phi-3.5": ({"max_position_embeddings": 131072, ORIGINAL: 4096, "rope_scaling": dict(
        long_factor=LONG, short_factor=SHORT, type="longrope")}, LongRopeScaling(SHORT, LONG, 4096, 32.0), None, 131072),
    "MiniCPM's longrope": (dict(max_position_embeddings=32768, rope_scaling=dict(
        rope_type="longrope", long_factor=LONG, short_factor=SHORT, **{ORIGINAL: 32768})),
        LongRopeScaling(SHORT, LONG, 32768, 1.0), None, 32768),
    "Gemma 4's proportional": (dict(max_position_embeddings=131072, rope_parameters=dict(
        rope_type="proportional", partial_rotary_factor=0.25, rope_theta=1e6)),
        ProportionalScaling(0.25), 1e6, 131072),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name):
    contents, scaling, theta, context = PUBLISHED[name]
    found = rope_from_hugging_face(contents)
    assert found["rope_scaling"] == scaling and found.get("rope_theta") == theta
    assert found.get("context_length", contents["max_position_embeddings"]) == context


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("shorter", [1, 2, 100])
def test_what_is_written_is_read_again(name, shorter):
    """Also with a context that a user made shorter."""
    _, scaling, _, context = PUBLISHED[name]
    written = {"max_position_embeddings": context // shorter, **rope_to_hugging_face(scaling, context // shorter)}
    found = rope_from_hugging_face(json.loads(json.dumps(written)))
    assert found["rope_scaling"] == scaling
    assert found.get("context_length", written["max_position_embeddings"]) == context // shorter


@pytest.mark.parametrize(
    "contents, scaling",
    [
        (dict(rope_scaling=dict(type="yarn", factor=None, **{ORIGINAL: 16})), YarnScaling(4.0, 16)),  # null: the ratio
        (dict(rope_scaling=dict(type="yarn", factor=2.0)), YarnScaling(2.0, 64)),
        (dict(rope_scaling=dict(type="yarn", factor=2.0), **{ORIGINAL: 8}), YarnScaling(2.0, 8)),
        (dict(rope_scaling={"type": "yarn", "factor": 2.0, ORIGINAL: 32}, **{ORIGINAL: 8}), YarnScaling(2.0, 8)),
        (dict(rope_scaling=dict(type="yarn", factor=2.0, mscale=1.0, mscale_all_dim=0)), YarnScaling(2.0, 64)),
        (dict(rope_scaling=dict(type="yarn", factor=2.0, mscale=1.0, mscale_all_dim=1.0)), YarnScaling(2.0, 64, 1.0)),
        (dict(rope_scaling=dict(type="yarn", factor=2.0, mscale=2, mscale_all_dim=1, attention_factor=1.5)),
         YarnScaling(2.0, 64, 1.5)),
        (dict(rope_scaling=dict(type="yarn", factor=2.0, beta_fast=0, beta_slow=None)), YarnScaling(2.0, 64)),
        (dict(rope_scaling=dict(type="yarn", factor=2.0, attn_factor=1, extrapolation_factor=1)), YarnScaling(2.0, 64)),
        (dict(rope_scaling=dict(type="longrope", short_factor=SHORT, long_factor=LONG, attention_factor=1.2, factor=2.0)),
         LongRopeScaling(SHORT, LONG, 64, 2.0, 1.2)),
        (dict(rope_scaling=dict(type="longrope", short_factor=LONG, long_factor=LONG, factor=2.0)),
         TableScaling(LONG, math.sqrt(1 + math.log(2) / math.log(64)))),
        (dict(rope_scaling={"rope_type": "dynamic", "factor": 2.0, ORIGINAL: 64}), DynamicScaling(2.0, 64)),
        (dict(partial_rotary_factor=0.5, rope_scaling=dict(rope_type="proportional", factor=2.0)),
         ProportionalScaling(0.5, 2.0)),
        (dict(partial_rotary_factor=1.0, rope_scaling=dict(rope_type="linear", factor=2.0, partial_rotary_factor=1)),
         LinearScaling(2.0)),
    ],
)  # fmt: skip
def test_spellings(contents, scaling):
    found = rope_from_hugging_face({"max_position_embeddings": 64, **contents})["rope_scaling"]
    assert found == scaling and found.amplitude == scaling.amplitude


def test_original_context_that_is_written_in_two_places_is_refused_for_dynamic():
    rope = {"type": "dynamic", "factor": 2.0, ORIGINAL: 32}
    with pytest.raises(UserError, match=f"{ORIGINAL} 32, and max_position_embeddings.* is 64: make them equal"):
        rope_from_hugging_face({"max_position_embeddings": 64, "rope_scaling": rope})


@pytest.mark.parametrize(
    "rope, message",
    [
        (dict(type="mrope", mrope_section=[1, 1, 2]), "of type 'mrope': minillm computes default, linear, dynamic"),
        (dict(rope_type=3), "of type 3"),
        (dict(rope_type="table", factors=[1.0]), "of type 'table'"),
        (dict(type="yarn"), "factor is missing, which yarn needs"),
        (dict(type="yarn", factor="4"), "factor is '4', expected a finite number of at least 1"),
        (dict(type="yarn", factor=4.0, mscale="1", mscale_all_dim=1.0), "mscale is '1'"),
        (dict(type="yarn", factor=4.0, attention_factor="1"), "attention_factor is '1'"),
        (dict(type="yarn", factor=4.0, attn_factor=1.5), "has attn_factor 1.5, which minillm does not compute"),
        (dict(type="dynamic", factor=0.5), "factor is 0.5, expected a finite number of at least 1"),
        (dict(type="dynamic", factor=2.0, alpha=1000.0), "has alpha 1000.0, which minillm does not compute"),
        (dict(type="longrope", long_factor=LONG), "short_factor is missing, which longrope needs"),
        (dict(type="longrope", long_factor=LONG, short_factor="1"), "short_factor is '1', expected a list"),
        (
            dict(type="longrope", long_factor=LONG, short_factor=[1.0, 2.0]),
            "short_factor has 2 factors, a head of 8 channels",
        ),
        (dict(type="longrope", long_factor=LONG, short_factor=SHORT, short_mscale=1.1), "has short_mscale 1.1"),
        (dict(rope_type="llama3", **{**LLAMA3, "factor": math.nan}), "factor is nan"),
        (
            dict(rope_type="default", partial_rotary_factor=0.5),
            "partial_rotary_factor is 0.5: minillm rotates whole heads",
        ),
        (dict(rope_type="default", mrope_section=[1, 1, 2]), r"has mrope_section \[1, 1, 2\]"),
    ],
)
def test_what_is_refused_names_file_and_key(tmp_path, rope, message):
    model_of("llama", None).save_pretrained(tmp_path)
    contents = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**contents, "rope_scaling": rope}))
    with pytest.raises(UserError, match=f"config.json: .*{message}") as error:
        minillm.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------- beside transformers

P, CONTEXT = 16, 64
ALL = {
    "default": None,
    "linear": LinearScaling(4.0),
    "dynamic": DynamicScaling(4.0, P),
    "yarn": YarnScaling(4.0, P),
    "yarn with fields": YarnScaling(4.0, P, 1.4, 8.0, 2.0, False),
    "llama3": Llama3Scaling(4.0, 1.0, 4.0, P),
    "longrope": LongRopeScaling(SHORT, LONG, P, 4.0),
    "proportional": ProportionalScaling(0.5, 2.0),
    "table": TableScaling(LONG, 1.2),
}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral")


def model_of(family, scaling, width=8):
    shape = dict(vocab_size=17, context_length=CONTEXT, n_layer=2, n_head=4, n_kv_head=2, d_model=32, head_dim=width)
    config = ARCHITECTURES[family].config_class(**shape, rope_theta=100.0, rope_scaling=scaling)
    return randomised(make_model(config), 0.3).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_changes_the_logits_and_is_saved(tmp_path, family):
    ids = stream("test", "long").integers(17, (2, 2 * P))
    plain = model_of(family, None).forward(ids)
    for name in ("linear", "dynamic", "yarn", "llama3", "longrope", "proportional", "table"):
        model = model_of(family, ALL[name])
        assert np.abs(model.forward(ids) - plain).max() > 1e-3
        model.save_pretrained(tmp_path / name)
        opened = minillm.from_pretrained(tmp_path / name)
        assert opened.config == model.config and (opened.forward(ids) == model.forward(ids)).all()


@pytest.mark.peers
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ALL)
def test_logits_and_gradients_are_those_of_transformers(tmp_path, family, name):
    """Below the original context, at it, and beyond it; and what transformers saves opens here."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = model_of(family, ALL[name])
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    opened = minillm.from_pretrained(tmp_path / "theirs")
    assert opened.config.rope_scaling == ALL[name]
    for length in (P - 3, P, P + 1, 3 * P):  # their dynamic angles are those of the longest text so far: so it is last
        ids = stream("test", "long").integers(17, (2, length))
        logits = theirs(torch.tensor(ids)).logits
        assert np.abs(model.forward(ids) - logits.detach().numpy()).max() < 1e-5
        assert np.abs(opened.forward(ids) - model.forward(ids)).max() < 1e-5
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(ids[:, 1:]).flatten()).backward()
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    model.train().forward(ids)
    probabilities = torch.softmax(logits.detach()[:, :-1], -1).numpy()
    dlogits = np.zeros(logits.shape, np.float32)
    dlogits[:, :-1] = (probabilities - np.eye(17, dtype=np.float32)[ids[:, 1:]]) / ids[:, 1:].size
    model.backward(dlogits)
    for name, parameter in model.parameters().items():
        assert np.abs(parameter.grad - expected[name]).max() < 1e-5 * max(1, np.abs(expected[name]).max())

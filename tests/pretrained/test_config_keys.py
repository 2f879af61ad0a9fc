"""Every key of config.json and every tensor of a folder is used or refused by its name; angles in every spelling."""

import json

import numpy as np
import pytest
from folder_files import config_of, saved, shard, tensors_of

import minillm
from minillm.errors import UserError
from minillm.layers.rotary_scaling import LinearScaling, Llama3Scaling, TableScaling

IDS = np.arange(8)[None]
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
OTHER = {**LLAMA3, "original_max_position_embeddings": 4}
LONG = dict(rope_type="longrope", short_factor=[1.5, 2.0], long_factor=[1.5, 2.0], attention_factor=1.0, factor=1.0)


# what config.json says of the angles -> (rope_theta, rope_scaling)
ANGLES = [
    (dict(rope_theta=500.0), 500.0, None),
    (dict(rope_theta=500.0, rope_scaling=dict(type="linear", factor=4.0)), 500.0, LinearScaling(4.0)),
    (dict(rope_theta=500.0, rope_scaling=dict(rope_type="llama3", **LLAMA3)), 500.0, Llama3Scaling(**LLAMA3)),
    (dict(rope_parameters=dict(rope_type="default", rope_theta=500.0)), 500.0, None),
    (dict(rope_theta=300.0, rope_parameters=dict(rope_type="default", rope_theta=500.0)), 500.0, None),
    (dict(rope_theta=300.0, rope_parameters=dict(rope_type="default")), 300.0, None),
    (dict(rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.0)), 500.0, LinearScaling(2.0)),
    (dict(rope_parameters=dict(rope_type="llama3", **LLAMA3, rope_theta=500.0)), 500.0, Llama3Scaling(**LLAMA3)),
    (
        dict(original_max_position_embeddings=4, rope_parameters=dict(rope_type="llama3", **LLAMA3, rope_theta=500.0)),
        500.0,
        Llama3Scaling(**OTHER),
    ),
    (
        dict(
            rope_theta=300.0,
            rope_scaling=dict(rope_type="linear", factor=2.0),
            rope_parameters=dict(rope_type="llama3", **LLAMA3, rope_theta=500.0),
        ),
        300.0,
        LinearScaling(2.0),
    ),
    (dict(rope_parameters=dict(**LONG, rope_theta=500.0)), 500.0, TableScaling((1.5, 2.0))),
]


@pytest.mark.parametrize("fields, theta, scaling", ANGLES)
def test_angles_in_old_and_new_places(tmp_path, fields, theta, scaling):
    saved(tmp_path)
    config_of(tmp_path, ("rope_theta", "rope_scaling") if not fields.keys() & {"rope_scaling"} else ("rope_theta",))
    config_of(tmp_path, **fields)
    opened = minillm.from_pretrained(tmp_path)
    assert (opened.config.rope_theta, opened.config.rope_scaling) == (theta, scaling)
    opened.save_pretrained(tmp_path / "again")
    again = minillm.from_pretrained(tmp_path / "again")
    assert again.config == opened.config and (again.forward(IDS) == opened.forward(IDS)).all()


@pytest.mark.peers
@pytest.mark.parametrize("fields, theta, scaling", ANGLES)
def test_angles_are_those_of_transformers(tmp_path, fields, theta, scaling):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    saved(tmp_path)
    config_of(tmp_path, ("rope_theta", "rope_scaling"))
    config_of(tmp_path, **fields)
    ours = minillm.from_pretrained(tmp_path)
    ours.save_pretrained(tmp_path / "again")
    for folder in (tmp_path, tmp_path / "again"):
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        difference = ours.forward(IDS) - theirs(torch.tensor(IDS)).logits.detach().numpy()
        assert np.abs(difference).max() < 1e-5


REFUSED = [
    (dict(rope_scaling=dict(rope_type="axial", factor=2.0)), "type 'axial'"),
    (dict(rope_scaling=dict(type="linear")), "rope_scaling: factor is missing"),
    (dict(rope_scaling=dict(type="linear", factor=2.0, beta_fast=32)), "rope_scaling has beta_fast 32"),
    (
        dict(rope_scaling=dict(**LONG) | dict(short_factor=[1.0], long_factor=[1.0])),
        "has 1 factors, a head of 4 channels has 2 pairs",
    ),
    (dict(rope_scaling=None, rope_parameters=dict(full_attention=dict(rope_theta=5.0))), "differs by type of layer"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
    (dict(rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), "partial_rotary_factor is 0.5"),
    (dict(sliding_window=4), "sliding_window is 4"),
    (dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    (dict(num_local_experts=8), "mixture of experts"),
    (dict(final_logit_softcapping=30.0), "final_logit_softcapping is 30.0"),
    (dict(attention_multiplier=0.1), "attention_multiplier"),
    (dict(use_qk_norm=True), "use_qk_norm"),
    (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (dict(quantization_config=dict(quant_method="gptq", bits=4)), r"a quantised folder \(gptq"),
    (dict(quantization_config=dict(quant_method="bitsandbytes")), r"a quantised folder \(bitsandbytes"),
    (dict(quantization=dict(group_size=64, bits=4)), r"a quantised folder \(MLX"),
    (dict(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    (dict(auto_map={"AutoModelForCausalLM": "own.Model"}), "auto_map names a program"),
]


@pytest.mark.parametrize("fields, message", REFUSED)
def test_keys_that_change_the_computation_are_refused(tmp_path, fields, message):
    saved(tmp_path)
    config_of(tmp_path, **fields)
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        dict(pretraining_tp=4, use_cache=True, torch_dtype="float16", transformers_version="4.30.0", _name_or_path="x"),
        dict(sliding_window=4096, layer_types=["full_attention"] * 2, use_sliding_window=True),
        dict(sliding_window=4, use_sliding_window=False),
        dict(made_by="somebody", version=3, is_llama_config=True, rope_interleaved=False, tags=["a"]),
        dict(
            partial_rotary_factor=1.0, residual_multiplier=1.0, final_logit_softcapping=None, quantization_config=None
        ),
        dict(architectures=None),
    ],
)
def test_keys_that_change_nothing(tmp_path, fields):
    model = saved(tmp_path)
    config_of(tmp_path, **fields)
    assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()


class TestGPT2:
    def test_other_names_of_fields(self, tmp_path):
        model = saved(tmp_path, "gpt2")
        fields = json.loads((tmp_path / "config.json").read_text())
        aliases = dict(hidden_size="n_embd", max_position_embeddings="n_positions", num_attention_heads="n_head")
        config_of(tmp_path, aliases.values(), **{alias: fields[name] for alias, name in aliases.items()})
        assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()
        config_of(tmp_path, n_head=2)
        with pytest.raises(UserError, match="n_head is 2, and num_attention_heads, another name for it, is 4"):
            minillm.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "fields", [dict(n_ctx=1024, n_special=0, summary_type="cls_index"), dict(reorder_and_upcast_attn=True)]
    )
    def test_keys_that_change_nothing(self, tmp_path, fields):
        model = saved(tmp_path, "gpt2")
        config_of(tmp_path, **fields)
        assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()

    @pytest.mark.parametrize(
        "fields, message",
        [
            (dict(scale_attn_by_inverse_layer_idx=True), "attention is scaled"),
            (dict(scale_attn_weights=False), "attention is scaled"),
            (dict(add_cross_attention=True), "cross"),
            (dict(activation_function="relu"), "relu"),
            (dict(multi_query=True, n_head_kv=1), "n_head_kv"),
        ],
    )
    def test_keys_that_are_refused(self, tmp_path, fields, message):
        saved(tmp_path, "gpt2")
        config_of(tmp_path, **fields)
        with pytest.raises(UserError, match=message):
            minillm.from_pretrained(tmp_path)

    def test_activations_by_other_names(self, tmp_path):
        saved(tmp_path, "gpt2")
        for name, ours in (
            ("gelu_fast", "gelu_new"),
            ("gelu_python", "gelu"),
            ("gelu_pytorch_tanh", "gelu_pytorch_tanh"),
        ):
            config_of(tmp_path, activation_function=name)
            assert minillm.from_pretrained(tmp_path).config.activation == ours

    def test_a_mask_of_another_shape(self, tmp_path):
        model = saved(tmp_path, "gpt2")
        mask = np.tril(np.ones((1, 1, 8, 8), np.float32))
        tensors_of(tmp_path, lambda t: {**t, "transformer.h.0.attn.bias": mask})
        assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()
        tensors_of(tmp_path, lambda t: {**t, "transformer.h.0.attn.bias": mask[0, 0]})
        with pytest.raises(UserError, match="is no causal mask of this model"):
            minillm.from_pretrained(tmp_path)


class TestTheHeadBesideTied:
    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    @pytest.mark.parametrize("own", [True, False])
    def test_a_head_of_its_own_is_used(self, tmp_path, kind, own):
        model = saved(tmp_path, kind)
        embedding = "transformer.wte.weight" if kind == "gpt2" else "model.embed_tokens.weight"
        expected = model.parameters()[embedding].value + (1.0 if own else 0.0)
        tensors_of(tmp_path, lambda t: {**t, "lm_head.weight": expected})
        config_of(tmp_path, tie_word_embeddings=True)
        opened = minillm.from_pretrained(tmp_path)
        assert opened.config.tie_embeddings is not own
        assert (opened.lm_head.weight.value == expected).all()
        opened.save_pretrained(tmp_path / "again")
        assert (minillm.from_pretrained(tmp_path / "again").forward(IDS) == opened.forward(IDS)).all()

    def test_a_head_alone_is_the_embedding_too(self, tmp_path):
        model = saved(tmp_path, "gpt2")
        tensors_of(tmp_path, lambda t: {("lm_head.weight" if "wte" in n else n): v for n, v in t.items()})
        assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()

    def test_no_head_at_all(self, tmp_path):
        saved(tmp_path)
        tensors_of(tmp_path, lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"})
        with pytest.raises(UserError, match="a model without a head for tokens"):
            minillm.from_pretrained(tmp_path)

    @pytest.mark.peers
    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_transformers_uses_it_too(self, tmp_path, kind):
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        saved(tmp_path, kind)
        head = np.random.default_rng(0).normal(size=(11, 16)).astype(np.float32)
        tensors_of(tmp_path, lambda t: {**t, "lm_head.weight": head})
        config_of(tmp_path, tie_word_embeddings=True)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()(torch.tensor(IDS)).logits
        assert np.abs(minillm.from_pretrained(tmp_path).forward(IDS) - theirs.detach().numpy()).max() < 1e-5


class TestTensors:
    @pytest.mark.parametrize(
        "name, message",
        [
            ("model.layers.0.self_attn.q_norm.weight", "q_norm.weight does not belong"),
            ("model.layers.0.self_attn.q_proj.bias", "q_proj.bias does not belong"),
            ("model.layers.0.mlp.experts.0.w1.weight", "w1.weight does not belong"),
            ("score.weight", "score.weight does not belong"),
            ("model.layers.0.self_attn.q_proj.qweight", "quantised model"),
            ("model.layers.0.self_attn.q_proj.weight.absmax", "quantised model"),
        ],
    )
    def test_those_that_nothing_uses_are_refused(self, tmp_path, name, message):
        saved(tmp_path)
        tensors_of(tmp_path, lambda t: {**t, name: np.ones(16, np.float32)})
        with pytest.raises(UserError, match=message):
            minillm.from_pretrained(tmp_path)

    def test_the_same_tensor_by_two_names(self, tmp_path):
        saved(tmp_path)
        tensors_of(tmp_path, lambda t: {**t, "norm.weight": t["model.norm.weight"]})
        with pytest.raises(UserError, match="holds tensor model.norm.weight twice"):
            minillm.from_pretrained(tmp_path)

    def test_frequencies_that_are_not_those_of_the_configuration(self, tmp_path):
        saved(tmp_path)
        name, right = "model.layers.0.self_attn.rotary_emb.inv_freq", np.array([1, 0.01], np.float16)
        tensors_of(tmp_path, lambda t: {**t, name: right})
        minillm.from_pretrained(tmp_path)
        config_of(tmp_path, rope_theta=500_000.0)
        with pytest.raises(UserError, match="are other frequencies than rope_theta in config.json makes"):
            minillm.from_pretrained(tmp_path)

    def test_shards_without_an_index_are_joined(self, tmp_path):
        model = saved(tmp_path)
        shard(tmp_path)
        (tmp_path / "model.safetensors.index.json").unlink()
        assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(UserError, match="model-00002-of-00002.safetensors is missing: it is one of 2 shards"):
            minillm.from_pretrained(tmp_path)

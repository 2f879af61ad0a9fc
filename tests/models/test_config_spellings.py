"""How config.json files of Qwen2, Qwen3 and Mistral are spelt, of old and new versions of transformers, and what is refused."""

import json

import numpy as np
import pytest

import minillm
from minillm.errors import UserError
from minillm.models.architectures import ARCHITECTURES
from minillm.pretrained.hugging_face import read_config

SHAPE = dict(vocab_size=11, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4)
OF_QWEN = dict(  # as Qwen2.5-0.5B has them
    attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02,
    max_position_embeddings=64, max_window_layers=24, num_key_value_heads=2, rms_norm_eps=1e-06, rope_theta=1000000.0,
    sliding_window=32, tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.40.1", use_cache=True,
    use_mrope=False, use_sliding_window=False,
)  # fmt: skip
OF_MISTRAL = dict(  # as Mistral-7B-v0.1 has them
    bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02, max_position_embeddings=64,
    num_key_value_heads=2, rms_norm_eps=1e-05, rope_theta=10000.0, sliding_window=8, tie_word_embeddings=False,
    torch_dtype="bfloat16", transformers_version="4.34.0.dev0", use_cache=True,
)  # fmt: skip
USUAL = {"qwen2": OF_QWEN, "qwen3": {**OF_QWEN, "head_dim": 6, "attention_bias": False}, "mistral": OF_MISTRAL}
FULL, SLIDING = ["full_attention"] * 2, ["sliding_attention"] * 2


def read(folder, name, remove=(), **changes):
    contents = {"model_type": name, **SHAPE, **USUAL[name], **changes}
    (folder / "config.json").write_text(json.dumps({key: v for key, v in contents.items() if key not in remove}))
    return read_config(folder)


def test_as_published(tmp_path):
    qwen2 = read(tmp_path, "qwen2")
    assert (qwen2.n_kv_head, qwen2.head_dim, qwen2.tie_embeddings, qwen2.rope_theta) == (2, 4, True, 1e6)
    assert read(tmp_path, "qwen3").head_dim == 6
    mistral = read(tmp_path, "mistral")
    assert (mistral.sliding_window, mistral.head_dim, mistral.rms_norm_eps) == (8, 4, 1e-5)


@pytest.mark.parametrize("name", USUAL)
def test_newer_spellings(tmp_path, name):
    new = dict(rope_parameters={"rope_theta": 500.0, "rope_type": "default"}, dtype="float32")
    assert read(tmp_path, name, remove=["rope_theta", "torch_dtype"], **new).rope_theta == 500.0
    linear = dict(rope_parameters={"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0})
    assert read(tmp_path, name, remove=["rope_theta"], **linear).rope_scaling.factor == 4.0
    assert read(tmp_path, name, rope_scaling={"type": "linear", "factor": 2.0}).rope_scaling.factor == 2.0
    assert read(tmp_path, name, rope_scaling=None).rope_scaling is None


def test_keys_that_are_left_out(tmp_path):
    """The defaults are those of transformers, also where ours are others."""
    assert read(tmp_path, "qwen3", remove=["head_dim"]).head_dim == 128
    assert read(tmp_path, "mistral", remove=["sliding_window"]).sliding_window == 4096
    assert read(tmp_path, "mistral", remove=["num_key_value_heads"], num_attention_heads=8).n_kv_head == 8
    assert (
        read(tmp_path, "qwen2", remove=["num_key_value_heads"], num_attention_heads=32, hidden_size=64).n_kv_head == 32
    )
    for name in USUAL:
        config = read(tmp_path, name, remove=["rms_norm_eps", "rope_theta", "tie_word_embeddings"])
        assert (config.rms_norm_eps, config.rope_theta, config.tie_embeddings) == (1e-6, 10000.0, False)


def test_null(tmp_path):
    assert read(tmp_path, "mistral", sliding_window=None).sliding_window is None
    assert read(tmp_path, "mistral", head_dim=None).head_dim == 4
    for name in USUAL:
        assert read(tmp_path, name, num_key_value_heads=None).n_kv_head == 4


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    "changes",
    [
        dict(layer_types=FULL),
        dict(use_sliding_window=True, max_window_layers=2),
        dict(use_sliding_window=True, max_window_layers=0, layer_types=FULL),
        dict(use_sliding_window=True, sliding_window=64, max_window_layers=0),
        dict(use_sliding_window=True, sliding_window=None),
    ],
)
def test_windows_that_no_layer_of_qwen_has(tmp_path, name, changes):
    read(tmp_path, name, **changes)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        *(
            (name, dict(use_sliding_window=True, max_window_layers=1), "sliding_window is 32")
            for name in ("qwen2", "qwen3")
        ),
        *((name, dict(layer_types=[FULL[0], SLIDING[0]]), "layer_types is") for name in USUAL),
        ("qwen2", dict(layer_types=SLIDING, use_sliding_window=True), "sliding_window is 32|layer_types is"),
        ("mistral", dict(layer_types=FULL), "layer_types is"),
        ("mistral", dict(sliding_window=0), "sliding_window is 0"),
        ("mistral", dict(sliding_window=2.5), "sliding_window is 2.5"),
        ("mistral", dict(attention_bias=True), "attention_bias is True"),
        ("qwen3", dict(mlp_bias=True), "mlp_bias is True"),
        ("qwen2", dict(num_experts=8), "mixture of experts"),
        ("qwen3", dict(rope_scaling={"type": "mrope", "factor": 4.0}), "of type 'mrope'"),
        ("qwen3", dict(head_dim=5), "5 wide"),
        ("qwen2", dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(tmp_path, name, changes, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, name, **changes)


def test_layer_types_that_say_what_the_window_says(tmp_path):
    assert read(tmp_path, "mistral", layer_types=SLIDING).sliding_window == 8
    assert read(tmp_path, "mistral", layer_types=FULL, sliding_window=None).sliding_window is None


@pytest.mark.parametrize("name, tensor", [("qwen2", "k_proj.bias"), ("qwen3", "k_norm.weight")])
def test_tensors_of_the_family_alone(tmp_path, name, tensor):
    """A Llama has neither, and says so."""
    kind = ARCHITECTURES[name]
    model = kind(kind.config_class(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=8, head_dim=4))
    assert f"model.layers.0.self_attn.{tensor}" in model.parameters()
    model.save_pretrained(tmp_path)
    contents = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**contents, "model_type": "llama"}))
    with pytest.raises(UserError, match=f"{tensor} .*does not belong"):
        minillm.from_pretrained(tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("name", USUAL)
def test_transformers_reads_them_so(tmp_path, name):
    """From the same config.json, with random weights: the same logits, also beyond the window."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    read(tmp_path, name)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.initializer_range = 0.3
    theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    theirs.save_pretrained(tmp_path)
    ids = np.arange(48).reshape(2, 24) % 11
    expected = theirs(torch.tensor(ids)).logits.detach().numpy()
    found = minillm.from_pretrained(tmp_path).forward(ids)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)

import json
import math

import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.checks.gradcheck import GradientError, gradcheck
from minillm.errors import UserError
from minillm.models import llama
from minillm.models.presets import PRESETS

SMALL = dict(vocab_size=11, context_length=8, n_layer=2, n_head=4, n_kv_head=2, d_model=16, d_ff=12)
IDS, TARGETS = (stream("test", name).integers(11, (3, 8)) for name in ("ids", "targets"))
SCALING = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)


@pytest.mark.parametrize(
    "preset, vocab_size, total",
    [
        ("smollm2-135m", 49152, 134_515_008),
        ("tinyllama", 32000, 1_100_048_384),
        ("llama-3.2-1b", 128256, 1_235_814_400),
    ],
)
def test_published_sizes(preset, vocab_size, total):
    config = minillm.LlamaConfig(**PRESETS[preset].model, vocab_size=vocab_size)
    model = minillm.Llama(config, seed=None)
    assert sum(parameter.value.size for parameter in model.parameters().values()) == total


def test_names_are_hugging_faces():
    names = list(minillm.Llama(minillm.LlamaConfig(**SMALL, attention_bias=True)).parameters())
    block = ["input_layernorm.weight"]
    block += [f"self_attn.{part}_proj.{kind}" for part in "qkvo" for kind in ("weight", "bias")]
    block += ["post_attention_layernorm.weight", *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))]
    layers = [f"model.layers.{i}.{name}" for i in range(2) for name in block]
    assert names == ["model.embed_tokens.weight", *layers, "model.norm.weight", "lm_head.weight"]
    assert "lm_head.weight" not in minillm.Llama(minillm.LlamaConfig(**SMALL, tie_embeddings=True)).parameters()


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dx = dx + self.post_attention_layernorm.backward(", "dx = self.post_attention_layernorm.backward("),
        ("return dx + self.input_layernorm.backward(", "return self.input_layernorm.backward("),
        ("run_blocks_backward(self.blocks,", "run_blocks_backward(self.blocks[::-1],"),
    ],
)
def test_faults_are_caught(right, wrong):
    config = minillm.LlamaConfig(**{**SMALL, "n_head": 2, "n_kv_head": 1, "d_model": 4, "d_ff": 3})
    model = randomised(minillm.Llama(config, seed=0, dtype="float64"))
    ids, targets = IDS[:1, :4], TARGETS[:1, :4]
    gradcheck(model, ids, targets)
    faulty = planted(llama, right, wrong)
    model.model.__class__ = faulty.LlamaBody
    for block in model.model.blocks:
        block.__class__ = faulty.LlamaBlock
    with pytest.raises(GradientError):
        gradcheck(model, ids, targets)


def test_initial_loss_is_that_of_a_uniform_prediction():
    model = minillm.Llama(minillm.LlamaConfig(**{**SMALL, "vocab_size": 65}), seed=0)
    assert float(model.loss(IDS, TARGETS)) == pytest.approx(math.log(65), rel=0.01)


def test_overfits_one_batch():
    """Rows without repetition: at its start, "a a" looks to this model like "a", since it knows distances only."""
    ids = np.stack([np.roll(np.arange(11), shift)[:8] for shift in (0, 3, 7)])
    targets = ids[:, ::-1]
    model = minillm.Llama(minillm.LlamaConfig(**{**SMALL, "d_model": 32}), seed=0)
    optimizer = minillm.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(120):
        loss = model.loss(ids, targets)
        model.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.01


def test_pairs_side_by_side_are_the_same_function_with_other_rows(tmp_path):
    """Saved, an interleaved model is one of halves; its logits do not change."""
    config = minillm.LlamaConfig(**SMALL, rope_interleaved=True, attention_bias=True)
    model = randomised(minillm.Llama(config, seed=0), 0.2).eval()
    model.save_pretrained(tmp_path)
    opened = minillm.from_pretrained(tmp_path)
    assert not opened.config.rope_interleaved
    assert_close(opened.forward(IDS), model.forward(IDS), 1e-6)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (opened.parameters()[name].value != model.parameters()[name].value).any()


@pytest.mark.parametrize(
    "fields",
    [{}, dict(tie_embeddings=True, attention_bias=True, mlp_bias=True), dict(rope_scaling=SCALING, head_dim=6)],
)
def test_what_is_saved_opens_again(tmp_path, fields):
    model = randomised(minillm.Llama(minillm.LlamaConfig(**SMALL, **fields), seed=0)).eval()
    model.save_pretrained(tmp_path)
    opened = minillm.from_pretrained(tmp_path)
    assert opened.config == model.config and not opened.training
    assert (opened.forward(IDS) == model.forward(IDS)).all()


def test_replica_shares_weights_and_not_gradients():
    model = minillm.Llama(minillm.LlamaConfig(**SMALL), seed=0)
    copy = model.replica()
    assert float(copy.loss(IDS, TARGETS)) == float(model.loss(IDS, TARGETS))
    copy.backward()
    assert all(parameter.grad is None for parameter in model.parameters().values())
    for name, parameter in copy.parameters().items():
        assert parameter.value is model.parameters()[name].value and parameter.grad is not None


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(n_kv_head=3), r"n_head \(4\) is not divisible by n_kv_head \(3\)"),
        (dict(head_dim=3), "3 wide.*must be even"),
        (dict(d_model=18), r"d_model \(18\) is not divisible"),
        (dict(rope_theta=0.0), "rope_theta is 0.0"),
        (dict(rms_norm_eps=math.inf), "rms_norm_eps is inf"),
        (dict(vocab_size=1 << 40), "no model is that large"),
        (dict(mlp_bias="yes"), "mlp_bias is 'yes'"),
        (dict(rope_scaling="yarn"), "rope_scaling is 'yarn': it must be"),
        (dict(rope_scaling=dict(factors=[1.0, 2.0, 3.0])), "factors has 3 factors, a head of 4 channels has 2 pairs"),
        (dict(dropout=True), "dropout is True"),
    ],
)
def test_impossible_shapes(fields, message):
    with pytest.raises(UserError, match=message):
        minillm.LlamaConfig(**{**SMALL, **fields})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
        (dict(rope_scaling=dict(type="axial")), "rope_scaling is of type 'axial'"),
        (dict(rope_scaling=dict(rope_type="llama3")), "rope_scaling: factor is missing"),
        (dict(rope_scaling=[1]), "expected an object"),
        (dict(num_hidden_layers=10**7), "too few for the 10000000 layers"),
        (dict(hidden_size=None), "hidden_size is missing"),
    ],
)
def test_configurations_that_cannot_be_opened(tmp_path, change, message):
    minillm.Llama(minillm.LlamaConfig(**SMALL), seed=0).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(tmp_path)


PEER_SHAPES = [
    dict(tie_embeddings=True),
    dict(attention_bias=True, mlp_bias=True, n_kv_head=1),
    dict(rope_scaling=SCALING, rope_theta=500_000.0, head_dim=6),
    dict(rope_interleaved=True, n_kv_head=4, context_length=64),
]


@pytest.mark.peers
@pytest.mark.parametrize("fields", PEER_SHAPES)
def test_transformers_computes_the_same(tmp_path, fields):
    """Logits, loss and every gradient of the model that `transformers` opens from what we saved."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = randomised(minillm.Llama(minillm.LlamaConfig(**{**SMALL, **fields}), seed=0), 0.2)
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = stream("test", "long").integers(11, (2, model.config.context_length))
    targets = stream("test", "long targets").integers(11, ids.shape)
    logits = theirs(torch.tensor(ids)).logits
    assert_close(model.forward(ids), logits.detach().numpy(), 2e-6)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten()).backward()
    if model.config.rope_interleaved:  # as it is saved, with rows moved
        model = minillm.from_pretrained(tmp_path).train()
    model.loss(ids, targets)
    model.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert set(gradients) == set(model.parameters())
    for name, parameter in model.parameters().items():
        assert_close(parameter.grad, gradients[name].numpy(), 1e-5)


@pytest.mark.peers
@pytest.mark.parametrize("shard_size, dtype", [("5GB", "float32"), ("2KB", "bfloat16"), ("2KB", "float16")])
def test_what_transformers_saves_opens_here(tmp_path, shard_size, dtype):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.3, dtype=dtype,
        rope_parameters=dict(rope_type="llama3", rope_theta=1000.0, **SCALING),
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "2KB")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = minillm.from_pretrained(tmp_path)
    assert ours.config.rope_scaling.factor == 4.0 and ours.config.rope_theta == 1000.0
    assert_close(ours.forward(IDS), theirs(torch.tensor(IDS)).logits.detach().numpy(), 2e-6)
    assert isinstance(ours.forward(IDS), np.ndarray)

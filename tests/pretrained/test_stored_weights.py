"""Models whose weights stay as their files hold them: the same logits and texts, and no more memory than the file."""

import numpy as np
import pytest
from model_files import GPT2, LLAMA, TOKENIZER, write_gguf

import minillm
from minillm.errors import UserError
from minillm.layers.stored_weight import StoredWeight
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.pretrained import from_pretrained
from minillm.pretrained.export import export

IDS = np.arange(40).reshape(2, 20)
GREEDY = minillm.Sampler(temperature=0)


def same(found, expected):
    """The same logits up to the order of sums, in a pass and token by token, and the same greedy text."""
    a, b = found.forward(IDS), expected.forward(IDS)
    assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()
    texts = [list(map(list, minillm.generate(m, IDS, max_new_tokens=8, sampler=GREEDY))) for m in (found, expected)]
    assert texts[0] == texts[1]
    one = [list(map(list, minillm.generate(m, IDS[:1], max_new_tokens=8, sampler=GREEDY))) for m in (found, expected)]
    assert one[0] == one[1]
    np.testing.assert_allclose(found.loss(IDS, IDS), expected.loss(IDS, IDS), rtol=1e-6)


def formats(model):
    return {p.peek().format.name for p in model.parameters().values() if isinstance(p.peek(), StoredWeight)}


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_gguf(config, kind, tmp_path):
    gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    model = (minillm.Llama if config is LLAMA else minillm.GPT2)(config, seed=1)
    path = write_gguf(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType[kind])
    kept = from_pretrained(path, weights="stored")
    assert formats(kept) == {kind}
    same(kept, from_pretrained(path))


@pytest.mark.parametrize("kind, shard_size", [("f16", None), ("bf16", "100KB")], ids=["f16", "bf16 in shards"])
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_folders(config, kind, shard_size, tmp_path):
    model = (minillm.Llama if config is LLAMA else minillm.GPT2)(config, seed=1)
    model.save_pretrained(tmp_path / "f32")
    export(tmp_path / "f32", tmp_path / "half", kind, TOKENIZER, shard_size=shard_size)
    kept, expanded = from_pretrained(tmp_path / "half", weights="stored"), from_pretrained(tmp_path / "half")
    assert formats(kept) == {kind.upper()}
    same(kept, expanded)
    assert not formats(from_pretrained(tmp_path / "f32", weights="stored"))
    rounded = from_pretrained(tmp_path / "f32", weights={"f16": "float16", "bf16": "bfloat16"}[kind])
    assert formats(rounded) == {kind.upper()}
    same(rounded, expanded)  # rounded to the same numbers
    norms = [p for name, p in kept.parameters().items() if p.peek().ndim == 1]
    assert norms and all(type(p.value) is np.ndarray and p.value.dtype == np.float32 for p in norms)


def test_what_such_a_model_cannot_do_is_said_in_one_line(tmp_path):
    minillm.Llama(LLAMA, seed=1).save_pretrained(tmp_path / "m")
    model = from_pretrained(tmp_path / "m", weights="float16")
    assert model.to("cpu") is model
    for refused, why in (
        (lambda: model.to("cudasim"), "cannot move to cudasim"),
        (lambda: model.save_pretrained(tmp_path / "n"), "cannot be saved"),
        (lambda: minillm.save_parameters(model, tmp_path / "n.safetensors"), "cannot be saved"),
        (lambda: minillm.AdamW(model.parameters(), lr=1e-3), "cannot learn"),
        (lambda: from_pretrained(tmp_path / "m", dtype="float64", weights="float16"), "expanded to float32"),
        (lambda: from_pretrained(tmp_path / "m", weights="int8"), 'unknown weights "int8"'),
    ):
        with pytest.raises(UserError, match=why) as error:
            refused()
        assert "\n" not in str(error.value)


def test_lora_learns_over_them(tmp_path):
    minillm.Llama(LLAMA, seed=1).save_pretrained(tmp_path / "m")
    gradients = []
    for model in (from_pretrained(tmp_path / "m", weights="bfloat16"), from_pretrained(tmp_path / "m")):
        if not formats(model):
            for parameter in model.parameters().values():
                if parameter.value.ndim == 2:  # the same numbers
                    parameter.value = (parameter.value.view("u4") + 0x8000 & 0xFFFF0000).view("f4")
        add_lora(model, LoRA(rank=2), seed=3)
        model.train()
        model.loss(IDS, IDS)
        model.backward()
        gradients.append({name: p.grad for name, p in model.trainable_parameters().items()})
    for name, grad in gradients[1].items():
        np.testing.assert_allclose(gradients[0][name], grad, rtol=1e-3, atol=1e-5, err_msg=name)

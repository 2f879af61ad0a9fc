import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError

SHAPE = dict(vocab_size=11, context_length=8, n_layer=2, n_head=2, d_model=8)
IDS = np.arange(8)[None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_opens_again(tmp_path, bias, tied):
    config = minillm.GPT2Config(**SHAPE, bias=bias, tie_embeddings=tied, dropout=0.1, activation="gelu", d_ff=20)
    model = randomised(minillm.GPT2(config, seed=0)).eval()
    model.save_pretrained(tmp_path)
    opened = minillm.from_pretrained(tmp_path)
    assert opened.config == config and not opened.training
    assert (opened.forward(IDS) == model.forward(IDS)).all()


def test_names_without_prefix_and_mask_buffers(tmp_path):
    """As in OpenAI's own files."""
    model = saved_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.eval().forward(IDS)).all()


def saved_model(folder, **fields):
    model = randomised(minillm.GPT2(minillm.GPT2Config(**SHAPE, **fields), seed=0))
    model.save_pretrained(folder)
    return model


def spoil(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def set_nan(tensors):
    tensors["transformer.h.1.mlp.c_fc.weight"][2, 3] = np.nan


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("transformer.ln_f.bias"), "tensor transformer.ln_f.bias is missing"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "tensor transformer.extra does not belong"),
        (
            lambda t: t.update({"transformer.wpe.weight": np.zeros((4, 8), np.float32)}),
            r"wpe.weight has shape \(4, 8\)",
        ),
        (set_nan, r"tensor transformer.h.1.mlp.c_fc.weight is not finite: nan at \(2, 3\)"),
        (lambda t: t.update({"transformer.wpe.weight": np.zeros((8, 8), np.int32)}), "wpe.weight is stored as I32"),
    ],
)
def test_broken_weights(tmp_path, change, message):
    saved_model(tmp_path)
    spoil(tmp_path, change)
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(tmp_path)


def test_biases_where_there_are_none(tmp_path):
    saved_model(tmp_path, bias=False)
    spoil(tmp_path, lambda t: t["transformer.ln_f.bias"].fill(1))
    with pytest.raises(UserError, match='ln_f.bias is not zero, but config.json says "bias": false'):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, contents, message",
    [
        ("model.safetensors", None, "model.safetensors is missing: the model folder is incomplete"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0half", "is not a complete safetensors file"),
        ("config.json", None, "holds no model: config.json is missing"),
        ("config.json", b"{", "config.json is not valid JSON"),
        ("config.json", b"[]", "holds a list, expected a JSON object"),
        ("config.json", b'{"model_type": "bert"}', "model_type is 'bert', minillm opens gpt2"),
        ("config.json", b'{"model_type": "gpt2", "vocab_size": 11}', "n_positions is missing"),
    ],
)
def test_incomplete_folders(tmp_path, name, contents, message):
    saved_model(tmp_path)
    if contents is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(tmp_path)


def test_impossible_shape_names_the_file(tmp_path):
    saved_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_head": 3}))
    with pytest.raises(UserError, match=r"config.json: d_model \(8\) is not divisible by n_head \(3\)"):
        minillm.from_pretrained(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="is not a folder: name a run folder"):
        minillm.from_pretrained(tmp_path / "nothing")

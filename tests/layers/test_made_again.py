"""Inputs of products that backward makes again: the same bits as where they are kept, and kept where anything differs."""

import numpy as np
import pytest

import minillm
from minillm.layers import layer_norm, made_again, mlp, swiglu
from minillm.layers.linear import Linear
from minillm.layers.made_again import Forgotten, forget_input
from minillm.models.fine_tuning import LoRA, add_lora

SHAPE = dict(vocab_size=11, context_length=6, n_layer=2, n_head=2, d_model=16)
MODELS = {
    "gpt2": lambda dtype: minillm.GPT2(minillm.GPT2Config(**SHAPE), seed=0, dtype=dtype),
    "gpt2 without bias, exact gelu": lambda dtype: minillm.GPT2(
        minillm.GPT2Config(**SHAPE, bias=False, activation="gelu"), seed=0, dtype=dtype
    ),
    "llama": lambda dtype: minillm.Llama(minillm.LlamaConfig(**SHAPE, n_kv_head=1), seed=0, dtype=dtype),
}
IDS = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (3, 7))


def forgetful(model) -> list[str]:
    """The layers that have forgotten their input."""
    saved = {path: layer._saved for path, layer in model.layers() if layer._saved}
    return [path for path, (kept,) in saved.items() if isinstance(getattr(kept, "x", None), Forgotten)]


def gradients(model) -> dict:
    model.train().zero_grad()
    model.loss(IDS[:, :-1], IDS[:, 1:])
    found = forgetful(model)
    model.backward()
    return {name: parameter.grad.copy() for name, parameter in model.parameters().items()}, found


@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_as_where_all_is_kept(monkeypatch, name, dtype):
    made, forgotten = gradients(MODELS[name](dtype))
    for module in (made_again, mlp, swiglu):
        monkeypatch.setattr(module, "forget_input", lambda layer, x: None)
    kept, none = gradients(MODELS[name](dtype))
    assert not none
    products_of_a_block = 3 if name.startswith("gpt2") else 6
    assert len(forgotten) == products_of_a_block * SHAPE["n_layer"]
    for parameter in kept:
        np.testing.assert_array_equal(made[parameter], kept[parameter], err_msg=parameter)


def doubled(forward):
    def operation(*arguments):
        y, saved = forward(*arguments)
        return 2 * y, saved

    return operation


@pytest.mark.parametrize(
    "module, function, keeps", [(layer_norm, "layer_norm_forward", "mlp.c_fc"), (mlp, "gelu_forward", "mlp.c_proj")]
)
def test_what_another_function_computed_is_kept(monkeypatch, module, function, keeps):
    monkeypatch.setattr(module, function, doubled(getattr(module, function)))
    _, forgotten = gradients(MODELS["gpt2"]("float32"))
    assert forgotten and f"transformer.h.0.{keeps}" not in forgotten


def test_what_a_norm_with_another_forward_computed_is_kept():
    model = MODELS["gpt2"]("float32")
    norm = model.transformer.h[0].ln_2
    forward = norm.forward
    norm.forward = lambda x: 2 * forward(x)
    _, forgotten = gradients(model)
    assert "transformer.h.0.mlp.c_fc" not in forgotten and "transformer.h.1.mlp.c_fc" in forgotten


def test_another_array_than_the_one_that_was_read_is_not_forgotten():
    layer = Linear(np.ones((3, 2))).train()
    x = np.ones((4, 3))
    layer.forward(x)
    forget_input(layer, x.copy())
    assert layer.backward(np.ones((4, 2))).shape == (4, 3)


def test_layers_with_lora_keep_their_input():
    model = MODELS["llama"]("float32")
    add_lora(model, LoRA(rank=2))
    model.train().loss(IDS[:, :-1], IDS[:, 1:])
    assert not forgetful(model)
    model.backward()


def test_a_wrong_array_is_noticed(monkeypatch):
    right, _ = gradients(MODELS["gpt2"]("float64"))
    monkeypatch.setattr(mlp, "gelu_again", lambda saved: 1.001 * saved.x * saved.gate)
    wrong, _ = gradients(MODELS["gpt2"]("float64"))
    assert [name for name in right if not np.array_equal(right[name], wrong[name])] == [
        f"transformer.h.{block}.mlp.c_proj.weight" for block in range(SHAPE["n_layer"])
    ]

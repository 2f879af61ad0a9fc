"""A small problem for every CUDA kernel: what `minillm simulate` runs, and compares with NumPy in float64.

`SAMPLES[name]` has the inputs of an operation for a size, and a function that calls its forward and backward through `op`, the
module of the kernel or of the layer, and returns all results by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.kernels import RUNGS
from minillm.layers.layer import Parameter


@dataclass(frozen=True)
class Sample:
    """size: what is run if nobody says otherwise; its numbers are called `size_names`. reference: the module or object with the
    functions in NumPy. tolerance: the relative error that counts as agreement."""

    kernel: str
    reference: Callable
    size_names: tuple[str, ...]
    size: tuple[int, ...]
    inputs: Callable
    run: Callable
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What a kernel gave: name -> relative error against NumPy in float64, norm-wise."""

    errors: dict[str, float]
    tolerance: float

    @property
    def agrees(self) -> bool:
        return all(error <= self.tolerance for error in self.errors.values())  # false for NaN too


def run_sample(sample: Sample, size: tuple[int, ...] | None = None, device: str = "cudasim") -> Outcome:
    """Run the kernels of a sample on a device and compare."""
    given = sample.inputs(np.random.default_rng(0), *(size or sample.size))
    expected = sample.run(sample.reference(), _placed(given, "cpu", np.float64))
    found = sample.run(import_module(sample.kernel), _placed(given, device, np.float32))
    return Outcome({name: _relative_error(found[name], expected[name]) for name in expected}, sample.tolerance)


def _placed(given: dict, device: str, dtype) -> SimpleNamespace:
    def place(array):
        return to_device(array.astype(np.float32).astype(dtype) if array.dtype.kind == "f" else array.copy(), device)

    return SimpleNamespace(
        **{name: [*map(place, value)] if isinstance(value, list) else place(value) for name, value in given.items()}
    )


def _relative_error(found, expected) -> float:
    found, expected = np.asarray(to_host(found), np.float64), np.asarray(expected, np.float64)
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / (norm or 1.0))


# ------------------------------------------------------------------------------------------------------- the problems


def _rows(rng, rows, width):
    return dict(
        x=rng.normal(size=(rows, width)),
        delta=rng.normal(size=(rows, width)),
        dy=rng.normal(size=(rows, width)),
        dsum=rng.normal(size=(rows, width)),
        weight=rng.normal(size=width),
        bias=rng.normal(size=width),
    )


def _attention_inputs(rng, batch, heads, kv_heads, time, width):
    q, dy = rng.normal(size=(2, batch, heads, time, width))
    k, v = rng.normal(size=(2, batch, kv_heads, time, width))
    return dict(q=q, k=k, v=v, dy=dy)


def _attention(op, a):
    y, saved = op.attention_forward(a.q, a.k, a.v)
    return dict(zip(("y", "dq", "dk", "dv"), (y, *op.attention_backward(a.dy, saved))))


def _layer_norm(op, a):
    y, saved = op.layer_norm_forward(a.x, a.weight, a.bias)
    return dict(zip(("y", "dx", "dweight", "dbias"), (y, *op.layer_norm_backward(a.dy, saved))))


def _rms_norm(op, a):
    y, saved = op.rms_norm_forward(a.x, a.weight)
    return dict(zip(("y", "dx", "dweight"), (y, *op.rms_norm_backward(a.dy, saved))))


def _residual_layer_norm(op, a):
    (total, y), saved = op.residual_layer_norm_forward(a.x, a.delta, a.weight, a.bias)
    gradients = op.residual_layer_norm_backward(a.dsum, a.dy, saved)
    return dict(zip(("sum", "y", "dx", "dweight", "dbias"), (total, y, *gradients)))


def _gelu(op, a):
    y, saved = op.gelu_forward(a.x, a.bias)
    return dict(zip(("y", "dx", "dbias"), (y, *op.gelu_backward(a.dy, saved))))


def _dropout(op, a):
    y, saved = op.dropout_forward(a.x, 0.3, (7, "sample"))
    return {"y": y, "dx": op.dropout_backward(a.dy, saved)}


def _cross_entropy_inputs(rng, rows, vocabulary):
    return dict(logits=rng.normal(size=(rows, vocabulary)) * 3, targets=rng.integers(vocabulary, size=rows))


def _cross_entropy(op, a):
    loss, saved = op.cross_entropy_forward(a.logits, a.targets)
    return {"loss": loss, "dlogits": op.cross_entropy_backward(1.0, saved)}


def _embedding_inputs(rng, tokens, vocabulary, width):
    ids = np.minimum(rng.zipf(1.3, size=tokens) - 1, vocabulary - 1)  # few frequent tokens, many rare ones
    return dict(ids=ids, weight=rng.normal(size=(vocabulary, width)), dy=rng.normal(size=(tokens, width)))


def _embedding(op, a):
    y, saved = op.embedding_forward(a.ids, a.weight)
    return {"y": y, "dweight": op.embedding_backward(a.dy, saved)}


def _rotary_inputs(rng, batch, heads, time, width):
    cos, sin = import_module("minillm.layers.rotary").rotary_tables(time, width)
    x, dy = rng.normal(size=(2, batch, heads, time, width))
    return dict(x=x, dy=dy, cos=cos, sin=sin)


def _rotary(op, a):
    y, saved = op.rotary_forward(a.x, a.cos, a.sin)
    return {"y": y, "dx": op.rotary_backward(a.dy, saved)}


def _tensors(rng, rows, columns):
    shapes = ((rows, columns), (columns,), (7,))
    lists = {name: [rng.normal(size=shape) for shape in shapes] for name in ("values", "gradients", "first")}
    return dict(**lists, second=[rng.random(size=shape) for shape in shapes])


def _adamw(op, a):
    decays = [0.1 if value.ndim >= 2 else 0.0 for value in a.values]
    op.adamw_update(a.values, a.gradients, a.first, a.second, 1e-2, (0.9, 0.99), 1e-8, decays, 3)
    return {f"{name}[{i}]": x for name in ("values", "first", "second") for i, x in enumerate(getattr(a, name))}


def _global_norm(op, a):
    return {"norm": op.global_norm(a.gradients)}


def _swiglu(op, a):
    h, saved = op.swiglu_forward(a.x, a.delta)
    return dict(zip(("h", "dgate", "dup"), (h, *op.swiglu_backward(a.dy, saved))))


class OptimizerReference:
    """minillm.optim behind the functions of the launchers."""

    @staticmethod
    def adamw_update(
        values, gradients, first, second, lr, betas, eps, weight_decays, step, gradient_scale=1.0, decoupled=True
    ):
        optim = import_module("minillm.optim")
        parameters = {str(i): Parameter(value) for i, value in enumerate(values)}
        maker = optim.AdamW if decoupled else optim.Adam
        optimizer = maker(parameters, lr, betas, eps, weight_decay=max(weight_decays))
        optimizer.step_count = step - 1
        for i, name in enumerate(parameters):
            parameters[name].grad = gradients[i]
            optimizer.first_moments[name], optimizer.second_moments[name] = first[i], second[i]
        optimizer.step(gradient_scale)

    @staticmethod
    def global_norm(arrays):
        return np.sqrt(sum(np.sum(np.square(array)) for array in arrays))


def _layer(name):
    return lambda: import_module(f"minillm.layers.{name}")


# What each kernel computes, for the list that `minillm simulate` prints.
SUMMARIES = {
    "adamw": "a step of AdamW, all tensors at once",
    "cross_entropy": "the loss of logits, and its gradient",
    "dropout": "zeros at random places, the same ones in backward",
    "embedding": "rows of a table, and the sum of their gradients",
    "gelu": "the activation of GPT-2, with the bias before it",
    "global_norm": "the norm of all gradients together",
    "layer_norm": "rows to mean 0 and variance 1, scaled and shifted",
    "residual_layer_norm": "a sum of two arrays, and its layer norm",
    "rms_norm": "rows to mean square 1, scaled",
    "rotary": "queries and keys turned by their position",
    "swiglu": "the gated activation of Llama",
    "naive": "attention: the formulas as they stand",
    "tiled": "attention: tiles in shared memory",
    "online": "attention: the softmax of a row as its scores come",
    "flash": "attention: no (T, T) matrix in memory",
    "flash_tensor_cores": "attention: flash on tensor cores",
}

_ROWS = ("rows", "width"), (64, 256), _rows
_TENSORS = ("rows", "columns"), (64, 100), _tensors
_HEADS = ("batch", "heads", "kv_heads", "time", "width"), (1, 2, 1, 128, 64), _attention_inputs
_PROBLEMS = {
    "adamw": (OptimizerReference, *_TENSORS, _adamw),
    "cross_entropy": (
        _layer("cross_entropy"),
        ("rows", "vocabulary"),
        (16, 1000),
        _cross_entropy_inputs,
        _cross_entropy,
    ),
    "dropout": (_layer("dropout"), *_ROWS, _dropout),
    "embedding": (_layer("embedding"), ("tokens", "vocabulary", "width"), (200, 50, 96), _embedding_inputs, _embedding),
    "gelu": (_layer("gelu"), *_ROWS, _gelu),
    "global_norm": (OptimizerReference, *_TENSORS, _global_norm),
    "layer_norm": (_layer("layer_norm"), *_ROWS, _layer_norm),
    "residual_layer_norm": (_layer("residual_layer_norm"), *_ROWS, _residual_layer_norm),
    "rms_norm": (_layer("rms_norm"), *_ROWS, _rms_norm),
    "rotary": (_layer("rotary"), ("batch", "heads", "time", "width"), (1, 2, 64, 64), _rotary_inputs, _rotary),
    "swiglu": (_layer("swiglu"), *_ROWS, _swiglu),
}
SAMPLES = {name: Sample(f"minillm.kernels.{name}", *problem) for name, problem in _PROBLEMS.items()}
for _rung in RUNGS:
    # operands of TF32 have 10 bits of mantissa
    _tolerance = 2e-3 if _rung == "flash_tensor_cores" else 1e-4
    SAMPLES[_rung] = Sample(f"minillm.kernels.attention.{_rung}", _layer("attention"), *_HEADS, _attention, _tolerance)

"""Optimizers on parameters of any memory layout, and on what is no parameter."""

import numpy as np
import pytest
from kernel_testing import needs_compiler
from planting import assert_close

import minillm
from minillm.backend.arrays import to_device, to_host
from minillm.checks.cases import array
from minillm.errors import UserError
from minillm.optim import SGD, Adam, AdamW, adamw, clip
from minillm.optim.global_norm import global_norm

LAYOUTS = {
    "transposed": lambda x: np.array(x.T, order="C").T,
    "Fortran": lambda x: np.array(x, order="F"),
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2] if x.ndim else x.copy(),
    "backwards": lambda x: x[::-1].copy()[::-1] if x.ndim else x.copy(),
    "a view of a larger array": lambda x: np.pad(x, 1)[tuple(slice(1, -1) for _ in x.shape)],
}
SHAPES = [(6, 4), (2, 3, 4), (5,), ()]


def trained(optimizer, value, gradients, device="cpu"):
    parameter = minillm.Parameter(to_device(value, device))
    made = optimizer({"w": parameter}, lr=0.1, weight_decay=0.5)
    for gradient in gradients:
        parameter.grad = to_device(gradient, device)
        norm, scale = clip({"w": parameter}, max_norm=0.5)
        made.step(scale)
    state = [to_host(arrays["w"]) for arrays in made.state.values()]
    return to_host(parameter.value), *state, float(norm)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optimizer", [AdamW, Adam, SGD])
def test_the_layout_does_not_matter(monkeypatch, layout, shape, optimizer):
    monkeypatch.setattr(adamw, "BLOCK", 5)
    place = LAYOUTS[layout]
    value, gradients = array("layout", *shape), [array(f"g {t}", *shape) for t in range(3)]
    expected = trained(optimizer, value.copy(), gradients)
    assert (expected[0] != value).all()
    for found in (
        trained(optimizer, place(value), gradients),
        trained(optimizer, value.copy(), [place(g) for g in gradients]),
        trained(optimizer, place(value), [place(g) for g in gradients]),
    ):
        for one, other in zip(found, expected):
            assert_close(one, other)


@pytest.mark.parametrize("layout", ["transposed", "every other row"])
def test_the_layout_does_not_matter_to_the_kernel(layout):
    needs_compiler()
    value, gradients = (
        array("layout", 6, 4).astype("float32"),
        [array(f"g {t}", 6, 4).astype("float32") for t in range(2)],
    )
    place = LAYOUTS[layout]
    expected = trained(AdamW, value.copy(), gradients, "cudasim")
    found = trained(AdamW, place(value), [place(g) for g in gradients], "cudasim")
    assert (found[0] != value).all()
    for one, other in zip(found, expected):
        assert_close(one, other)


def test_a_model_with_a_transposed_weight_learns_as_with_its_copy():
    config = minillm.GPT2Config(vocab_size=7, context_length=6, n_layer=1, n_head=2, d_model=4)
    ids, results = np.arange(6)[None], []
    for layout in (np.array, np.asfortranarray):
        model = minillm.GPT2(config, seed=0, dtype="float64")
        for parameter in model.parameters().values():
            parameter.value = layout(parameter.value)
        optimizer = AdamW(model.parameters(), lr=0.01)
        for _ in range(2):
            model.loss(ids, ids)
            model.backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(np.concatenate([p.value.ravel() for p in model.parameters().values()]))
    assert_close(*results)


def parameters(**values):
    return {name: minillm.Parameter(value) for name, value in values.items()}


SHARED = np.zeros(6)
ONE = minillm.Parameter(np.zeros(2))


@pytest.mark.parametrize(
    "given, message",
    [
        ([ONE], r"AdamW takes a dict, name -> Parameter, as model.parameters\(\) gives it, not a list"),
        ({"w": np.zeros(2)}, "w is a ndarray, not a minillm.Parameter"),
        ({"a": ONE, "b": ONE}, "a and b are one Parameter, which would be changed twice"),
        (parameters(a=SHARED[:4], b=SHARED[3:]), "a and b share memory"),
        (parameters(w=np.broadcast_to(0.0, (2, 3))), "w is read-only"),
    ],
)
def test_what_an_optimizer_cannot_be_made_from(given, message):
    with pytest.raises(UserError, match=message):
        AdamW(given)


@pytest.mark.parametrize(
    "gradients, kind, message",
    [
        (
            {},
            RuntimeError,
            r"no gradient for ws.0, ws.1, table.name: call backward\(\) before step\(\) \(no parameter has one\)",
        ),
        ({"ws.0": np.ones(2)}, RuntimeError, r"no gradient for ws.1, table.name: .* leave out parameters"),
        (
            {"ws.0": np.ones(2), "ws.1": np.ones(2, "float32"), "table.name": np.ones(2)},
            UserError,
            "the gradient of ws.1 is float32, its weight float64",
        ),
        (
            {"ws.0": np.ones(2), "ws.1": np.ones((1, 2)), "table.name": np.ones(2)},
            UserError,
            r"the gradient of ws.1 has shape \(1, 2\), its weight \(2,\)",
        ),
    ],
)
def test_gradients_that_are_missing_or_do_not_fit_are_named(gradients, kind, message):
    layer = minillm.Layer()
    layer.ws, layer.table = list(parameters(a=np.zeros(2), b=np.zeros(2)).values()), parameters(name=np.zeros(2))
    optimizer = AdamW(layer.parameters())
    for name, gradient in gradients.items():
        layer.parameters()[name].grad = gradient
    with pytest.raises(kind, match=message):
        optimizer.step()
    assert optimizer.step_count == 0 and all((p.value == 0).all() for p in layer.parameters().values())


def test_frozen_parameters_are_named():
    given = parameters(a=np.zeros(2), b=np.zeros(2))
    given["b"].frozen, given["a"].grad = True, np.ones(2)
    with pytest.raises(RuntimeError, match="no gradient for b, which is frozen: make the optimizer from those"):
        AdamW(given).step()


def test_a_gradient_that_cannot_be_written_to_is_added_to():
    parameter = minillm.Parameter(np.zeros((2, 3)))
    for _ in range(2):
        parameter.add_grad(np.broadcast_to(1.0, (2, 3)))
    assert (parameter.grad == 2).all() and global_norm([parameter.grad]) == pytest.approx(24**0.5)

"""The rounded copy of a weight: never older than the weight, and made once a step.

FAULTS are ways in which a copy could be used that is older than its weight.
"""

import copy
import gc

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.backend.arrays import SimulatedArray, device_of, to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.layers import parameter as module
from minillm.layers.layer import Parameter
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.optim import SGD, Adam, AdamW, Lion, Muon

OPTIMIZERS = [AdamW, Adam, Lion, SGD, Muon]


def weight(device, rows=3, columns=4):
    """A Parameter whose array is its own."""
    made = Parameter(np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) / 3, outputs_axis=0)
    made.to("cpu")
    made.value = to_device(made.peek().copy(), device)
    gc.collect()
    return made


def like(parameter):
    """An array that a product with the weight takes, in bfloat16."""
    return parameter.peek()[:1].astype(bfloat16())


def is_current(parameter) -> bool:
    """Whether the array for products is the weight, rounded."""
    operand = parameter.operand(like(parameter))
    return operand.dtype == bfloat16() and bool(
        (to_host(operand) == to_host(parameter.peek()).astype(bfloat16())).all()
    )


def test_on_the_cpu_and_for_float32_it_is_the_weight_itself(device):
    host = Parameter(np.ones((2, 3), np.float32))
    assert host.operand(np.ones(1, bfloat16())) is host.peek()
    there = weight(device)
    assert there.operand(there.peek()) is there.peek() and there.operand(there.peek(), padded=True) is there.peek()


def test_it_is_kept_while_the_weight_is_not_handed_out(device):
    parameter = weight(device)
    operand = parameter.operand(like(parameter))
    operand[...] = 7  # not to be done; here it shows that the copy was not made anew
    assert (to_host(parameter.operand(like(parameter))) == 7).all()
    parameter.value  # noqa: B018
    assert is_current(parameter)


def test_rows_up_to_a_multiple_of_64_are_zero(device):
    parameter = weight(device, rows=70)
    whole = parameter.operand(like(parameter), padded=True)
    assert whole.shape == (128, 4) and not to_host(whole)[70:].any() and to_host(whole)[:70].any()
    assert parameter.operand(like(parameter)).shape == (70, 4) and is_current(parameter)


def write(parameter):
    parameter.value[...] = 1


def replace(parameter):
    parameter.value = parameter.peek() + 1


def move(parameter):
    device = device_of(parameter.peek())
    parameter.to("cpu")
    parameter.value += 1
    parameter.to(device)


def write_through_a_shallow_copy(parameter):
    copy.copy(parameter).value[...] = 5


def write_through_a_deep_copy(parameter):
    other = copy.deepcopy(parameter)
    other.value[...] = 5
    assert is_current(other)


@pytest.mark.parametrize("change", [write, replace, move, write_through_a_shallow_copy, write_through_a_deep_copy])
def test_it_follows_a_write(change, device):
    parameter = weight(device)
    assert is_current(parameter)
    change(parameter)
    assert is_current(parameter)


HOLDERS = {
    "the array": lambda array: array,
    "a view": lambda array: array[1:],
    "a view of a view": lambda array: array[1:][:, 1:],
    "the memory": lambda array: array.T.reshape(-1, order="F") if isinstance(array, SimulatedArray) else array.data,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_it_follows_the_writes_of_one_who_keeps_the_array(holder, device):
    parameter = weight(device)
    held = HOLDERS[holder](parameter.value)
    assert is_current(parameter)
    for number in (1, 2):
        parameter.peek()[...] = number  # as the holder would, without asking again
        assert is_current(parameter)
    assert held is not None


def test_it_follows_the_writes_of_one_who_kept_the_array_for_a_while(device):
    parameter = weight(device)
    held = parameter.value
    assert is_current(parameter)  # a copy that was made while the array was held ...
    held[...] = 5
    del held
    assert is_current(parameter)  # ... is not used later, when the array is held no more


def test_the_array_that_a_parameter_was_made_of_may_be_kept():
    array = np.ones((3, 4), np.float32)
    parameter = Parameter(array)
    parameter.to("cudasim")
    assert is_current(parameter)
    array[...] = 3
    assert is_current(parameter)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_it_follows_every_optimizer(optimizer_class, device):
    parameter, vector = weight(device), Parameter(weight(device).value[0].copy())
    optimizer = optimizer_class({"w": parameter, "b": vector}, lr=0.5)
    for step in range(3):
        assert is_current(parameter)
        if step == 1:
            parameter.value[...] = -3.3
        for each in (parameter, vector):
            each.add_grad(each.peek() * 0 + 1)
        before = to_host(parameter.peek()).copy()
        optimizer.step()
        assert not parameter.is_operand_stale()  # the step has written it
        assert is_current(parameter) and (to_host(parameter.peek()) != before).all()
        optimizer.zero_grad()


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_it_follows_a_step_while_the_array_is_held(optimizer_class, device):
    parameter = weight(device)
    optimizer = optimizer_class({"w": parameter}, lr=0.5)
    held = parameter.value
    assert is_current(parameter)
    parameter.add_grad(parameter.peek() * 0 + 1)
    optimizer.step()
    assert is_current(parameter)
    held[...] = 9
    assert is_current(parameter)


def test_a_step_that_changes_no_weight_writes_the_copy(device):
    parameter = weight(device)
    assert is_current(parameter)
    parameter.value[...] = 5
    parameter.add_grad(parameter.peek() * 0 + 1)
    AdamW({"w": parameter}).step(parameter.peek()[0, 0] * np.float32("nan"))
    assert (to_host(parameter.peek()) == 5).all() and is_current(parameter)


def test_kernels_switched_off(device):
    minillm.use_kernels(False)
    try:
        parameter = weight(device)
        for optimizer_class in OPTIMIZERS:
            assert is_current(parameter)
            parameter.add_grad(parameter.peek() * 0 + 1)
            optimizer = optimizer_class({"w": parameter}, lr=0.5)
            optimizer.step()
            optimizer.zero_grad()
            assert is_current(parameter)
    finally:
        minillm.use_kernels(True)


# ------------------------------------------------------------------------------------------------------------- in a model


def model_on(device):
    config = minillm.GPT2Config(vocab_size=20, context_length=8, n_layer=1, n_head=1, d_model=32)
    return minillm.GPT2(config, seed=1, dtype="bfloat16").to(device)


def loss_of(model) -> float:
    ids = to_device(np.arange(8).reshape(1, 8), model.device)
    return float(model.eval().loss(ids, ids))


def assert_all_current(model) -> None:
    """A model of the same weights, made anew, has the same loss."""
    other = model_on(model.device)
    for name, parameter in other.parameters().items():
        parameter.value = to_device(to_host(model.parameters()[name].peek()).copy(), model.device)
    assert loss_of(model) == loss_of(other)


def test_weights_of_a_file(tmp_path, device):
    model, other = model_on(device), model_on(device)
    for parameter in other.parameters().values():
        parameter.value *= 1.5
    minillm.save_parameters(other, tmp_path / "weights.safetensors")
    before = loss_of(model)
    minillm.load_parameters(model, tmp_path / "weights.safetensors")
    assert loss_of(model) != before
    assert_all_current(model)


def test_lora_keeps_the_copies_of_the_base_and_merges(device):
    model = model_on(device)
    loss_of(model)
    add_lora(model, LoRA(2))
    model.train()
    optimizer = AdamW(model.trainable_parameters(), lr=0.1)
    base = [p for name, p in model.parameters().items() if p.frozen and p.peek().ndim == 2 and "wpe" not in name]
    ids = to_device(np.arange(8).reshape(1, 8), device)
    for _ in range(2):
        model.loss(ids, ids)
        model.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not any(p.is_operand_stale() for p in base)
    for parameter in model.parameters().values():
        if parameter.peek().ndim == 2:
            assert is_current(parameter)
    layer = next(layer for _, layer in model.layers() if isinstance(layer, LoRALinear))
    assert is_current(Linear(layer.merged_weight(), transposed=layer.transposed).weight)


def test_a_replica_writes_the_same_weights(device):
    model = model_on(device)
    loss_of(model)
    replica = model.replica()
    for parameter in replica.parameters().values():
        parameter.value *= 1.5
    del replica, parameter
    gc.collect()
    assert_all_current(model)


def test_a_product_adds_to_the_gradient_that_is_there(device):
    layer = Linear(weight(device).value, transposed=True)
    x, dy = (to_device(np.ones((2, width), np.float32), device) for width in (4, 3))
    gradients = []
    for _ in range(2):
        layer.forward(x)
        layer.backward(dy)
        gradients.append(layer.weight.grad)
    assert gradients[0] is gradients[1] and (to_host(gradients[1]) == 4).all()
    layer.weight.grad = to_device(np.asfortranarray(np.ones((3, 4), np.float32)), device)  # no product can write there
    layer.forward(x)
    layer.backward(dy)
    assert (to_host(layer.weight.grad) == 3).all()


def test_a_gradient_that_cannot_be_written_is_replaced():
    layer = Linear(np.ones((4, 3)))
    layer.weight.grad = np.broadcast_to(np.ones(3), (4, 3))
    layer.forward(np.ones((2, 4)))
    layer.backward(np.ones((2, 3)))
    assert (layer.weight.grad == 3).all()


def test_a_broadcast_gradient_is_not_added_into():
    """CuPy's broadcast arrays can be written, and so can this one: one number would get the sum of all that are added."""
    parameter, rows = Parameter(np.zeros((4, 3))), np.ones(3)
    parameter.add_grad(np.lib.stride_tricks.as_strided(rows, (4, 3), (0, rows.itemsize)))
    assert parameter.grad_place() == (None, False)
    parameter.add_grad(np.ones((4, 3)))
    assert (parameter.grad == 2).all() and (rows == 1).all()


# (a text of the file, what is put in its place, what notices it)
BY = "the comparison with the weight"
FAULTS = {
    "value keeps the copy": (
        "        self._is_copy_current = False\n        return self._value",
        "        return self._value",
        BY,
    ),
    "a new value keeps the copy": (
        "self._copy = None  # the value in bfloat16, (rows of ROW_MULTIPLE, ...) for a matrix\n"
        "        self._is_copy_current = False",
        "vars(self).setdefault('_copy', None), vars(self).setdefault('_is_copy_current', False)",
        BY,
    ),
    "holders are not counted": ('return is_held_elsewhere(self, "_value")', "return False", BY),
    "a shallow copy keeps it": ("self._is_copy_current = False  # a shallow", "pass  # a shallow", BY),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(fault, monkeypatch):
    faulty = planted(module, *FAULTS[fault][:2]).Parameter
    monkeypatch.setitem(globals(), "Parameter", faulty)
    checks = [
        lambda: test_it_follows_a_write(write, "cudasim"),
        lambda: test_it_follows_a_write(replace, "cudasim"),
        lambda: test_it_follows_a_write(write_through_a_shallow_copy, "cudasim"),
        lambda: test_it_follows_the_writes_of_one_who_kept_the_array_for_a_while("cudasim"),
    ]
    assert any(_fails(check) for check in checks)


def _fails(check) -> bool:
    try:
        check()
    except AssertionError:
        return True
    return False


def patched_to_list(patch, parameter) -> list:
    """What is handed to its add_grad from now on."""
    found, add_grad = [], parameter.add_grad
    patch.setattr(parameter, "add_grad", lambda grad: (found.append(grad), add_grad(grad)))
    return found


def test_a_product_writes_its_gradient_home(monkeypatch):
    """Where a gradient has a home, the product of Linear's backward is written there, not copied."""
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(6, n)).astype(np.float32) for n in (4, 5))
    for transposed, shape in ((False, (4, 5)), (True, (5, 4))):
        layer = Linear(rng.normal(size=shape).astype(np.float32), transposed=transposed)
        expected = dy.T @ x if transposed else x.T @ dy
        layer.weight.home = home = np.full(shape, np.nan, np.float32)  # of the part before: not to be added to
        with monkeypatch.context() as patch:
            handed_over = patched_to_list(patch, layer.weight)
            for _ in range(2):
                layer.forward(x)
                layer.backward(dy)
        assert layer.weight.grad is home and len(handed_over) == 2 and all(grad is home for grad in handed_over)
        np.testing.assert_allclose(home, 2 * expected, rtol=1e-5)

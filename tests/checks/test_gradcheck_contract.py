"""Layers and functions that do something odd: what gradcheck says of each. Right ones pass, and messages name what is wrong."""

import re

import numpy as np
import pytest

import minillm
from minillm.checks.cases import array
from minillm.checks.gradcheck import CannotTell, ContractError, GradientError
from minillm.checks.verdicts import PASSED, UNTOLD, WRONG
from minillm.errors import UserError

X, Y = array("contract x", 4, 5), array("contract y", 4, 5)


def double(x):
    return 2 * x, None


def doubled(dy, saved):
    return 2 * dy


def verdict(subject, *inputs, **settings):
    try:
        return minillm.gradcheck(subject, *inputs, **settings).verdict
    except CannotTell:
        return UNTOLD
    except GradientError as error:
        assert not isinstance(error, ContractError), error
        return WRONG


class Scale(minillm.Layer):
    """y = x w, with parts that tests replace."""

    def __init__(self, width=5):
        self.w = minillm.Parameter(array("contract w", width))

    def forward(self, x):
        self.save_for_backward(x)
        return x * self.w.value

    def backward(self, dy):
        x = self.take_saved()
        self.add((dy * x).reshape(-1, x.shape[-1]).sum(axis=0))
        return dy * self.w.value

    def add(self, gradient):
        self.w.add_grad(gradient)


# ------------------------------------------------------------------------------------------------- writing into what comes


def doubled_in_place(dy, saved):
    dy *= 2
    return dy


def doubled_twice_in_place(dy, saved):
    dy *= 4
    return dy


def squared_in_place(x):
    saved = x.copy()
    x *= x
    return x, saved


def squared_over_what_is_saved(x):
    saved = x[:]  # a view, which the next line changes
    x *= x
    return x, saved


def squared_backward(dy, saved):
    return 2 * saved * dy


def test_each_call_has_its_own_copies():
    assert verdict((double, doubled_in_place), X) == PASSED
    assert verdict((double, doubled_twice_in_place), X) == WRONG
    assert verdict((squared_in_place, squared_backward), X) == PASSED
    assert verdict((squared_over_what_is_saved, squared_backward), X) == WRONG
    assert (array("contract x", 4, 5) == X).all()


def test_writing_and_sharing_memory_are_noted():
    report = minillm.gradcheck((double, doubled_in_place), X)
    assert report.notes[0].startswith("backward writes over dy") and "note: backward writes over dy" in str(report)
    assert "forward writes over input 0" in minillm.gradcheck((squared_in_place, squared_backward), X).notes[0]

    class Shift(minillm.Layer):
        def __init__(self):
            self.b = minillm.Parameter(array("contract b", 4, 5))

        def forward(self, x):
            return x + self.b.value

        def backward(self, dy):
            self.b.add_grad(dy)
            return dy

    assert "the gradient of b lies in the memory of dy or dx" in minillm.gradcheck(Shift(), X).notes[0]
    assert minillm.gradcheck((lambda x: (x, None), lambda dy, saved: dy), X).notes == ()


# ------------------------------------------------------------------------------------------------------ what is returned


def add(a, b):
    return a + b, None


IDS = np.arange(4)
MASK = X > 0


@pytest.mark.parametrize(
    "forward, backward, inputs, message",
    [
        (add, lambda dy, s: dy, (X, Y), "backward returned 1 gradient for 2 float inputs"),
        (add, lambda dy, s: (dy, dy, dy), (X, Y), "backward returned 3 gradients for 2 float inputs"),
        (add, lambda dy, s: (dy, None), (X, Y), "backward returned None for input 1"),
        (double, lambda dy, s: None, (X,), "backward returned nothing: return dx"),
        (double, lambda dy, s: (2 * g for g in [dy]), (X,), "backward returned a generator: return dx"),
        (double, lambda dy, s: {"x": 2 * dy}, (X,), "backward returned a dict"),
        (double, lambda dy, s: 2 * dy[0], (X,), r"the gradient of input 0 has shape \(5,\), the input \(4, 5\)"),
        (double, lambda dy, s: np.full((1, 5), 2.0), (X,), r"has shape \(1, 5\), the input \(4, 5\)"),
        (double, lambda dy, s: 2.0, (X,), r"has shape \(\), the input \(4, 5\)"),
        (double, lambda dy, s: (2 * dy).astype("float32"), (X,), "the gradient of input 0 is float32, the input is float64"),
        (double, lambda dy, s: (2 * dy).astype(complex), (X,), "the gradient of input 0 is complex128"),
        (lambda x, m: (x * m, m), lambda dy, m: (dy * m, dy), (X, MASK), "input 1 is bool and has no gradient"),
        (lambda i, x: (x[i], i), lambda dy, i: (dy, dy), (IDS, X), "input 0 is int64 and has no gradient, but"),
        (lambda x: (None, None), doubled, (X,), "forward returned nothing: return y"),
        (lambda x: 2 * x, doubled, (X,), "forward returned a ndarray: of a pair of functions it returns y, saved"),
        (lambda x: (2 * x.astype("float32"), None), doubled, (X,), "the output is float32"),
        (lambda x: (x > 0, None), doubled, (X,), "the output is bool"),
    ],
)  # fmt: skip
def test_what_is_returned_is_said_by_name(forward, backward, inputs, message):
    with pytest.raises(ContractError, match=message):
        minillm.gradcheck((forward, backward), *inputs)


@pytest.mark.parametrize(
    "forward, backward, inputs",
    [
        (add, lambda dy, s: [dy, dy], (X, Y)),
        (lambda x, m: (x * m, m), lambda dy, m: dy * m, (X, MASK)),
        (lambda x, m: (x * m, m), lambda dy, m: (dy * m, None), (X, MASK)),
        (lambda i, x: (x[i], i), lambda dy, i: (None, dy), (IDS, X)),
        (double, lambda dy, s: np.float64(2) * dy, (np.array(3.0),)),
        (lambda x: (x.sum(), x), lambda dy, x: np.broadcast_to(dy, x.shape), (X,)),
        (lambda x: ((x, 3 * x), None), lambda dy, s: dy[0] + 3 * dy[1], (X,)),
        (lambda x: ((x, x.sum()), None), lambda dy, s: dy[0] + dy[1], (X,)),
        (lambda x: (np.array(7.0), None), lambda dy, s: 0 * X, (X,)),
        (lambda x: (x[::-1], None), lambda dy, s: dy[::-1], (X,)),
        (lambda x: (2 * x, None), doubled, (np.empty((0, 3)),)),
    ],
)
def test_right_ones_pass(forward, backward, inputs):
    assert verdict((forward, backward), *inputs) == PASSED


def test_a_swapped_output_is_found():
    assert verdict((lambda x: ((x, 3 * x), None), lambda dy, s: 3 * dy[0] + dy[1]), X) == WRONG
    assert verdict((lambda x: ((x.sum(), (x * x).sum()), x), lambda dy, x: dy[1] + 2 * x * dy[0]), X) == WRONG


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda x: x.T,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1, ::-1],
        lambda x: np.broadcast_to(x[0], x.shape),
        lambda x: x[:, None],
    ],
)
def test_any_memory_layout(layout):
    x = layout(X)
    before = x.copy()
    assert verdict((double, doubled), x) == PASSED
    assert verdict((double, lambda dy, s: dy), x) == WRONG
    assert (x == before).all()
    layer = Scale()
    layer.w.value = layout(np.arange(1.0, 26).reshape(5, 5))[0] if x.ndim == 2 and x.flags.writeable else layer.w.value
    assert verdict(layer, array("x", 3, 5)) == PASSED


# --------------------------------------------------------------------------------------------- randomness, state, parameters


def test_forward_that_is_not_the_same_twice():
    numbers = np.random.default_rng(0)

    def noisy(x):
        mask = numbers.random(x.shape) > 0.5
        return x * mask, mask

    with pytest.raises(ContractError, match="forward gives different results for the same input"):
        minillm.gradcheck((noisy, lambda dy, mask: dy * mask), X)

    class Counting(Scale):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 if self.calls < 9 else 1.5)

    with pytest.raises(ContractError, match="keeps something from call to call"):
        minillm.gradcheck(Counting(), X)


def test_state_that_does_not_change_the_result():
    class RunningMean(Scale):
        mean = 0.0

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
            return super().forward(x)

    assert verdict(RunningMean(), X) == PASSED


def test_dropout_asks_for_its_key():
    from minillm.layers.dropout import Dropout

    with pytest.raises(ValueError, match="needs an rng_key in training mode"):
        minillm.gradcheck(Dropout(0.5), X)
    assert verdict(Dropout(0.5), X, rng_key=(0, "check")) == PASSED
    with pytest.raises(TypeError, match="forward takes no rng_key"):
        minillm.gradcheck(Scale(), X, rng_key=(0,))


class Listed(minillm.Layer):
    """y = x A B s, with the factors in a list, a nested dict and 0-d."""

    def __init__(self, learns=True):
        self.ws = [minillm.Parameter(array("a", 5, 5))]
        self.table = {"deep": ({"name": minillm.Parameter(array("b", 5, 5))},)}
        self.scale = minillm.Parameter(1.5)
        self.learns = learns

    def forward(self, x):
        a, b = self.ws[0].value, self.table["deep"][0]["name"].value
        self.save_for_backward((x, x @ a))
        return x @ a @ b * self.scale.value

    def backward(self, dy):
        x, h = self.take_saved()
        a, b = self.ws[0], self.table["deep"][0]["name"]
        if self.learns:
            a.add_grad(x.T @ (dy @ b.value.T) * self.scale.value)
            b.add_grad(h.T @ dy * self.scale.value)
            self.scale.add_grad((h @ b.value * dy).sum())
        return dy @ b.value.T @ a.value.T * self.scale.value


def test_parameters_in_lists_tuples_and_dicts():
    report = minillm.gradcheck(Listed(), X)
    assert [row.tensor for row in report.rows] == ["input 0", "ws.0", "table.deep.0.name", "scale"]
    assert "Listed, step 0.001: 1 input, 3 parameters: passed" in str(report)
    with pytest.raises(ContractError, match="backward left no gradient for ws.0"):
        minillm.gradcheck(Listed(learns=False), X)


def test_arrays_that_are_no_parameters_are_named():
    class Raw(Scale):
        def __init__(self):
            super().__init__()
            self.table = {"b": np.ones(5)}

    report = minillm.gradcheck(Raw(), X)
    assert "table.b (5,) is a plain array and no Parameter: neither trained nor checked" in str(report)
    assert "1 input, 0 parameters" in str(minillm.gradcheck((double, doubled), X))


def test_gradients_have_to_be_added():
    class Replacing(Scale):
        def add(self, gradient):
            self.w.grad = gradient

    class Twice(Scale):
        def add(self, gradient):
            self.w.add_grad(gradient if self.w.grad is None else 2 * gradient)

    with pytest.raises(ContractError, match="a second backward replaces the gradient of w"):
        minillm.gradcheck(Replacing(), X)
    with pytest.raises(ContractError, match="does not add the same gradient of w"):
        minillm.gradcheck(Twice(), X)


def test_a_parameter_used_twice_and_one_that_is_a_view_of_another():
    class Squared(Scale):
        def __init__(self):
            super().__init__()
            self.again = self.w

        def forward(self, x):
            self.save_for_backward(x)
            return x * self.w.value * self.again.value

        def backward(self, dy):
            x, w = self.take_saved(), self.w.value
            for parameter in (self.w, self.again):
                parameter.add_grad((dy * x * w).sum(axis=0))
            return dy * w * w

    report = minillm.gradcheck(Squared(), X)
    assert [row.tensor for row in report.rows] == ["input 0", "w"]
    layer = Squared()
    layer.again = minillm.Parameter(layer.w.value[:])
    with pytest.raises(UserError, match="share memory: make one Parameter of them"):
        minillm.gradcheck(layer, X)


def test_a_forward_that_changes_its_parameter():
    class Normalising(Scale):
        def forward(self, x):
            self.w.value /= np.abs(self.w.value).max() * 1.01
            return super().forward(x)

    with pytest.raises(ContractError, match="forward or backward changes the parameter w itself"):
        minillm.gradcheck(Normalising(), X)


def test_modes_and_gradients_are_as_before():
    layer = Scale().eval()
    minillm.gradcheck(layer, X)
    assert not layer.training and layer.w.grad is None and layer._saved is None


@pytest.mark.parametrize(
    "subject, inputs, kind, message",
    [
        (object(), (X,), TypeError, "a layer derives from minillm.Layer"),
        (minillm.Layer(), (X,), TypeError, r"Layer has no forward: a layer has forward\(x\) and backward\(dy\)"),
        ((double, doubled), (X.astype(object),), TypeError, "input 0 is object, gradients are checked in float64"),
        (Scale, (X,), TypeError, "Scale is a class: give a layer"),
        (double, (X,), TypeError, "give a pair of functions"),
        ((double, doubled), (X + 0j,), TypeError, "input 0 is complex128"),
        ((double, doubled), (X.astype("float16"),), TypeError, "input 0 is float16, gradients are checked in float64"),
        ((double, lambda dy, s: None), (IDS,), UserError, "there is nothing to check: no float input"),
    ],
)
def test_what_cannot_be_checked(subject, inputs, kind, message):
    with pytest.raises(kind, match=message):
        minillm.gradcheck(subject, *inputs)


def test_a_read_only_parameter_is_refused():
    layer = Scale()
    layer.w.value = np.broadcast_to(1.0, 5)
    with pytest.raises(UserError, match="w is read-only"):
        minillm.gradcheck(layer, X)


# --------------------------------------------------------------------------------------------------- no derivative


def at_zero(x=X):
    x = x.copy()
    x[1, 2] = 0.0
    return x


RELU = (lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0))
ABS = (lambda x: (np.abs(x), x), lambda dy, x: dy * np.sign(x))
MAX = (lambda a, b: (np.maximum(a, b), a >= b), lambda dy, first: (dy * first, dy * ~first))


def test_a_kink_is_no_wrong_gradient_and_is_noted():
    for subject, inputs in ((RELU, (at_zero(),)), (ABS, (at_zero(),)), (MAX, (X, np.where(X > 1, X, Y)))):
        report = minillm.gradcheck(subject, *inputs)
        assert report.verdict == PASSED
        assert any(
            re.match(r"kink at input 0\[.*\]: slope .* to the left, .* to the right; backward's", n)
            for n in report.notes
        )
    assert verdict(RELU, X) == verdict(ABS, X) == verdict(MAX, X, Y) == PASSED
    # a wrong element is wrong, though another one is at a kink
    assert verdict((RELU[0], lambda dy, x: 1.001 * dy * (x > 0)), at_zero()) == WRONG
    # near a kink, but not at it
    near = X.copy()
    near[1, 2] = 1e-5
    assert verdict(RELU, near) == PASSED
    assert verdict((RELU[0], lambda dy, x: dy * (x > 1e-4)), near) == WRONG


def relu_with(at_a_kink):
    return RELU[0], lambda dy, x: dy * ((x > 0) + at_a_kink * (x == 0))


def test_at_a_kink_a_gradient_is_one_of_the_two_slopes_or_between_them():
    for value, said in ((0, "is one of them"), (1, "is one of them"), (0.3, "is between them")):
        (note,) = minillm.gradcheck(relu_with(value), at_zero()).notes
        assert note.startswith("kink at input 0[1, 2]: ") and note.endswith(said)
    for value in (2, -0.1, 1.0001):
        with pytest.raises(
            GradientError, match=r"is wrong at \(1, 2\): .* has a kink: slope .* one of them or between them"
        ):
            minillm.gradcheck(relu_with(value), at_zero())


def test_a_tensor_of_nothing_but_kinks_has_not_been_checked():
    with pytest.raises(CannotTell, match="every number of it is at a kink.*This is no pass: try another x") as caught:
        minillm.gradcheck(RELU, np.zeros((2, 3)))
    assert caught.value.report.verdict == UNTOLD


def test_of_many_kinks_some_are_named():
    x = X.copy()
    x.flat[:-1] = 0
    notes = minillm.gradcheck(RELU, x).notes
    assert len(notes) == 4 and notes[-1] == f"{x.size - 4} more kinks in input 0"


def test_steps_are_flat_whatever_the_larger_steps_say():
    """A straight-through estimator: round(x + t) is a straight line for whole numbers t."""
    assert verdict((lambda x: (np.round(x), None), lambda dy, s: dy), X) == WRONG
    assert verdict((lambda x: (np.round(x), None), lambda dy, s: 0 * dy), X) == PASSED
    assert verdict((lambda x: (x % 1.0, None), lambda dy, s: dy), X) == PASSED


def test_what_bends_at_zero_and_has_a_slope_passes():
    squared = (lambda x: (np.maximum(x, 0) ** 2, x), lambda dy, x: 2 * dy * np.maximum(x, 0))
    assert verdict(squared, at_zero()) == PASSED


@pytest.mark.parametrize(
    "function, slope, message",
    [
        (
            np.sqrt,
            lambda x: np.where(x > 0, 0.5 / np.sqrt(np.maximum(x, 1e-300)), 0),
            "edge of where forward is defined",
        ),
        (np.cbrt, lambda x: np.where(x != 0, 1 / (3 * np.cbrt(np.where(x, x, 1)) ** 2), 0), "do not settle"),
        (lambda x: x + (x > 0), lambda x: np.ones_like(x), "forward jumps there"),
    ],
)
def test_other_points_without_a_derivative(function, slope, message):
    pair = (lambda x: (function(x), x), lambda dy, x: dy * slope(x))
    with pytest.raises(CannotTell, match=message):
        minillm.gradcheck(pair, at_zero(np.abs(X)))


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e8, 1e150])
def test_losses_of_any_scale(scale):
    def forward(x):
        return scale * np.sin(x), x

    assert verdict((forward, lambda dy, x: dy * scale * np.cos(x)), X) == PASSED
    assert verdict((forward, lambda dy, x: dy * scale * np.cos(x) * (1 + 2e-6)), X) == WRONG
    assert verdict((forward, lambda dy, x: 0 * dy), X) == WRONG


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1e3, 1e7])
def test_inputs_of_any_size(size):
    def forward(x):
        return np.sin(x / size), x

    assert verdict((forward, lambda dy, x: dy * np.cos(x / size) / size), size * X) == PASSED
    assert verdict((forward, lambda dy, x: dy * np.cos(x / size) / size * (1 - 2e-6)), size * X) == WRONG


def test_a_function_of_the_logarithm_of_small_and_large_numbers():
    x = 10.0 ** np.linspace(-8, 8, 9)
    assert verdict((lambda x: (np.log(x), x), lambda dy, x: dy / x), x) == PASSED
    assert verdict((lambda x: (np.log(x), x), lambda dy, x: dy / x * (1 + (x < 1e-7))), x) == WRONG


def test_float32_inside_is_not_called_wrong():
    def forward(x):
        return np.sin(x.astype("float32")).astype("float64"), x

    assert verdict((forward, lambda dy, x: dy * np.cos(x)), X) in (PASSED, UNTOLD)
    assert verdict((forward, lambda dy, x: 1.1 * dy * np.cos(x)), X) == WRONG


def test_forward_that_gives_no_number():
    with pytest.raises(CannotTell, match=r"forward gives nan in the output at \(1, 2\)"):
        minillm.gradcheck((lambda x: (np.where(x == 0, np.nan, x), None), lambda dy, s: dy), at_zero())
    with pytest.raises(GradientError, match=r"wrong at \(1, 2\): backward gives nan"):
        minillm.gradcheck((double, lambda dy, s: 2 * np.where(at_zero() == 0, np.nan, dy)), X)


def test_progress_is_reported():
    told = []
    minillm.gradcheck((double, doubled), X, progress=lambda *where: told.append(where))
    assert told == [(done, 20, "input 0") for done in range(1, 21)]


def test_a_list_is_no_input():
    with pytest.raises(TypeError, match=r"Linear: input 0 is a list: give np.array\(...\)"):
        minillm.gradcheck(minillm.Linear(np.ones((3, 3))), [[1.0, 2, 3]])

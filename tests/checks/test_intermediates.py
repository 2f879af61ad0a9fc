"""The message of a failing check names the first intermediate of backward that is wrong."""

import importlib
import sys

import numpy as np
import pytest

import minillm
from minillm.checks.cases import LAYER_NORM, RMS_NORM, SWIGLU, check_gradients
from minillm.checks.gradcheck import GradientError
from minillm.checks.instrumented import TAP


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """A function that returns a module, read from a file, with a text in it replaced."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)

    def with_a_fault(source: str, right: str = "", wrong: str = "", name: str = "changed_module"):
        assert not right or source.count(right) == 1, source.count(right)
        (tmp_path / f"{name}.py").write_text(source.replace(right, wrong) if right else source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return with_a_fault


def said(subject, *inputs, **settings) -> str:
    with pytest.raises(GradientError) as caught:
        minillm.gradcheck(subject, *inputs, **settings)
    return str(caught.value)


BLOCK = """
import numpy as np

def block_forward(x, w, v):
    z = x @ w
    h = np.tanh(z)
    h = h * 2
    s = h @ v
    e = np.exp(s)
    total = e.sum(axis=-1, keepdims=True)
    p = e / total
    return p, (x, w, v, h, e, total, p)

def block_backward(dp, saved):
    x, w, v, h, e, total, p = saved
    de = dp / total
    dtotal = -(dp * e).sum(axis=-1, keepdims=True) / total**2
    de += dtotal
    ds = de * e
    dv = h.T @ ds
    dh = ds @ v.T
    dz = 2 * dh * (1 - (h / 2) ** 2)
    dw = x.T @ dz
    return dz @ w.T, dw, dv
"""
RNG = np.random.default_rng(0)
INPUTS = [RNG.normal(size=shape) for shape in ((3, 4), (4, 5), (5, 2))]


@pytest.mark.parametrize(
    "right, wrong, line, before",
    [
        ("dtotal = -(dp", "dtotal = (dp", "17: dtotal = (dp * e)", "relative error 2.0e+00"),
        ("    de += dtotal\n", "", "16: de = dp / total", "relative error"),
        ("ds = de * e", "ds = 1.1 * de * e", "19: ds = 1.1 * de * e (relative error 9.1e-02", "de before it are right"),
        ("dv = h.T @ ds", "dv = h.T @ de", "20: dv = h.T @ de", "dtotal, de and ds before it are right"),
        ("dz = 2 * dh", "dz = dh", "22: dz = dh *", "ds, dv and dh before it are right"),
        ("return dz @ w.T, dw, dv", "return 2 * dz @ w.T, dw, dv", "", "dz and dw are right up to line 23"),
    ],
)  # fmt: skip
def test_the_first_wrong_line(right, wrong, line, before, changed):
    module = changed(BLOCK, right, wrong)
    message = said((module.block_forward, module.block_backward), *INPUTS)
    assert before in message
    assert (f"first wrong: changed_module.py:{line}" in message) if line else ("first wrong" not in message)


def test_a_gradient_that_is_added_up_has_the_lines_from_the_first_to_the_last(changed):
    module = changed(BLOCK, "de += dtotal", "de -= dtotal")
    assert "first wrong: changed_module.py:18: ds" not in said((module.block_forward, module.block_backward), *INPUTS)
    module = changed(BLOCK.replace("de = dp / total", "de = 2 * dp / total"))
    message = said((module.block_forward, module.block_backward), *INPUTS)
    assert "first wrong: changed_module.py:16 to 18: de = 2 * dp / total" in message


LAYER = """
import numpy as np

import minillm


class Gate(minillm.Layer):
    def __init__(self):
        self.g = minillm.Parameter(np.array([0.5, -1.0, 2.0, 0.3]))

    def forward(self, x):
        z = x * self.g.value
        a = np.tanh(z)
        self.save_for_backward((x, a))
        return a * x

    def backward(self, dy):
        x, a = self.take_saved()
        da = dy * x
        dz = da * (1 - a)
        dg = (dz * x).sum(axis=0)
        self.g.add_grad(dg)
        return dz * self.g.value + dy * a
"""


def test_of_a_layer(changed):
    module = changed(LAYER)
    message = said(module.Gate(), INPUTS[0])
    assert "first wrong: changed_module.py:20: dz = da * (1 - a) (relative error" in message
    assert "da before it is right" in message
    minillm.gradcheck(changed(LAYER, "(1 - a)", "(1 - a**2)").Gate(), INPUTS[0])


def source_of(case) -> str:
    with open(case.module.__file__, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize(
    "case, right, wrong, said_of_it",
    [
        (LAYER_NORM, "    dnormed = dy_rows * weight\n", "    dnormed = dy_rows * 1\n", "dnormed = dy_rows * 1 ("),
        (LAYER_NORM, "dweight = ones @ product", "dweight = 2 * ones @ product", "dweight = 2 * ones @ product ("),
        (RMS_NORM, "    dx = dy_rows * weight\n", "    dx = dy_rows * 1\n", "dx = dy_rows * 1 ("),
        (SWIGLU, "    dgate += 1\n", "", "dgate = 1 - s ("),
    ],
)
def test_of_minillms_own_layers(case, right, wrong, said_of_it, changed):
    with open(case.module.__file__, encoding="utf-8") as file:
        module = changed(file.read(), right, wrong)
    with pytest.raises(GradientError) as caught:
        check_gradients(case, case.gradcheck[0], module, intermediates=True)
    assert said_of_it in str(caught.value).partition("first wrong: changed_module.py:")[2], str(caught.value)
    with pytest.raises(GradientError) as caught:
        check_gradients(case, case.gradcheck[0], module)  # a table of faults needs no reasons
    assert "first wrong" not in str(caught.value)


def test_nothing_is_left_behind(changed):
    module = changed(BLOCK, "ds = de * e", "ds = de")
    before = module.block_forward.__code__, module.block_backward.__code__, sys.getprofile()
    said((module.block_forward, module.block_backward), *INPUTS)
    assert (module.block_forward.__code__, module.block_backward.__code__, sys.getprofile()) == before
    assert TAP not in vars(module)


def test_a_function_that_is_not_what_its_file_says_is_left_out(changed, tmp_path):
    module = changed(BLOCK, "ds = de * e", "ds = de")
    (tmp_path / "changed_module.py").write_text(BLOCK)
    sys.modules["linecache"].checkcache()
    assert "first wrong" not in said((module.block_forward, module.block_backward), *INPUTS)


def test_functions_without_a_file_and_without_names_say_nothing():
    message = said((lambda x: (x**2, x), lambda dy, x: 3 * x * dy), INPUTS[0])
    assert "first wrong" not in message and "are right" not in message


def test_it_can_be_left_out(changed):
    module = changed(BLOCK, "ds = de * e", "ds = de")
    assert "first wrong" not in said((module.block_forward, module.block_backward), *INPUTS, intermediates=False)


GATE = """
import numpy as np

def gate_forward(x, w, u):
    z = 1 / (1 + np.exp(-(x @ w)))
    h = z * (x @ u)
    return h, (x, w, u, z)

def gate_backward(dh, saved):
    x, w, u, z = saved
    dz = dh * (x @ u) * z * (1 - z)
    dw = x.T @ dz
    dn = dh * z
    du = x.T @ dn
    dx = dz @ w.T + dn @ u.T
    return dx, dw, du
"""


def test_a_name_that_leads_to_right_gradients_is_of_something_else(changed):
    """dz is the gradient of what the sigmoid makes z of, as in many gated cells."""
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=shape) for shape in ((3, 4), (4, 5), (4, 5))]
    module = changed(GATE, "du = x.T @ dn", "du = 2 * x.T @ dn")
    message = said((module.gate_forward, module.gate_backward), *inputs, input_names=("x", "w", "u"))
    assert "first wrong: changed_module.py:14: du = 2 * x.T @ dn" in message and "dz" not in message


SCALED = """
import numpy as np

def scaled_forward(x, w):
    s = x @ w / 2
    y = np.tanh(s)
    return y, (x, w, y)

def scaled_backward(dy, saved):
    x, w, y = saved
    ds = dy * (1 - y * y) / 2
    dx = ds @ w.T
    dw = x.T @ ds
    return dx, dw
"""


@pytest.mark.parametrize(
    "right, wrong, doubt",
    [
        ("dw = x.T @ ds", "dw = -x.T @ ds", False),
        ("dx = ds @ w.T\n    dw = x.T", "dx = ds @ -w.T\n    dw = -x.T", True),
    ],
)
def test_a_step_that_explains_nothing_is_doubted(right, wrong, doubt, changed):
    """ds includes the 1/2 here: it is the gradient of x @ w, not of s."""
    rng = np.random.default_rng(0)
    module = changed(SCALED, right, wrong)
    inputs = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
    message = said((module.scaled_forward, module.scaled_backward), *inputs, input_names=("x", "w"))
    assert ("there is another fault, or ds is the gradient of something else" in message) == doubt
    if not doubt:
        assert "first wrong: changed_module.py:13: dw = -x.T @ ds" in message


def test_a_step_that_explains_all_is_not_doubted(changed):
    module = changed(BLOCK, "ds = de * e", "ds = de * e * 2")
    message = said((module.block_forward, module.block_backward), *INPUTS)
    assert "first wrong: changed_module.py:19: ds" in message and "another fault" not in message


def test_several_values_in_one_line_of_forward(changed):
    source = SCALED.replace("s = x @ w / 2\n    y = np.tanh(s)", "s, n = x @ w / 2, len(x)\n    y = np.tanh(s)")
    module = changed(source, "    ds = dy * (1 - y * y) / 2\n    dx = ds @ w.T\n    dw = x.T @ ds",
                     "    ds = dy * (1 + y * y)\n    dx = ds @ w.T / 2\n    dw = x.T @ ds / 2")  # fmt: skip
    inputs = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 5))
    message = said((module.scaled_forward, module.scaled_backward), *inputs, input_names=("x", "w"))
    assert "first wrong: changed_module.py:11: ds = dy * (1 + y * y)" in message and "another fault" not in message

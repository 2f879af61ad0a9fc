"""The numbers beside the lines: what the tracer sees, and that it is what the operation computes."""

from __future__ import annotations

import sys
import textwrap

import numpy as np
import pytest

from minillm.checks.agreement import placed
from minillm.checks.cases import LAYER_NORM
from minillm.layers.layer_norm import layer_norm_backward, layer_norm_forward
from minillm.web.read.operation import OPERATIONS
from minillm.web.read.passes import PROBLEMS
from minillm.web.read.tracing import Look, Tracer
from minillm.web.read.values import observe


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_function_is_observed(name):
    """Each function of a page has numbers, and none is NaN: no memory is shown that holds no numbers yet."""
    operation = OPERATIONS[name]
    seen = observe(operation)
    wanted = {part for pair in operation.pairs for part in (pair.forward, pair.backward) if part}
    assert wanted <= {each.function for each in seen}
    assert not [each for each in seen if each.norm is not None and not np.isfinite(each.norm)]
    assert not [each for each in seen if np.isnan(each.values).any()]
    assert [each.line for each in seen] == sorted(each.line for each in seen)


@pytest.mark.parametrize("name", ["attention", "adamw", "rotary", "linear_cross_entropy", "gpt_page"])
def test_numbers_are_the_same_whatever_unused_memory_holds(name, monkeypatch):
    def filled(function, number):
        def empty(*arguments, **settings):
            array = function(*arguments, **settings)
            array.fill(number)
            return array

        return empty

    found = []
    for number in (7, 3):
        with monkeypatch.context() as patch:
            for function in ("empty", "empty_like"):
                patch.setattr(np, function, filled(getattr(np, function), number))
            found.append(observe(OPERATIONS[name]))
    assert found[0] == found[1]


def test_numbers_are_those_of_the_operation():
    """The same inputs without a tracer: y, dx and what lies between them."""
    a = placed(LAYER_NORM, LAYER_NORM.make(PROBLEMS["layer_norm"][0]), "cpu")
    seen = {(each.function, each.name): each for each in observe(OPERATIONS["layer_norm"])}
    y, saved = layer_norm_forward(a.x, a.weight, a.bias, a.eps)
    for key, array in {
        ("layer_norm_forward", "x"): a.x,
        ("layer_norm_forward", "rstd"): saved.rstd,
        ("layer_norm_forward", "return[0]"): y,
        ("LayerNorm.forward", "y"): y,
    }.items():
        each = seen[key]
        assert (each.shape, each.dtype) == (array.shape, str(array.dtype)) and each.dtype == "float32"
        assert each.norm == pytest.approx(np.linalg.norm(array.astype(float)), rel=1e-12)
        assert each.values == tuple(map(float, array.flat[:4]))
    dx, dweight, _ = layer_norm_backward(a.dy, saved)
    assert seen["layer_norm_backward", "dweight"].shape == dweight.shape
    assert seen["layer_norm_backward", "return[0]"].shape == dx.shape


def test_an_array_that_is_written_over_has_the_numbers_of_each_line():
    """In `attend` the scores become scores with a mask, and then probabilities, in one array."""
    seen = [each for each in observe(OPERATIONS["attention"]) if (each.function, each.name) == ("attend", "s")]
    assert len({each.shape for each in seen}) == 1
    assert len({each.norm for each in seen}) == 3
    assert -np.inf in seen[1].values and -np.inf not in seen[0].values


# ----------------------------------------------------------------------------------------------------- the tracer


def traced(folder, source, call):
    """The calls of the functions of a source; `call` gets them by name."""
    path = folder / "source.py"
    path.write_text(textwrap.dedent(source).lstrip())
    functions = {"np": np}
    exec(compile(path.read_text(), str(path), "exec"), functions)
    with Tracer([str(path)]) as tracer:
        call(functions)
    return tracer.calls


def by_line(call):
    """Line -> name -> the first number of each step, of the first time that the line ran."""
    found = {}
    for step in call.steps:
        numbers = {n: each.values[0] for n, each in step.names.items() if isinstance(each, Look) and each.values}
        found.setdefault(step.line, numbers)
    return found


def test_assignments(tmp_path):
    source = """
    def f(x):
        y = x + 1
        y += 1
        a, (b, c) = y, (2 * y, 3 * y)
        c[0], d = 9, (
            a
            + b)
        for z in (c, d):
            y = z
        return y * 1, d
    """
    (call,) = traced(tmp_path, source, lambda f: f["f"](np.array([1.0, 5.0])))
    assert call.function == "f" and call.line == 1 and call.arguments["x"].values == (1.0, 5.0)
    assert by_line(call) == {
        2: {"y": 2},
        3: {"y": 3},
        4: {"a": 3, "b": 6, "c": 9},
        5: {"c[0]": 9, "d": 9},
        8: {"z": 9},
        9: {"y": 9},
        10: {"return[0]": 9},
    }
    assert [step.line for step in call.steps if step.line in (8, 9)] == [8, 9, 8, 9]


def test_arrays_that_are_written_into(tmp_path):
    source = """
    def f(x, out):
        np.exp(x, out=out)
        x -= np.multiply(x, 2, out=out)
        np.add.at(x, [0, 0], 1)
        x[1:] = 8
        (y := x)[0] = 6
    """
    (call,) = traced(tmp_path, source, lambda f: f["f"](np.array([0.0, 3.0]), np.zeros(2)))
    assert by_line(call) == {
        2: {"out": 1},
        3: {"x": 0, "out": 0},
        4: {"x": 2},
        5: {"x[1:]": 8},
        6: {"y": 6, "(y := x)[0]": 6},
    }


def test_memory_without_numbers_has_none(tmp_path):
    source = """
    def f():
        a = np.empty((2, 3))
        b, c = a[0], a.T
        b[...] = 4
        d = a[0]
        return g(np.empty_like(d))

    def g(x):
        x.fill(1)
        return x + 0
    """
    f, _ = traced(tmp_path, source, lambda f: f["f"]())
    steps = {step.line: step.names for step in f.steps}
    assert steps[2]["a"] == Look((2, 3), "float64") and steps[3] == {
        "b": Look((3,), "float64"),
        "c": Look((3, 2), "float64"),
    }
    assert steps[4]["b[...]"].values == steps[5]["d"].values == (4, 4, 4)


def test_lines_of_a_call_within_a_line(tmp_path):
    """Each function has its own statements; the line that calls ends after those of the function."""
    source = """
    def outer(x):
        y = inner(
            inner(x))
        return y

    def inner(x):
        x = x * 2
        return x
    """
    outer, first, second = traced(tmp_path, source, lambda f: f["outer"](np.array([1.0])))
    assert [call.function for call in (outer, first, second)] == ["outer", "inner", "inner"]
    assert by_line(first)[7] == {"x": 2} and by_line(second)[7] == {"x": 4}
    assert by_line(outer) == {2: {"y": 4}, 4: {}}


def test_methods_nested_functions_and_generators_have_their_names(tmp_path):
    source = """
    class A:
        def forward(self, x):
            def inside(y):
                return y + 1
            return sum(inside(z) for z in self.parts(x))

        def parts(self, x):
            for part in x:
                yield part
    """
    calls = traced(tmp_path, source, lambda f: f["A"]().forward(np.array([1.0, 2.0])))
    assert [call.function for call in calls] == ["A.forward", "A.parts", "A.forward.inside", "A.forward.inside"]
    assert by_line(calls[0])[5] == {"return": 5}
    assert [step.line for step in calls[1].steps] == [8, 9, 8, 9]


def test_matrix_products_are_seen(tmp_path):
    source = """
    from minillm.backend.matmul import matmul

    def f(a, b, add):
        c = a @ b
        d = c.T @ a if add else b.T @ b
        return matmul(d, d.T)
    """
    (call,) = traced(tmp_path, source, lambda f: f["f"](np.ones((2, 3)), np.ones((3, 4)), False))
    assert [step.products for step in call.steps] == [[((2, 3), (3, 4))], [((4, 3), (3, 4))], [((4, 4), (4, 4))]]


def test_an_exception_leaves_the_tracer_that_was_there(tmp_path):
    """As well as a pass that ends well; the statement that failed, and a call that ended by it, have no numbers."""
    source = """
    def f(x):
        try:
            y = fails(x)
        except ZeroDivisionError:
            y = 3.0
        fails(y)

    def fails(x):
        z = 1
        return x / 0
    """

    def before(frame, event, argument):
        return None

    original = sys.gettrace()
    sys.settrace(before)
    try:
        with pytest.raises(ZeroDivisionError):
            traced(tmp_path, source, lambda f: f["f"](1.0))
        after_failure = sys.gettrace()
        calls = traced(tmp_path, source.replace("    fails(y)", "    return y"), lambda f: f["f"](1.0))
        after_success = sys.gettrace()
    finally:
        sys.settrace(original)
    assert after_failure is before and after_success is before
    f, fails = calls
    assert f.finished and not fails.finished
    assert by_line(f) == {5: {"y": 3}, 6: {}, 2: {}, 4: {}} or by_line(f)[5] == {"y": 3}
    assert 3 not in by_line(f) and by_line(fails) == {9: {"z": 1}}


def test_a_statement_that_runs_often_has_its_first_numbers():
    """`times` is how often: the steps of the small model of the page have two blocks."""
    seen = observe(OPERATIONS["gpt_page"])
    first = next(each for each in seen if each.function == "forward" and each.name == "n1")
    once = next(each for each in seen if each.function == "cross_entropy" and each.name == "loss")
    assert first.times % 2 == 0 and once.times == 1

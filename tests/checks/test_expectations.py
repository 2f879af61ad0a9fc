"""`minillm simulate my.cu --expect`: a wrong result is found, with its worst element."""

import numpy as np
import pytest
from kernel_testing import needs_compiler
from typer.testing import CliRunner

from minillm.checks.expectations import compare, expected_value, parse_expectation, tolerance_of
from minillm.cli.app import app
from minillm.errors import UserError

SAXPY = """
__global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""
ARGUMENTS = {"a": np.float32(2), "x": np.arange(4, dtype=np.float32), "y": np.ones((2, 2), np.float32)}


def simulate(tmp_path, grid, *options):
    (tmp_path / "saxpy.cu").write_text(SAXPY)
    arguments = [part for text in ("2", "float32[1000]", "float32[1000]", "1000") for part in ("--arg", text)]
    return CliRunner().invoke(
        app, ["simulate", str(tmp_path / "saxpy.cu"), "--block", "256", "--grid", grid, *arguments, *options]
    )


def test_a_right_result_passes_and_a_wrong_one_names_its_worst_element(tmp_path):
    needs_compiler()
    passed = simulate(tmp_path, "4", "--expect", "y = a * x + y")
    assert passed.exit_code == 0 and "expected y = a * x + y: passed\n    worst: y[" in passed.output
    failed = simulate(tmp_path, "3", "--expect", "y = a * x + y", "--expect", "x = x")
    assert failed.exit_code == 1 and "expected y = a * x + y: FAILED at 232 of 1,000 elements" in failed.output
    assert "expected x = x: passed" in failed.output


@pytest.mark.parametrize(
    "text, value",
    [
        ("y = x * a", [[0, 2], [4, 6]]),
        ("y = exp(0 * x)", [[1, 1], [1, 1]]),
        ("y = np.sum(x)", [[6, 6], [6, 6]]),
        ("x = 1 / 3 + 0 * x", [1 / 3] * 4),
    ],
)
def test_the_right_side_is_numpy_in_float64(text, value):
    assert expected_value(parse_expectation(text), ARGUMENTS).tolist() == value


def test_parameters_that_are_words_of_python():
    arguments = {"in": ARGUMENTS["y"], "lambda": ARGUMENTS["a"], "from": ARGUMENTS["x"].reshape(2, 2)}
    expectation = parse_expectation("from = in * lambda + from")
    assert expectation.name == "from" and expected_value(expectation, arguments).tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("y + x", "write an assignment to an array"),
        ("y[0] = x", "write an assignment to an array"),
        ("y = x; z = 1", "write an assignment to an array"),
        ("z = x", "z is no array of the kernel, which has x, y"),
        ("a = x", "a is no array of the kernel"),
        ("y = b * x", r"b is no argument \(a, x, y\)"),
        ("y = x[:3]", r"the result is \(3,\), y is \(2, 2\)"),
        ("y = x.nothing", "no attribute 'nothing'"),
        ("y = x.__class__", "no attribute of an expression begins"),
    ],
)
def test_what_cannot_be_expected_is_said(text, message):
    with pytest.raises(UserError, match=message):
        expected_value(parse_expectation(text), ARGUMENTS)


def test_the_tolerance_is_that_of_the_dtype():
    each = parse_expectation("y = 1")
    for dtype, off in (("float16", 2e-2), ("float32", 2e-4), ("float64", 2e-9), ("int32", 1)):
        array = np.ones(3, dtype)
        tolerance = tolerance_of(array, False)
        assert compare(each, array, np.ones(3), tolerance)[1]
        text, agrees = compare(each, array, np.array([1, 1 + off, 1]), tolerance)
        assert not agrees and "y[1] is 1" in text
    assert not compare(each, np.array([1, np.nan]), np.ones(2), 1e-4)[1]
    assert compare(each, np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), 0)[1]

"""Products of a few rows, kernels/skinny_matmul.cu, against NumPy in float64."""

import numpy as np
import pytest
from kernel_testing import noticed_by, relative_error, with_headers

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.kernels import skinny_matmul as launcher
from minillm.kernels.simulator import SimulatorError, configured
from minillm.kernels.skinny_matmul import MAX_ROWS, skinny_matmul

# N, I, outputs of each matrix; stored as (O, I); with a residual
PROBLEMS = [
    (1, 64, (70,), True, True),
    (1, 264, (9, 3, 12), True, False),
    (3, 40, (33, 5), True, False),
    (8, 65, (129,), True, True),
    (MAX_ROWS, 24, (31, 7, 8), True, False),
    (1, 40, (33,), False, True),
    (4, 19, (64,), False, False),
    (7, 33, (70,), False, True),
    (11, 50, (32,), False, True),
]
DTYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]  # of x and the weights, of y
DEVICES = ["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)]


def inputs(problem, dtype):
    N, inputs, outputs, transposed, has_residual = problem
    rng = np.random.default_rng(N + inputs)

    def numbers(*shape):
        return rng.normal(size=shape).astype(bfloat16() if dtype == "bfloat16" else dtype)

    weights = [numbers(count, inputs) if transposed else numbers(inputs, count) for count in outputs]
    biases = [rng.normal(size=count).astype(np.float32) if i != 1 else None for i, count in enumerate(outputs)]
    return numbers(N, inputs), weights, biases, numbers(N, outputs[0]) if has_residual else None


def reference(problem, dtype):
    x, weights, biases, residual = inputs(problem, dtype)
    found = []
    for weight, bias in zip(weights, biases):
        weight = weight.astype(np.float64)
        y = x.astype(np.float64) @ (weight.T if problem[3] else weight)
        y += 0 if bias is None else bias
        found.append(y if residual is None else y + residual.astype(np.float64))
    return found


def kernel(problem, dtype, result="float32", device="cudasim"):
    x, weights, biases, residual = inputs(problem, dtype)

    def there(array):
        return None if array is None else to_device(array, device)

    ys = skinny_matmul(
        there(x), [*map(there, weights)], [*map(there, biases)], problem[3], residual=there(residual), dtype=result
    )
    return [to_host(y) for y in ys]


def assert_agrees(problem, dtype, result="float32", device="cudasim"):
    """A float32 result to 1e-6 of the largest; one in bfloat16 is that, rounded once."""
    for y, exact in zip(kernel(problem, dtype, result, device), reference(problem, dtype)):
        assert y.dtype.name == result
        assert relative_error(y, exact) <= (2e-6 if result == "float32" else 2**-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype, result", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_agrees_with_numpy(problem, dtype, result, device):
    assert_agrees(problem, dtype, result, device)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_same_bits_in_every_order_and_nothing_to_report(problem):
    plain = [y.tobytes() for y in kernel(problem, "float32")]
    for order in ("descending", "shuffled"):
        with configured(mode="check", order=order, seed=5):
            assert [y.tobytes() for y in kernel(problem, "float32")] == plain


FAULTS = [  # a text of the source, what is put in its place, what notices it
    ("if (bias) sum += bias[output];", "", "numbers"),
    ("if (residual) sum += (float)residual[place];", "", "numbers"),
    ("output -= outputs_0, y += (long long)rows * outputs_0;", "output -= outputs_0;", "check"),
    ("bias = bias_2, outputs = outputs_2", "bias = bias_1, outputs = outputs_2", "numbers"),
    ("min(first + n, rows - 1)", "(first + n)", "check"),
    ("float sum = warp_sum(sums[n]);", "float sum = sums[n];", "numbers"),
    ("if (lane < ROWS && first + lane < rows)", "if (lane < ROWS)", "check"),
    ("    __syncthreads();\n    if (warp >= ROWS", "    if (warp >= ROWS", "check"),
    ("i += 32 * Vector<Number>::SIZE", "i += 64 * Vector<Number>::SIZE", "numbers"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0][:40].strip())
def test_planted_faults_are_noticed(fault, monkeypatch):
    before, after, by = fault
    text = with_headers(launcher.CUDA)
    assert before in text, "the fault is no longer where the table says"
    monkeypatch.setattr(launcher, "CUDA", launcher.CUDA.with_text(text.replace(before, after)))
    assert noticed_by(what_notices, by) == by


def what_notices() -> str:
    for problem in PROBLEMS:
        try:
            with configured(mode="check"):
                assert_agrees(problem, "float32")
        except SimulatorError:
            return "check"
        except AssertionError:
            return "numbers"
    return "nothing"


def zeros(*shape, dtype=np.float32):
    return to_device(np.zeros(shape, dtype), "cudasim")


WRONG = [
    (lambda: skinny_matmul(zeros(MAX_ROWS + 1, 3), [zeros(4, 3)], None, True), ValueError, "N from 1 to 16"),
    (lambda: skinny_matmul(zeros(2, 3), [zeros(4, 5)], None, True), ValueError, r"weight is \(4, 5\)"),
    (lambda: skinny_matmul(zeros(2, 3), [zeros(3, 4), zeros(3, 4)]), ValueError, "2 weights"),
    (lambda: skinny_matmul(zeros(2, 3), [zeros(3, 4, dtype=np.float64)]), TypeError, "weight is float64"),
    (lambda: skinny_matmul(zeros(2, 3), [zeros(3, 4)], [zeros(3)]), ValueError, r"bias is \(3,\)"),
    (lambda: skinny_matmul(zeros(2, 3), [zeros(3, 4)], residual=zeros(2, 3)), ValueError, r"residual is \(2, 3\)"),
]


@pytest.mark.parametrize("call, error, message", WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()

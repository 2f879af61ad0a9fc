"""Attention of new tokens over a cache, kernels/attention/decode.cu, against layers/cached_attention.py in float64: on the
simulator in three thread orders, and on the GPU."""

import numpy as np
import pytest
from kernel_testing import noticed_by, relative_error, with_headers

from minillm.backend.arrays import to_device, to_host
from minillm.checks.mutation.kernel_trials_decode import LIMITS, NAMES, Decoding, by_the_kernel, by_the_layers
from minillm.kernels.attention import decode
from minillm.kernels.attention.decode import KEYS, Heads
from minillm.kernels.launch import empty
from minillm.kernels.simulator import SimulatorError, configured

PROBLEMS = [
    Decoding((1, 2, 2, 1, 8), 0, 4, None, None, None),
    Decoding((1, 4, 2, 1, 32), 5, 6, None, None, False),
    Decoding((2, 3, 1, 1, 16), 150, 3 * KEYS, None, None, True),
    Decoding((2, 2, 1, 1, 6), 3 * KEYS - 1, 3 * KEYS, (0, 140), None, False),
    Decoding((3, 2, 2, 4, 10), 7, 20, (0, 3, 9), None, None),
    Decoding((2, 2, 2, 3, 8), 0, 3, (1, 2), None, False),
    Decoding((1, 2, 1, 1, 64), 200, 300, None, 40, False),
    Decoding((2, 2, 1, 5, 20), 130, 2 * KEYS, (0, 131), 9, True),
    Decoding((1, 1, 1, 2, 256), 130, 140, None, None, None),
    Decoding((1, 3, 1, 1, 96), 4 * KEYS, 9 * KEYS, None, None, None),
    Decoding((2, 16, 4, 33, 4), 2 * KEYS, 3 * KEYS, (3, KEYS + 1), None, None),  # one block for all keys of a query
]
DTYPES = ("float32", "bfloat16")
DEVICES = ["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)]


def assert_agrees(found, problem, dtype):
    """float32 to 1e-5. bfloat16: what is written is rounded once, and q and k are rounded before they meet."""
    for name, result, exact, limit in zip(NAMES, found, by_the_layers(problem, dtype), LIMITS[dtype]):
        assert result.dtype.name == dtype
        assert relative_error(result, exact) <= limit, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_agrees_with_the_layers_functions(problem, dtype, device):
    assert_agrees(by_the_kernel(problem, dtype, device), problem, dtype)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_same_bits_in_every_order(problem):
    results = []
    for order in ("ascending", "descending", "shuffled"):
        with configured(order=order, seed=3):
            results.append([x.tobytes() for x in by_the_kernel(problem, "bfloat16")])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_check_mode_reports_nothing(problem, dtype):
    with configured(mode="check", order="shuffled", seed=5):
        assert_agrees(by_the_kernel(problem, dtype), problem, dtype)


def test_a_cache_that_has_forgotten_its_first_columns():
    problem = PROBLEMS[6]._replace(first=161)  # a window of 40 of 201 columns
    assert_agrees(by_the_kernel(problem, "float32"), problem, "float32")


FAULTS = [  # a text of decode.cu, what is put in its place, what notices it
    ("return {begin, column + 1};", "return {begin, column};", "numbers"),
    ("column - window + 1", "column - window", "numbers"),
    ("min(padding, column)", "padding", "numbers"),
    ("if (!is_query && column < hidden) a = b = 0;", "", "numbers"),
    ("max(column - hidden, 0LL)", "column", "numbers"),
    ("token % time, hidden", "0, hidden", "check"),
    ("head / (heads / kv_heads)", "head % kv_heads", "numbers"),
    ("    __syncthreads();\n    for (int d = threadIdx.x; d < width &&", "    for (int d = threadIdx.x; d < width &&", "check"),
    ("o[own] *= alpha;", "", "numbers"),
    ("begin <= j && j < stop", "j < stop", "numbers"),
    ("* scale;\n    __syncthreads();", "* scale;", "check"),
    ("if (of_part[1] == 0) continue;", "", "numbers"),
    ("float factor = expf(of_part[0] - largest);", "float factor = 1;", "numbers"),
    ("bool rotates = cosine && !is_value;", "bool rotates = cosine;", "numbers"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0][:40].strip())
def test_planted_faults_are_noticed(fault, monkeypatch):
    before, after, by = fault
    text = with_headers(decode.CUDA)
    assert before in text, "the fault is no longer where the table says"
    faulty = decode.CUDA.with_text(text.replace(before, after))
    faulty.instances = {name: limit for name, limit in faulty.instances.items() if "bfloat16" not in name}
    monkeypatch.setattr(decode, "CUDA", faulty)
    monkeypatch.setattr(decode, "empty", full_of_nan)  # what is read before it is written is then noticed
    assert noticed_by(what_notices, by) == by


def full_of_nan(shape, like, dtype="float32"):
    array = empty(shape, like, dtype)
    array[...] = np.nan
    return array


def what_notices() -> str:
    for problem in PROBLEMS:
        try:
            with configured(mode="check"):
                assert_agrees(by_the_kernel(problem, "float32"), problem, "float32")
        except SimulatorError:
            return "check"
        except AssertionError:
            return "numbers"
    return "nothing"


WRONG = [
    (dict(place=np.zeros(1, np.int32)), TypeError, "place is int32"),
    (dict(padding=np.zeros(3, np.int64)), ValueError, r"padding is \(3,\)"),
    (dict(values=np.zeros((2, 1, 5, 8), np.float32)), ValueError, r"values is \(2, 1, 5, 8\)"),
    (dict(q=Heads(np.zeros((3, 16), np.float32), 0, 2)), ValueError, "rows for 2 times as many tokens"),
    (dict(q=Heads(np.zeros((2, 16), np.float32), 8, 2)), ValueError, "2 heads of 8 numbers from column 8"),
    (dict(keys=np.zeros((2, 1, 6, 7), np.float32)), ValueError, "D even"),
    (
        dict(keys=np.zeros((2, 3, 6, 8), np.float32), values=np.zeros((2, 3, 6, 8), np.float32)),
        ValueError,
        "not a multiple",
    ),
]


@pytest.mark.parametrize("changes, error, message", WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_arguments_are_refused(changes, error, message):
    given = dict(
        q=Heads(np.zeros((2, 16), np.float32), 0, 2),
        keys=np.zeros((2, 1, 6, 8), np.float32),
        values=np.zeros((2, 1, 6, 8), np.float32),
        place=np.zeros(1, np.int64),
    )
    given = {name: to_sim(x) for name, x in (given | changes).items()}
    with pytest.raises(error, match=message):
        decode.decode_attention(**given)


def to_sim(x):
    return x._replace(matrix=to_device(x.matrix, "cudasim")) if isinstance(x, Heads) else to_device(x, "cudasim")


def test_numbers_that_are_none_reach_the_result():
    """Of a query that is NaN nothing is left over from what was in memory before: a row of invalid logits is an error."""
    q, *cache = (to_device(np.full(shape, number, np.float32), "cudasim") for shape, number in (
        ((1, 32), np.nan), ((1, 1, 8, 32), 0), ((1, 1, 8, 32), 1)))  # fmt: skip
    y = decode.decode_attention(Heads(q, 0, 1), *cache, to_device(np.array([3]), "cudasim"))
    assert np.isnan(to_host(y)).all()

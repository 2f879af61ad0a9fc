"""Attention of new tokens over a cache, kernels/attention/decode.cu, against layers/cached_attention.py in float64: on the
simulator in three thread orders, and on the GPU."""

from types import SimpleNamespace

import numpy as np
import pytest
from kernel_testing import relative_error, with_headers

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.kernels.attention import decode
from minillm.kernels.attention.decode import KEYS, Heads
from minillm.kernels.launch import empty
from minillm.kernels.simulator import SimulatorError, configured
from minillm.layers.cached_attention import cached_attention
from minillm.layers.rotary import rotary_forward, rotary_tables

# B, H, H_kv, t, D; columns before the new ones, capacity; padding (B,), window, interleaved pairs; None: nothing is rotated
PROBLEMS = [
    ((1, 2, 2, 1, 8), 0, 4, None, None, None),
    ((1, 4, 2, 1, 32), 5, 6, None, None, False),
    ((2, 3, 1, 1, 16), 150, 3 * KEYS, None, None, True),
    ((2, 2, 1, 1, 6), 3 * KEYS - 1, 3 * KEYS, (0, 140), None, False),
    ((3, 2, 2, 4, 10), 7, 20, (0, 3, 9), None, None),
    ((2, 2, 2, 3, 8), 0, 3, (1, 2), None, False),
    ((1, 2, 1, 1, 64), 200, 300, None, 40, False),
    ((2, 2, 1, 5, 20), 130, 2 * KEYS, (0, 131), 9, True),
    ((1, 1, 1, 2, 256), 130, 140, None, None, None),
    ((1, 3, 1, 1, 96), 4 * KEYS, 9 * KEYS, None, None, None),
    ((2, 16, 4, 33, 4), 2 * KEYS, 3 * KEYS, (3, KEYS + 1), None, None),  # one block for all keys of a query
]
DTYPES = ("float32", "bfloat16")
DEVICES = ["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)]


def title(problem):
    (B, H, H_kv, t, D), before, capacity, padding, window, interleaved = problem
    return f"{B}x{H}/{H_kv}x{t}x{D}-{before}-{capacity}-{padding}-{window}-{interleaved}"


def inputs(problem, dtype):
    """q, k, v of the new tokens, side by side in one matrix; k and v of those before, rotated."""
    (B, H, H_kv, t, D), before, capacity, padding, _, interleaved = problem
    rng = np.random.default_rng(before + D)

    def numbers(*shape):
        return rng.normal(size=shape).astype(bfloat16() if dtype == "bfloat16" else dtype)

    return SimpleNamespace(
        qkv=numbers(B * t, (H + 2 * H_kv) * D),
        keys=numbers(B, H_kv, capacity, D),
        values=numbers(B, H_kv, capacity, D),
        place=np.array([before]),
        padding=None if padding is None else np.array(padding),
        tables=None if interleaved is None else rotary_tables(before + t + 3, D),
    )


def reference(problem, dtype):
    """y (B t, H D), and the cache after it, by the layers' functions in float64."""
    (B, H, H_kv, t, D), before, capacity, padding, window, interleaved = problem
    a = inputs(problem, dtype)
    x = a.qkv.astype(np.float64).reshape(B, t, H + 2 * H_kv, D).swapaxes(1, 2)
    q, k, v = x[:, :H], x[:, H : H + H_kv], x[:, H + H_kv :]
    hidden = np.zeros(B, int) if padding is None else np.array(padding)
    columns = np.arange(before, before + t)
    if interleaved is not None:
        for b in range(B):
            at = np.maximum(columns - hidden[b], 0)
            cos, sin = (table[at].astype(np.float64) for table in a.tables)
            q[b : b + 1], _ = rotary_forward(q[b : b + 1], cos, sin, interleaved)
            k[b : b + 1], _ = rotary_forward(k[b : b + 1], cos, sin, interleaved)
    none = (columns < hidden[:, None])[:, None, :, None]
    keys, values = a.keys.astype(np.float64), a.values.astype(np.float64)
    keys[:, :, before : before + t] = np.where(none, 0, k)
    values[:, :, before : before + t] = np.where(none, 0, v)
    seen = slice(0, before + t)
    y = cached_attention(q, keys[:, :, seen], values[:, :, seen], a.padding, window)
    return y.swapaxes(1, 2).reshape(B * t, H * D), keys, values


def kernel(problem, dtype, device="cudasim", first=0):
    """The same by the kernels. first: the column of the cache's first row: those before it are cut off."""
    (B, H, H_kv, t, D), _, _, _, window, interleaved = problem
    a = inputs(problem, dtype)
    a = {name: to_device(x, device) for name, x in vars(a).items() if x is not None and name != "tables"}
    tables = inputs(problem, dtype).tables
    tables = tables and tuple(to_device(table, device) for table in tables)
    keys, values = (a[name][:, :, first:].copy() for name in ("keys", "values"))
    q, k, v = (Heads(a["qkv"], start * D, count) for start, count in ((0, H), (H, H_kv), (H + H_kv, H_kv)))
    settings = dict(place=a["place"], first=first, padding=a.get("padding"))
    q = decode.append(q, k, v, keys, values, tables=tables, interleaved=bool(interleaved), **settings)
    y = decode.decode_attention(q, keys, values, window=window, **settings)
    return tuple(map(to_host, (y, keys, values)))


def assert_agrees(found, problem, dtype):
    """float32 to 1e-5. bfloat16: what is written is rounded once, and q and k are rounded before they meet."""
    expected = reference(problem, dtype)
    limits = (1e-5,) * 3 if dtype == "float32" else (1.2e-2, 4.1e-3, 4.1e-3)
    for name, result, exact, limit in zip(("y", "keys", "values"), found, expected, limits):
        assert result.dtype.name == dtype
        assert relative_error(result, exact) <= limit, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=title)
def test_agrees_with_the_layers_functions(problem, dtype, device):
    assert_agrees(kernel(problem, dtype, device), problem, dtype)


@pytest.mark.parametrize("problem", PROBLEMS, ids=title)
def test_the_same_bits_in_every_order(problem):
    results = []
    for order in ("ascending", "descending", "shuffled"):
        with configured(order=order, seed=3):
            results.append([x.tobytes() for x in kernel(problem, "bfloat16")])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=title)
def test_check_mode_reports_nothing(problem, dtype):
    with configured(mode="check", order="shuffled", seed=5):
        assert_agrees(kernel(problem, dtype), problem, dtype)


def test_a_cache_that_has_forgotten_its_first_columns():
    problem = PROBLEMS[6]  # a window of 40 of 201 columns
    found, keys, values = kernel(problem, "float32", first=161)
    expected, all_keys, all_values = reference(problem, "float32")
    assert relative_error(found, expected) <= 1e-5
    assert relative_error(keys, all_keys[:, :, 161:]) <= 1e-5 and relative_error(values, all_values[:, :, 161:]) <= 1e-5


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
    assert what_notices() == by


def full_of_nan(shape, like, dtype="float32"):
    array = empty(shape, like, dtype)
    array[...] = np.nan
    return array


def what_notices() -> str:
    for problem in PROBLEMS:
        try:
            with configured(mode="check"):
                assert_agrees(kernel(problem, "float32"), problem, "float32")
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

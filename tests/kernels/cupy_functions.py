"""Functions of CuPy's beside NumPy's on the stand-in for a GPU: run by test_cupy_functions.py in a process of its own.

Prints what differs as JSON: {comparison: why}. The first comparison of a sort of kernel costs a compilation; those of other
shapes come with it.
"""

import json
import sys
import warnings

import cupy as cp
import ml_dtypes
import numpy as np

warnings.simplefilter("ignore")
np.seterr(all="ignore")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCES = {"e": 4e-3, "f": 3e-5, "d": 1e-11, "F": 3e-5, "D": 1e-11, BFLOAT16.char: 4e-2}
SHAPES = ((), (0,), (7,), (3, 0, 2), (4, 6))
rng = np.random.default_rng(0)
failures = {}


def numbers(dtype, shape=(4, 6)):
    """Random numbers of a type, none of them 0."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(1, 9, shape).astype(dtype)
    if dtype.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    return np.asarray(rng.normal(size=shape)).astype(dtype)


def compare(name, function, *arrays):
    """Call function(xp, *arrays) with both modules."""
    try:
        found = function(cp, *(cp.asarray(array) for array in arrays))
        expected = function(np, *(array.copy() for array in arrays))
        if not isinstance(expected, (tuple, list)):
            found, expected = (found,), (expected,)
        for each, wanted in zip(found, expected):
            _compare_arrays(cp.asnumpy(each), np.asarray(wanted))
    except Exception as error:
        failures[name] = f"{type(error).__name__}: {error}"


def _compare_arrays(found, expected):
    assert found.shape == expected.shape, f"shape {found.shape}, not {expected.shape}"
    tolerance = max(TOLERANCES.get(each.dtype.char, 0) for each in (found, expected))
    if tolerance:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        found, expected = found.astype(wide), expected.astype(wide)
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
        np.testing.assert_allclose(found, expected, rtol=8 * tolerance, atol=4 * tolerance * scale)
    else:
        np.testing.assert_array_equal(found, expected)


def square_and_one(x):
    return x * x + 1


def elementwise():
    for dtype in ("?", "b", "q", "e", BFLOAT16, "D"):
        name, kind = np.dtype(dtype).name, np.dtype(dtype).kind
        compare(f"cast to {name}", lambda xp, x, to=dtype: x.astype(to), np.abs(numbers("f")) * 5)
        compare(f"add {name}", lambda xp, x, y: x + y, numbers(dtype), numbers(dtype))
        if dtype in ("b", "e"):
            compare(f"floor_divide {name}", lambda xp, x, y: x // y, numbers(dtype), numbers(dtype))
        if kind in "fcV":
            compare(f"exp {name}", lambda xp, x: xp.exp(x), numbers(dtype))
    compare("sqrt complex64", lambda xp, x: xp.sqrt(x), numbers("F"))
    compare("arctanh complex128", lambda xp, x: xp.arctanh(x), numbers("D"))
    compare("bitwise_count", lambda xp, x: xp.bitwise_count(x), numbers("i"))
    compare("frexp", lambda xp, x: xp.frexp(x), numbers("d"))
    compare("fused", lambda xp, x: cp.fuse(square_and_one)(x) if xp is cp else square_and_one(x), numbers("f"))


def shapes():
    for shape in SHAPES:
        compare(f"add {shape}", lambda xp, x, y: x + y, numbers("f", shape), numbers("f", shape))
        compare(f"sum {shape}", lambda xp, x: x.sum(), numbers("f", shape))
    x, y = numbers("f"), numbers("f", (6,))
    compare("add, broadcast", lambda xp, x, y: x[:, None] + y, x, y)
    compare("add, steps", lambda xp, x, y: x[::-2, 1::3] + y[:2], x, y)
    compare("add, transposed", lambda xp, x: x.T + x.T, x)
    compare("in place", lambda xp, x: x[:, 1:].__iadd__(x[:, :-1].copy()), x)


def reductions():
    compare("power", lambda xp, x, y: abs(x) ** y, numbers("f"), numbers("f"))
    for dtype in ("?", "e", BFLOAT16, "f", "F"):
        name = np.dtype(dtype).name
        compare(f"sum {name}", lambda xp, x: (x.sum(), x.sum(axis=0), x.sum(axis=-1, keepdims=True)), numbers(dtype))
        if dtype in ("e", "f"):
            compare(f"max {name}", lambda xp, x: (x.max(axis=1), x.argmax(axis=0)), numbers(dtype))
    compare("mean, var", lambda xp, x: (x.mean(axis=0), x.var(), x.std(axis=1)), numbers("f"))
    compare("prod, any, all", lambda xp, x: (x.prod(axis=1), (x > 1).any(axis=0), (x > 1).all()), numbers("f"))
    holes = np.where(numbers("f") > 0, np.nan, numbers("f"))
    compare("nansum, nanmean", lambda xp, x: (xp.nansum(x, axis=0), xp.nanmean(x)), holes)
    compare("cumsum, cumprod", lambda xp, x: (xp.cumsum(x, axis=1), xp.cumprod(x)), numbers("d"))
    compare("percentile, median", lambda xp, x: (xp.percentile(x, 30, axis=0), xp.median(x)), numbers("d"))


def indexing():
    x, rows = numbers("f"), np.array([2, 0, -1])
    compare("integers", lambda xp, x, r: (x[r], x[r, 1:3], x[:, r], x[r, r]), x, rows)
    compare("take, choose", lambda xp, x, r: (xp.take(x, r, axis=0), xp.where(x > 0, x, -x)), x, rows)
    compare("mask", lambda xp, x: (x[x > 0], *xp.nonzero(x > 0), xp.flatnonzero(x > 0)), x)

    def written(xp, x, rows):
        x[rows] = 5
        x[x < 0] = 0
        x[1:, ::2] += 1
        xp.put(x, xp.asarray([3, 7]), 9)
        xp.add.at(x, (xp.asarray([0, 0, 1]), xp.asarray([0, 0, 2])), 2)
        return x

    compare("written", written, x, rows)
    compare(
        "roll, flip, tile", lambda xp, x: (xp.roll(x, 2, 1), xp.flip(x, 0), xp.tile(x, (2, 1)), xp.clip(x, -1, 1)), x
    )


def sorting():
    x, keys = numbers("f"), numbers("i", (20,))
    compare("sort", lambda xp, x: (xp.sort(x, axis=0), xp.argsort(x), xp.partition(x[0], 2)[2]), x)
    compare("lexsort", lambda xp, x: xp.lexsort(xp.stack([x[:6], x[6:12]])), keys)
    compare("unique", lambda xp, x: xp.unique(x, return_counts=True), keys)
    compare("bincount", lambda xp, x: (xp.bincount(x), xp.histogram(x, bins=4)[0]), keys)
    compare("searchsorted", lambda xp, x, y: xp.searchsorted(xp.sort(x), y), keys, numbers("i", (5,)))


def products():
    for dtype in ("i", "e", "f", "F", "d"):
        name = np.dtype(dtype).name
        compare(f"matmul {name}", lambda xp, x, y: (x @ y.T, x[0] @ y[0]), numbers(dtype), numbers(dtype))
    compare("einsum", lambda xp, x, y: xp.einsum("ij,kj->ik", x, y), numbers("d"), numbers("d"))
    compare("tensordot", lambda xp, x, y: xp.tensordot(x, y, axes=([1], [1])), numbers("d"), numbers("d"))
    compare("norm", lambda xp, x: xp.linalg.norm(x, axis=1), numbers("f"))


def others():
    from cupyx import scatter_add
    from cupyx.scipy import special

    sums = cp.zeros(3, cp.float16)
    scatter_add(sums, cp.asarray([1, 1, 2]), cp.ones(3, cp.float16))
    cp.testing.assert_array_equal(sums, [0, 2, 1])
    cp.testing.assert_allclose(special.digamma(cp.asarray([1.0, 2.0])), [-0.5772156649015329, 0.42278433509846713])
    again = [cp.random.default_rng(7).random(5) for _ in range(2)]
    assert (again[0] == again[1]).all() and float(again[0].min()) >= 0 and len(set(again[0].tolist())) == 5
    generator = cp.random.default_rng(cp.random.Philox4x3210(1))
    out = cp.empty((2, 3), cp.float32)
    assert (
        generator.standard_normal(dtype=cp.float32, out=out) is out and generator.integers(3, size=4).dtype == cp.int64
    )


for part in (elementwise, shapes, reductions, indexing, sorting, products):
    part()
try:
    others()
except Exception as error:
    failures["others"] = f"{type(error).__name__}: {error}"
print(json.dumps(failures))
sys.exit(bool(failures))

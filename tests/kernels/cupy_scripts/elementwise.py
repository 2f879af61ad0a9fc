"""ElementwiseKernel: types by name, types by letter, raw arguments, the loop's index, a preamble."""

import cupy as cp
import numpy as np

squared_difference = cp.ElementwiseKernel(
    "float32 x, float32 y", "float32 z", "z = (x - y) * (x - y)", "squared_difference"
)
clamped = cp.ElementwiseKernel(
    "T x, T low, T high",
    "T y",
    "y = clamp(x, low, high)",
    "clamped",
    preamble="template <typename T> __device__ T clamp(T x, T low, T high) { return x < low ? low : x > high ? high : x; }",
)
# numbers reversed, and a moving sum: raw arguments are indexed by hand
reversed_sum = cp.ElementwiseKernel(
    "raw T x, raw T weight, int32 width",
    "T y",
    """
    T sum = 0;
    for (int k = 0; k < width; ++k) {
        ptrdiff_t j = _ind.size() - 1 - i + k;
        if (j < _ind.size()) sum += weight[k] * x[j];
    }
    y = sum;
    """,
    "reversed_sum",
)

rng = np.random.default_rng(4)
x, y = rng.standard_normal((2, 6, 5), dtype=np.float32)
np.testing.assert_allclose(squared_difference(cp.asarray(x), cp.asarray(y)).get(), (x - y) ** 2, rtol=1e-6)
# broadcast, and an array that does not lie in one piece
np.testing.assert_allclose(
    squared_difference(cp.asarray(x)[:, ::2], cp.asarray(y)[0, ::2]).get(), (x[:, ::2] - y[0, ::2]) ** 2, rtol=1e-6
)
np.testing.assert_allclose(clamped(cp.asarray(x), -0.5, 0.5).get(), np.clip(x, -0.5, 0.5))
row, weight = x.ravel(), np.array([0.5, 0.3, 0.2], np.float32)
expected = np.convolve(row, weight[::-1])[2:][::-1]
found = reversed_sum(cp.asarray(row), cp.asarray(weight), 3, size=row.size)
np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-6)
print("elementwise:", found[:3])

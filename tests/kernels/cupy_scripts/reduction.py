"""ReductionKernel: the L2 norm, over everything, over an axis, and an argument of its own."""

import cupy as cp
import numpy as np

l2norm = cp.ReductionKernel(
    "T x",  # input
    "T y",  # output
    "x * x",  # map
    "a + b",  # reduce
    "y = sqrt(a)",  # after the reduction
    "0",  # identity
    "l2norm",
)
weighted_mean = cp.ReductionKernel(
    "T x, T w, float32 shift", "T y", "w * (x - shift)", "a + b", "y = a / _in_ind.size()", "0", "weighted_mean"
)

rng = np.random.default_rng(5)
x, w = rng.standard_normal((2, 13, 40), dtype=np.float32)
x_gpu, w_gpu = cp.asarray(x), cp.asarray(w)
np.testing.assert_allclose(l2norm(x_gpu).get(), np.linalg.norm(x), rtol=1e-5)
np.testing.assert_allclose(l2norm(x_gpu, axis=1).get(), np.linalg.norm(x, axis=1), rtol=1e-5)
np.testing.assert_allclose(
    l2norm(x_gpu, axis=0, keepdims=True).get(), np.linalg.norm(x, axis=0, keepdims=True), rtol=1e-5
)
np.testing.assert_allclose(weighted_mean(x_gpu, w_gpu, 0.5).get(), (w * (x - 0.5)).mean(), rtol=1e-4, atol=1e-6)
print("norm:", l2norm(x_gpu))

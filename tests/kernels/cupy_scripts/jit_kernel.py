"""A kernel in Python, which cupyx.jit translates; and cupy.vectorize."""

import warnings

import cupy as cp
import numpy as np

warnings.simplefilter("ignore", FutureWarning)  # cupyx.jit calls itself experimental
from cupyx import jit  # noqa: E402


@jit.rawkernel()
def block_sums(x, y, size):
    part = jit.shared_memory(cp.float32, 64)
    t, i = jit.threadIdx.x, jit.blockIdx.x * jit.blockDim.x + jit.threadIdx.x
    part[t] = x[i] if i < size else cp.float32(0)
    jit.syncthreads()
    half = jit.blockDim.x >> cp.uint32(1)
    while half > cp.uint32(0):
        if t < half:
            part[t] += part[t + half]
        jit.syncthreads()
        half = half >> cp.uint32(1)
    if t == 0:
        jit.atomic_add(y, 0, part[0])


@cp.vectorize
def relu_or_more(x, slope):
    if x > 0:
        return x
    return slope * x


x = np.random.default_rng(18).standard_normal(300).astype(np.float32)
total = cp.zeros(1, cp.float32)
block_sums((5,), (64,), (cp.asarray(x), total, cp.uint32(x.size)))
np.testing.assert_allclose(total.get(), x.sum(dtype=np.float64), rtol=1e-4, atol=1e-4)
np.testing.assert_allclose(
    relu_or_more(cp.asarray(x), cp.float32(0.1)).get(), np.where(x > 0, x, np.float32(0.1) * x), rtol=1e-6
)
print("sum is right:", bool(abs(float(total[0]) - x.sum()) < 1e-3))

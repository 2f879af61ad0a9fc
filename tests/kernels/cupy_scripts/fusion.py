"""cupy.fuse makes one kernel of several operations."""

import cupy as cp
import numpy as np


@cp.fuse(kernel_name="gelu_by_tanh")
def gelu(x):
    return 0.5 * x * (1 + cp.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


@cp.fuse
def distance(x, y):
    return cp.sqrt(cp.sum((x - y) * (x - y), axis=1))


rng = np.random.default_rng(6)
x, y = rng.standard_normal((2, 20, 8), dtype=np.float32)
np.testing.assert_allclose(
    gelu(cp.asarray(x)).get(), 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))), rtol=1e-4, atol=1e-6
)
np.testing.assert_allclose(distance(cp.asarray(x), cp.asarray(y)).get(), np.linalg.norm(x - y, axis=1), rtol=1e-5)
print("fused:", gelu(cp.asarray(x))[0, :3])

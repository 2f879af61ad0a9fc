"""Principal components, by the eigenvectors of the covariance and by the singular values."""

import cupy as cp
import numpy as np

rng = np.random.default_rng(10)
x = (rng.standard_normal((200, 3)) @ rng.standard_normal((3, 6)) + 0.01 * rng.standard_normal((200, 6))).astype(
    np.float64
)
data = cp.asarray(x)
centred = data - data.mean(axis=0)
values, vectors = cp.linalg.eigh(centred.T @ centred / (len(data) - 1))
_, singular, rows = cp.linalg.svd(centred, full_matrices=False)

expected = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
np.testing.assert_allclose(singular.get(), expected, rtol=1e-8)
np.testing.assert_allclose(cp.sqrt(values[::-1] * (len(data) - 1)).get(), expected, rtol=1e-6)
first, other = vectors[:, -1], rows[0]
assert abs(abs(float(first @ other)) - 1) < 1e-8  # the same direction, either way
print("share of the first three:", round(float((singular[:3] ** 2).sum() / (singular**2).sum()), 5))

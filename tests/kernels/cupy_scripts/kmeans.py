"""k-means: points to the nearest centre, centres to the mean of their points."""

import cupy as cp
import numpy as np


def fit(xp, points, centres, steps=8):
    for _ in range(steps):
        distances = ((points[:, None, :] - centres[None]) ** 2).sum(axis=2)  # (N, K)
        labels = distances.argmin(axis=1)
        members = labels[:, None] == xp.arange(len(centres))  # (N, K)
        counts = members.sum(axis=0)
        centres = xp.matmul(members.T.astype(points.dtype), points) / counts[:, None]
    return labels, centres


rng = np.random.default_rng(8)
middles = np.array([[0, 0], [4, 0], [0, 4], [5, 5]], np.float32)
points = (middles[rng.integers(0, 4, 400)] + 0.5 * rng.standard_normal((400, 2))).astype(np.float32)
start = points[[0, 3, 5, 11]]
labels, centres = fit(cp, cp.asarray(points), cp.asarray(start))
expected_labels, expected_centres = fit(np, points, start)
np.testing.assert_array_equal(labels.get(), expected_labels)
np.testing.assert_allclose(centres.get(), expected_centres, rtol=1e-4, atol=1e-5)
print("points of each centre:", cp.bincount(labels))

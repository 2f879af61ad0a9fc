"""Heat in a square plate by explicit steps: slices of arrays, then where and the gradient."""

import cupy as cp
import numpy as np


def steps(xp, u, count, rate=0.2):
    for _ in range(count):
        inner = u[1:-1, 1:-1]
        inner += rate * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * inner)
    return u


plate = np.zeros((24, 30), np.float32)
plate[0] = 100
found, expected = steps(cp, cp.asarray(plate), 40), steps(np, plate.copy(), 40)
np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-4)
warm = cp.where(found > 10, 1, 0)
np.testing.assert_array_equal(warm.sum(axis=1).get(), (expected > 10).sum(axis=1))
print("rows above 10 degrees:", int((warm.sum(axis=1) > 0).sum()))

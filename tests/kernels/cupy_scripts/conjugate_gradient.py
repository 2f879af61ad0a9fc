"""A x = b for a symmetric positive definite matrix, by conjugate gradients."""

import cupy as cp
import numpy as np


def solve(A, b, tolerance=1e-10, limit=200):
    x = cp.zeros_like(b)
    r = b - A @ x
    p, rr = r.copy(), r @ r
    for step in range(limit):
        Ap = A @ p
        alpha = rr / (p @ Ap)
        x += alpha * p
        r -= alpha * Ap
        new = r @ r
        if float(cp.sqrt(new)) < tolerance:
            return x, step + 1
        p = r + (new / rr) * p
        rr = new
    raise RuntimeError(f"no solution in {limit} steps")


rng = np.random.default_rng(11)
half = rng.standard_normal((30, 30))
a, b = half @ half.T + 30 * np.eye(30), rng.standard_normal(30)
x, steps = solve(cp.asarray(a), cp.asarray(b))
np.testing.assert_allclose(x.get(), np.linalg.solve(a, b), rtol=1e-7, atol=1e-9)
np.testing.assert_allclose(
    cp.linalg.solve(cp.asarray(a), cp.asarray(b)).get(), np.linalg.solve(a, b), rtol=1e-7, atol=1e-9
)
print("solved:", steps < 60)

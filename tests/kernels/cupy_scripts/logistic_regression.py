"""Logistic regression by gradient descent."""

import cupy as cp
import numpy as np


def train(xp, x, y, steps=30, rate=0.5):
    w, b = xp.zeros(x.shape[1], x.dtype), xp.zeros((), x.dtype)
    losses = []
    for _ in range(steps):
        p = 1 / (1 + xp.exp(-(x @ w + b)))
        losses.append(float(-xp.mean(y * xp.log(p) + (1 - y) * xp.log(1 - p))))
        error = (p - y) / len(y)
        w -= rate * (x.T @ error)
        b -= rate * error.sum()
    return w, losses


rng = np.random.default_rng(9)
x = rng.standard_normal((300, 6)).astype(np.float32)
y = (x @ np.array([1, -2, 0.5, 0, 3, 1]) + 0.3 * rng.standard_normal(300) > 0).astype(np.float32)
w, losses = train(cp, cp.asarray(x), cp.asarray(y))
expected, expected_losses = train(np, x, y)
np.testing.assert_allclose(w.get(), expected, rtol=1e-3, atol=1e-4)
np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")

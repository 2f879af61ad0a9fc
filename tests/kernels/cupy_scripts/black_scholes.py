"""Prices of European options by the formula of Black and Scholes, in CuPy's operations and in one kernel."""

from math import erf

import cupy as cp
import numpy as np

call_price = cp.ElementwiseKernel(
    "T s, T x, T t, T r, T v",
    "T call, T put",
    """
    const T root = sqrt(t);
    const T d1 = (log(s / x) + (r + v * v / 2) * t) / (v * root);
    const T d2 = d1 - v * root;
    const T discounted = x * exp(-r * t);
    call = s * normcdf(d1) - discounted * normcdf(d2);
    put = discounted * normcdf(-d2) - s * normcdf(-d1);
    """,
    "black_scholes",
)


def by_operations(xp, normal, s, x, t, r, v):
    d1 = (xp.log(s / x) + (r + v * v / 2) * t) / (v * xp.sqrt(t))
    d2 = d1 - v * xp.sqrt(t)
    return s * normal(d1) - x * xp.exp(-r * t) * normal(d2)


def normal_numpy(d):
    return 0.5 * (1 + np.vectorize(erf)(d / np.sqrt(2)))


rng = np.random.default_rng(7)
s, x, t = rng.uniform(5, 30, 500), rng.uniform(1, 100, 500), rng.uniform(0.25, 10, 500)
call, put = call_price(cp.asarray(s), cp.asarray(x), cp.asarray(t), 0.02, 0.30)
expected = by_operations(np, normal_numpy, s, x, t, 0.02, 0.30)
np.testing.assert_allclose(call.get(), expected, rtol=1e-9, atol=1e-9)
# put-call parity: C - P = S - X exp(-r T)
np.testing.assert_allclose((call - put).get(), s - x * np.exp(-0.02 * t), rtol=1e-9, atol=1e-9)
print("mean call price:", round(float(call.mean()), 4))

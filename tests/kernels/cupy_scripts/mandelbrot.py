"""The Mandelbrot set, with complex numbers in an ElementwiseKernel."""

import cupy as cp
import numpy as np

mandelbrot = cp.ElementwiseKernel(
    "complex128 c, int32 limit",
    "int32 steps",
    """
    complex<double> z(0, 0);
    int n = 0;
    while (n < limit && norm(z) <= 4.0) {
        z = z * z + c;
        ++n;
    }
    steps = n;
    """,
    "mandelbrot",
)


def by_numpy(c, limit):
    z, steps = np.zeros_like(c), np.zeros(c.shape, np.int32)
    for _ in range(limit):
        inside = np.abs(z) ** 2 <= 4
        steps += inside
        z[inside] = z[inside] ** 2 + c[inside]
    return steps


x, y = np.linspace(-2, 0.6, 40), np.linspace(-1.2, 1.2, 24)
c = x + 1j * y[:, None]
found = mandelbrot(cp.asarray(c), 50).get()
assert (found != by_numpy(c, 50)).mean() < 0.01  # at the edge, rounding decides
for row in found[::2]:
    print("".join(" .:-=+*#%@"[min(n, 49) // 5] for n in row))

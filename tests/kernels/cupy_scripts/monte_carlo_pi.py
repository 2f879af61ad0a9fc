"""Pi by random points: CuPy's generator, and one written into the kernel."""

import cupy as cp
import numpy as np

inside = cp.ElementwiseKernel(
    "uint32 seed, int32 points",
    "int32 count",
    """
    unsigned state = seed * 747796405u + 2891336453u;
    int hits = 0;
    for (int n = 0; n < points; ++n) {
        float xy[2];
        for (int k = 0; k < 2; ++k) {
            state ^= state << 13; state ^= state >> 17; state ^= state << 5;
            xy[k] = (state >> 8) * (1.0f / 16777216.0f);
        }
        hits += xy[0] * xy[0] + xy[1] * xy[1] < 1.0f;
    }
    count = hits;
    """,
    "inside",
)

counts = inside(cp.arange(1, 513, dtype=cp.uint32), 100)
pi = 4 * int(counts.sum()) / (512 * 100)
assert abs(pi - np.pi) < 0.05, pi
cp.random.seed(14)
points = cp.random.uniform(-1, 1, (20_000, 2), dtype=cp.float32)
by_cupy = 4 * float(cp.mean((points**2).sum(axis=1) < 1))
assert abs(by_cupy - np.pi) < 0.06, by_cupy
print("about pi:", round(pi, 1), round(by_cupy, 1))

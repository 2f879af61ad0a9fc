"""Conway's Game of Life on a torus, by a kernel over a stencil and by cupy.roll."""

import cupy as cp
import numpy as np

step = cp.RawKernel(
    r"""
extern "C" __global__ void life(const bool* now, bool* next, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    int neighbours = 0;
    for (int dy = -1; dy <= 1; ++dy)
        for (int dx = -1; dx <= 1; ++dx)
            if (dx || dy) neighbours += now[(y + dy + height) % height * width + (x + dx + width) % width];
    next[y * width + x] = neighbours == 3 || (neighbours == 2 && now[y * width + x]);
}
""",
    "life",
)


def by_rolling(xp, board):
    neighbours = sum(
        xp.roll(board, (dy, dx), axis=(0, 1)).astype(xp.int32) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
    )
    return (neighbours == 3) | ((neighbours == 2) & board)


height, width = 17, 23
board = np.random.default_rng(13).random((height, width)) < 0.3
now, rolled, expected = cp.asarray(board), cp.asarray(board), board
for _ in range(6):
    after = cp.empty_like(now)
    step((-(-width // 8), -(-height // 8)), (8, 8), (now, after, height, width))
    now, rolled, expected = after, by_rolling(cp, rolled), by_rolling(np, expected)
np.testing.assert_array_equal(now.get(), expected)
np.testing.assert_array_equal(rolled.get(), expected)
print("alive:", int(now.sum()))

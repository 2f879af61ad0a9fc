"""Sources to begin with in the view Kernel: each shows one thing."""

from __future__ import annotations

SAXPY = """// y = a x + y: neighbouring threads touch neighbouring elements.
__global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""

STRIDED = """// Each thread copies a row: the lanes of a warp touch addresses a row apart.
// Swap the roles of i and threadIdx.x, and a warp touches neighbouring addresses.
__global__ void copy_rows(const float* x, float* y, int width) {
    for (int i = 0; i < width; ++i)
        y[threadIdx.x * width + i] = x[threadIdx.x * width + i];
}
"""

CONFLICT = """// A transpose by way of shared memory. A column of the tile is in one bank:
// a row of 33 floats in place of 32 puts it into 32 banks.
__global__ void transpose(const float* x, float* y) {
    __shared__ float tile[32][32];
    tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * 32 + threadIdx.x];
    __syncthreads();
    y[threadIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}
"""

RACE = """// The sum of 64 numbers. Between two steps of the tree a barrier is missing:
// the check finds it. Put __syncthreads(); at the end of the loop.
__global__ void total(const float* x, float* sum) {
    __shared__ float part[64];
    int i = threadIdx.x;
    part[i] = x[i];
    __syncthreads();
    for (int half = 32; half > 0; half /= 2) {
        if (i < half) part[i] += part[i + half];
    }
    if (i == 0) sum[0] = part[0];
}
"""

EXAMPLES = [
    {
        "title": "saxpy: coalesced access", "file": "saxpy.cu", "source": SAXPY, "name": "saxpy", "grid": "4",
        "block": "256", "arguments": ["2", "float32[1000]", "float32[1000]", "1000"], "expect": ["y = a * x + y"],
        "mode": "profile",
    },
    {
        "title": "rows: access that is not coalesced", "file": "copy_rows.cu", "source": STRIDED, "name": "copy_rows",
        "grid": "1", "block": "64", "arguments": ["float32[64,64]", "float32[64,64]=0", "64"], "expect": ["y = x"],
        "mode": "profile",
    },
    {
        "title": "transpose: bank conflicts", "file": "transpose.cu", "source": CONFLICT, "name": "transpose",
        "grid": "1", "block": "32,32", "arguments": ["float32[32,32]", "float32[32,32]=0"], "expect": ["y = x.T"],
        "mode": "profile",
    },
    {
        "title": "sum: a data race", "file": "total.cu", "source": RACE, "name": "total", "grid": "1", "block": "64",
        "arguments": ["float32[64]", "float32[1]=0"], "expect": ["sum = x.sum()"], "mode": "check",
    },
]  # fmt: skip

"""Gravity between n bodies: positions in shared memory a tile at a time, float4 numbers, leapfrog steps."""

import cupy as cp
import numpy as np

module = cp.RawModule(
    code=r"""
#define TILE 64
extern "C" __global__
void accelerate(const float4* bodies, float3* acceleration, int n, float softening) {
    __shared__ float4 tile[TILE];
    int i = blockIdx.x * TILE + threadIdx.x;
    float4 me = i < n ? bodies[i] : make_float4(0, 0, 0, 0);
    float3 sum = make_float3(0, 0, 0);
    for (int start = 0; start < n; start += TILE) {
        int j = start + threadIdx.x;
        tile[threadIdx.x] = j < n ? bodies[j] : make_float4(0, 0, 0, 0);
        __syncthreads();
        #pragma unroll 8
        for (int k = 0; k < TILE; ++k) {
            float dx = tile[k].x - me.x, dy = tile[k].y - me.y, dz = tile[k].z - me.z;
            float inverse = rsqrtf(dx * dx + dy * dy + dz * dz + softening);
            float factor = tile[k].w * inverse * inverse * inverse;
            sum.x += factor * dx, sum.y += factor * dy, sum.z += factor * dz;
        }
        __syncthreads();
    }
    if (i < n) acceleration[i] = sum;
}
""",
    options=("-std=c++17", "--use_fast_math"),
)
kernel = module.get_function("accelerate")


def accelerate(bodies):
    acceleration = cp.empty((len(bodies), 3), cp.float32)
    kernel((-(-len(bodies) // 64),), (64,), (bodies, acceleration, np.int32(len(bodies)), np.float32(0.01)))
    return acceleration


def by_numpy(bodies):
    between = bodies[None, :, :3] - bodies[:, None, :3]
    squared = (between**2).sum(axis=2) + 0.01
    return (bodies[None, :, 3] / squared**1.5)[..., None] * between


rng = np.random.default_rng(12)
start = np.concatenate([rng.standard_normal((100, 3)), rng.uniform(0.1, 1, (100, 1))], axis=1).astype(np.float32)
bodies, velocity = cp.asarray(start), cp.zeros((100, 3), cp.float32)
np.testing.assert_allclose(accelerate(bodies).get(), by_numpy(start).sum(axis=1), rtol=1e-3, atol=1e-3)
for _ in range(5):
    velocity += 0.01 * accelerate(bodies)
    bodies[:, :3] += 0.01 * velocity
momentum = (bodies[:, 3:] * velocity).sum(axis=0)
np.testing.assert_allclose(momentum.get(), 0, atol=1e-2)
print("momentum is kept:", bool(cp.abs(momentum).max() < 1e-2))

// SwiGLU: h = g s(g) u with s(g) = 1 / (1 + exp(-g)), and backward
//
//     du = dh g s        dg = dh u s (1 + g (1 - s))
//
// (minillm/layers/swiglu.py derives it.) s is computed again rather than kept. Where exp(-g)
// overflows s is 0, its limit.
//
// Work: a thread takes the elements t, t + threads of the grid, ...; the grid is at most 8192
// blocks of 256 threads. Shared memory: none. Memory moved: forward 12 bytes an element (g, u, h),
// backward 20 (dh, g, u, dg, du), half of that in bfloat16; the arithmetic is float.

#include <cuda_bf16.h>

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

template <typename Number>
__global__ void swiglu_forward(const Number* __restrict__ gate, const Number* __restrict__ up, Number* __restrict__ h,
                               long long count) {
#pragma unroll 4
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < count; n += (long long)gridDim.x * blockDim.x) {
        float g = (float)gate[n];
        h[n] = (Number)(g * sigmoid(g) * (float)up[n]);
    }
}

template <typename Number>
__global__ void swiglu_backward(const Number* __restrict__ dh, const Number* __restrict__ gate,
                                const Number* __restrict__ up, Number* __restrict__ dgate, Number* __restrict__ dup,
                                long long count) {
#pragma unroll 4
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < count; n += (long long)gridDim.x * blockDim.x) {
        float g = (float)gate[n], gradient = (float)dh[n], s = sigmoid(g);
        // forward: h = g s(g) u
        dup[n] = (Number)(gradient * g * s);
        // forward: s(g) = 1 / (1 + exp(-g)): so d(g s) = s (1 + g (1 - s))
        dgate[n] = (Number)(gradient * (float)up[n] * s * (1 + g * (1 - s)));
    }
}

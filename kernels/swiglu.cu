// SwiGLU: h = g s(g) u with s(g) = 1 / (1 + exp(-g)), and backward
//
//     du = dh g s        dg = dh u s (1 + g (1 - s))
//
// (minillm/layers/swiglu.py derives it.) s is computed again rather than kept. Where exp(-g)
// overflows s is 0, its limit.
//
// Work: a thread takes the vectors t, t + threads of the grid, ... of 16 bytes each (N neighbours,
// vectors.cuh); what is left at the end is taken a number at a time. The grid is at most 8192
// blocks of 256 threads. Shared memory: none. Memory moved: forward 12 bytes an element (g, u, h),
// backward 20 (dh, g, u, dg, du), half of that in bfloat16; the arithmetic is float.

#include "vectors.cuh"

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

template <int N, typename Number>
__device__ inline void swiglu_forward_of(const Number* gate, const Number* up, Number* h) {
    float g[N], u[N];
    load(gate, g);
    load(up, u);
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = g[i] * sigmoid(g[i]) * u[i];
    store(g, h);
}

template <typename Number, int N>
__global__ void swiglu_forward(const Number* __restrict__ gate, const Number* __restrict__ up, Number* __restrict__ h,
                               long long count) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    for (long long n = thread * N; n + N <= count; n += threads * N) swiglu_forward_of<N>(gate + n, up + n, h + n);
    long long n = count / N * N + thread;
    if (n < count) swiglu_forward_of<1>(gate + n, up + n, h + n);
}

template <int N, typename Number>
__device__ inline void swiglu_backward_of(const Number* dh, const Number* gate, const Number* up, Number* dgate,
                                          Number* dup) {
    float gradient[N], g[N], u[N];
    load(dh, gradient);
    load(gate, g);
    load(up, u);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float s = sigmoid(g[i]), of_gate = gradient[i] * u[i];
        // forward: h = g s(g) u
        u[i] = gradient[i] * g[i] * s;
        // forward: s(g) = 1 / (1 + exp(-g)): so d(g s) = s (1 + g (1 - s))
        g[i] = of_gate * s * (1 + g[i] * (1 - s));
    }
    store(u, dup);
    store(g, dgate);
}

template <typename Number, int N>
__global__ void swiglu_backward(const Number* __restrict__ dh, const Number* __restrict__ gate,
                                const Number* __restrict__ up, Number* __restrict__ dgate, Number* __restrict__ dup,
                                long long count) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    for (long long n = thread * N; n + N <= count; n += threads * N) {
        swiglu_backward_of<N>(dh + n, gate + n, up + n, dgate + n, dup + n);
    }
    long long n = count / N * N + thread;
    if (n < count) swiglu_backward_of<1>(dh + n, gate + n, up + n, dgate + n, dup + n);
}

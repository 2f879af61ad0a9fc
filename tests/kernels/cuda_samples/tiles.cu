// A program in the style of a tutorial: a transpose through a padded tile, a scan by shuffles, a
// histogram in shared memory, a convolution with weights in constant memory.
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#include "program.h"

#define TILE 16
#define RADIUS 3

__constant__ float weights[2 * RADIUS + 1];

__global__ void __launch_bounds__(TILE * TILE) transpose(const float* in, float* out, int rows, int columns) {
    __shared__ float tile[TILE][TILE + 1];
    int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
    if (x < columns && y < rows) tile[threadIdx.y][threadIdx.x] = in[y * columns + x];
    __syncthreads();
    x = blockIdx.y * TILE + threadIdx.x, y = blockIdx.x * TILE + threadIdx.y;
    if (x < rows && y < columns) out[y * rows + x] = tile[threadIdx.x][threadIdx.y];
}

__global__ void scan(const int* in, int* out, int n) {
    __shared__ int of_warp[32];
    int i = threadIdx.x, lane = i % warpSize, warp = i / warpSize;
    int value = i < n ? in[i] : 0;
    for (int step = 1; step < warpSize; step *= 2) {
        int below = __shfl_up_sync(0xffffffff, value, step);
        if (lane >= step) value += below;
    }
    if (lane == warpSize - 1) of_warp[warp] = value;
    __syncthreads();
    for (int w = 0; w < warp; ++w) value += of_warp[w];
    if (i < n) out[i] = value;
}

__global__ void histogram(const unsigned char* in, unsigned* bins, int n) {
    __shared__ unsigned own[256];
    for (int b = threadIdx.x; b < 256; b += blockDim.x) own[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[in[i]], 1);
    __syncthreads();
    for (int b = threadIdx.x; b < 256; b += blockDim.x) atomicAdd(&bins[b], own[b]);
}

__global__ void convolve(const float* in, float* out, int n) {
    extern __shared__ float part[];
    int first = blockIdx.x * blockDim.x - RADIUS;
    for (int i = threadIdx.x; i < blockDim.x + 2 * RADIUS; i += blockDim.x)
        part[i] = first + i >= 0 && first + i < n ? in[first + i] : 0.0f;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int k = 0; k <= 2 * RADIUS; ++k) sum += weights[k] * part[threadIdx.x + k];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = sum;
}

int main(int argc, char** argv) {
    float *in, *out, host[2 * RADIUS + 1] = {1};
    CHECK(cudaMalloc(&in, 1024));
    CHECK(cudaMalloc(&out, 1024));
    CHECK(cudaMemcpyToSymbol(weights, host, sizeof host));
    convolve<<<ceil_div(256, 128), 128, (128 + 2 * RADIUS) * sizeof(float)>>>(in, out, 256);
    report_time("convolve");
    return 0;
}

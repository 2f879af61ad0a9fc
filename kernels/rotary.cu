// Rotary embedding: rotates the pair (x_i, x_j) of a token at position t by the angle t theta_i:
//
//     y_i = x_i cos - x_j sin        y_j = x_j cos + x_i sin
//
// where the pairs of a head of width D are (i, i + D/2), or (2i, 2i + 1) in the interleaved order.
// Backward rotates by the opposite angle (minillm/layers/rotary.py derives it): sign = -1.
//
// Work: x and y are (B, H, T, D), with steps of their own (layout.cuh). A thread owns one pair of
// one position, reads its cosine and sine once, and takes it through the heads of the batch
// blockIdx.y, blockIdx.y + gridDim.y, ... Shared memory: none. Memory moved: 8 bytes an element, 4
// in bfloat16; the tables are float in both.

#include <cuda_bf16.h>

#include "layout.cuh"

template <typename Number, bool interleaved>
__global__ void rotary(const Number* __restrict__ x, const float* cosine, const float* sine, Number* __restrict__ y,
                       Steps x_steps, Steps y_steps, float sign, int batch, int heads, int time, int half_width) {
    long long pair = (long long)blockIdx.x * blockDim.x + threadIdx.x, pairs = (long long)time * half_width;
    if (pair >= pairs) return;
    int i = pair % half_width, token = pair / half_width;
    int first = interleaved ? 2 * i : i, second = interleaved ? first + 1 : first + half_width;
    float c = cosine[pair], s = sign * sine[pair];
#pragma unroll 4
    for (long long head = blockIdx.y; head < (long long)batch * heads; head += gridDim.y) {
        const Number* from = matrix_of(x, x_steps, head, heads) + (long long)token * x_steps.token;
        Number* to = matrix_of(y, y_steps, head, heads) + (long long)token * y_steps.token;
        float a = (float)from[first], b = (float)from[second];
        // forward: y_i = x_i cos - x_j sin; y_j = x_j cos + x_i sin: of gradients with sign = -1
        to[first] = (Number)(a * c - b * s);
        to[second] = (Number)(b * c + a * s);
    }
}

// Rotary embedding: rotates the pair (x_i, x_j) of a token at position t by the angle t theta_i:
//
//     y_i = x_i cos - x_j sin        y_j = x_j cos + x_i sin
//
// where the pairs of a head of width D are (i, i + D/2), or (2i, 2i + 1) in the interleaved order.
// Backward rotates by the opposite angle (minillm/layers/rotary.py derives it): sign = -1.
//
// Work: x is (B H, T, D); a thread owns one pair of one position, reads its cosine and sine once,
// and takes it through the heads blockIdx.y, blockIdx.y + gridDim.y, ... Shared memory: none.
// Memory moved: 8 bytes an element, 4 in bfloat16; the tables are float in both.

#include <cuda_bf16.h>

template <typename Number, bool interleaved>
__global__ void rotary(const Number* __restrict__ x, const float* cosine, const float* sine, Number* __restrict__ y,
                       float sign, long long heads, int time, int half_width) {
    long long pair = (long long)blockIdx.x * blockDim.x + threadIdx.x, pairs = (long long)time * half_width;
    if (pair >= pairs) return;
    int i = pair % half_width;
    long long token = pair / half_width;
    float c = cosine[pair], s = sign * sine[pair];
#pragma unroll 4
    for (long long head = blockIdx.y; head < heads; head += gridDim.y) {
        long long row = (head * time + token) * 2 * half_width;
        long long first = row + (interleaved ? 2 * i : i);
        long long second = interleaved ? first + 1 : first + half_width;
        float a = (float)x[first], b = (float)x[second];
        // forward: y_i = x_i cos - x_j sin; y_j = x_j cos + x_i sin: of gradients with sign = -1
        y[first] = (Number)(a * c - b * s);
        y[second] = (Number)(b * c + a * s);
    }
}

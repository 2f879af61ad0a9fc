// Residual: y = x + (branch + b), where b is the bias of the linear layer that computed the branch,
// if it was left to this kernel. Backward: dx and dbranch are dy itself, db its sum over rows,
// which bias.cu computes.
//
// Work: a thread owns up to 16 bytes of neighbouring columns and walks down rows (columns.cuh).
// Shared memory: none. Memory moved: 12 bytes an element (x, branch, y), half of that in bfloat16.

#include "columns.cuh"

// Without a bias its pointer is null.
template <typename Number, int N>
__global__ void residual_bias_forward(const Number* __restrict__ x, const Number* __restrict__ branch, const float* bias,
                                      Number* __restrict__ y, long long rows, int width) {
    if (own_column<N>() >= width) return;
    float b[N], sum[N], added[N];
    load_bias(bias, b);
#pragma unroll 2
    for (long long row = own_row(); row < rows; row += row_step()) {
        long long place = row * width + own_column<N>();
        load(x + place, sum);
        load(branch + place, added);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += added[i] + b[i];
        store(sum, y + place);
    }
}

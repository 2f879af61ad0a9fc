// A product of a few rows, those of the tokens that are being generated, with a matrix of weights:
//
//     y = residual + x W + b                 x (N, I), W (I, O) or stored as (O, I), N at most 16
//
// Each weight is read once and takes part in N multiplications: the time is that of reading W from
// memory. cuBLAS is as fast, but CuPy does not let it into a CUDA graph, and a bias or a residual
// stream would be a launch of its own.
//
// skinny_rows, W stored as (O, I). Work: a warp owns one output, its lanes take 16 bytes of the row
// of W in turn. Up to three matrices that read the same x (q, k and v of a token) are one launch;
// their outputs lie one after the other, each (N, O). Shared memory: none.
//
// skinny_columns, W stored as (I, O). Work: a block owns 32 outputs, one a lane; its warps take the
// rows of W in turn, and their sums are added up in shared memory.
//
// A block has ROWS rows of x; blockIdx.y counts such groups. Sums are float, in an order that
// depends on the sizes alone. Memory moved: W once for each ROWS rows; x and y are small.

#include <cuda_bf16.h>

#include "reduce.cuh"

// 16 bytes as numbers: one load.
template <typename Number>
struct Vector {
    static const int SIZE = 16 / sizeof(Number);
    Number numbers[SIZE];
    __device__ explicit Vector(const Number* from) {
        float4 words = *reinterpret_cast<const float4*>(from);
        memcpy(numbers, &words, sizeof(words));
    }
    __device__ float operator[](int n) const { return (float)numbers[n]; }
};

// y_no = residual_no + sum + bias_o
template <typename Number, typename Result>
__device__ inline void store(Result* y, const Number* residual, const float* bias, float sum, long long place,
                             int output) {
    if (bias) sum += bias[output];
    if (residual) sum += (float)residual[place];
    y[place] = (Result)sum;
}

// w_m (outputs_m, inputs), x (rows, inputs), residual (rows, outputs_0) or null: then there is one
// matrix. bias_m null: none. wide: every row begins at a multiple of 16 bytes.
template <typename Number, typename Result, int ROWS>
__global__ void __launch_bounds__(32 * ROW_WARPS)
    skinny_rows(const Number* x, const Number* w_0, const Number* w_1, const Number* w_2, const float* bias_0,
                const float* bias_1, const float* bias_2, const Number* residual, Result* y, int rows, int inputs,
                int outputs_0, int outputs_1, int outputs_2, int wide) {
    int output = blockIdx.x * ROW_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.y * ROWS;
    if (output >= outputs_0 + outputs_1 + outputs_2) return;  // a whole warp
    const Number* w = w_0;
    const float* bias = bias_0;
    int outputs = outputs_0;
    if (output >= outputs_0) {
        output -= outputs_0, y += (long long)rows * outputs_0;
        w = w_1, bias = bias_1, outputs = outputs_1;
        if (output >= outputs_1) {
            output -= outputs_1, y += (long long)rows * outputs_1;
            w = w_2, bias = bias_2, outputs = outputs_2;
        }
    }
    w += (long long)output * inputs;
    const Number* x_rows[ROWS];
#pragma unroll
    for (int n = 0; n < ROWS; ++n) x_rows[n] = x + (long long)min(first + n, rows - 1) * inputs;
    float sums[ROWS] = {};
    if (wide) {
#pragma unroll(ROWS == 1 ? 4 : 1)
        for (int i = lane * Vector<Number>::SIZE; i < inputs; i += 32 * Vector<Number>::SIZE) {
            Vector<Number> weights(w + i);
#pragma unroll
            for (int n = 0; n < ROWS; ++n) {
                Vector<Number> numbers(x_rows[n] + i);
#pragma unroll
                for (int e = 0; e < Vector<Number>::SIZE; ++e) sums[n] += numbers[e] * weights[e];
            }
        }
    } else {
        for (int i = lane; i < inputs; i += 32) {
#pragma unroll
            for (int n = 0; n < ROWS; ++n) sums[n] += (float)x_rows[n][i] * (float)w[i];
        }
    }
    float mine = 0;
#pragma unroll
    for (int n = 0; n < ROWS; ++n) {
        float sum = warp_sum(sums[n]);
        if (lane == n) mine = sum;
    }
    if (lane < ROWS && first + lane < rows)
        store(y, residual, bias, mine, (long long)(first + lane) * outputs + output, output);
}

// w (inputs, outputs), x (rows, inputs), residual and y (rows, outputs); bias and residual may be
// null.
template <typename Number, typename Result, int ROWS>
__global__ void __launch_bounds__(32 * COLUMN_WARPS)
    skinny_columns(const Number* x, const Number* w, const float* bias, const Number* residual, Result* y, int rows,
                   int inputs, int outputs) {
    __shared__ float partial[COLUMN_WARPS][ROWS][32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, output = blockIdx.x * 32 + lane, first = blockIdx.y * ROWS;
    const Number* x_rows[ROWS];
#pragma unroll
    for (int n = 0; n < ROWS; ++n) x_rows[n] = x + (long long)min(first + n, rows - 1) * inputs;
    float sums[ROWS] = {};
    if (output < outputs) {
#pragma unroll 4
        for (int i = warp; i < inputs; i += COLUMN_WARPS) {
            float weight = (float)w[(long long)i * outputs + output];
#pragma unroll
            for (int n = 0; n < ROWS; ++n) sums[n] += (float)x_rows[n][i] * weight;
        }
    }
#pragma unroll
    for (int n = 0; n < ROWS; ++n) partial[warp][n][lane] = sums[n];
    __syncthreads();
    if (warp >= ROWS || first + warp >= rows || output >= outputs) return;
    float sum = 0;
    for (int part = 0; part < COLUMN_WARPS; ++part) sum += partial[part][warp][lane];
    store(y, residual, bias, sum, (long long)(first + warp) * outputs + output, output);
}

// Attention, rung 3 (online): the T x T matrix is never in memory.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = exp(S - L)        Y = P V
//     backward    delta_i = sum_d dY_id Y_id        dP = dY V^T        dS = P (dP - delta)
//                 dV = P^T dY        dQ = dS K / sqrt(D)        dK = dS^T Q / sqrt(D)
//
// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al.,
// "FlashAttention" (2022). minillm/layers/attention.py derives the backward pass.
//
// The idea of this rung: a softmax can be summed in one pass. m is the largest score so far, l the
// sum of exp(S - m), o the sum of exp(S - m) V. With one more score s and its row v of V:
//
//     m' = max(m, s)   alpha = exp(m - m')   p = exp(s - m')   l = alpha l + p   o = alpha o + p v
//
// and at the end Y = o / l and L = m + log l. L is all that backward needs to compute P again.
//
// Cost, for a head: 6 T^2 D operations forward, 14 T^2 D backward; half where causal. Memory: K and
// V once for every ROWS queries. Every multiplication reads its operands from shared memory: that
// is what the next rung mends. Gain over rung 2: not measured on a GPU yet.
//
// Work: a block owns ROWS rows (queries; keys for dK and dV), one a thread. Tiles of TILE rows of
// the other two matrices are loaded one after the other. blockIdx.x counts heads over the batch, y
// the blocks of rows. Shared memory: the rows owned and two tiles. The column after the last puts
// the same column of 32 rows, which the threads of a warp read at once, into 32 different banks.

#include "delta.cuh"
#include "dropout.cuh"
#include "starts.cuh"

// tile[r] = matrix[first + r]; 0 beyond the end of the matrix.
template <int D, int N>
__device__ inline void load(float (&tile)[N][D + 1], const float* matrix, int first, int time) {
    for (int n = threadIdx.x; n < N * D; n += ROWS)
        tile[n / D][n % D] = first + n / D < time ? matrix[(long long)first * D + n] : 0;
}

template <int D>
__device__ inline float dot(const float* a, const float* b) {
    float sum = 0;
#pragma unroll 4  // unrolled further, the compiler keeps whole rows in registers
    for (int d = 0; d < D; ++d) sum += a[d] * b[d];
    return sum;
}

// sum = alpha sum + weight x
template <int D>
__device__ inline void add(float (&sum)[D], float alpha, float weight, const float* x) {
#pragma unroll
    for (int d = 0; d < D; ++d) sum[d] = alpha * sum[d] + weight * x[d];
}

template <int D>
__device__ inline void store(float* row, const float (&sum)[D], float factor) {
#pragma unroll
    for (int d = 0; d < D; ++d) row[d] = sum[d] * factor;
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), lse (B, H, T) is L. A thread owns query i.
template <int D>
__global__ void __launch_bounds__(ROWS)
    online_forward(const float* q, const float* k, const float* v, float* y, float* lse, const int* starts, int heads,
                   int kv_heads, int time, float scale, int causal, Dropout drop) {
    __shared__ float q_rows[ROWS][D + 1], k_tile[TILE][D + 1], v_tile[TILE][D + 1];
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);  // b H + h, b H_kv + h_kv
    int first = blockIdx.y * ROWS, i = first + threadIdx.x, end = causal ? min(first + ROWS, time) : time;
    starts = starts_of(starts, head, heads, time);
    int begin = first_key_of(starts, first, time) / TILE * TILE, first_key = first_key_of(starts, i, time);
    float m = -infinity(), l = 0, o[D] = {};
    load<D>(q_rows, q + head * time * D, first, time);
    for (int start = begin; start < end; start += TILE) {
        load<D>(k_tile, k + kv_head * time * D, start, time);
        load<D>(v_tile, v + kv_head * time * D, start, time);
        __syncthreads();
        for (int j = max(start, first_key); j < min(start + TILE, end) && (!causal || j <= i); ++j) {
            float s = dot<D>(q_rows[threadIdx.x], k_tile[j - start]) * scale;
            float m_new = fmaxf(m, s), alpha = expf(m - m_new), p = expf(s - m_new);
            l = alpha * l + p;
            add<D>(o, alpha, p * dropout_factor(drop, (head * time + i) * time + j), v_tile[j - start]);
            m = m_new;
        }
        __syncthreads();
    }
    if (i >= time) return;
    store<D>(y + (head * time + i) * D, o, 1 / l);
    lse[head * time + i] = m + logf(l);
}

// dq (B, H, T, D); delta (B, H, T). A thread owns query i.
template <int D>
__global__ void __launch_bounds__(ROWS)
    online_backward_queries(const float* q, const float* k, const float* v, const float* dy, const float* lse,
                            const float* delta, float* dq, const int* starts, int heads, int kv_heads, int time,
                            float scale, int causal, Dropout drop) {
    __shared__ float q_rows[ROWS][D + 1], dy_rows[ROWS][D + 1], k_tile[TILE][D + 1], v_tile[TILE][D + 1];
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);
    int first = blockIdx.y * ROWS, i = first + threadIdx.x, end = causal ? min(first + ROWS, time) : time;
    float lse_i = i < time ? lse[head * time + i] : 0, delta_i = i < time ? delta[head * time + i] : 0, dq_i[D] = {};
    load<D>(q_rows, q + head * time * D, first, time);
    load<D>(dy_rows, dy + head * time * D, first, time);
    starts = starts_of(starts, head, heads, time);
    int begin = first_key_of(starts, first, time) / TILE * TILE, first_key = first_key_of(starts, i, time);
    for (int start = begin; start < end; start += TILE) {
        load<D>(k_tile, k + kv_head * time * D, start, time);
        load<D>(v_tile, v + kv_head * time * D, start, time);
        __syncthreads();
        for (int j = max(start, first_key); j < min(start + TILE, end) && (!causal || j <= i); ++j) {
            float p = expf(dot<D>(q_rows[threadIdx.x], k_tile[j - start]) * scale - lse_i);
            // forward: Y = P V: P with the factor of dropout
            float factor = dropout_factor(drop, (head * time + i) * time + j);
            float dp = dot<D>(dy_rows[threadIdx.x], v_tile[j - start]) * factor;
            // forward: P = exp(S - L); S = Q K^T / sqrt(D)
            add<D>(dq_i, 1, p * (dp - delta_i), k_tile[j - start]);
        }
        __syncthreads();
    }
    if (i < time) store<D>(dq + (head * time + i) * D, dq_i, scale);
}

// dk, dv (B, H_kv, T, D). A thread owns key j and goes over the queries of all heads of its group.
template <int D>
__global__ void __launch_bounds__(ROWS)
    online_backward_keys(const float* q, const float* k, const float* v, const float* dy, const float* lse,
                         const float* delta, float* dk, float* dv, const int* starts, int heads, int kv_heads, int time,
                         float scale, int causal, Dropout drop) {
    __shared__ float k_rows[ROWS][D + 1], v_rows[ROWS][D + 1], q_tile[TILE][D + 1], dy_tile[TILE][D + 1];
    long long kv_head = blockIdx.x, group = heads / kv_heads;
    int first = blockIdx.y * ROWS, j = first + threadIdx.x;
    float dk_j[D] = {}, dv_j[D] = {};
    starts = starts_of(starts, kv_head, kv_heads, time);
    load<D>(k_rows, k + kv_head * time * D, first, time);
    load<D>(v_rows, v + kv_head * time * D, first, time);
    for (long long head = kv_head * group; head < (kv_head + 1) * group; ++head)
        for (int start = causal ? first : 0; start < time && first_key_of(starts, start, time) < first + ROWS; start += TILE) {
            load<D>(q_tile, q + head * time * D, start, time);
            load<D>(dy_tile, dy + head * time * D, start, time);
            __syncthreads();
            for (int i = causal ? max(start, j) : start; i < min(start + TILE, time); ++i) {
                if (first_key_of(starts, i, time) > j) break;  // and so it is for those that follow
                float p = expf(dot<D>(q_tile[i - start], k_rows[threadIdx.x]) * scale - lse[head * time + i]);
                // forward: Y = P V: P with the factor of dropout
                float factor = dropout_factor(drop, (head * time + i) * time + j);
                add<D>(dv_j, 1, p * factor, dy_tile[i - start]);
                float dp = dot<D>(dy_tile[i - start], v_rows[threadIdx.x]) * factor;
                // forward: P = exp(S - L); S = Q K^T / sqrt(D)
                add<D>(dk_j, 1, p * (dp - delta[head * time + i]), q_tile[i - start]);
            }
            __syncthreads();
        }
    if (j >= time) return;
    store<D>(dk + (kv_head * time + j) * D, dk_j, scale);
    store<D>(dv + (kv_head * time + j) * D, dv_j, 1);
}

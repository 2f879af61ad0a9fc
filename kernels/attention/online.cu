// Attention, rung 3 (online): the T x T matrix is never in memory.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = exp(S - L)        Y = P V
//                 L_i = log sum_j exp S_ij is all that is kept for backward, besides Y
//     backward    A_i = sum_d dY_id Y_id, which is sum_j dP_ij P_ij        dP = dY V^T        dS = P (dP - A)
//                 dV = P^T dY        dQ = dS K / sqrt(D)        dK = dS^T Q / sqrt(D)
//
// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al., "FlashAttention" (2022).
//
// The idea of this rung: a softmax can be summed in one pass. With m the largest score so far, l the sum of exp(S - m) and o
// that of exp(S - m) V, one more score s with its row v of V is put in by
//
//     m' = max(m, s)        alpha = exp(m - m')        p = exp(s - m')
//     l = alpha l + p       o = alpha o + p v          and at the end Y = o / l, L = m + log l
//
// so a score is made, used and forgotten. Backward makes it again: exp(S - L) is P without another sum. Each result belongs
// to one thread and nothing is added atomically: the order of every sum is fixed, and so are its bits.
//
// What it costs, for a head: 6 T^2 D operations forward (o is scaled for every key) and 14 T^2 D backward, where S and dP are
// made twice; half where causal. Memory: K and V are read once for every 64 queries, T^2 D / 8 bytes, mostly from the cache.
// Backward keeps 4 T bytes a head (L) in place of 4 T^2. Every multiplication reads its operands from shared memory: that is
// what the next rung mends.
// What it gained over rung 2: not measured on a GPU yet.
//
// Work: a block of 64 threads owns 64 rows (queries; keys for dK and dV), one a thread, with the sums of a row in registers.
// A thread writes its row of a result by itself, so that a warp's writes are spread over 32 rows: 2.3 times the ideal traffic.
// The rows of the other side come in tiles of 16. blockIdx.x counts heads over the batch, blockIdx.y the 64 rows.
// Shared memory: the rows owned and two tiles. Each row is one float longer than D, so that the threads of a warp, which read
// the same column of 32 rows, find them in 32 different banks.

#include "average.cuh"
#include "dropout.cuh"

// tile[r][d] = matrix[first + r][d] for r < rows; 0 where the matrix has ended.
template <int D>
__device__ inline void load_rows(float* tile, const float* matrix, int first, int rows, int time) {
    for (int n = threadIdx.x; n < rows * D; n += ROWS) {
        int r = n / D, d = n % D;
        tile[r * (D + 1) + d] = first + r < time ? matrix[(long long)(first + r) * D + d] : 0;
    }
}

template <int D>
__device__ inline float dot(const float* a, const float* b) {
    float sum = 0;
#pragma unroll 4  // unrolled further, the compiler keeps whole rows in registers, which have no room for them
    for (int d = 0; d < D; ++d) sum += a[d] * b[d];
    return sum;
}

// sum[d] = alpha sum[d] + weight x[d]
template <int D>
__device__ inline void add_row(float (&sum)[D], float alpha, float weight, const float* x) {
#pragma unroll
    for (int d = 0; d < D; ++d) sum[d] = alpha * sum[d] + weight * x[d];
}

template <int D>
__device__ inline void store_row(float* row, const float (&sum)[D], float factor) {
#pragma unroll
    for (int d = 0; d < D; ++d) row[d] = sum[d] * factor;
}

// The factor of dropout for element n of the T x T matrices.
__device__ inline float dropout_factor(const Dropout& drop, long long n) {
    return !drop.threshold ? 1 : kept_bits<1>(drop, n) ? drop.scale : 0;
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), log_sum_exp (B, H, T)
template <int D>
__global__ void __launch_bounds__(ROWS)
    online_forward(const float* q, const float* k, const float* v, float* y, float* log_sum_exp, int heads, int kv_heads,
                   int time, float inverse_sqrt_width, int causal, unsigned long long key0, unsigned long long key1,
                   unsigned long long threshold, long long first, float scale) {
    extern __shared__ float shared[];
    float *q_rows = shared, *k_tile = q_rows + ROWS * (D + 1), *v_tile = k_tile + TILE * (D + 1);
    Dropout drop = {key0, key1, threshold, first, scale};
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);  // b H + h, b H_kv + h_kv
    int first_query = blockIdx.y * ROWS, i = first_query + threadIdx.x;
    int end = causal ? min(i + 1, time) : time, block_end = causal ? min(first_query + ROWS, time) : time;
    const float* q_i = q_rows + threadIdx.x * (D + 1);

    float m = -infinity(), l = 0, o[D] = {};
    load_rows<D>(q_rows, q + head * time * D, first_query, ROWS, time);
    for (int first_key = 0; first_key < block_end; first_key += TILE) {
        load_rows<D>(k_tile, k + kv_head * time * D, first_key, TILE, time);
        load_rows<D>(v_tile, v + kv_head * time * D, first_key, TILE, time);
        __syncthreads();
        for (int j = first_key; j < min(first_key + TILE, end); ++j) {
            float s = dot<D>(q_i, k_tile + (j - first_key) * (D + 1)) * inverse_sqrt_width;
            float m_new = fmaxf(m, s), alpha = expf(m - m_new), p = expf(s - m_new);
            l = alpha * l + p;
            p *= dropout_factor(drop, (head * time + i) * time + j);
            add_row<D>(o, alpha, p, v_tile + (j - first_key) * (D + 1));
            m = m_new;
        }
        __syncthreads();
    }
    if (i >= time) return;
    store_row<D>(y + (head * time + i) * D, o, 1 / l);
    log_sum_exp[head * time + i] = m + logf(l);
}

// dq (B, H, T, D); average (B, H, T) is A. A thread owns a query, the keys stream by.
template <int D>
__global__ void __launch_bounds__(ROWS)
    online_backward_queries(const float* q, const float* k, const float* v, const float* dy, const float* log_sum_exp,
                            const float* average, float* dq, int heads, int kv_heads, int time, float inverse_sqrt_width,
                            int causal, unsigned long long key0, unsigned long long key1, unsigned long long threshold,
                            long long first, float scale) {
    extern __shared__ float shared[];
    float *q_rows = shared, *dy_rows = q_rows + ROWS * (D + 1);
    float *k_tile = dy_rows + ROWS * (D + 1), *v_tile = k_tile + TILE * (D + 1);
    Dropout drop = {key0, key1, threshold, first, scale};
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);
    int first_query = blockIdx.y * ROWS, i = first_query + threadIdx.x;
    int end = causal ? min(i + 1, time) : time, block_end = causal ? min(first_query + ROWS, time) : time;
    const float *q_i = q_rows + threadIdx.x * (D + 1), *dy_i = dy_rows + threadIdx.x * (D + 1);
    float L = i < time ? log_sum_exp[head * time + i] : 0, A = i < time ? average[head * time + i] : 0;

    float dq_i[D] = {};
    load_rows<D>(q_rows, q + head * time * D, first_query, ROWS, time);
    load_rows<D>(dy_rows, dy + head * time * D, first_query, ROWS, time);
    for (int first_key = 0; first_key < block_end; first_key += TILE) {
        load_rows<D>(k_tile, k + kv_head * time * D, first_key, TILE, time);
        load_rows<D>(v_tile, v + kv_head * time * D, first_key, TILE, time);
        __syncthreads();
        for (int j = first_key; j < min(first_key + TILE, end); ++j) {
            const float *k_j = k_tile + (j - first_key) * (D + 1), *v_j = v_tile + (j - first_key) * (D + 1);
            float p = expf(dot<D>(q_i, k_j) * inverse_sqrt_width - L);
            // forward: y = dropped @ v, dropped = p * factor
            float dp = dot<D>(dy_i, v_j) * dropout_factor(drop, (head * time + i) * time + j);
            // forward: p = softmax(s)
            float ds = p * (dp - A);
            // forward: s = q @ k^T / sqrt(D)
            add_row<D>(dq_i, 1, ds, k_j);
        }
        __syncthreads();
    }
    if (i < time) store_row<D>(dq + (head * time + i) * D, dq_i, inverse_sqrt_width);
}

// dk, dv (B, H_kv, T, D). A thread owns a key, the queries of all heads of the group stream by, in order.
template <int D>
__global__ void __launch_bounds__(ROWS)
    online_backward_keys(const float* q, const float* k, const float* v, const float* dy, const float* log_sum_exp,
                         const float* average, float* dk, float* dv, int heads, int kv_heads, int time,
                         float inverse_sqrt_width, int causal, unsigned long long key0, unsigned long long key1,
                         unsigned long long threshold, long long first, float scale) {
    extern __shared__ float shared[];
    float *k_rows = shared, *v_rows = k_rows + ROWS * (D + 1);
    float *q_tile = v_rows + ROWS * (D + 1), *dy_tile = q_tile + TILE * (D + 1);
    Dropout drop = {key0, key1, threshold, first, scale};
    long long kv_head = blockIdx.x;
    int first_key = blockIdx.y * ROWS, j = first_key + threadIdx.x, group = heads / kv_heads;
    const float *k_j = k_rows + threadIdx.x * (D + 1), *v_j = v_rows + threadIdx.x * (D + 1);

    float dk_j[D] = {}, dv_j[D] = {};
    load_rows<D>(k_rows, k + kv_head * time * D, first_key, ROWS, time);
    load_rows<D>(v_rows, v + kv_head * time * D, first_key, ROWS, time);
    for (int member = 0; member < group; ++member) {
        long long head = kv_head * group + member;
        for (int first_query = causal ? first_key : 0; first_query < time; first_query += TILE) {
            load_rows<D>(q_tile, q + head * time * D, first_query, TILE, time);
            load_rows<D>(dy_tile, dy + head * time * D, first_query, TILE, time);
            __syncthreads();
            for (int i = max(first_query, causal ? j : 0); i < min(first_query + TILE, time); ++i) {
                const float *q_i = q_tile + (i - first_query) * (D + 1), *dy_i = dy_tile + (i - first_query) * (D + 1);
                float p = expf(dot<D>(q_i, k_j) * inverse_sqrt_width - log_sum_exp[head * time + i]);
                float factor = dropout_factor(drop, (head * time + i) * time + j);
                // forward: y = dropped @ v, dropped = p * factor
                add_row<D>(dv_j, 1, p * factor, dy_i);
                float dp = dot<D>(dy_i, v_j) * factor;
                // forward: p = softmax(s)
                float ds = p * (dp - average[head * time + i]);
                // forward: s = q @ k^T / sqrt(D)
                add_row<D>(dk_j, 1, ds, q_i);
            }
            __syncthreads();
        }
    }
    if (j >= time) return;
    store_row<D>(dk + (kv_head * time + j) * D, dk_j, inverse_sqrt_width);
    store_row<D>(dv + (kv_head * time + j) * D, dv_j, 1);
}

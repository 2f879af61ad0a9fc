// Attention, rung 4 (flash): online softmax with the numbers in registers.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = exp(S - L)        Y = P V
//                 L_i = log sum_j exp S_ij is all that is kept for backward, besides Y
//     backward    A_i = sum_d dY_id Y_id, which is sum_j dP_ij P_ij        dP = dY V^T        dS = P (dP - A)
//                 dV = P^T dY        dQ = dS K / sqrt(D)        dK = dS^T Q / sqrt(D)
//
// Source: Dao et al., "FlashAttention" (2022) and Dao, "FlashAttention-2" (2023).
//
// The idea of this rung: register tiling. In rung 3 a thread makes one score after the other, and every multiplication reads
// both of its operands from shared memory. Here a thread makes 8 rows by several columns of a tile of scores at once, as a
// product of matrices does: a number that it has read is used for all of them. The running maximum and sum of rung 3 then
// change once for a tile of N keys and not for each key:
//
//     m' = max(m, max_j S_j)        l = l exp(m - m') + sum_j exp(S_j - m')        o = o exp(m - m') + sum_j exp(S_j - m') V_j
//
// As there, one kernel goes over the keys for dQ and one over the queries for dK and dV, each result belongs to one block,
// and nothing is added atomically: the order of every sum is fixed, and so are its bits.
//
// What it costs, for a head: 4 T^2 D operations forward and 14 T^2 D backward (S and dP are made twice; half where causal).
// Memory: forward reads Q and writes Y once, and K and V once for every 64 queries: 16 T D + T^2 D / 8 bytes, mostly from
// the cache. Backward keeps 4 T bytes a head (L) in place of 4 T^2.
// What it gained over rung 3: not measured on a GPU yet.
//
// Work: a block of 128 threads owns 64 rows (queries; keys for dK and dV) and lets the rows of the other side stream by in
// tiles of N. A warp owns 16 of the rows. Lane 2x + h makes the rows 4h, ..., 4h + 3 and 4h + 8, ..., 4h + 11 of its warp: of a
// tile of scores the columns x, x + 16, ..., of a result of width D the columns 2x, 2x + 1, 2x + 32, .... Neighbouring lanes
// share a column, so that the quarter warps in which float4s are served ask for few different words, and rows that are
// stored together lie 4 apart, half the banks.
// blockIdx.x counts heads over the batch, blockIdx.y the 64 rows, those with most work first.
// Shared memory: the rows owned, the tiles that stream by, each row 4 floats longer than D so that 8 rows lie in different
// banks, and the 64 x N probabilities on their way from a product's result to the next one's operand.

#include "average.cuh"
#include "dropout.cuh"

const int OWNED = 64, THREADS = 128, M = 8;  // rows of a block, threads, rows of a thread
const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

// Row of the block that is number m of this thread's.
__device__ inline int row_of(int m) { return threadIdx.x / 32 * 16 + m / 4 * 8 + threadIdx.x % 2 * 4 + m % 4; }

// x of this thread.
__device__ inline int first_column() { return threadIdx.x % 32 / 2; }

// tile[r][d] = matrix[first + r][d] for r < rows; 0 where the matrix has ended.
template <int D>
__device__ inline void load_rows(float* tile, const float* matrix, int first, int rows, int time) {
    for (int n = threadIdx.x; n < rows * (D / 4); n += THREADS) {
        int r = n / (D / 4), d = 4 * (n % (D / 4));
        float4 numbers = make_float4(0, 0, 0, 0);
        if (first + r < time) numbers = *(const float4*)(matrix + (long long)(first + r) * D + d);
        *(float4*)(tile + r * (D + 4) + d) = numbers;
    }
}

// s[m][c] = sum_d a[row_of(m)][d] b[x + 16 c][d]
template <int D, int COLUMNS>
__device__ inline void products_of_rows(float (&s)[M][COLUMNS], const float* a, const float* b) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) s[m][c] = 0;
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
        float4 y[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) y[c] = *(const float4*)(b + (first_column() + 16 * c) * (D + 4) + d);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            float4 x = *(const float4*)(a + row_of(m) * (D + 4) + d);
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) s[m][c] += x.x * y[c].x + x.y * y[c].y + x.z * y[c].z + x.w * y[c].w;
        }
    }
}

// o[m][...] += sum_j w[row_of(m)][j] v[j][...] over the N rows of v
template <int D, int N>
__device__ inline void add_weighted_rows(float (&o)[M][D / 16], const float* w, const float* v) {
#pragma unroll (D < 128 ? 2 : 1)
    for (int j = 0; j < N; j += 4) {
        float4 weights[M];
#pragma unroll
        for (int m = 0; m < M; ++m) weights[m] = *(const float4*)(w + row_of(m) * (N + 4) + j);
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
            const float* column = v + j * (D + 4) + 2 * first_column() + 32 * c;
            float2 v0 = *(const float2*)column, v1 = *(const float2*)(column + (D + 4));
            float2 v2 = *(const float2*)(column + 2 * (D + 4)), v3 = *(const float2*)(column + 3 * (D + 4));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                o[m][2 * c] += weights[m].x * v0.x + weights[m].y * v1.x + weights[m].z * v2.x + weights[m].w * v3.x;
                o[m][2 * c + 1] += weights[m].x * v0.y + weights[m].y * v1.y + weights[m].z * v2.y + weights[m].w * v3.y;
            }
        }
    }
}

// tile[row_of(m)][x + 16 c] = s[m][c]: for the warp's own use.
template <int N>
__device__ inline void hand_over(float* tile, const float (&s)[M][N / 16]) {
    __syncwarp();  // the last product has read what was there
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int c = 0; c < N / 16; ++c) tile[row_of(m) * (N + 4) + first_column() + 16 * c] = s[m][c];
    __syncwarp();
}

// matrix[first + row_of(m)][...] = factor[m] o[m][...], as far as the matrix goes.
template <int D>
__device__ inline void store_rows(float* matrix, const float (&o)[M][D / 16], const float (&factor)[M], int first, int time) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
        int row = first + row_of(m);
        if (row >= time) continue;
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
            float2 pair = make_float2(o[m][2 * c] * factor[m], o[m][2 * c + 1] * factor[m]);
            *(float2*)(matrix + (long long)row * D + 2 * first_column() + 32 * c) = pair;
        }
    }
}

// Over the 16 threads that have columns of the same row; all get the same bits.
__device__ inline float row_max(float value) {
    for (int distance = 16; distance > 1; distance /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

__device__ inline float row_sum(float value) {
    for (int distance = 16; distance > 1; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), log_sum_exp (B, H, T)
template <int D, int N>
__global__ void __launch_bounds__(THREADS, 2)
    flash_forward(const float* q, const float* k, const float* v, float* y, float* log_sum_exp, int heads, int kv_heads,
                  int time, float inverse_sqrt_width, int causal, unsigned long long key0, unsigned long long key1,
                  unsigned long long threshold, long long first, float scale) {
    extern __shared__ float4 shared[];
    float* q_tile = (float*)shared;                  // 64 x (D + 4)
    float* kv_tile = q_tile + OWNED * (D + 4);       // N x (D + 4): the keys, then the values
    float* p_tile = kv_tile + N * (D + 4);           // 64 x (N + 4)
    Dropout drop = {key0, key1, threshold, first, scale};
    long long head = blockIdx.x;  // b H + h
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, x = first_column();
    int end = causal ? min(first_query + OWNED, time) : time;
    q += head * time * D;
    k += head / (heads / kv_heads) * time * D;
    v += head / (heads / kv_heads) * time * D;

    float o[M][D / 16] = {}, largest[M], sum[M] = {};  // largest: in units of log 2, so that exp2f does
#pragma unroll
    for (int m = 0; m < M; ++m) largest[m] = -infinity();
    load_rows<D>(q_tile, q, first_query, OWNED, time);
    for (int first_key = 0; first_key < end; first_key += N) {
        load_rows<D>(kv_tile, k, first_key, N, time);
        __syncthreads();
        float p[M][N / 16];
        products_of_rows<D>(p, q_tile, kv_tile);
        __syncthreads();
        load_rows<D>(kv_tile, v, first_key, N, time);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            int i = first_query + row_of(m);
            float before = largest[m], total = 0;
#pragma unroll
            for (int c = 0; c < N / 16; ++c) {
                int j = first_key + x + 16 * c;
                p[m][c] = j >= time || (causal && j > i) ? -infinity() : p[m][c] * (inverse_sqrt_width * LOG2_E);
                largest[m] = fmaxf(largest[m], p[m][c]);
            }
            largest[m] = row_max(largest[m]);
#pragma unroll
            for (int c = 0; c < N / 16; ++c) total += p[m][c] = exp2f(p[m][c] - largest[m]);
            float shrink = exp2f(before - largest[m]);
            sum[m] = sum[m] * shrink + row_sum(total);
#pragma unroll
            for (int c = 0; c < D / 16; ++c) o[m][c] *= shrink;
        }
        KeptTile<N> kept(drop, head, time, first_query + threadIdx.x / 32 * 16, first_key);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int c = 0; c < N / 16; ++c) p[m][c] *= kept.factor(drop, row_of(m) % 16, x + 16 * c);
        hand_over<N>(p_tile, p);
        __syncthreads();
        add_weighted_rows<D, N>(o, p_tile, kv_tile);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
        int i = first_query + row_of(m);
        if (x == 0 && i < time) log_sum_exp[head * time + i] = largest[m] * LN_2 + logf(sum[m]);
        sum[m] = 1 / sum[m];
    }
    store_rows<D>(y + head * time * D, o, sum, first_query, time);
}

// dq (B, H, T, D); average (B, H, T) is A. A block owns 64 queries, the keys stream by.
template <int D, int N>
__global__ void __launch_bounds__(THREADS, 2)
    flash_backward_queries(const float* q, const float* k, const float* v, const float* dy, const float* log_sum_exp,
                           const float* average, float* dq, int heads, int kv_heads, int time, float inverse_sqrt_width,
                           int causal, unsigned long long key0, unsigned long long key1, unsigned long long threshold,
                           long long first, float scale) {
    extern __shared__ float4 shared[];
    float* q_tile = (float*)shared;
    float* dy_tile = q_tile + OWNED * (D + 4);
    float* k_tile = dy_tile + OWNED * (D + 4);
    float* v_tile = k_tile + N * (D + 4);
    float* ds_tile = v_tile + N * (D + 4);
    Dropout drop = {key0, key1, threshold, first, scale};
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, x = first_column();
    int end = causal ? min(first_query + OWNED, time) : time;

    float sum[M][D / 16] = {}, log_sum[M], row_average[M], dq_factor[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        int i = first_query + row_of(m);
        log_sum[m] = i < time ? log_sum_exp[head * time + i] * LOG2_E : 0;
        row_average[m] = i < time ? average[head * time + i] : 0;
        dq_factor[m] = inverse_sqrt_width;
    }
    load_rows<D>(q_tile, q + head * time * D, first_query, OWNED, time);
    load_rows<D>(dy_tile, dy + head * time * D, first_query, OWNED, time);
    for (int first_key = 0; first_key < end; first_key += N) {
        load_rows<D>(k_tile, k + kv_head * time * D, first_key, N, time);
        load_rows<D>(v_tile, v + kv_head * time * D, first_key, N, time);
        __syncthreads();
        float p[M][N / 16], ds[M][N / 16];
        products_of_rows<D>(p, q_tile, k_tile);
        // forward: y = dropped @ v
        products_of_rows<D>(ds, dy_tile, v_tile);
        KeptTile<N> kept(drop, head, time, first_query + threadIdx.x / 32 * 16, first_key);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int c = 0; c < N / 16; ++c) {
                int i = first_query + row_of(m), j = first_key + x + 16 * c;
                bool masked = j >= time || (causal && j > i);
                float probability = masked ? 0 : exp2f(p[m][c] * (inverse_sqrt_width * LOG2_E) - log_sum[m]);
                // forward: p = softmax(s), dropped = p * factor
                float factor = kept.factor(drop, row_of(m) % 16, x + 16 * c);
                ds[m][c] = probability * (ds[m][c] * factor - row_average[m]);
            }
        hand_over<N>(ds_tile, ds);
        // forward: s = q @ k^T / sqrt(D)
        add_weighted_rows<D, N>(sum, ds_tile, k_tile);
        __syncthreads();
    }
    store_rows<D>(dq + head * time * D, sum, dq_factor, first_query, time);
}

// dk, dv (B, H_kv, T, D). A block owns 64 keys, the queries of all heads of the group stream by, in order.
template <int D, int N>
__global__ void __launch_bounds__(THREADS, 2)
    flash_backward_keys(const float* q, const float* k, const float* v, const float* dy, const float* log_sum_exp,
                        const float* average, float* dk, float* dv, int heads, int kv_heads, int time,
                        float inverse_sqrt_width, int causal, unsigned long long key0, unsigned long long key1,
                        unsigned long long threshold, long long first, float scale) {
    extern __shared__ float4 shared[];
    float* k_tile = (float*)shared;
    float* v_tile = k_tile + OWNED * (D + 4);
    float* q_tile = v_tile + OWNED * (D + 4);
    float* dy_tile = q_tile + N * (D + 4);
    float* w_tile = dy_tile + N * (D + 4);
    Dropout drop = {key0, key1, threshold, first, scale};
    long long kv_head = blockIdx.x;  // b H_kv + h_kv
    int first_key = blockIdx.y * OWNED, x = first_column(), group = heads / kv_heads;

    float dk_sum[M][D / 16] = {}, dv_sum[M][D / 16] = {}, dk_factor[M], dv_factor[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        dk_factor[m] = inverse_sqrt_width;
        dv_factor[m] = 1;
    }
    load_rows<D>(k_tile, k + kv_head * time * D, first_key, OWNED, time);
    load_rows<D>(v_tile, v + kv_head * time * D, first_key, OWNED, time);
    for (int member = 0; member < group; ++member) {
        long long head = kv_head * group + member;
        for (int first_query = causal ? first_key : 0; first_query < time; first_query += N) {
            load_rows<D>(q_tile, q + head * time * D, first_query, N, time);
            load_rows<D>(dy_tile, dy + head * time * D, first_query, N, time);
            __syncthreads();
            float p[M][N / 16], ds[M][N / 16];  // transposed: rows are keys, columns are queries
            products_of_rows<D>(p, k_tile, q_tile);
            products_of_rows<D>(ds, v_tile, dy_tile);
            KeptTransposedTile<N> kept(drop, head, time, first_query, first_key + threadIdx.x / 32 * 16);
#pragma unroll
            for (int c = 0; c < N / 16; ++c) {
                int i = first_query + x + 16 * c;
                float log_sum = i < time ? log_sum_exp[head * time + i] * LOG2_E : 0;
                float row_average = i < time ? average[head * time + i] : 0;
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    int j = first_key + row_of(m);
                    bool masked = i >= time || (causal && j > i);
                    float probability = masked ? 0 : exp2f(p[m][c] * (inverse_sqrt_width * LOG2_E) - log_sum);
                    float factor = kept.factor(drop, x + 16 * c, row_of(m) % 16);
                    p[m][c] = probability * factor;
                    // forward: p = softmax(s), dropped = p * factor
                    ds[m][c] = probability * (ds[m][c] * factor - row_average);
                }
            }
            // forward: y = dropped @ v
            hand_over<N>(w_tile, p);
            add_weighted_rows<D, N>(dv_sum, w_tile, dy_tile);
            // forward: s = q @ k^T / sqrt(D)
            hand_over<N>(w_tile, ds);
            add_weighted_rows<D, N>(dk_sum, w_tile, q_tile);
            __syncthreads();
        }
    }
    store_rows<D>(dk + kv_head * time * D, dk_sum, dk_factor, first_key, time);
    store_rows<D>(dv + kv_head * time * D, dv_sum, dv_factor, first_key, time);
}

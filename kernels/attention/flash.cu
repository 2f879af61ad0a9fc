// Attention, rung 4 (flash): online softmax with register tiling.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = exp(S - L)        Y = P V
//                 L_i = log sum_j exp S_ij is all that is kept for backward, besides Y
//     backward    delta_i = sum_d dY_id Y_id = sum_j dP_ij P_ij        dP = dY V^T
//                 dS = P (dP - delta)        dV = P^T dY
//                 dQ = dS K / sqrt(D)        dK = dS^T Q / sqrt(D)
//
// Source: Dao et al., "FlashAttention" (2022) and Dao, "FlashAttention-2" (2023).
//
// The idea of this rung: register tiling. In rung 3 a thread computes one score after the other,
// and every multiplication reads both of its operands from shared memory. Here a thread computes R
// rows by several columns of a tile of scores at once: it reads a number once and uses it for all
// of them. The running maximum m and sum l of rung 3 then change once for a tile of N keys instead
// of for each key:
//
//     m' = max(m, max_j S_j)        alpha = exp(m - m')
//     l = alpha l + sum_j exp(S_j - m')        o = alpha o + sum_j exp(S_j - m') V_j
//
// As in rung 3, one kernel goes over the keys for dQ and one over the queries for dK and dV. Each
// result belongs to one block and nothing is added atomically: the order of every sum is fixed, and
// so are its bits. The kernel for dQ has the rows of dY and Y, and writes delta for the other one.
//
// Cost, for a head: 4 T^2 D operations forward and 14 T^2 D backward (S and dP are computed twice;
// half where causal: a warp skips the tiles that none of its rows sees, and masks single scores in
// those that a border crosses, mask.cuh). Memory: forward reads Q and writes Y once, and K and V
// once for every OWNED queries: 16 T D + T^2 D / 8 bytes, mostly from the cache. Backward keeps 4 T
// bytes a head (L) instead of 4 T^2. Gain over rung 3: not measured on a GPU yet.
//
// Work: a block of THREADS threads owns OWNED rows (queries; keys for dK and dV). Tiles of N rows
// of the other two matrices are loaded one after the other. A warp owns 16 of the rows. Lane 2x + h
// computes the rows 4h, ..., 4h + 3 and 4h + 8, ..., 4h + 11 of its warp: of a tile of scores the
// columns x, x + 16, ..., of a result of width D the columns 2x, 2x + 1, 2x + 32, .... Neighbouring
// lanes share a column, so that the quarter warps in which float4s are served read few different
// words, and rows that are stored together are 4 apart, half the banks. blockIdx.x counts heads
// over the batch, blockIdx.y the owned rows, those with most work first. Shared memory: the rows
// owned and the tiles, each row PADDING floats longer than D so that 8 rows start in different
// banks, and the OWNED x N probabilities, which are the result of one product and the operand of
// the next.

#include "dropout.cuh"
#include "layout.cuh"
#include "mask.cuh"

const int R = 8;  // rows of a thread
const float LOG2_E = 1.44269504088896341f;

// The first of the warp's 16 rows of the block.
__device__ inline int warp_row() { return threadIdx.x / 32 * 16; }

// The row of the block that this thread computes as its row r.
__device__ inline int row_of(int r) { return warp_row() + r / 4 * 8 + threadIdx.x % 2 * 4 + r % 4; }

// x in the description of the work above.
__device__ inline int first_column() { return threadIdx.x % 32 / 2; }

// tile[r][d] = matrix[first + r][d] for r < rows; 0 beyond the end of the matrix. step: from a
// token to the next.
template <int D>
__device__ inline void load_rows(float* tile, const float* matrix, int step, int first, int rows, int time) {
    for (int n = threadIdx.x; n < rows * (D / 4); n += THREADS) {
        int r = n / (D / 4), d = 4 * (n % (D / 4));
        float4 numbers = make_float4(0, 0, 0, 0);
        if (first + r < time) numbers = *(const float4*)(matrix + (long long)(first + r) * step + d);
        *(float4*)(tile + r * (D + PADDING) + d) = numbers;
    }
}

// s[r][c] = sum_d a[row_of(r)][d] b[x + 16 c][d]
template <int D, int COLUMNS>
__device__ inline void matmul_abt(float (&s)[R][COLUMNS], const float* a, const float* b) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) s[r][c] = 0;
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
        float4 y[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) y[c] = *(const float4*)(b + (first_column() + 16 * c) * (D + PADDING) + d);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            float4 x = *(const float4*)(a + row_of(r) * (D + PADDING) + d);
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) s[r][c] += x.x * y[c].x + x.y * y[c].y + x.z * y[c].z + x.w * y[c].w;
        }
    }
}

// o[r][...] += sum_j w[row_of(r)][j] v[j][...] over the N rows of v
template <int D, int N>
__device__ inline void add_matmul_ab(float (&o)[R][D / 16], const float* w, const float* v) {
#pragma unroll (D < 128 ? 2 : 1)
    for (int j = 0; j < N; j += 4) {
        float4 weights[R];
#pragma unroll
        for (int r = 0; r < R; ++r) weights[r] = *(const float4*)(w + row_of(r) * (N + PADDING) + j);
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
            const float* column = v + j * (D + PADDING) + 2 * first_column() + 32 * c;
            float2 v0 = *(const float2*)column, v1 = *(const float2*)(column + (D + PADDING));
            float2 v2 = *(const float2*)(column + 2 * (D + PADDING)), v3 = *(const float2*)(column + 3 * (D + PADDING));
#pragma unroll
            for (int r = 0; r < R; ++r) {
                o[r][2 * c] += weights[r].x * v0.x + weights[r].y * v1.x + weights[r].z * v2.x + weights[r].w * v3.x;
                o[r][2 * c + 1] += weights[r].x * v0.y + weights[r].y * v1.y + weights[r].z * v2.y + weights[r].w * v3.y;
            }
        }
    }
}

// tile[row_of(r)][x + 16 c] = s[r][c], which the threads of this warp read.
template <int N>
__device__ inline void store_to_shared(float* tile, const float (&s)[R][N / 16]) {
    __syncwarp();  // the last product has read the old values
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < N / 16; ++c) tile[row_of(r) * (N + PADDING) + first_column() + 16 * c] = s[r][c];
    __syncwarp();
}

// matrix[first + row_of(r)][...] = factor[r] o[r][...], inside of the matrix.
template <int D>
__device__ inline void store_rows(float* matrix, int step, const float (&o)[R][D / 16], const float (&factor)[R], int first,
                                  int time) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
        int row = first + row_of(r);
        if (row >= time) continue;
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
            float2 pair = make_float2(o[r][2 * c] * factor[r], o[r][2 * c + 1] * factor[r]);
            *(float2*)(matrix + (long long)row * step + 2 * first_column() + 32 * c) = pair;
        }
    }
}

// Over the 16 threads that have columns of the same row. All get the same bits.
__device__ inline float row_max(float value) {
    for (int distance = 16; distance > 1; distance /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

__device__ inline float row_sum(float value) {
    for (int distance = 16; distance > 1; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// delta_i = sum_d dy_id y_id of the query i, the block's row row_of(r), whose dy is in shared
// memory.
template <int D>
__device__ inline float row_delta(const float* dy_tile, const float* y, int step, int r, int i, int time) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < D / 32; ++c) {
        int d = 2 * first_column() + 32 * c;
        float2 a = *(const float2*)(dy_tile + row_of(r) * (D + PADDING) + d), b = make_float2(0, 0);
        if (i < time) b = *(const float2*)(y + (long long)i * step + d);
        sum += a.x * b.x + a.y * b.y;
    }
    return row_sum(sum);
}

// s = -inf where query i + row_of(r) does not see key j + x + 16 c.
template <int N>
__device__ inline void hide(float (&s)[R][N / 16], const Mask& mask, int i, int j) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < N / 16; ++c)
            if (!mask.sees(i + row_of(r), j + first_column() + 16 * c)) s[r][c] = -infinity();
}

// The same for a transposed tile: keys j + row_of(r), queries i + x + 16 c.
template <int N>
__device__ inline void hide_transposed(float (&s)[R][N / 16], const Mask& mask, int i, int j) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < N / 16; ++c)
            if (!mask.sees(i + first_column() + 16 * c, j + row_of(r))) s[r][c] = -infinity();
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), lse (B, H, T) is L
template <int D, int N>
__global__ void __launch_bounds__(THREADS, 2)
    flash_forward(const float* q, const float* k, const float* v, float* y, float* lse, Layout layout, const int* starts,
                  int heads, int kv_heads, int time, float scale, int causal, Dropout drop) {
    extern __shared__ float4 shared[];
    float* q_tile = (float*)shared;                  // OWNED x (D + PADDING)
    float* kv_tile = q_tile + OWNED * (D + PADDING);       // N x (D + PADDING): the keys, then the values
    float* p_tile = kv_tile + N * (D + PADDING);           // OWNED x (N + PADDING)
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);  // b H + h
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + warp_row();
    Mask mask = {starts_of(starts, head, heads, time), time, causal};
    int begin = first_key_of(mask.starts, first_query, time) / N * N, end = causal ? min(first_query + OWNED, time) : time;
    k = matrix_of(k, layout.k, kv_head, kv_heads);
    v = matrix_of(v, layout.v, kv_head, kv_heads);

    float o[R][D / 16] = {}, m[R], l[R] = {}, exponent = scale * LOG2_E;  // exp(s scale) = 2^(s exponent)
#pragma unroll
    for (int r = 0; r < R; ++r) m[r] = -infinity();
    load_rows<D>(q_tile, matrix_of(q, layout.q, head, heads), layout.q.token, first_query, OWNED, time);
    for (int first_key = begin; first_key < end; first_key += N) {
        load_rows<D>(kv_tile, k, layout.k.token, first_key, N, time);
        __syncthreads();
        bool hidden = mask.hides_all(row, 16, first_key, N);  // from all queries of the warp
        float p[R][N / 16];
        if (!hidden) matmul_abt<D>(p, q_tile, kv_tile);
        __syncthreads();
        load_rows<D>(kv_tile, v, layout.v.token, first_key, N, time);
        if (!hidden) {
            if (!mask.hides_none(row, 16, first_key, N)) hide<N>(p, mask, first_query, first_key);
            KeptTile<N> kept(drop, head, time, row, first_key);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                float m_old = m[r], total = 0;
#pragma unroll
                for (int c = 0; c < N / 16; ++c) m[r] = fmaxf(m[r], p[r][c]);
                m[r] = row_max(m[r]);
                float reference = m[r] == -infinity() ? 0 : m[r] * exponent;  // no key seen yet: all exponentials are 0
#pragma unroll
                for (int c = 0; c < N / 16; ++c) total += p[r][c] = exp2f(p[r][c] * exponent - reference);
                float alpha = exp2f(m_old * exponent - reference);
                l[r] = l[r] * alpha + row_sum(total);
#pragma unroll
                for (int c = 0; c < D / 16; ++c) o[r][c] *= alpha;
#pragma unroll
                for (int c = 0; c < N / 16; ++c) p[r][c] *= kept.factor(drop, row_of(r) % 16, first_column() + 16 * c);
            }
            store_to_shared<N>(p_tile, p);
        }
        __syncthreads();
        if (!hidden) add_matmul_ab<D, N>(o, p_tile, kv_tile);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
        int i = first_query + row_of(r);
        if (first_column() == 0 && i < time) lse[head * time + i] = m[r] * scale + logf(l[r]);
        l[r] = 1 / l[r];
    }
    store_rows<D>(matrix_of(y, layout.y, head, heads), layout.y.token, o, l, first_query, time);
}

// dq (B, H, T, D), delta (B, H, T); lse (B, H, T) is L. A block owns OWNED queries.
template <int D, int N>
__global__ void __launch_bounds__(THREADS, 2)
    flash_backward_queries(const float* q, const float* k, const float* v, const float* y, const float* dy,
                           const float* lse, float* delta, float* dq, Layout layout, const int* starts, int heads,
                           int kv_heads, int time, float scale, int causal, Dropout drop) {
    extern __shared__ float4 shared[];
    float* q_tile = (float*)shared;
    float* dy_tile = q_tile + OWNED * (D + PADDING);
    float* k_tile = dy_tile + OWNED * (D + PADDING);
    float* v_tile = k_tile + N * (D + PADDING);
    float* ds_tile = v_tile + N * (D + PADDING);
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + warp_row();
    Mask mask = {starts_of(starts, head, heads, time), time, causal};
    int begin = first_key_of(mask.starts, first_query, time) / N * N, end = causal ? min(first_query + OWNED, time) : time;
    k = matrix_of(k, layout.k, kv_head, kv_heads);
    v = matrix_of(v, layout.v, kv_head, kv_heads);
    y = matrix_of(y, layout.y, head, heads);

    load_rows<D>(q_tile, matrix_of(q, layout.q, head, heads), layout.q.token, first_query, OWNED, time);
    load_rows<D>(dy_tile, matrix_of(dy, layout.dy, head, heads), layout.dy.token, first_query, OWNED, time);
    __syncthreads();
    float dq_sum[R][D / 16] = {}, lse_i[R], delta_i[R], dq_factor[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        int i = first_query + row_of(r);
        lse_i[r] = i < time ? lse[head * time + i] * LOG2_E : 0;
        delta_i[r] = row_delta<D>(dy_tile, y, layout.y.token, r, i, time);
        if (first_column() == 0 && i < time) delta[head * time + i] = delta_i[r];  // for dK
        dq_factor[r] = scale;
    }
    for (int first_key = begin; first_key < end; first_key += N) {
        load_rows<D>(k_tile, k, layout.k.token, first_key, N, time);
        load_rows<D>(v_tile, v, layout.v.token, first_key, N, time);
        __syncthreads();
        if (!mask.hides_all(row, 16, first_key, N)) {
            float p[R][N / 16], ds[R][N / 16];
            matmul_abt<D>(p, q_tile, k_tile);
            if (!mask.hides_none(row, 16, first_key, N)) hide<N>(p, mask, first_query, first_key);
            // forward: Y = P V
            matmul_abt<D>(ds, dy_tile, v_tile);
            KeptTile<N> kept(drop, head, time, row, first_key);
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < N / 16; ++c) {
                    float probability = exp2f(p[r][c] * (scale * LOG2_E) - lse_i[r]);
                    // forward: P = exp(S - L): P meets V with the factor of dropout
                    float factor = kept.factor(drop, row_of(r) % 16, first_column() + 16 * c);
                    ds[r][c] = probability * (ds[r][c] * factor - delta_i[r]);
                }
            store_to_shared<N>(ds_tile, ds);
            // forward: S = Q K^T / sqrt(D)
            add_matmul_ab<D, N>(dq_sum, ds_tile, k_tile);
        }
        __syncthreads();
    }
    store_rows<D>(matrix_of(dq, layout.dq, head, heads), layout.dq.token, dq_sum, dq_factor, first_query, time);
}

// dk, dv (B, H_kv, T, D). A block owns OWNED keys and goes over the queries of all heads of its
// group, in order.
template <int D, int N>
__global__ void __launch_bounds__(THREADS, 2)
    flash_backward_keys(const float* q, const float* k, const float* v, const float* dy, const float* lse,
                        const float* delta, float* dk, float* dv, Layout layout, const int* starts, int heads,
                        int kv_heads, int time, float scale, int causal, Dropout drop) {
    extern __shared__ float4 shared[];
    float* k_tile = (float*)shared;
    float* v_tile = k_tile + OWNED * (D + PADDING);
    float* q_tile = v_tile + OWNED * (D + PADDING);
    float* dy_tile = q_tile + N * (D + PADDING);
    float* w_tile = dy_tile + N * (D + PADDING);
    int kv_head = blockIdx.x;  // b H_kv + h_kv
    int first_key = blockIdx.y * OWNED, row = first_key + warp_row(), group = heads / kv_heads;
    Mask mask = {starts_of(starts, kv_head, kv_heads, time), time, causal};

    float dk_sum[R][D / 16] = {}, dv_sum[R][D / 16] = {}, dk_factor[R], dv_factor[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        dk_factor[r] = scale;
        dv_factor[r] = 1;
    }
    load_rows<D>(k_tile, matrix_of(k, layout.k, kv_head, kv_heads), layout.k.token, first_key, OWNED, time);
    load_rows<D>(v_tile, matrix_of(v, layout.v, kv_head, kv_heads), layout.v.token, first_key, OWNED, time);
    for (int member = 0; member < group; ++member) {
        int head = kv_head * group + member;
        for (int first_query = causal ? first_key : 0; first_query < time; first_query += N) {
            if (first_key_of(mask.starts, first_query, time) >= first_key + OWNED) break;  // no query from here on sees a key
            load_rows<D>(q_tile, matrix_of(q, layout.q, head, heads), layout.q.token, first_query, N, time);
            load_rows<D>(dy_tile, matrix_of(dy, layout.dy, head, heads), layout.dy.token, first_query, N, time);
            __syncthreads();
            if (!mask.hides_all(first_query, N, row, 16)) {
                float p[R][N / 16], ds[R][N / 16];  // transposed: rows are keys, columns are queries
                matmul_abt<D>(p, k_tile, q_tile);
                if (!mask.hides_none(first_query, N, row, 16)) hide_transposed<N>(p, mask, first_query, first_key);
                matmul_abt<D>(ds, v_tile, dy_tile);
                KeptTransposedTile<N> kept(drop, head, time, first_query, row);
#pragma unroll
                for (int c = 0; c < N / 16; ++c) {
                    int column = first_column() + 16 * c, i = first_query + column;
                    float lse_i = i < time ? lse[(long long)head * time + i] * LOG2_E : 0;
                    float delta_i = i < time ? delta[(long long)head * time + i] : 0;
#pragma unroll
                    for (int r = 0; r < R; ++r) {
                        float probability = exp2f(p[r][c] * (scale * LOG2_E) - lse_i);
                        float factor = kept.factor(drop, column, row_of(r) % 16);
                        p[r][c] = probability * factor;
                        // forward: P = exp(S - L): P meets V with the factor of dropout
                        ds[r][c] = probability * (ds[r][c] * factor - delta_i);
                    }
                }
                // forward: Y = P V
                store_to_shared<N>(w_tile, p);
                add_matmul_ab<D, N>(dv_sum, w_tile, dy_tile);
                // forward: S = Q K^T / sqrt(D)
                store_to_shared<N>(w_tile, ds);
                add_matmul_ab<D, N>(dk_sum, w_tile, q_tile);
            }
            __syncthreads();
        }
    }
    store_rows<D>(matrix_of(dk, layout.dk, kv_head, kv_heads), layout.dk.token, dk_sum, dk_factor, first_key, time);
    store_rows<D>(matrix_of(dv, layout.dv, kv_head, kv_heads), layout.dv.token, dv_sum, dv_factor, first_key, time);
}

// Attention of new tokens over a cache of keys and values, for generation:
//
//     s_j = q . k_j / sqrt(D)        p = softmax over the keys j that the query sees
//     y = sum_j p_j v_j
//
// minillm/layers/cached_attention.py has the same with arrays. One query alone reads the whole
// cache, and a block a head would leave most of a GPU idle: so the keys are split among blocks
// (Dao et al., "Flash-Decoding for long-context inference", 2023). A block leaves of its keys
//
//     m = max_j s_j        l = sum_j exp(s_j - m)        o = sum_j exp(s_j - m) v_j
//
// and the parts of a query are merged as an online softmax is, with M the largest m:
//
//     y = sum exp(m - M) o / sum exp(m - M) l
//
// What changes from token to token is read from memory, not given as an argument: `place` is the
// number of columns (tokens) before the new ones. So a launch can be part of a CUDA graph that
// is replayed for every token; its grid is that of the longest text that the cache has room for.
//
// append     rotates q and k of the new tokens and writes k and v into the cache
// attend     one part of one query and head: blockIdx.x is ((b t + i) H + h), blockIdx.y the part
// merge      one query and head
//
// Column c of a text is row c - first of the cache. The query of column c sees the columns j with
// max(c - window + 1, padding_b) <= j <= c, and its own where that is padding.
//
// Memory moved: the cache once for each query head (from the L2 after the first head of a group),
// 2 D numbers a key. Every sum has one order, so a text gets the same bits each time.

#include <cuda_bf16.h>

#include "reduce.cuh"

// The largest of all threads of a block; scratch as for block_sum.
__device__ inline float block_max(float value, float* scratch) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) value = fmaxf(value, scratch[warp]);
    __syncthreads();
    return value;
}

// The columns that a query sees: first, and one beyond the last.
struct Seen {
    long long begin, end;
};

__device__ inline Seen seen_by(long long column, long long padding, int window) {
    long long begin = min(padding, column);
    if (window) begin = max(begin, column - window + 1);
    return {begin, column + 1};
}

// q, k and v are columns of matrices with a row for each of the tokens = B t: head h of a token
// begins at first + token step + h D, and the matrices may be one. keys, values (B, H_kv, capacity,
// D). rotated (tokens, H, D). cosine, sine (rows, D / 2), row = the position of a token in its
// text, or by_token its number; cosine null: nothing is rotated, and q is not read. padding (B,) or
// null. Padding columns become zeros.
//
// Work: blockIdx.x is a token, blockIdx.y a head: first those of k, then of v, then of q.
template <typename Number>
__global__ void append(const Number* q, const Number* k, const Number* v, Number* rotated, Number* keys, Number* values,
                       const float* cosine, const float* sine, const long long* place, const long long* padding,
                       int time, int kv_heads, int heads, int half_width, int q_first, int q_step, int k_first,
                       int k_step, int v_first, int v_step, long long first, int capacity, int interleaved,
                       int by_token) {
    int token = blockIdx.x, b = token / time, slot = blockIdx.y, width = 2 * half_width;
    long long column = place[0] + token % time, hidden = padding ? padding[b] : 0;
    bool is_value = slot >= kv_heads && slot < 2 * kv_heads, is_query = slot >= 2 * kv_heads;
    int head = is_query ? slot - 2 * kv_heads : slot % kv_heads;
    const Number* from = is_query   ? q + q_first + (long long)token * q_step
                         : is_value ? v + v_first + (long long)token * v_step
                                    : k + k_first + (long long)token * k_step;
    from += head * width;
    Number* cache = is_value ? values : keys;
    Number* to = is_query ? rotated + ((long long)token * heads + head) * width
                          : cache + (((long long)b * kv_heads + head) * capacity + column - first) * width;
    const float* c = cosine + (by_token ? token : max(column - hidden, 0LL)) * half_width;
    const float* s = sine + (c - cosine);
    for (int i = threadIdx.x; i < half_width; i += blockDim.x) {
        int place_a = interleaved ? 2 * i : i, place_b = interleaved ? 2 * i + 1 : i + half_width;
        float a = (float)from[place_a], b = (float)from[place_b];
        if (!is_query && column < hidden) a = b = 0;
        bool rotates = cosine && !is_value;
        to[place_a] = (Number)(rotates ? a * c[i] - b * s[i] : a);
        to[place_b] = (Number)(rotates ? b * c[i] + a * s[i] : b);
    }
}

// q . k for a row of the cache, read 16 bytes at a time if `wide`.
template <bool wide, typename Number>
__device__ inline float score(const float* query, const Number* k, int width) {
    float s = 0;
    if (wide) {
        const int SIZE = 16 / sizeof(Number);
#pragma unroll 2
        for (int d = 0; d < width; d += SIZE) {
            float4 words = *reinterpret_cast<const float4*>(k + d);
            Number numbers[SIZE];
            memcpy(numbers, &words, sizeof(words));
#pragma unroll
            for (int e = 0; e < SIZE; ++e) s += query[d + e] * (float)numbers[e];
        }
    } else {
        for (int d = 0; d < width; ++d) s += query[d] * (float)k[d];
    }
    return s;
}

// q as for append, or rotated. keys, values (B, H_kv, capacity, D). y (tokens, H, D), written where
// there is one part; else sums (parts, tokens H, D), and m and l (parts, tokens H, 2). A part
// without a key that is seen leaves m = -inf, l = 0 and no sum.
//
// Work: a block takes KEYS keys at a time, the groups blockIdx.y, blockIdx.y + parts, ... of those
// that are seen, and rescales what it has by exp(m - m') as the largest score grows. For the scores
// a thread owns a key, for the sum a column; KEYS / D threads share a column's keys.
template <typename Number, bool wide>
__global__ void __launch_bounds__(KEYS)
    attend(const Number* q, const Number* keys, const Number* values, Number* y, float* sums, float* statistics,
           const long long* place, const long long* padding, int time, int kv_heads, int heads, int width, int q_first,
           int q_step, long long first, int capacity, int window, float scale) {
    const int OWN = (MAX_WIDTH + KEYS - 1) / KEYS;  // columns of a thread
    __shared__ float query[MAX_WIDTH], p[KEYS], part_sums[MAX_WIDTH], scratch[32];
    long long row = blockIdx.x;
    int head = row % heads, token = row / heads, b = token / time;
    Seen seen = seen_by(place[0] + token % time, padding ? padding[b] : 0, window);
    int begin = seen.begin - first, end = seen.end - first;
    for (int d = threadIdx.x; d < width; d += KEYS)
        query[d] = (float)q[q_first + (long long)token * q_step + head * width + d] * scale;
    __syncthreads();

    long long rows = ((long long)b * kv_heads + head / (heads / kv_heads)) * capacity;
    int groups = max(1, KEYS / width);
    float m = -infinity(), l = 0, o[OWN] = {};
    for (int start = (begin / KEYS + blockIdx.y) * KEYS; start < end; start += KEYS * gridDim.y) {
        // s_j = q . k_j / sqrt(D)
        int j = start + threadIdx.x, stop = min(start + KEYS, end);
        bool is_seen = begin <= j && j < stop;
        float s = is_seen ? score<wide>(query, keys + (rows + j) * width, width) : -infinity();
        // m' = max(m, s)   alpha = exp(m - m')   p = exp(s - m')   l = alpha l + sum p
        float m_new = fmaxf(m, block_max(s, scratch)), alpha = expf(m - m_new);
        p[threadIdx.x] = is_seen ? expf(s - m_new) : 0;
        l = alpha * l + block_sum(p[threadIdx.x], scratch);  // its barriers make p visible
        m = m_new;
        // o_d = alpha o_d + sum_j p_j v_jd
#pragma unroll
        for (int own = 0; own < OWN; ++own) {
            int n = threadIdx.x + own * KEYS, from = max(start, begin);
            if (n >= groups * width) break;
            o[own] *= alpha;
            const Number* v = values + rows * width + n % width;
#pragma unroll 4
            for (int i = from + n / width; i < stop; i += groups)
                o[own] += p[i - start] * (float)v[(long long)i * width];
        }  // the barriers of the next block_max end the reading of p
    }
#pragma unroll
    for (int own = 0; own < OWN; ++own)
        if (threadIdx.x + own * KEYS < groups * width) part_sums[threadIdx.x + own * KEYS] = o[own];
    __syncthreads();
    for (int d = threadIdx.x; d < width && l != 0; d += KEYS) {
        float sum = 0;
        for (int group = 0; group < groups; ++group) sum += part_sums[group * width + d];
        if (gridDim.y == 1)
            y[row * width + d] = (Number)(sum / l);
        else
            sums[(blockIdx.y * (long long)gridDim.x + row) * width + d] = sum;
    }
    if (gridDim.y > 1 && threadIdx.x == 0) {
        statistics[2 * (blockIdx.y * (long long)gridDim.x + row)] = m;
        statistics[2 * (blockIdx.y * (long long)gridDim.x + row) + 1] = l;
    }
}

// y (rows, D) from sums (parts, rows, D) and m and l (parts, rows, 2). Work: a block a row, a
// thread a column.
template <typename Number>
__global__ void merge(const float* sums, const float* statistics, Number* y, int parts, int width) {
    long long row = blockIdx.x, rows = gridDim.x;
    float largest = -infinity();
    for (int part = 0; part < parts; ++part) largest = fmaxf(largest, statistics[2 * (part * rows + row)]);
    for (int d = threadIdx.x; d < width; d += blockDim.x) {
        float o = 0, l = 0;
        for (int part = 0; part < parts; ++part) {
            const float* of_part = statistics + 2 * (part * rows + row);
            if (of_part[1] == 0) continue;  // no key is seen, and the sum was not written
            float factor = expf(of_part[0] - largest);
            l += factor * of_part[1];
            o += factor * sums[(part * rows + row) * width + d];
        }
        y[row * width + d] = (Number)(o / l);
    }
}

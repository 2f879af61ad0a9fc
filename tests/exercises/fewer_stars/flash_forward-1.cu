// 2
#define TILE 64  // threads of a block: its queries, and the keys and values in shared memory
#define D4 8     // float4 of a query, a key, a value
#define ZERO make_float4(0, 0, 0, 0)

__device__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
__device__ float4 sum_of(float s, float4 a, float t, float4 b) {  // s a + t b
    return make_float4(s * a.x + t * b.x, s * a.y + t * b.y, s * a.z + t * b.z, s * a.w + t * b.w);
}

// tile = TILE rows of a matrix, from row `first` on; zeros beyond the last.
__device__ void load_rows(float4 (*tile)[D4 + 1], const float* matrix, int first, int time) {
    for (int n = threadIdx.x; n < TILE * D4; n += TILE)
        tile[n / D4][n % D4] = first + n / D4 < time ? ((const float4*)matrix)[first * D4 + n] : ZERO;
}

// y = softmax(q k^T / sqrt(32)) v for the keys j <= i, and lse. A thread has query i.
__global__ void flash_forward(const float* q, const float* k, const float* v, float* y, float* lse, int time) {
    __shared__ float4 k_tile[TILE][D4 + 1], v_tile[TILE][D4 + 1];
    int i = blockIdx.x * TILE + threadIdx.x;
    float4 qi[D4], o[D4] = {};
    float m = -INFINITY, l = 0;
    for (int d = 0; d < D4; ++d) qi[d] = i < time ? ((const float4*)q)[i * D4 + d] : ZERO;
    for (int first = 0; first <= blockIdx.x * TILE; first += TILE) {
        __syncthreads();
        load_rows(k_tile, k, first, time);
        load_rows(v_tile, v, first, time);
        __syncthreads();
        for (int j = 0; j < TILE && first + j <= i; ++j) {
            float s = 0;
            for (int d = 0; d < D4; ++d) s += dot(qi[d], k_tile[j][d]) / sqrtf(32);
            float m_new = fmaxf(m, s), alpha = expf(m - m_new), p = expf(s - m_new);
            m = m_new;
            l = alpha * l + p;
            for (int d = 0; d < D4; ++d) o[d] = sum_of(alpha, o[d], p, v_tile[j][d]);
        }
    }
    for (int d = 0; d < D4; ++d)
        if (i < time) ((float4*)y)[i * D4 + d] = sum_of(1 / l, o[d], 0, ZERO);
    if (i < time) lse[i] = m + logf(l);
}

// Attention, rung 1 (naive): every formula is a kernel of its own, and the T x T matrix is in
// memory.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = softmax(S) over j        Y = P V
//     backward    dP = dY V^T        dS = P (dP - sum_j dP P) / sqrt(D)
//                 dV = P^T dY        dQ = dS K        dK = dS^T Q
//
// The six products have three forms, A B^T, A B and A^T B; softmax.cuh has the rest. Query head h
// reads the key/value head h / (H / H_kv); dK and dV sum over the query heads of their group.
//
// The idea of this rung: none. It computes the formulas as they are written. The other rungs are
// compared with it.
//
// Cost, for a head: 4 T^2 D operations forward and 8 T^2 D backward (multiplications and additions;
// a causal mask saves half). Every multiplication reads both of its factors from memory: 8 bytes
// for 2 operations, 16 T^2 D bytes forward; the caches serve a part of them. The matrix S is
// written, read three times and written twice, and P is read: 28 T^2 bytes forward, about the same
// for dS backward. 4 T^2 bytes are kept for backward (8 with dropout). Gain: this is the start. Not
// measured on a GPU yet.
//
// Work: one thread for each number of a result, 256 threads a block. Neighbouring threads compute
// neighbouring columns: in A B and A^T B a warp reads B in whole lines and broadcasts A; in A B^T
// it reads 32 rows of B, a line for each number. Shared memory: none.

#include "softmax.cuh"
#include "starts.cuh"

// s_ij = scale sum_d a_id b_jd; `masked` where causal and j > i, and before starts_i.  a (B, H, T,
// D), b (B, H_kv, T, D), s (B, H, T, T)
__global__ void matmul_abt(const float* a, const float* b, float* s, const int* starts, int batch, int heads,
                             int kv_heads, int time, int width, float scale, int causal, float masked) {
    long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= (long long)batch * heads * time * time) return;
    int j = n % time, i = n / time % time;
    long long row = n / time, head = row / time;  // head: b H + h
    if ((causal && j > i) || j < first_key_of(starts_of(starts, head, heads, time), i, time)) {
        s[n] = masked;
        return;
    }
    const float* a_row = a + row * width;
    const float* b_row = b + (head / (heads / kv_heads) * time + j) * width;
    float sum = 0;
    // forward: Y = P V: dP is this sum with a = dy, b = v, scale = 1
    for (int d = 0; d < width; ++d) sum += a_row[d] * b_row[d];
    s[n] = sum * scale;
}

// y_id = sum_j w_ij x_jd, from starts_i on and up to j = i where causal.  w (B, H, T, T), x (B, H_kv,
// T, D), y (B, H, T, D)
__global__ void matmul_ab(const float* w, const float* x, float* y, const int* starts, int batch, int heads,
                             int kv_heads, int time, int width, int causal) {
    long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= (long long)batch * heads * time * width) return;
    int d = n % width, i = n / width % time;
    long long row = n / width, head = row / time;
    const float* w_row = w + row * time;
    const float* x_column = x + head / (heads / kv_heads) * time * width + d;
    int begin = first_key_of(starts_of(starts, head, heads, time), i, time), end = causal ? i + 1 : time;
    float sum = 0;
    // forward: S = Q K^T / sqrt(D): dQ is this sum with w = ds, x = k
    for (int j = begin; j < end; ++j) sum += w_row[j] * x_column[(long long)j * width];
    y[n] = sum;
}

// y_jd = sum over the query heads h of the group and over i of w_ij x_id, from i = j on where
// causal, as long as i sees j. w (B, H, T, T), x (B, H, T, D), y (B, H_kv, T, D)
__global__ void matmul_atb(const float* w, const float* x, float* y, const int* starts, int batch, int heads,
                               int kv_heads, int time, int width, int causal) {
    long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= (long long)batch * kv_heads * time * width) return;
    int d = n % width, j = n / width % time, group = heads / kv_heads;
    const int* row_starts = starts_of(starts, n / width / time, kv_heads, time);
    float sum = 0;
    // forward: Y = P V: dV is this sum with w = dropped, x = dy
    // forward: S = Q K^T / sqrt(D): dK is this sum with w = ds, x = q
    for (int member = 0; member < group; ++member) {
        long long head = n / width / time * group + member;
        const float* w_column = w + head * time * time + j;
        const float* x_column = x + head * time * width + d;
        for (long long i = causal ? j : 0; i < time && first_key_of(row_starts, i, time) <= j; ++i)
            sum += w_column[i * time] * x_column[i * width];
    }
    y[n] = sum;
}

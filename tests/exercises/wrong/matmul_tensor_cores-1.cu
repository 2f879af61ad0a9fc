// 23: c[0, 0] is
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

// c = a b, with a (m, k), b (k, n), c (m, n). A block is one warp, for 32 x 32 numbers of c.
__global__ void matmul_tensor_cores(const half* a, const half* b, float* c, int n, int k) {
    a += blockIdx.y * 32 * k;  // the first of 32 rows
    b += blockIdx.x * 32;      // the first of 32 columns
    c += blockIdx.y * 32 * n + blockIdx.x * 32;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> x[2];
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> y[2];
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[2][2];
    for (int d = 0; d < k; d += 16) {
        for (int r = 0; r < 2; ++r) wmma::load_matrix_sync(x[r], a + 16 * r * k + d, k);
        for (int s = 0; s < 2; ++s) wmma::load_matrix_sync(y[s], b + d * n + 16 * s, n);
        for (int r = 0; r < 2; ++r)
            for (int s = 0; s < 2; ++s) wmma::mma_sync(sum[r][s], x[r], y[s], sum[r][s]);
    }
    for (int r = 0; r < 2; ++r)
        for (int s = 0; s < 2; ++s)
            wmma::store_matrix_sync(c + 16 * r * n + 16 * s, sum[r][s], n, wmma::mem_row_major);
}

#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

// c = a b, with a (m, k), b (k, n), c (m, n). A block is one warp, for 32 x 32 numbers of c.
__global__ void matmul_tensor_cores(const half* a, const half* b, float* c, int n, int k) {
    a += blockIdx.y * 32 * k;  // the first of 32 rows
    b += blockIdx.x * 32;      // the first of 32 columns
    c += blockIdx.y * 32 * n + blockIdx.x * 32;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> x;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> y;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0);
    wmma::load_matrix_sync(x, a, k);
    wmma::load_matrix_sync(y, b, n);
    wmma::mma_sync(sum, x, y, sum);  // TODO: the other k; and the other three tiles of 16 x 16
    wmma::store_matrix_sync(c, sum, n, wmma::mem_row_major);
}

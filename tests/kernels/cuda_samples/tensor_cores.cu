// C = A B on tensor cores, twice: by wmma, and by mma.sync with tiles that cp.async brings two
// stages ahead.
#include <cuda_fp16.h>
#include <mma.h>

#include "program.h"

using namespace nvcuda;

__global__ void by_wmma(const half* a, const half* b, float* c, int n, int depth) {
    int row = 16 * blockIdx.y, column = 16 * blockIdx.x;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> of_a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> of_b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < depth; k += 16) {
        wmma::load_matrix_sync(of_a, a + row * depth + k, depth);
        wmma::load_matrix_sync(of_b, b + k * n + column, n);
        wmma::mma_sync(sum, of_a, of_b, sum);
    }
    wmma::store_matrix_sync(c + row * n + column, sum, n, wmma::mem_row_major);
}

// bt is B transposed: n by depth. A warp has 16 rows and 8 columns.
__global__ void by_mma(const half* a, const half* bt, float* c, int n, int depth) {
    __shared__ half tile_a[2][16 * 16], tile_b[2][8 * 16];
    int lane = threadIdx.x, row = 16 * blockIdx.y, column = 8 * blockIdx.x;
    auto bring = [&](int stage, int k) {
        COPY_16(shared_address(&tile_a[stage][8 * lane]), a + (row + lane / 2) * depth + k + 8 * (lane % 2));
        if (lane < 16) COPY_16(shared_address(&tile_b[stage][8 * lane]), bt + (column + lane / 2) * depth + k + 8 * (lane % 2));
        COMMIT();
    };
    float d[4] = {};
    bring(0, 0);
    for (int k = 0, stage = 0; k < depth; k += 16, stage ^= 1) {
        if (k + 16 < depth) {
            bring(stage ^ 1, k + 16);
            WAIT_FOR(MISSING_WAIT);
        } else {
            WAIT_FOR(0);
        }
        __syncthreads();
        unsigned ra[4], rb[2];
        LDMATRIX_X4(ra[0], ra[1], ra[2], ra[3], shared_address(&tile_a[stage][lane % 16 * 16 + lane / 16 * 8]));
        asm volatile("ldmatrix.sync.aligned.x2.m8n8.shared.b16 {%0, %1}, [%2];\n"
                     : "=r"(rb[0]), "=r"(rb[1])
                     : "r"(shared_address(&tile_b[stage][lane % 8 * 16 + lane / 8 % 2 * 8])));
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i) c[(row + lane / 4 + i / 2 * 8) * n + column + 2 * (lane % 4) + i % 2] = d[i];
}

int main() {
    by_wmma<<<dim3(2, 2), 32>>>(nullptr, nullptr, nullptr, 32, 32);
    CHECK(cudaDeviceSynchronize());
}

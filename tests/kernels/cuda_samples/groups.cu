// Cooperative groups: a sum over the whole grid, atomics joined by label, a tile of two warps, a
// copy of the block's, a barrier of libcu++.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>

#include <cuda/barrier>
#include <cuda/pipeline>

namespace cg = cooperative_groups;

__global__ void sum_of_grid(const float* x, double* parts, int n) {
    cg::grid_group grid = cg::this_grid();
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<32> tile = cg::tiled_partition<32>(block);
    __shared__ double of_warp[32];
    double sum = 0;
    for (int i = grid.thread_rank(); i < n; i += grid.size()) sum += x[i];
    sum = cg::reduce(tile, sum, cg::plus<double>());
    if (tile.thread_rank() == 0) of_warp[tile.meta_group_rank()] = sum;
    block.sync();
    if (block.thread_rank() == 0) {
        parts[blockIdx.x] = 0;
        for (int w = 0; w < tile.meta_group_size(); ++w) parts[blockIdx.x] += of_warp[w];
    }
    grid.sync();
    if (grid.thread_rank() == 0)
        for (int b = 1; b < gridDim.x; ++b) parts[0] += parts[b];
}

__global__ void count(const int* label, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    auto same = cg::labeled_partition(cg::coalesced_threads(), label[i]);
    cg::invoke_one(same, [&] { atomicAdd(&counts[label[i]], same.size()); });
}

__global__ void largest_of_64(const int* x, int* y) {
    __shared__ cg::block_tile_memory<128> memory;
    auto block = cg::this_thread_block(memory);
    auto tile = cg::tiled_partition<64>(block);
    int largest = cg::reduce(tile, x[block.thread_rank()], cg::greater<int>());
    if (tile.thread_rank() == 0) y[tile.meta_group_rank()] = largest;
}

__global__ void reverse(const float* x, float* y, int n) {
    extern __shared__ float copy[];
    auto block = cg::this_thread_block();
    cg::memcpy_async(block, copy, x, n * sizeof(float));
    cg::wait(block);
    for (int i = block.thread_rank(); i < n; i += block.size()) y[i] = copy[n - 1 - i];
}

__global__ void by_stages(const float* x, float* y) {
    __shared__ alignas(16) float stage[2][64];
    __shared__ cuda::barrier<cuda::thread_scope_block> all;
    if (threadIdx.x == 0) init(&all, blockDim.x);
    __syncthreads();
    auto pipe = cuda::make_pipeline();
    float sum = 0;
    for (int s = 0, next = 0; s < 4; ++s) {
        for (; next < 4 && next < s + 2; ++next) {
            pipe.producer_acquire();
            cuda::memcpy_async(&stage[next % 2][threadIdx.x], &x[64 * next + threadIdx.x],
                               cuda::aligned_size_t<alignof(float)>(sizeof(float)), pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        all.arrive_and_wait();
        sum += stage[s % 2][63 - threadIdx.x];
        pipe.consumer_release();
        all.arrive_and_wait();
    }
    y[threadIdx.x] = sum;
}

__global__ void by_roles(const float* x, float* y, int batches) {
    constexpr int kStages = 2, kBatch = 32;
    __shared__ float stage[kStages][kBatch];
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, kStages> state;
    bool produces = threadIdx.x % 2 == 0;
    int lane = threadIdx.x / 2;
    auto role = produces ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer;
    auto pipe = cuda::make_pipeline(cg::this_thread_block(), &state, role);
    float sum = 0;
    for (int b = 0; b < batches; ++b) {
        float* at = stage[b % kStages];
        if (produces) {
            pipe.producer_acquire();
            cuda::memcpy_async(&at[lane], &x[b * kBatch + lane], sizeof(float), pipe);
            pipe.producer_commit();
        } else {
            pipe.consumer_wait();
            sum += at[kBatch - 1 - lane];
            pipe.consumer_release();
        }
    }
    if (!produces) y[lane] = sum;
}

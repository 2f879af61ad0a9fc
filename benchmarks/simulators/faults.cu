// One fault in each kernel, as template argument `faulty`; without it the kernel is right, and
// nothing may be reported. All have the same parameters, so that one program can launch each of
// them: x (256 numbers), y (256), counts (64), n = 128. faults.py has the launches.

#ifndef NO_ASYNC_COPIES
#include "async_copy.cuh"
#endif


template <bool faulty> __global__ void missing_barrier(const float* x, float* y, int* counts, int n) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (!faulty) __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = tile[63 - threadIdx.x];
}

template <bool faulty> __global__ void missing_second_barrier(const float* x, float* y, int* counts, int n) {
    __shared__ float tile[64];
    float sum = 0;
    for (int step = 0; step < 2; ++step) {
        tile[threadIdx.x] = x[64 * step + threadIdx.x];
        __syncthreads();
        sum += tile[(threadIdx.x + 40) % 64];
        if (!faulty) __syncthreads();
    }
    if (blockIdx.x == 0) y[threadIdx.x] = sum;
}

template <bool faulty> __global__ void missing_syncwarp(const float* x, float* y, int* counts, int n) {
    __shared__ float part[32];
    if (threadIdx.x >= 32 || blockIdx.x) return;
    part[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    for (int step = 16; step; step /= 2) {
        float other = part[(threadIdx.x + step) % 32];
        if (!faulty) __syncwarp();
        part[threadIdx.x] += other;
        __syncwarp();
    }
    y[threadIdx.x] = part[threadIdx.x];
}

// The last warp of a reduction as it was written for GPUs whose warps run in step.
template <bool faulty> __global__ void warp_synchronous(const float* x, float* y, int* counts, int n) {
    __shared__ volatile float part[64];
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < 32 && blockIdx.x == 0) {
        for (int step = 32; step; step /= 2) {
            float other = part[(threadIdx.x + step) % 64];
            if (!faulty) __syncwarp();
            part[threadIdx.x] = part[threadIdx.x] + other;
            if (!faulty) __syncwarp();
        }
        if (threadIdx.x == 0) y[0] = part[0];
    }
}

template <bool faulty> __global__ void race_between_blocks(const float* x, float* y, int* counts, int n) {
    int place = faulty ? threadIdx.x : blockIdx.x * blockDim.x + threadIdx.x;
    y[place] = x[threadIdx.x] + blockIdx.x;
}

// A smoothing that writes what its neighbours, one of them in another block, still read.
template <bool faulty> __global__ void smoothing_in_place(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float* from = faulty ? y : const_cast<float*>(x);
    if (i + 1 < n) y[i] = 0.5f * (from[i] + from[i + 1]);
}

template <bool faulty> __global__ void missing_atomic(const float* x, float* y, int* counts, int n) {
    if (faulty)
        counts[0] += 1;
    else
        atomicAdd(&counts[0], 1);
}

template <bool faulty> __global__ void histogram_in_shared_memory(const float* x, float* y, int* counts, int n) {
    __shared__ int bins[8];
    if (threadIdx.x < 8) bins[threadIdx.x] = 0;
    __syncthreads();
    int bin = static_cast<int>(x[threadIdx.x]) % 8;
    if (faulty)
        bins[bin]++;
    else
        atomicAdd(&bins[bin], 1);
    __syncthreads();
    if (threadIdx.x < 8 && blockIdx.x == 0) counts[threadIdx.x] = bins[threadIdx.x];
}

template <bool faulty> __global__ void read_past_the_end(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, last = faulty ? 256 : 255;
    if (i < n) y[i] = x[last - i];
}

template <bool faulty> __global__ void write_past_the_end(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[2 * i + (faulty ? 2 : 1)] = x[i];
}

template <bool faulty> __global__ void read_before_the_start(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i ? i - 1 : faulty ? -1 : 0];
}

// Far beyond its end begins another array.
template <bool faulty> __global__ void read_of_another_array(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float* other = faulty ? x + (y - x) : y;
    float before = other[i];
    y[i] = before + 1;
}

template <bool faulty> __global__ void wrong_stride(const float* x, float* y, int* counts, int n) {
    int row = blockIdx.x, column = threadIdx.x, stride = faulty ? 256 : 64;
    y[row * stride + column] = x[row * 64 + column];
}

template <bool faulty> __global__ void index_overflows(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    long long scaled = faulty ? i * (n << 20) : i * (static_cast<long long>(n) << 20);
    y[i] = scaled > 0 ? x[i] : 0.0f;
}

template <bool faulty> __global__ void shift_is_too_far(const float* x, float* y, int* counts, int n) {
    int bits = threadIdx.x % (faulty ? 64 : 31);
    if (threadIdx.x < 48 && blockIdx.x == 0) counts[threadIdx.x] = 1 << bits;
}

template <bool faulty> __global__ void division_by_zero(const float* x, float* y, int* counts, int n) {
    int divisor = static_cast<int>(threadIdx.x) - (faulty ? 3 : -1);
    if (blockIdx.x == 0) counts[threadIdx.x] = n / divisor;
}

template <bool faulty> __global__ void uninitialised_shared(const float* x, float* y, int* counts, int n) {
    __shared__ float tile[64];
    if (!faulty || threadIdx.x < 32) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = tile[63 - threadIdx.x];
}

// y is fresh from cudaMalloc.
template <bool faulty> __global__ void uninitialised_global(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!faulty) y[i] = 0;
    y[i] += x[i];
}

template <bool faulty> __global__ void uninitialised_local(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float largest;
    if (!faulty) largest = 0;
    for (int k = i; k < n; k += 64)
        if (x[k] > largest) largest = x[k];
    y[i] = largest;
}

template <bool faulty> __global__ void shared_array_bound(const float* x, float* y, int* counts, int n) {
    __shared__ float first[64], second[64];
    second[threadIdx.x] = 0;
    first[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = first[threadIdx.x + faulty] + second[threadIdx.x];
}

// By a pointer, whose row the type does not say.
template <bool faulty> __global__ void shared_neighbour(const float* x, float* y, int* counts, int n) {
    __shared__ float arrays[3][64];
    for (int k = 0; k < 3; ++k) arrays[k][threadIdx.x] = k + x[threadIdx.x];
    __syncthreads();
    const float* at = arrays[1] + threadIdx.x;
    if (blockIdx.x == 0) y[threadIdx.x] = at[faulty ? counts[0] + 1 : 0];
}

template <bool faulty> __global__ void dynamic_shared_too_small(const float* x, float* y, int* counts, int n) {
    extern __shared__ float all[];
    int place = faulty ? 2 * threadIdx.x : threadIdx.x;
    all[place] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0) y[threadIdx.x] = all[place];
}

template <bool faulty> __global__ void local_array_bound(const float* x, float* y, int* counts, int n) {
    float held[4] = {1, 2, 3, 4};
    int i = threadIdx.x % (faulty ? 5 : 4);
    held[i] += x[threadIdx.x];
    if (blockIdx.x == 0) y[threadIdx.x] = held[0] + held[3];
}

template <bool faulty> __device__ __noinline__ float sum_of(const float* values, int count) {
    float sum = 0;
    for (int i = 0; i < count + faulty; ++i) sum += values[i];
    return sum;
}
template <bool faulty> __global__ void local_array_by_pointer(const float* x, float* y, int* counts, int n) {
    float held[4] = {1, 2, 3, x[threadIdx.x]}, more[4] = {5, 6, 7, 8};
    float sum = sum_of<faulty>(held, 4) + sum_of<false>(more, 4);
    if (blockIdx.x == 0) y[threadIdx.x] = sum;
}

template <bool faulty> __global__ void local_out_of_scope(const float* x, float* y, int* counts, int n) {
    float held = x[threadIdx.x];
    const float* at = &held;
    if (threadIdx.x < 32) {
        float other = held + 1;
        if (faulty) at = &other;
        if (n == 0) y[threadIdx.x] = other;
    }
    if (blockIdx.x == 0) y[threadIdx.x] = *at;
}

template <bool faulty> __global__ void heap_bound(const float* x, float* y, int* counts, int n) {
    float* held = static_cast<float*>(malloc(4 * sizeof(float)));
    for (int i = 0; i < 4 + faulty; ++i) held[i] = x[i];
    if (blockIdx.x == 0) y[threadIdx.x] = held[3];
    free(held);
}

template <bool faulty> __global__ void misaligned_vector(const float* x, float* y, int* counts, int n) {
    if (threadIdx.x >= 16) return;
    float4 four = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + (faulty ? 1 : 0));
    if (blockIdx.x == 0) y[threadIdx.x] = four.x + four.w;
}

template <bool faulty> __global__ void write_to_const(const float* x, float* y, int* counts, int n) {
    float* to = faulty ? const_cast<float*>(x) : y;
    if (blockIdx.x == 0) to[threadIdx.x] = 2 * x[threadIdx.x];
}

template <bool faulty> __global__ void divergent_barriers(const float* x, float* y, int* counts, int n) {
    __shared__ float tile[64];
    if (faulty ? threadIdx.x < 32 : blockIdx.x == 0) {
        tile[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
    } else {
        tile[threadIdx.x] = -x[threadIdx.x];
        __syncthreads();
    }
    if (blockIdx.x == 0) y[threadIdx.x] = tile[63 - threadIdx.x];
}

template <bool faulty> __global__ void barrier_for_some(const float* x, float* y, int* counts, int n) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (!faulty || threadIdx.x < 40) __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x < 24) y[threadIdx.x] = tile[39 - threadIdx.x];
}

template <bool faulty> __global__ void barrier_in_an_uneven_loop(const float* x, float* y, int* counts, int n) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    int rounds = faulty ? 1 + threadIdx.x / 32 : 2;
    for (int round = 0; round < rounds; ++round) {
        __syncthreads();
        float next = tile[(threadIdx.x + 1) % 64];
        __syncthreads();
        tile[threadIdx.x] = next;
    }
    if (blockIdx.x == 0) y[threadIdx.x] = tile[threadIdx.x];
}

template <bool faulty> __global__ void shuffle_mask_too_small(const float* x, float* y, int* counts, int n) {
    float value = x[threadIdx.x];
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(faulty ? 0xffff : 0xffffffff, value, step);
    if (blockIdx.x == 0) y[threadIdx.x] = value;
}

// The lanes named in the mask do not all come to the shuffle.
template <bool faulty> __global__ void shuffle_in_a_branch(const float* x, float* y, int* counts, int n) {
    float value = x[threadIdx.x], other = 0;
    if (!faulty || threadIdx.x % 32 < 16) other = __shfl_down_sync(0xffffffff, value, 16);
    if (blockIdx.x == 0 && threadIdx.x % 32 < 16) y[threadIdx.x] = value + other;
}

template <bool faulty> __global__ void shuffle_from_an_absent_lane(const float* x, float* y, int* counts, int n) {
    float value = x[threadIdx.x], other = 0;
    if (threadIdx.x % 32 < 16) other = __shfl_sync(0xffff, value, faulty ? 20 : 10);
    if (blockIdx.x == 0) y[threadIdx.x] = value + other;
}

// Block 0 makes numbers, the others wait for its flag.
template <bool faulty> __global__ void flag_without_fence(const float* x, float* y, int* counts, int n) {
    volatile int* flag = counts;
    if (blockIdx.x == 0) {
        if (threadIdx.x == 0) {
            y[0] = x[5];
            if (!faulty) __threadfence();
            *flag = 1;
        }
    } else if (threadIdx.x == 0) {
        while (*flag == 0) {
        }
        __threadfence();
        y[1] = y[0] + 1;
    }
}

template <bool faulty> __global__ void flag_without_volatile(const float* x, float* y, int* counts, int n) {
    volatile int* flag = counts;
    if (blockIdx.x == 0) {
        if (threadIdx.x == 0) {
            y[0] = x[5];
            __threadfence();
            *flag = 1;
        }
    } else if (threadIdx.x == 0) {
        while (faulty ? *counts == 0 : *flag == 0) {
        }
        __threadfence();
        y[1] = y[0] + 1;
    }
}

template <bool faulty> __global__ void wait_without_end(const float* x, float* y, int* counts, int n) {
    volatile int* flag = counts;
    if (blockIdx.x == 0 && threadIdx.x == 0 && !faulty) *flag = 1;
    if (blockIdx.x == 1 && threadIdx.x == 0) {
        while (*flag == 0) {
        }
    }
    y[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}

// faults.py launches half as many threads as there are numbers.
template <bool faulty> __global__ void launch_too_small(const float* x, float* y, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int k = i; k < n; k += faulty ? n : gridDim.x * blockDim.x) y[k] = 2 * x[k];
}

#ifndef NO_ASYNC_COPIES
// Two tiles in turn: one is copied while the other is read.
template <bool faulty> __global__ void double_buffer_too_early(const float* x, float* y, int* counts, int n) {
    __shared__ __align__(16) float tiles[2][64];
    AsyncCopies copies;
    float sum = 0;
    if (threadIdx.x < 16) copies.start(&tiles[0][4 * threadIdx.x], x + 4 * threadIdx.x, true);
    for (int step = 0; step < 2; ++step) {
        if (!faulty) copies.wait();
        __syncthreads();
        int next = (step + 1) % 2;
        if (step == 0 && threadIdx.x < 16) copies.start(&tiles[next][4 * threadIdx.x], x + 64 + 4 * threadIdx.x, true);
        sum += tiles[step][63 - threadIdx.x];
        if (faulty) copies.wait();
        __syncthreads();
    }
    if (blockIdx.x == 0) y[threadIdx.x] = sum;
}

// The copies of the others are there behind a barrier only.
template <bool faulty> __global__ void double_buffer_without_barrier(const float* x, float* y, int* counts, int n) {
    __shared__ __align__(16) float tiles[2][64];
    AsyncCopies copies;
    float sum = 0;
    if (threadIdx.x < 16) copies.start(&tiles[0][4 * threadIdx.x], x + 4 * threadIdx.x, true);
    for (int step = 0; step < 2; ++step) {
        copies.wait();
        if (!faulty) __syncthreads();
        int next = (step + 1) % 2;
        if (step == 0 && threadIdx.x < 16) copies.start(&tiles[next][4 * threadIdx.x], x + 64 + 4 * threadIdx.x, true);
        sum += tiles[step][63 - threadIdx.x];
        __syncthreads();
    }
    if (blockIdx.x == 0) y[threadIdx.x] = sum;
}
#endif

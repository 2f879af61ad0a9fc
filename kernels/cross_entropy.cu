// Softmax cross-entropy: the loss, and its gradient written over the logits. For one row z of V
// logits and target t:
//
//     p = softmax(z)        loss = lse(z) - (1 - e) z_t - e/V sum_j z_j        dz_j = (p_j - q_j) / count
//
// with q = (1 - e) onehot(t) + e/V, e the label smoothing (minillm/layers/cross_entropy.py derives
// it).
//
// lse(z) = log sum_j exp(z_j) comes online (Milakov, Gimelshein, "Online normalizer calculation for
// softmax", 2018): each thread keeps the largest logit m it has seen and s = sum exp(z_j - m), and
// scales s when m grows. Two such pairs merge in the same way, so the logits are read once for the
// sum and once more, from the L2 cache, for the gradient.
//
// Work: one block of up to 512 threads for each row; thread t takes packs t, t + blockDim.x, ... of
// 16 bytes: four logits in float32, eight in bfloat16. The logits before the row's first multiple
// of 16 bytes, and those behind the last pack, are taken one at a time. Shared memory: 32 pairs (m,
// s), 32 partial sums.
//
// Rows whose target is ignore_index get no loss and a gradient of 0. A target outside of 0 ... V -
// 1 makes the loss NaN.
//
// Logits in bfloat16 are read as float: softmax and loss are computed in float, and the gradient,
// which the products that follow take, is rounded when it is written over them.
//
// Memory moved: 8 bytes a logit, 4 in bfloat16; and as much again from the L2 cache.

#include <cuda_bf16.h>

#include "reduce.cuh"

const float LOWEST = -3.402823466e38f;  // finite: exp(-inf - LOWEST) is 0, where exp(-inf - -inf) would be NaN
#define NOT_A_NUMBER __int_as_float(0x7fffffff)

struct OnlineSum {
    float max;
    float sum;  // of exp(z - max)
};

__device__ inline OnlineSum merge(OnlineSum a, OnlineSum b) {
    float max = fmaxf(a.max, b.max);
    OnlineSum merged = {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
    return merged;
}

__device__ inline OnlineSum warp_merge(OnlineSum value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        OnlineSum other = {__shfl_xor_sync(ALL_LANES, value.max, distance),
                           __shfl_xor_sync(ALL_LANES, value.sum, distance)};
        value = merge(value, other);
    }
    return value;
}

// As block_sum in reduce.cuh.
__device__ inline OnlineSum block_merge(OnlineSum value, OnlineSum* scratch) {
    const OnlineSum nothing = {LOWEST, 0};
    value = warp_merge(value);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_merge(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : nothing);
    __syncthreads();
    return value;
}

template <typename Number>
struct alignas(16) Pack {
    static const int SIZE = 16 / sizeof(Number);
    Number numbers[SIZE];
};

// count: how many rows the mean is over. losses (rows,). Rows of logits begin `step` numbers apart.
template <typename Number>
__global__ void __launch_bounds__(512, 3)
    cross_entropy(Number* logits, const long long* targets, const double* count, float* losses, int vocabulary,
                  int step, long long ignore_index, float label_smoothing) {
    __shared__ OnlineSum pair_scratch[32];
    __shared__ float scratch[32];
    const int SIZE = Pack<Number>::SIZE;
    Number* z = logits + (long long)blockIdx.x * step;
    long long target = targets[blockIdx.x];
    int before = (int)((16 - (unsigned long long)z % 16) % 16 / sizeof(Number));  // of the first pack
    before = before < vocabulary ? before : vocabulary;
    int packs = (vocabulary - before) / SIZE, singles = vocabulary - packs * SIZE;
    Pack<Number>* packed = (Pack<Number>*)(z + before);
    // thread t < singles: its logit outside of the packs
    int single = threadIdx.x < before ? threadIdx.x : packs * SIZE + threadIdx.x;
    bool has_single = threadIdx.x < singles;
    if (target == ignore_index) {  // the whole block takes the same way
        Pack<Number> zeros;
        for (int i = 0; i < SIZE; ++i) zeros.numbers[i] = (Number)0.0f;
        for (int p = threadIdx.x; p < packs; p += blockDim.x) packed[p] = zeros;
        if (has_single) z[single] = (Number)0.0f;
        if (threadIdx.x == 0) losses[blockIdx.x] = 0;
        return;
    }
    bool known = target >= 0 && target < vocabulary;
    float at_target = known ? (float)z[target] : 0;
    OnlineSum online = {LOWEST, 0};
    float sum_of_differences = 0;  // sum_j (z_j - z_t)
    for (int p = threadIdx.x; p < packs; p += blockDim.x) {
        Pack<Number> pack = packed[p];
        float largest = online.max, sum = 0;
        for (int i = 0; i < SIZE; ++i) largest = fmaxf(largest, (float)pack.numbers[i]);
        for (int i = 0; i < SIZE; ++i) {
            sum += expf((float)pack.numbers[i] - largest);
            sum_of_differences += (float)pack.numbers[i] - at_target;
        }
        online.sum = online.sum * expf(online.max - largest) + sum;
        online.max = largest;
    }
    if (has_single) {
        OnlineSum alone = {fmaxf((float)z[single], LOWEST), 1};
        alone.sum = expf((float)z[single] - alone.max);
        online = merge(online, alone);
        sum_of_differences += (float)z[single] - at_target;
    }
    online = block_merge(online, pair_scratch);  // its barriers also part reading z[target] from writing it below
    float smoothed = 0;
    if (label_smoothing > 0) smoothed = label_smoothing / vocabulary * block_sum(sum_of_differences, scratch);
    if (threadIdx.x == 0) {
        // lse(z) - z_t - e/V sum_j (z_j - z_t)
        float loss = logf(online.sum) + (online.max - at_target) - smoothed;
        losses[blockIdx.x] = known ? loss : NOT_A_NUMBER;
    }
    // forward: loss = lse(z) - (1 - e) z_t - e/V sum_j z_j: its mean over count rows
    float scale = (float)(1 / *count);
    float softmax_scale = scale / online.sum, everywhere = scale * label_smoothing / vocabulary;
    for (int p = threadIdx.x; p < packs; p += blockDim.x) {
        Pack<Number> pack = packed[p];
        for (int i = 0; i < SIZE; ++i) {
            float dz = expf((float)pack.numbers[i] - online.max) * softmax_scale - everywhere;
            pack.numbers[i] = (Number)dz;
        }
        packed[p] = pack;
    }
    if (has_single) z[single] = (Number)(expf((float)z[single] - online.max) * softmax_scale - everywhere);
    __syncthreads();  // z[target] is written once more, by another thread
    if (threadIdx.x == 0 && known) {
        float dz = expf(at_target - online.max) * softmax_scale - everywhere;
        z[target] = (Number)(dz - scale * (1 - label_smoothing));
    }
}

// How many targets are not ignore_index. Work: one block. Shared memory: 32 partial counts.
__global__ void count_targets(const long long* targets, double* count, long long rows, long long ignore_index) {
    __shared__ double scratch[32];
    double counted = 0;
    for (long long row = threadIdx.x; row < rows; row += blockDim.x) counted += targets[row] != ignore_index;
    counted = block_sum(counted, scratch);
    if (threadIdx.x == 0) *count = counted;
}

// sum of losses / count, in double and in a fixed order, added to *loss where that has the loss of
// the rows before. Work: one block. Shared memory: 32 partial sums.
__global__ void mean_loss(const float* losses, const double* count, double* loss, long long rows, int adding) {
    __shared__ double scratch[32];
    double sum = 0;
    for (long long row = threadIdx.x; row < rows; row += blockDim.x) sum += losses[row];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *loss = (adding ? *loss : 0) + sum / *count;
}

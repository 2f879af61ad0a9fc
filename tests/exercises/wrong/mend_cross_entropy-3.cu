// 28: data race: it writes what another thread reads
// losses = lse - z_t, and dz = softmax(z) - one-hot of t, written over z. A block of 128 threads has a row.

__device__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ float added(float a, float b) { return a + b; }

// The numbers of all threads combined, for each of them.
template <typename Combine>
__device__ float block_reduce(float value, Combine combine) {
    __shared__ float part[4];  // of each warp
    for (int distance = 16; distance > 0; distance /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffff, value, distance));
    __syncthreads();  // the call before has read `part`
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    return combine(combine(part[0], part[1]), combine(part[2], part[3]));
}

__global__ void mend_cross_entropy(float* logits, const int* targets, float* losses, int width) {
    float* z = logits + blockIdx.x * width;
    int target = targets[blockIdx.x];
    float most = -INFINITY, sum = 0;
    for (int j = threadIdx.x; j < width; j += blockDim.x) most = fmaxf(most, z[j]);
    most = block_reduce(most, larger);
    for (int j = threadIdx.x; j < width; j += blockDim.x) sum += expf(z[j] - most);
    float lse = most + logf(block_reduce(sum, added));
    if (threadIdx.x == 0) losses[blockIdx.x] = lse - z[target];
    for (int j = threadIdx.x; j < width; j += blockDim.x) z[j] = expf(z[j] - lse) - (j == target);
}

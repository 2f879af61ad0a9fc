// counts[v] = how often v occurs in x. Launched with 256 threads for each 1024 elements.
__global__ void histogram(const int* x, int* counts, int n) {
    __shared__ int own[64];  // TODO: begins at 0
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        own[x[i]] += 1;  // TODO: so that no count is lost
    // TODO: add what the block has counted to counts
}

// 5: dtable[0, 0] depends on the order of threads
__global__ void embedding_gradient(const float* dy, const int* ids, const int* order, float* dtable, int tokens, int width) {
    int j = blockIdx.x;
    for (int c = threadIdx.x; c < width; c += blockDim.x)
        atomicAdd(&dtable[ids[j] * width + c], dy[order[j] * width + c]);
}

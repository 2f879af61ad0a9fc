// 5: data race: it reads what another thread writes
__global__ void embedding_gradient(const float* dy, const int* ids, const int* order, float* dtable, int tokens, int width) {
    int j = blockIdx.x;
    for (int c = threadIdx.x; c < width; c += blockDim.x)
        dtable[ids[j] * width + c] += dy[order[j] * width + c];
}

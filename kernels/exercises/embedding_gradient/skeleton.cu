// dtable[v] = sum of dy[i] over the tokens i with the id v. `ids` is sorted: ids[j] is the id of
// token order[j]. Blocks of 128 threads, one for each j. The bits may not depend on their order.
__global__ void embedding_gradient(const float* dy, const int* ids, const int* order, float* dtable, int tokens, int width) {
    int j = blockIdx.x;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        dtable[ids[j] * width + c] += dy[order[j] * width + c];  // TODO: other blocks have the same id
    }
}

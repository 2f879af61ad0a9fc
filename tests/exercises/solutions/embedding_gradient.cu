__global__ void embedding_gradient(const float* dy, const int* ids, const int* order, float* dtable,
                                              int tokens, int width) {
    int first = blockIdx.x, id = ids[first];
    if (first > 0 && ids[first - 1] == id) return;  // another block has this run of equal ids
    int end = first + 1;
    while (end < tokens && ids[end] == id) ++end;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = 0;
        for (int i = first; i < end; ++i) sum += dy[(long long)order[i] * width + c];
        dtable[(long long)id * width + c] = sum;
    }
}

// Embedding. y_n = W[id_n], and backward dW_v = sum of dy_n over the n with id_n = v.
//
// Forward. Work: one block for each token n, its threads along the row. An id outside of 0 ... V-1
// gives a row of NaN.
//
// Backward. Tokens with the same id add to the same row; with atomicAdd the last digits would
// differ from run to run. Here the tokens are sorted by id (`order` holds their numbers, `ids` the
// ids in that order), so that equal ids are neighbours:
//
//     ids     3 3 3 7 | 7 7 7 7 | 7 9 9 9        windows of 4 here, of 32 below
//
// 1. embedding_backward_windows: a block adds up each run of equal ids within one window, 256
//    columns. A run that ends inside the window is added to dW. One that continues beyond it leaves a
//    partial sum: in slot 0 of the window if it starts with the window, else in slot 1 (it then
//    ends with the window, so there is only one such).
// 2. embedding_backward_joints: the block of the window in which such a run begins adds its partial
//    sums up: slot 1 (or 0) there, slot 0 in the windows that follow.
//
// No row of dW is written by two blocks in one kernel, and the order of additions depends on the
// ids alone. A frequent token, a thousand rows of dy, is spread over a thousand / 32 blocks. Shared
// memory: none. Memory moved: dy once, the touched rows of dW twice. The sums are added to
// dW. W and dW are float; y and dy float or bfloat16.

#include <cuda_bf16.h>

#define NOT_A_NUMBER __int_as_float(0x7fffffff)

template <typename Number>
__global__ void embedding_forward(const long long* ids, const float* weight, Number* y, int width, long long vocabulary) {
    long long id = ids[blockIdx.x], first = (long long)blockIdx.x * width;
    bool known = id >= 0 && id < vocabulary;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        y[first + c] = (Number)(known ? weight[id * width + c] : NOT_A_NUMBER);
    }
}

// partials (windows, 2, width)
template <typename Number>
__global__ void embedding_backward_windows(const Number* dy, const long long* ids, const long long* order,
                                           float* dweight, float* partials, long long count, int width, long long vocabulary) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    long long window = blockIdx.x, start = window * WINDOW;
    long long end = start + WINDOW < count ? start + WINDOW : count;
    long long run_start = start;
    float sum = 0;
    for (long long p = start; p < end; ++p) {
        sum += (float)dy[order[p] * width + column];
        if (p + 1 < end && ids[p + 1] == ids[p]) continue;
        // The run ends here, or leaves the window.
        bool began_before = run_start == start && start > 0 && ids[start - 1] == ids[p];
        bool goes_on = p + 1 == end && end < count && ids[end] == ids[p];
        if (began_before || goes_on) {
            partials[(2 * window + (run_start == start ? 0 : 1)) * width + column] = sum;
        } else if (ids[p] >= 0 && ids[p] < vocabulary) {
            dweight[ids[p] * width + column] += sum;
        }
        sum = 0;
        run_start = p + 1;
    }
}

__global__ void embedding_backward_joints(const long long* ids, const float* partials, float* dweight, long long count,
                                          int width, long long vocabulary) {
    long long window = blockIdx.x, start = window * WINDOW, end = start + WINDOW;
    if (end >= count) return;
    long long id = ids[end], run_start = end;
    while (run_start > start && ids[run_start - 1] == id) --run_start;
    if (run_start == end) return;  // no run continues beyond this window
    if (run_start == start && start > 0 && ids[start - 1] == id) return;  // it began earlier: another block adds it
    if (id < 0 || id >= vocabulary) return;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = partials[(2 * window + (run_start == start ? 0 : 1)) * width + c];
        for (long long next = window + 1; next * WINDOW < count && ids[next * WINDOW] == id; ++next) {
            sum += partials[2 * next * width + c];
        }
        dweight[id * width + c] += sum;
    }
}

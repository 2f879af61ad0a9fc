// program KERNEL FAULTY ORDER GRID FRESH: launches a kernel of faults.cu on threads.h, and prints y and
// counts. faults.inc is that file as ways.py
// prepares it, kernels.inc has a line KERNEL_NAME(name) for each kernel.
#include "threads.h"
alignas(64) static thread_local float dynamic_shared[1024];
#define NO_ASYNC_COPIES
#include "faults.inc"

using Kernel = void (*)(const float*, float*, int*, int);
struct Named {
    const char* name;
    Kernel faulty, sound;
};
static const Named kernels[] = {
#define KERNEL_NAME(name) {#name, name<true>, name<false>},
#include "kernels.inc"
};
static Kernel chosen;
static float *x, *y;
static int* counts;

int main(int argc, char** argv) {
    if (argc != 6) return 9;
    for (const Named& each : kernels)
        if (!std::strcmp(each.name, argv[1])) chosen = std::atoi(argv[2]) ? each.faulty : each.sound;
    if (!chosen) return 9;
    unsigned block = 64, grid = std::atoi(argv[4]);
    bool fresh = std::atoi(argv[5]);
    x = static_cast<float*>(std::malloc(256 * sizeof(float)));
    y = static_cast<float*>(std::malloc(256 * sizeof(float)));
    counts = static_cast<int*>(std::malloc(64 * sizeof(int)));
    for (int i = 0; i < 256; ++i) x[i] = 0.5f * i + 1;
    if (!fresh) std::memset(y, 0, 256 * sizeof(float));
    std::memset(counts, 0, 64 * sizeof(int));
    fibers.resize(block);
    for (Fiber& fiber : fibers) {
        fiber.stack = static_cast<char*>(std::malloc(kStack));
#ifdef WITH_VALGRIND
        VALGRIND_STACK_REGISTER(fiber.stack, fiber.stack + kStack);
#endif
    }
    body = [] { chosen(x, y, counts, 128); };
    blockDim = {block, 1, 1};
    gridDim = {grid, 1, 1};
    for (unsigned b = 0; b < grid; ++b) {
        blockIdx = {b, 0, 0};
        run_block(block, argv[3]);
        for (const Fiber& fiber : fibers)
            if (fiber.waiting != kDone) {
                std::fprintf(stderr, "REPORT faults.cu:%d: threads wait and none goes on\n", fiber.line);
                return 3;
            }
    }
    for (int i = 0; i < (fresh ? 128 : 256); ++i) std::printf("%.9g\n", y[i]);
    for (int i = 0; i < 64; ++i) std::printf("%d\n", counts[i]);
    std::fflush(stdout);
}

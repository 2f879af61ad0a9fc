// CUDA's words for g++, with the threads of a block as fibers (ucontext) that run one after the other
// up to their next barrier: the way of cuda4cpu and of its like, written anew for a comparison on the
// same kernels. Device memory is malloc's, shared memory thread-local, warp functions are barriers of
// a warp. ORDER: forward, reverse or random:SEED. Barriers at different places are reported.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#ifdef WITH_VALGRIND
#include <valgrind/valgrind.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __noinline__ __attribute__((noinline))
#define __shared__ static thread_local
#define __align__(n) alignas(n)

struct Index {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static Index threadIdx{}, blockIdx{}, blockDim{}, gridDim{};

enum Waiting { kRunning, kAtBarrier, kAtWarp, kDone };
struct Fiber {
    ucontext_t context;
    char* stack;
    Waiting waiting;
    int line;
    unsigned mask;
    float operand;
    void* fake = nullptr;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static Fiber* current;
static void (*body)();
constexpr size_t kStack = 256 * 1024;

#ifdef __SANITIZE_ADDRESS__  // which has to know of every change of stacks
static const void* scheduler_bottom;
static size_t scheduler_size;
static void before_switch(void** kept, const void* bottom, size_t size) { __sanitizer_start_switch_fiber(kept, bottom, size); }
static void after_switch(void* kept) { __sanitizer_finish_switch_fiber(kept, nullptr, nullptr); }
static void first_switch() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size); }
#else
static const void* scheduler_bottom = nullptr;
static size_t scheduler_size = 0;
static void before_switch(void**, const void*, size_t) {}
static void after_switch(void*) {}
static void first_switch() {}
#endif

static void leave() {
    before_switch(&current->fake, scheduler_bottom, scheduler_size);
    swapcontext(&current->context, &scheduler);
    after_switch(current->fake);
}
static void start() {
    first_switch();
    body();
    current->waiting = kDone;
    leave();
}
inline void wait(Waiting why, int line, unsigned mask = 0) {
    current->waiting = why;
    current->line = line;
    current->mask = mask;
    leave();
}
#define __syncthreads() wait(kAtBarrier, __LINE__)
#define __syncwarp() wait(kAtWarp, __LINE__, ~0u)
inline void __threadfence() { __sync_synchronize(); }
inline float exchange(unsigned mask, float value, unsigned from, int line) {
    current->operand = value;
    wait(kAtWarp, line, mask);
    unsigned first = threadIdx.x / 32 * 32;
    float read = fibers[first + from % 32].operand;
    wait(kAtWarp, line, mask);  // before one of them changes its own
    return read;
}
#define __shfl_sync(mask, value, lane) exchange(mask, value, lane, __LINE__)
#define __shfl_xor_sync(mask, value, step) exchange(mask, value, threadIdx.x % 32 ^ (step), __LINE__)
#define __shfl_down_sync(mask, value, step) exchange(mask, value, threadIdx.x % 32 + (step), __LINE__)
inline int atomicAdd(int* address, int value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }

static void run_fiber(unsigned thread) {
    current = &fibers[thread];
    threadIdx = {thread, 0, 0};
    current->waiting = kRunning;
    void* fake = nullptr;
    before_switch(&fake, current->stack, kStack);
    swapcontext(&scheduler, &current->context);
    after_switch(fake);
}

// Lets go on those that have all arrived: lanes of a warp, then the block. False: nothing moves.
static bool release(unsigned count) {
    bool moved = false;
    for (unsigned first = 0; first < count; first += 32) {
        unsigned there = 0, alive = 0, wanted = 0;
        for (unsigned i = first; i < std::min(first + 32, count); ++i) {
            if (fibers[i].waiting == kAtWarp) there |= 1u << (i - first), wanted |= fibers[i].mask;
            if (fibers[i].waiting != kDone && fibers[i].waiting != kAtBarrier) alive |= 1u << (i - first);
        }
        if (there && (wanted & alive) == (there & wanted) && (there & ~wanted & alive) == (there & ~wanted)) {
            for (unsigned i = first; i < std::min(first + 32, count); ++i)
                if (fibers[i].waiting == kAtWarp) fibers[i].waiting = kRunning, moved = true;
        }
    }
    if (moved) return true;
    int line = 0;
    for (unsigned i = 0; i < count; ++i) {
        if (fibers[i].waiting == kAtWarp) return false;
        if (fibers[i].waiting != kAtBarrier) continue;
        if (line && fibers[i].line != line)
            std::fprintf(stderr, "REPORT faults.cu:%d: threads reached different barriers, at lines %d and %d\n", fibers[i].line, line,
                         fibers[i].line);
        line = fibers[i].line;
    }
    for (unsigned i = 0; i < count; ++i)
        if (fibers[i].waiting == kAtBarrier) fibers[i].waiting = kRunning, moved = true;
    return moved;
}

static void run_block(unsigned count, const std::string& order) {
    std::vector<unsigned> turns(count);
    for (unsigned i = 0; i < count; ++i) turns[i] = order == "reverse" ? count - 1 - i : i;
    if (order.compare(0, 6, "random") == 0) std::shuffle(turns.begin(), turns.end(), std::mt19937(std::atoi(order.c_str() + 7) + blockIdx.x));
    for (unsigned i = 0; i < count; ++i) {
        Fiber& fiber = fibers[i];
        fiber.waiting = kRunning;
        fiber.fake = nullptr;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = kStack;
        makecontext(&fiber.context, start, 0);
    }
    do {
        for (unsigned i : turns)
            if (fibers[i].waiting == kRunning) run_fiber(i);
    } while (release(count));
}

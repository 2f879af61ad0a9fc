// The CUDA language for g++: included before every simulated .cu file. What each word means here, not on the GPU:
//
//   __shared__      thread-local storage. A block runs on one OS thread, so that its threads share it, and blocks on
//                   other OS threads have their own. "extern __shared__" names are defined by the linker stub that
//                   compiler.py writes.
//   threadIdx, ...  fields of the thread that is running now, one of the many fibers of an OS thread.
//   __syncthreads   suspends the fiber until all the others of its block have come to a barrier.
#pragma once

#include "runtime.h"

using minillm_sim::size_t;

#define MINILLM_SIMULATOR 1
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 800
#endif

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __managed__
#define __shared__ thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

#define threadIdx (minillm_sim::running->thread)
#define blockIdx (minillm_sim::running->block)
#define blockDim (minillm_sim::running->block_size)
#define gridDim (minillm_sim::running->grid_size)
constexpr int warpSize = 32;

// The place of the call, as the last parameters of a function.
#define MINILLM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(MINILLM_SITE) {
    minillm_sim_barrier(file, line, 0, minillm_sim::kBarrierOnly);
}
inline int __syncthreads_count(int predicate, MINILLM_SITE) {
    return minillm_sim_barrier(file, line, predicate, minillm_sim::kBarrierCount);
}
inline int __syncthreads_and(int predicate, MINILLM_SITE) {
    return minillm_sim_barrier(file, line, predicate, minillm_sim::kBarrierAnd);
}
inline int __syncthreads_or(int predicate, MINILLM_SITE) {
    return minillm_sim_barrier(file, line, predicate, minillm_sim::kBarrierOr);
}
inline void __threadfence() { minillm_sim_fence(); }
inline void __threadfence_block() { minillm_sim_fence_block(); }  // orders nothing between blocks
inline void __threadfence_system() { minillm_sim_fence(); }
[[noreturn]] inline void __trap(MINILLM_SITE) { minillm_sim_trap("__trap() was called", file, line); }

extern "C" int printf(const char*, ...);
#undef assert
#ifdef NDEBUG
#define assert(condition) (void(0))
#else
#define assert(condition) \
    ((condition) ? void() : minillm_sim_trap("assertion failed: " #condition, __FILE__, __LINE__))
#endif

#include "cuda_vectors.h"
#include "cuda_math.h"
#include "cuda_warp.h"
#include "cuda_atomics.h"

// The CUDA language for g++: included before every simulated .cu file. What each word means here,
// not on the GPU:
//
//   __shared__      thread-local storage. A block runs on one OS thread, so that its threads share it, and blocks on
//                   other OS threads have their own. "extern __shared__" names are defined by the linker stub that
//                   compiler.py writes.
// threadIdx, ...  fields of the thread that is running now, one of the many fibers of an OS thread.
//   __syncthreads   suspends the fiber until all the others of its block have come to a barrier.
//
// All of it comes before the user's source, so that no macro of the user's reaches it. A macro of
// ours is expanded inside of the user's source: it uses reserved names only. What CUDA does not
// declare has a name of our own (minillm_...).
#pragma once

#include "runtime.h"

using minillm_sim::size_t;
#ifndef MINILLM_OWN_STDINT  // unless the source defines uint64_t and the like by itself
using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = __INT64_TYPE__;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned;
using uint64_t = __UINT64_TYPE__;
using intptr_t = __INTPTR_TYPE__;
using uintptr_t = __UINTPTR_TYPE__;
using ptrdiff_t = __PTRDIFF_TYPE__;
#endif

using clock_t = long;
using uint = unsigned;  // and the others of <sys/types.h>, which nvcc includes by itself
using ushort = unsigned short;
using ulong = unsigned long;
#ifndef NULL
#define NULL __null
#endif
// <limits.h>, which nvcc includes by itself
#define CHAR_BIT 8
#define INT_MAX __INT_MAX__
#define INT_MIN (-INT_MAX - 1)
#define UINT_MAX (INT_MAX * 2U + 1U)
#define LONG_MAX __LONG_MAX__
#define LONG_MIN (-LONG_MAX - 1L)
#define ULONG_MAX (LONG_MAX * 2UL + 1UL)
#define LLONG_MAX __LONG_LONG_MAX__
#define LLONG_MIN (-LLONG_MAX - 1LL)
#define ULLONG_MAX (LLONG_MAX * 2ULL + 1ULL)

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
// aligned as ptxas lays arrays out in practice: kernels read them as float4, or by ldmatrix
#define __shared__ __attribute__((__aligned__(16))) thread_local
#define __forceinline__ inline __attribute__((__always_inline__))
#define __noinline__  // libstdc++ writes __attribute__((__noinline__))
#define __restrict__ __restrict
#define __align__(...) __attribute__((__aligned__(__VA_ARGS__)))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __builtin_assume(...) ((void)0)
#define __assume(...) ((void)0)

// Types of the host's that structures have among their members; what uses them is left out.
using cudaStream_t = struct minillm_stream*;
using cudaEvent_t = struct minillm_event*;
enum cudaError_t { cudaSuccess };

struct __half;
struct __half2;
struct __nv_bfloat16;
struct __nv_bfloat162;
namespace minillm_sim {
template <class T> struct Named { using type = T; };
template <class T> using Same = typename Named<T>::type;  // a parameter from which T is not deduced
}  // namespace minillm_sim

#include "cuda_vectors.h"

#define MINILLM_INDEX __attribute__((always_inline)) inline
MINILLM_INDEX const uint3& minillm_thread_index() { return minillm_sim::running->thread; }
MINILLM_INDEX const uint3& minillm_block_index() { return minillm_sim::running->block; }
MINILLM_INDEX const dim3& minillm_block_size() { return minillm_as_dim3(minillm_sim::running->block_size); }
MINILLM_INDEX const dim3& minillm_grid_size() { return minillm_as_dim3(minillm_sim::running->grid_size); }
#undef MINILLM_INDEX
#define threadIdx (minillm_thread_index())
#define blockIdx (minillm_block_index())
#define blockDim (minillm_block_size())
#define gridDim (minillm_grid_size())
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


inline void __nanosleep(unsigned, MINILLM_SITE) { minillm_sim_spin(file, line); }
extern "C" long clock() noexcept;
inline long long clock64() {
#ifdef __x86_64__
    return static_cast<long long>(__builtin_ia32_rdtsc());
#else
    return clock();
#endif
}

extern "C" int printf(const char*, ...);
extern "C" void* malloc(size_t) noexcept;
extern "C" void free(void*) noexcept;
#include "assert.h"

#include "cuda_math.h"
#include "cuda_integers.h"
#include "cuda_memory.h"
#include "cuda_warp.h"
#include "cuda_atomics.h"
#include "cuda_reduce.h"

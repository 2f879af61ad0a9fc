// In the place of NVIDIA's crt/host_defines.h, which is in another package than the headers that
// include it: for a C compiler of the host all these words mean nothing, but for the alignment of
// vector types.
#pragma once
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __cudart_builtin__
#define __device_builtin__
#define __device_builtin_surface_type__
#define __device_builtin_texture_type__
#define __constant__
#define __device__
#define __forceinline__ inline
#define __global__
#define __host__
#define __managed__
#define __shared__
#ifndef CUDARTAPI
#define CUDARTAPI
#endif

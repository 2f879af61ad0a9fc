// Before CuPy's cupy/complex.cuh, which every kernel that CuPy writes includes first: what NVRTC
// knows of itself and g++ does not.
#pragma once

#include <initializer_list>

#define __CUDACC_VER_MAJOR__ 13
#include <cuda_bf16.h>  // the simulator's
#include <cuda_fp16.h>

#include_next <cupy/complex.cuh>

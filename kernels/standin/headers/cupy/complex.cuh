// In the place of CuPy's cupy/complex.cuh, which every kernel that CuPy writes includes first: no complex numbers (they need
// Thrust), but what NVRTC knows of itself and g++ does not.
#pragma once

#include <initializer_list>

#define __CUDACC_VER_MAJOR__ 13
#include <cuda_bf16.h>  // the simulator's

// Before CuPy's special functions (cupy/xsf): their configuration for other compilers than
// NVIDIA's, with g++'s C++ library in the place of libcu++.
#pragma once

#undef __CUDACC__
#include <cupy/xsf/config.h>
#define __CUDACC__ 1

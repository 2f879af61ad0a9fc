// In the place of CuPy's cupy/cuda_workaround.h, which takes parts of namespace std from libcu++:
// g++ has them itself.
#pragma once

#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

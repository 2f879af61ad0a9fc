// In the place of CuPy's: its complex numbers are Thrust's, whose own headers they do not need.
#pragma once

#define THRUST_NAMESPACE_BEGIN namespace thrust {
#define THRUST_NAMESPACE_END }

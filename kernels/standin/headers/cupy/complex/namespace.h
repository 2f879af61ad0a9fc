// In the place of CuPy's: its complex numbers are Thrust's, whose own headers are not needed for them.
#pragma once

#define THRUST_NAMESPACE_BEGIN namespace thrust {
#define THRUST_NAMESPACE_END }

// float2, float4, int4, ...: loaded and stored whole, with the GPU's alignment.
#pragma once

// In check and profile mode a copy is a call, so that one 16-byte access is seen as one, with the line of the caller.
#ifdef MINILLM_SIMULATOR_OBSERVED
#define MINILLM_OBSERVED_ONLY(...) __VA_ARGS__
#define MINILLM_VECTOR_COPIES(TYPE)                                             \
    TYPE() = default;                                                           \
    TYPE(const TYPE& other) { minillm_copy(this, &other); }                     \
    TYPE& operator=(const TYPE& other) {                                        \
        minillm_copy(this, &other);                                             \
        return *this;                                                           \
    }
template <class T>
__attribute__((noinline, no_sanitize("thread", "bounds"))) void minillm_copy(T* to, const T* from) {
    minillm_sim_access(from, sizeof(T), minillm_sim::kRead, __builtin_return_address(0));
    minillm_sim_access(to, sizeof(T), minillm_sim::kWrite, __builtin_return_address(0));
    __builtin_memcpy(static_cast<void*>(to), static_cast<const void*>(from), sizeof(T));
}
#else
#define MINILLM_VECTOR_COPIES(TYPE)
#define MINILLM_OBSERVED_ONLY(...)
#endif

#define MINILLM_VECTORS(SCALAR, NAME)                                                                         \
    struct alignas(2 * sizeof(SCALAR)) NAME##2 {                                                              \
        SCALAR x, y;                                                                                          \
        MINILLM_VECTOR_COPIES(NAME##2)                                                                        \
        MINILLM_OBSERVED_ONLY(NAME##2(SCALAR a, SCALAR b) : x(a), y(b) {}) \
    };                                                                                                        \
    struct NAME##3 {                                                                                          \
        SCALAR x, y, z;                                                                                       \
    };                                                                                                        \
    struct alignas(4 * sizeof(SCALAR) < 16 ? 4 * sizeof(SCALAR) : 16) NAME##4 {                               \
        SCALAR x, y, z, w;                                                                                    \
        MINILLM_VECTOR_COPIES(NAME##4)                                                                        \
        MINILLM_OBSERVED_ONLY(NAME##4(SCALAR a, SCALAR b, SCALAR c, SCALAR d) : x(a), y(b), z(c), w(d) {}) \
    };                                                                                                        \
    inline NAME##2 make_##NAME##2(SCALAR x, SCALAR y) {                                                       \
        NAME##2 v;                                                                                            \
        v.x = x, v.y = y;                                                                                     \
        return v;                                                                                             \
    }                                                                                                         \
    inline NAME##3 make_##NAME##3(SCALAR x, SCALAR y, SCALAR z) { return {x, y, z}; }                         \
    inline NAME##4 make_##NAME##4(SCALAR x, SCALAR y, SCALAR z, SCALAR w) {                                   \
        NAME##4 v;                                                                                            \
        v.x = x, v.y = y, v.z = z, v.w = w;                                                                   \
        return v;                                                                                             \
    }

MINILLM_VECTORS(float, float)
MINILLM_VECTORS(double, double)
MINILLM_VECTORS(int, int)
MINILLM_VECTORS(unsigned, uint)
MINILLM_VECTORS(short, short)
MINILLM_VECTORS(unsigned short, ushort)
MINILLM_VECTORS(signed char, char)
MINILLM_VECTORS(unsigned char, uchar)
MINILLM_VECTORS(long long, longlong)
MINILLM_VECTORS(unsigned long long, ulonglong)
using dim3 = minillm_sim::Index3;

#undef MINILLM_VECTORS

// A load through the read-only cache is a load.
template <class T>
__forceinline__ T __ldg(const T* address) { return *address; }
template <class T>
__forceinline__ T __ldcs(const T* address) { return *address; }
template <class T>
__forceinline__ T __ldcg(const T* address) { return *address; }
template <class T>
__forceinline__ void __stcs(T* address, T value) { *address = value; }
template <class T>
__forceinline__ void __stcg(T* address, T value) { *address = value; }

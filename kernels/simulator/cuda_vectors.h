// float2, float4, int4, ...: loaded and stored whole, with the GPU's alignment.
#pragma once

// In check and profile mode a copy is a call, so that one 16-byte access is seen as one, with the
// line of the caller.
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
    struct NAME##1 {                                                                                          \
        SCALAR x;                                                                                             \
    };                                                                                                        \
    struct alignas(2 * sizeof(SCALAR)) NAME##2 {                                                              \
        SCALAR x, y;                                                                                          \
        MINILLM_VECTOR_COPIES(NAME##2)                                                                        \
        MINILLM_OBSERVED_ONLY(constexpr NAME##2(SCALAR a, SCALAR b = {}) : x(a), y(b) {})                     \
    };                                                                                                        \
    struct alignas(4 * sizeof(SCALAR) < 16 ? 4 * sizeof(SCALAR) : 16) NAME##4 {                               \
        SCALAR x, y, z, w;                                                                                    \
        MINILLM_VECTOR_COPIES(NAME##4)                                                                        \
        MINILLM_OBSERVED_ONLY(constexpr NAME##4(SCALAR a, SCALAR b = {}, SCALAR c = {}, SCALAR d = {})        \
                              : x(a), y(b), z(c), w(d) {})                                                    \
    };                                                                                                        \
    inline NAME##1 make_##NAME##1(SCALAR x) { return {x}; }                                                   \
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
#define MINILLM_VECTOR_3(SCALAR, NAME) \
    struct NAME##3 {                   \
        SCALAR x, y, z;                \
    };                                 \
    MINILLM_VECTORS(SCALAR, NAME)

MINILLM_VECTOR_3(float, float)
MINILLM_VECTOR_3(double, double)
MINILLM_VECTOR_3(int, int)
using uint3 = minillm_sim::Index3;
MINILLM_VECTORS(unsigned, uint)
MINILLM_VECTOR_3(short, short)
MINILLM_VECTOR_3(unsigned short, ushort)
MINILLM_VECTOR_3(signed char, char)
MINILLM_VECTOR_3(unsigned char, uchar)
MINILLM_VECTOR_3(long, long)
MINILLM_VECTOR_3(unsigned long, ulong)
MINILLM_VECTOR_3(long long, longlong)
MINILLM_VECTOR_3(unsigned long long, ulonglong)

#undef MINILLM_VECTOR_3
#undef MINILLM_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
__attribute__((always_inline)) inline const dim3& minillm_as_dim3(const uint3& size) {
    return reinterpret_cast<const dim3&>(size);  // the same three numbers
}

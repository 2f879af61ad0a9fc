// Loads and stores with a cache hint, and blocks of bytes.
#pragma once

// A load through the read-only cache, or with any other hint, is a load.
#define MINILLM_LOAD(NAME) \
    template <class T>     \
    __forceinline__ T NAME(const T* address) { return *address; }
#define MINILLM_STORE(NAME) \
    template <class T>      \
    __forceinline__ void NAME(T* address, minillm_sim::Same<T> value) { *address = value; }
MINILLM_LOAD(__ldg)
MINILLM_LOAD(__ldcs)
MINILLM_LOAD(__ldcg)
MINILLM_LOAD(__ldca)
MINILLM_LOAD(__ldlu)
MINILLM_LOAD(__ldcv)
MINILLM_STORE(__stcs)
MINILLM_STORE(__stcg)
MINILLM_STORE(__stwb)
MINILLM_STORE(__stwt)
#undef MINILLM_LOAD
#undef MINILLM_STORE

inline size_t __cvta_generic_to_shared(const void* address) { return reinterpret_cast<size_t>(address); }

// Check and profile mode see what memcpy and memset touch: calls of them come to functions that tell it.
#ifdef MINILLM_SIMULATOR_OBSERVED
#define MINILLM_CALLED(NAME) __asm__("minillm_seen_" #NAME)
#define MINILLM_SEEN extern "C" __attribute__((noinline, used, no_sanitize("thread", "bounds"))) inline
extern "C" void* memcpy(void*, const void*, size_t) noexcept MINILLM_CALLED(memcpy);
extern "C" void* memmove(void*, const void*, size_t) noexcept MINILLM_CALLED(memmove);
extern "C" void* memset(void*, int, size_t) noexcept MINILLM_CALLED(memset);
MINILLM_SEEN void* minillm_seen_memmove(void* to, const void* from, size_t count) noexcept {
    minillm_sim_access(from, count, minillm_sim::kRead, __builtin_return_address(0));
    minillm_sim_access(to, count, minillm_sim::kWrite, __builtin_return_address(0));
    auto* target = static_cast<volatile char*>(to);
    auto* source = static_cast<const char*>(from);
    if (target <= source)
        for (size_t i = 0; i < count; ++i) target[i] = source[i];
    else
        for (size_t i = count; i-- > 0;) target[i] = source[i];
    return to;
}
MINILLM_SEEN void* minillm_seen_memcpy(void* to, const void* from, size_t count) noexcept {
    minillm_sim_access(from, count, minillm_sim::kRead, __builtin_return_address(0));
    minillm_sim_access(to, count, minillm_sim::kWrite, __builtin_return_address(0));
    for (size_t i = 0; i < count; ++i) static_cast<volatile char*>(to)[i] = static_cast<const char*>(from)[i];
    return to;
}
MINILLM_SEEN void* minillm_seen_memset(void* to, int value, size_t count) noexcept {
    minillm_sim_access(to, count, minillm_sim::kWrite, __builtin_return_address(0));
    for (size_t i = 0; i < count; ++i) static_cast<volatile char*>(to)[i] = static_cast<char>(value);
    return to;
}
#undef MINILLM_SEEN
#undef MINILLM_CALLED
#else
extern "C" void* memcpy(void*, const void*, size_t) noexcept;
extern "C" void* memmove(void*, const void*, size_t) noexcept;
extern "C" void* memset(void*, int, size_t) noexcept;
#endif

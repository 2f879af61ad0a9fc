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

// An address of shared memory as PTX has it: the distance from the start of the block's.
inline size_t __cvta_generic_to_shared(const void* address) { return minillm_sim_shared_offset(address); }
inline void* __cvta_shared_to_generic(size_t offset) { return minillm_sim_shared_pointer(offset); }
inline size_t __cvta_generic_to_global(const void* address) { return reinterpret_cast<size_t>(address); }
inline void* __cvta_global_to_generic(size_t address) { return reinterpret_cast<void*>(address); }
inline unsigned __isShared(const void* address) { return minillm_sim_is_shared(address); }
inline unsigned __isGlobal(const void* address) { return !minillm_sim_is_shared(address); }

// What they touch is watched: the linker puts the simulator's own functions in their places
// (linking.py).
extern "C" void* memcpy(void*, const void*, size_t) noexcept;
extern "C" void* memmove(void*, const void*, size_t) noexcept;
extern "C" void* memset(void*, int, size_t) noexcept;

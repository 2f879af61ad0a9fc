// Any number of bytes to shared memory, divided among the threads of a group as asynchronous copies
// of 16, 8 or 4 bytes; what cannot be copied so (other memory, other alignments) is copied at once.
#pragma once

namespace minillm_sim {

template <class T>
__forceinline__ void copy_now(void* to, const void* from, size_t index) {
    static_cast<T*>(to)[index] = static_cast<const T*>(from)[index];
}

__forceinline__ void copy_bytes(void* to, const void* from, size_t size, size_t rank, size_t threads) {
    size_t places = reinterpret_cast<size_t>(to) | reinterpret_cast<size_t>(from) | size;
    size_t unit = places % 16 == 0 ? 16 : places % 8 == 0 ? 8 : places % 4 == 0 ? 4 : 1;
    if (unit == 1 || !minillm_sim_is_shared(to)) {
        for (size_t i = rank; i < size; i += threads) copy_now<char>(to, from, i);
        return;
    }
    for (size_t i = rank; i < size / unit; i += threads)
        minillm_sim_copy_start(static_cast<char*>(to) + i * unit, static_cast<const char*>(from) + i * unit, unit, unit);
}

}  // namespace minillm_sim

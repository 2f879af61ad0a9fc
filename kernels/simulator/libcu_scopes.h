// What <cuda/barrier> and <cuda/pipeline> share.
#pragma once

namespace cuda {

enum thread_scope { thread_scope_system, thread_scope_device, thread_scope_block, thread_scope_thread };

// A number of bytes, of which the addresses are known to be multiples of kAlignment.
template <size_t kAlignment>
struct aligned_size_t {
    static constexpr size_t align = kAlignment;
    size_t value;
    constexpr explicit aligned_size_t(size_t size) : value(size) {}
    constexpr operator size_t() const { return value; }
};

}  // namespace cuda
